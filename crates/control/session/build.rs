//! Names the fold: a digest of the sources that say what a log comes to, so that none of them can change and leave the name
//! as it was. Snapshots carry it (docs/decisions/0032).

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// What the fold is made of: this crate, the types of the log, how it reads URLs, and the versions of what writes and reads them.
const SOURCES: [&str; 4] = ["src", "../../base/model/src", "../../base/policy/src", "../../../Cargo.lock"];
/// What is compiled for tests only.
const TESTS: &str = "tests";

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        collect(Path::new(source), &mut files)?;
    }
    files.sort();
    // Against forgetting, not against anybody: snapshots are digested on their own.
    let mut hasher = DefaultHasher::new();
    for file in &files {
        (file.as_os_str().as_encoded_bytes(), std::fs::read(file)?).hash(&mut hasher);
    }
    println!("cargo::rustc-env=POSTERN_FOLD={:016x}", hasher.finish());
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_stem().is_none_or(|stem| stem != TESTS) {
            collect(&path, files)?;
        }
    }
    Ok(())
}
