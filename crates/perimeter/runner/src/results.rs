//! Files that the control plane puts into a workspace: results too long for the model, to one directory, under plain names, bounded. The workspace belongs
//! to the agent, who may have put anything in the way: no link is followed and nothing outside the directory is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use aws_lc_rs::digest::{SHA256, digest};
use postern_model::control::{CommandRefusal, PUT_FILE_BYTES, RESULTS_DIRECTORY};
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::session::chain;

/// A file that may be written.
#[derive(Debug)]
pub(crate) struct Put {
    name: String,
    bytes: Vec<u8>,
    mode: u32,
}

/// One line of the journal of a session's results: what counts against its bound, also after a restart.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    name: String,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error("the session may be sent no more than {SESSION_BYTES} bytes of results")]
    Full,
    #[error("something of the agent's is in the way of {0}")]
    Obstructed(&'static str, #[source] io::Error),
    #[error("{0}")]
    Storage(&'static str, #[source] io::Error),
}

impl Put {
    /// Checks what is asked for.
    ///
    /// # Errors
    /// Another directory, an odd name, too many bytes, or permissions that a result has no use for.
    pub(crate) fn check(path: &str, bytes: Vec<u8>, mode: u32) -> Result<Self, CommandRefusal> {
        let name = path.strip_prefix(RESULTS_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
        let Some(name) = name.filter(|name| is_plain(name)) else {
            return Err(CommandRefusal::new(
                "path_not_allowed",
                format!("this perimeter writes to {RESULTS_DIRECTORY}/<name> only, with plain names"),
                "name a file directly in that directory: letters, digits, `_`, `-` and `.`",
            ));
        };
        if bytes.len() > PUT_FILE_BYTES {
            let message = format!("a file of at most {PUT_FILE_BYTES} bytes is written");
            return Err(CommandRefusal::new("file_too_large", message, "send less"));
        }
        if mode & !MODE != 0 {
            let message = format!("a result may be {MODE:o} at most, not {mode:o}");
            return Err(CommandRefusal::new("mode_not_allowed", message, "send mode 420 (0644) or less"));
        }
        Ok(Self { name: name.to_owned(), bytes, mode })
    }

    /// The digest of what is written, for the record.
    pub(crate) fn digest(&self) -> String {
        digest(&SHA256, &self.bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How much it is.
    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Writes the file for its owner; on disk, whole and under its name when this returns. The same file again counts once. Blocks.
    ///
    /// # Errors
    /// The session has had its share, the agent put something in the way, or the disk fails.
    pub(crate) fn write(&self, place: &Place, owner: Option<u32>) -> Result<(), CommandRefusal> {
        self.journal(place).and_then(|()| self.place(place, owner)).map_err(|error| refusal(&error))
    }

    /// Counts the file, before it is there.
    fn journal(&self, place: &Place) -> Result<(), PutError> {
        let failed = |source| PutError::Storage("write the journal of results", source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&place.results).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        // A torn last line was never relied on.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<Line> = text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|error| failed(error.into()))?;
        let line = Line { name: self.name.clone(), bytes: self.size(), sha256: self.digest() };
        if lines.contains(&line) {
            return Ok(());
        }
        let used: u64 = lines.iter().map(|line| line.bytes.max(LEAST_BYTES)).sum();
        if used + line.bytes.max(LEAST_BYTES) > SESSION_BYTES {
            return Err(PutError::Full);
        }
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut text = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(failed)
    }

    fn place(&self, place: &Place, owner: Option<u32>) -> Result<(), PutError> {
        let directory = results_directory(place, owner)?;
        let partial = format!(".{}.part", self.name);
        match rustix::fs::unlinkat(&directory, &partial, AtFlags::empty()) {
            Err(errno) if errno != Errno::NOENT => return Err(obstructed("the file", errno)),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = beneath(directory.as_fd(), &partial, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|errno| obstructed("the file", errno))?);
        let failed = |source| PutError::Storage("write the file", source);
        file.write_all(&self.bytes).map_err(failed)?;
        give(&file, owner).map_err(|errno| failed(errno.into()))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode)).map_err(|errno| failed(errno.into()))?;
        file.sync_all().map_err(failed)?;
        rustix::fs::renameat(&directory, &partial, &directory, &self.name)
            .map_err(|errno| obstructed("the file", errno))?;
        rustix::fs::fsync(&directory).map_err(|errno| failed(errno.into()))
    }
}

/// The directory itself, made where it is not there, and given to the agent when it was made.
fn results_directory(place: &Place, owner: Option<u32>) -> Result<OwnedFd, PutError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let workspace = rustix::fs::open(&place.workspace, flags | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| PutError::Storage("open the workspace", errno.into()))?;
    let made = match rustix::fs::mkdirat(&workspace, DIRECTORY, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(PutError::Storage("make the directory of results", errno.into())),
    };
    let directory = beneath(workspace.as_fd(), DIRECTORY, flags, Mode::empty())
        .map_err(|errno| obstructed("the directory of results", errno))?;
    if made {
        give(&directory, owner).map_err(|errno| PutError::Storage("give the directory away", errno.into()))?;
    }
    Ok(directory)
}

/// Opens one name in a directory, whatever lies there: never through a link, never outside.
fn beneath(
    directory: std::os::fd::BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, name, flags | OFlags::NOFOLLOW, mode, resolve) {
        // Without that call, one plain name that is not followed cannot lead anywhere else either.
        Err(Errno::NOSYS) => rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, mode),
        other => other,
    }
}

fn give(file: &impl AsFd, owner: Option<u32>) -> rustix::io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    rustix::fs::fchown(file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
}

fn obstructed(what: &'static str, errno: Errno) -> PutError {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS => PutError::Storage("write the file", errno.into()),
        errno => PutError::Obstructed(what, errno.into()),
    }
}

fn refusal(error: &PutError) -> CommandRefusal {
    tracing::warn!(error = chain(error), "a file was not written to a workspace");
    let (code, next_step) = match error {
        PutError::Full => ("limit_result_bytes", "give the model a preview instead"),
        PutError::Obstructed(..) => {
            ("results_obstructed", "give the model a preview instead: its own files are in the way")
        }
        PutError::Storage(..) => ("worker_storage", "an operator reads the worker's log, which has the cause"),
    };
    CommandRefusal::new(code, error.to_string(), next_step)
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

const DIRECTORY: &str = ".results";
const NAME_BYTES: usize = 128;
const MODE: u32 = 0o644;
/// How much one session may be sent in all.
const SESSION_BYTES: u64 = 64 << 20;
/// What an empty file counts: names need room too.
const LEAST_BYTES: u64 = 1024;

#[cfg(test)]
mod tests;
