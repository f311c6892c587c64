//! The session's directory on the host: made, and given to the sandbox's kernel user. Never follows a symbolic link: the agent wrote them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Makes the directory (0700) with `.home` inside, and as root gives it and everything in it to `kernel_uid`.
///
/// # Errors
/// The system's, with the path.
pub fn prepare(workspace: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    for directory in [workspace.to_owned(), workspace.join(".home")] {
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            // A link in the agent's place for `.home` stays what it is: inside it leads nowhere that the agent could not go anyway.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    match kernel_uid {
        Some(uid)
            if fs::symlink_metadata(workspace)?.uid() != uid
                || fs::symlink_metadata(workspace.join(".home"))?.uid() != uid =>
        {
            give(workspace, uid)
        }
        _ => Ok(()),
    }
}

/// Makes the session's layer over `/usr` (0700): what is installed lies in `upper`, `work` is the kernel's. As root both belong to `kernel_uid`.
///
/// # Errors
/// The system's, with the path.
pub fn prepare_packages(layer: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    // The mode of `upper` is the one that `/usr` shows inside.
    for (directory, mode) in [(layer.to_owned(), 0o700), (layer.join("upper"), 0o755), (layer.join("work"), 0o700)] {
        match fs::DirBuilder::new().mode(mode).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
                kernel_uid.map_or(Ok(()), |uid| lchown(&directory, Some(uid), Some(uid)))?;
            }
        }
    }
    Ok(())
}

/// Makes the directory for what the session puts out (0700), and as root gives it to `kernel_uid`.
///
/// # Errors
/// The system's.
pub fn prepare_outputs(directory: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match kernel_uid {
        Some(uid) if fs::symlink_metadata(directory)?.uid() != uid => lchown(directory, Some(uid), Some(uid)),
        _ => Ok(()),
    }
}

/// Gives a directory and everything in it to `kernel_uid`, links themselves and not what they name.
///
/// # Errors
/// The system's.
pub fn give(path: &Path, kernel_uid: u32) -> io::Result<()> {
    lchown(path, Some(kernel_uid), Some(kernel_uid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), kernel_uid)?;
        }
    }
    Ok(())
}
