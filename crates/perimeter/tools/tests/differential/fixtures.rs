//! Two equal places on disk for one scenario.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::scenarios::{Fixture, Scenario};

pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) workdir: PathBuf,
}

impl Place {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let workdir = directory.path().join("work");
        fs::create_dir(&workdir).expect("a work directory");
        for (age, fixture) in scenario.fixtures.iter().enumerate() {
            make(&workdir, fixture, age);
        }
        Self { directory, workdir }
    }
}

fn make(workdir: &Path, fixture: &Fixture, age: usize) {
    let at = |path: &str| {
        let path = workdir.join(path);
        fs::create_dir_all(path.parent().expect("inside the work directory")).expect("its parents");
        path
    };
    match fixture {
        Fixture::File(path, bytes) => {
            let path = at(path);
            fs::write(&path, bytes).expect("written");
            // Each one an hour older than the one before: an order by time has one answer.
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - 3_600 * age as u64);
            fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(then)).expect("dated");
        }
        Fixture::Directory(path) => fs::create_dir_all(at(path)).expect("made"),
        Fixture::Link(path, target) => std::os::unix::fs::symlink(target, at(path)).expect("linked"),
        Fixture::Pipe(path) => {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(rustix::fs::CWD, at(path), rustix::fs::FileType::Fifo, mode, 0).expect("made");
        }
        Fixture::Mode(path, mode) => {
            fs::set_permissions(workdir.join(path), fs::Permissions::from_mode(*mode)).expect("set")
        }
    }
}

/// Every file with its content, to see that both sides left the same behind.
pub(crate) fn tree(workdir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![workdir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("a kind");
            let name = entry.path().strip_prefix(workdir).expect("inside").display().to_string();
            if kind.is_dir() {
                open.push(entry.path());
                found.push((name, "directory".to_owned()));
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                found.push((name, String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned()));
            }
        }
    }
    found.sort();
    found
}
