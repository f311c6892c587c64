//! What a session puts out: found after each tool use and sent before its result, so that whoever sees the result finds the files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use postern_net::Backoff;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Parcels, TRANSFERS, read, write};
use crate::place::Place;
use crate::session::{Subject, chain, random};

/// The largest file that is sent.
const MAX_OUTPUT: u64 = 64 << 20;
/// The most files that a session puts out.
const MAX_OUTPUTS: usize = 1000;
/// How deep its directories are looked through.
const MAX_DEPTH: usize = 16;

/// A file as it was when it was sent: it is sent again when it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: u64,
}

type Sent = BTreeMap<String, Version>;

/// What a look through the directory found.
#[derive(Debug, Default)]
struct Found {
    changed: Vec<(String, Version)>,
    /// What is not sent, and why.
    refused: Vec<String>,
    count: usize,
}

impl Parcels {
    /// Sends what the session put out since the last time. Each line says of one file why it was not sent.
    pub(crate) async fn take(&self, subject: Subject<'_>) -> Vec<String> {
        let found = match self.look() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(session = subject.session, %error, "outputs cannot be looked through");
                return vec![line(
                    "/mnt/session/outputs",
                    "the worker cannot read it; an operator finds the cause in its log",
                )];
            }
        };
        let mut lines = found.refused;
        for (path, version) in found.changed {
            if let Err(why) = self.send(subject, &path, version).await {
                lines.push(line(&path, &why));
            }
        }
        lines
    }

    async fn send(&self, subject: Subject<'_>, path: &str, version: Version) -> Result<(), String> {
        let bytes = contents(&self.place, path).map_err(|error| error.to_string())?;
        let mut attempt = 0;
        loop {
            match subject.remote.put_out(subject.key, subject.session, path, bytes.clone()).await {
                Ok(()) => break,
                Err(error) if !error.is_fatal() && attempt + 1 < TRANSFERS => {
                    tokio::time::sleep(Backoff::default().delay(attempt, error.retry_after(), random())).await;
                    attempt += 1;
                }
                Err(error) => {
                    tracing::warn!(session = subject.session, error = chain(&error), "an output could not be sent");
                    return Err(error.to_string());
                }
            }
        }
        let noted = || {
            let mut sent: Sent = read(&self.place.sent)?;
            sent.insert(path.to_owned(), version);
            write(&self.place.sent, &sent)
        };
        // Sent again after a restart: it takes the place of the first.
        noted().unwrap_or_else(|error| tracing::warn!(session = subject.session, %error, "an output is not noted"));
        Ok(())
    }

    fn look(&self) -> io::Result<Found> {
        let sent: Sent = read(&self.place.sent)?;
        let mut found = Found::default();
        match open(CWD, self.place.outputs.as_os_str(), OFlags::DIRECTORY) {
            Ok(root) => look_through(root, &mut Vec::new(), &sent, &mut found)?,
            // No sandbox was built yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

/// Opens without following a link and without waiting for whoever writes into a pipe.
fn open(at: impl std::os::fd::AsFd, name: &OsStr, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn look_through(directory: OwnedFd, path: &mut Vec<String>, sent: &Sent, found: &mut Found) -> io::Result<()> {
    let entries = Dir::read_from(&directory)?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if found.count >= MAX_OUTPUTS {
            found.refused.push(line(&path.join("/"), &format!("a session puts out at most {MAX_OUTPUTS} files")));
            return Ok(());
        }
        found.count += 1;
        let Some(text) = plain(name) else {
            found
                .refused
                .push(line(&String::from_utf8_lossy(name).escape_default().to_string(), "its name is not plain UTF-8"));
            continue;
        };
        path.push(text.to_owned());
        // What went away or was swapped meanwhile is for the next look.
        if let Ok(opened) = open(&directory, OsStr::from_bytes(name), OFlags::empty()) {
            look_at(opened, path, sent, found)?;
        }
        path.pop();
    }
    Ok(())
}

fn look_at(opened: OwnedFd, path: &mut Vec<String>, sent: &Sent, found: &mut Found) -> io::Result<()> {
    let about = rustix::fs::fstat(&opened)?;
    let shown = path.join("/");
    match FileType::from_raw_mode(about.st_mode) {
        FileType::Directory if path.len() < MAX_DEPTH => look_through(opened, path, sent, found)?,
        FileType::Directory => {
            found.refused.push(line(&shown, &format!("it lies more than {MAX_DEPTH} directories deep")))
        }
        FileType::RegularFile => {
            let version = Version {
                inode: about.st_ino,
                size: u64::try_from(about.st_size).unwrap_or(u64::MAX),
                seconds: about.st_mtime,
                nanoseconds: about.st_mtime_nsec,
            };
            match sent.get(&shown) {
                Some(known) if *known == version => {}
                _ if version.size > MAX_OUTPUT => {
                    found.refused.push(line(&shown, &format!("it is larger than {} MiB", MAX_OUTPUT >> 20)));
                }
                _ => found.changed.push((shown, version)),
            }
        }
        _ => {}
    }
    Ok(())
}

/// The bytes of a file below the outputs, by the same careful way.
fn contents(place: &Place, path: &str) -> io::Result<Vec<u8>> {
    let mut at = open(CWD, place.outputs.as_os_str(), OFlags::DIRECTORY)?;
    for part in path.split('/') {
        at = open(&at, OsStr::new(part), OFlags::empty())?;
    }
    let about = rustix::fs::fstat(&at)?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(at).take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_OUTPUT >> 20)));
    }
    Ok(bytes)
}

fn plain(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|text| !text.chars().any(char::is_control))
}

fn line(path: &str, why: &str) -> String {
    let path: String = path.chars().take(200).collect();
    format!("[postern] output not kept path={path} because {why}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::place::Places;

    fn session() -> (tempfile::TempDir, Parcels) {
        let directory = tempfile::tempdir().unwrap();
        let place = Places::new(directory.path()).of("sesn_1").unwrap();
        fs::create_dir(&place.outputs).unwrap();
        (directory, Parcels { place })
    }

    fn changed(parcels: &Parcels) -> Vec<String> {
        let mut paths: Vec<String> = parcels.look().unwrap().changed.into_iter().map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    #[test]
    fn files_are_found_at_any_depth_until_they_were_sent_and_again_when_they_change() {
        let (_directory, parcels) = session();
        let outputs = &parcels.place.outputs;
        fs::create_dir_all(outputs.join("a/b")).unwrap();
        fs::write(outputs.join("report.txt"), "1").unwrap();
        fs::write(outputs.join("a/b/ü.txt"), "2").unwrap();
        assert_eq!(changed(&parcels), ["a/b/ü.txt", "report.txt"]);
        let sent: Sent = parcels.look().unwrap().changed.into_iter().collect();
        write(&parcels.place.sent, &sent).unwrap();
        assert!(changed(&parcels).is_empty());
        fs::write(outputs.join("report.txt"), "longer").unwrap();
        assert_eq!(changed(&parcels), ["report.txt"]);
        assert_eq!(contents(&parcels.place, "a/b/ü.txt").unwrap(), b"2");
    }

    #[test]
    fn no_link_pipe_or_device_of_the_agents_leads_the_worker_anywhere() {
        let (directory, parcels) = session();
        let outputs = &parcels.place.outputs;
        let secret = directory.path().join("secret");
        fs::write(&secret, "the worker's own").unwrap();
        symlink(&secret, outputs.join("link")).unwrap();
        symlink(directory.path(), outputs.join("directory")).unwrap();
        // Opening a pipe without a writer would wait for ever.
        rustix::fs::mknodat(CWD, outputs.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let found = parcels.look().unwrap();
        assert!(found.changed.is_empty() && found.refused.is_empty(), "{found:?}");
        for path in ["link", "directory/secret", "pipe", "../secret"] {
            assert!(contents(&parcels.place, path).is_err(), "{path}");
        }
    }

    #[test]
    fn outputs_that_themselves_are_a_link_are_not_looked_through() {
        let (directory, parcels) = session();
        fs::remove_dir(&parcels.place.outputs).unwrap();
        symlink(directory.path(), &parcels.place.outputs).unwrap();
        assert!(parcels.look().is_err());
    }

    #[test]
    fn what_is_too_large_too_deep_or_too_much_is_named_and_not_sent() {
        let (_directory, parcels) = session();
        let outputs = &parcels.place.outputs;
        // Sparse: it takes no room.
        File::create(outputs.join("large")).unwrap().set_len(MAX_OUTPUT + 1).unwrap();
        fs::create_dir_all(outputs.join(["d"; MAX_DEPTH + 1].join("/"))).unwrap();
        fs::write(outputs.join("a\nb"), "").unwrap();
        let found = parcels.look().unwrap();
        assert!(found.changed.is_empty(), "{found:?}");
        for expected in
            ["path=large because it is larger than 64 MiB", "more than 16 directories deep", "not plain UTF-8"]
        {
            assert!(found.refused.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
        }
        for number in 0..=MAX_OUTPUTS {
            fs::write(outputs.join(number.to_string()), "").unwrap();
        }
        let found = parcels.look().unwrap();
        assert!(found.changed.len() <= MAX_OUTPUTS);
        assert!(found.refused.iter().any(|line| line.contains("at most 1000 files")), "{:?}", found.refused);
    }
}
