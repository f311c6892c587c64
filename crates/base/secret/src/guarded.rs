//! Whether an opened file with a secret keeps others out: its owner alone writes it, and besides the owner its group may read it at most.
//! Judged of what was opened, so that nothing takes its place between the judgement and the reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file with a secret that others than its owner can read or change.
#[derive(Debug, thiserror::Error)]
#[error("{} has mode {mode:04o}, so others than its owner can read or change it; run `chmod 600 {}`, or mount it with mode 0440", file.display(), file.display())]
pub struct Exposed {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Its mode, without its kind.
    pub mode: u32,
}

/// Refuses a file that everybody can read, or that anybody but its owner can write. Its group may read it: so a secret is mounted for a process
/// that runs under another user.
///
/// # Errors
/// [`Exposed`] within an [`io::Error`] of kind `PermissionDenied`; `IsADirectory`; or the system's, when it says nothing of the file.
pub fn guarded(opened: &File, file: &Path) -> io::Result<()> {
    let metadata = opened.metadata()?;
    if metadata.is_dir() {
        let text = format!("{} is a directory; name the file in it", file.display());
        return Err(io::Error::new(io::ErrorKind::IsADirectory, text));
    }
    if metadata.file_type().is_block_device() {
        let text = format!("{} is a disk; name a file", file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mode = metadata.mode() & PERMISSIONS;
    // A terminal or /dev/null keeps nothing that others could read afterwards.
    if metadata.file_type().is_char_device() || mode & EXPOSING == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, Exposed { file: file.to_owned(), mode }))
}

const PERMISSIONS: u32 = 0o7777;
/// Written by the group, written or read by everybody.
const EXPOSING: u32 = 0o026;
