//! Standard error put aside while a run goes on: what our roles log there would hide the table. Kept in a file when the run fails, gone when it does not.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::failure::{Failure, Or};

/// Standard error leads to a file of its own until the end.
pub(crate) struct Aside {
    before: OwnedFd,
    path: PathBuf,
}

/// How the run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every probe held or did not run.
    Held,
    /// What it was asked for is not there, so it did not begin.
    NotBegun,
    /// Something did not hold, or there is no report.
    Failed,
}

impl Aside {
    /// Puts it aside, for this process and all that it starts from now on.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn begin(scratch: &Path) -> Result<Self, Failure> {
        let path = scratch.join(format!("postern-verify-{:016x}.log", unforeseen()?));
        let doing = format!("write {}", path.display());
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path).or_misused(&doing)?;
        let before = io::stderr().as_fd().try_clone_to_owned().or_misused("keep standard error")?;
        to(&file).or_misused(&doing)?;
        Ok(Self { before, path })
    }

    /// Puts it back. After a failure the place of the file is said, else it is removed.
    ///
    /// # Errors
    /// Standard error cannot be put back.
    #[expect(clippy::print_stderr, reason = "where the log is, is for the person who typed the command")]
    pub(crate) fn end(self, ended: Ended) -> Result<(), Failure> {
        to(&self.before).or_misused("put standard error back")?;
        match ended {
            Ended::Held | Ended::NotBegun => {
                fs::remove_file(&self.path).or_misused(&format!("remove {}", self.path.display()))
            }
            Ended::Failed => {
                eprintln!("what was logged meanwhile: {}", self.path.display());
                Ok(())
            }
        }
    }
}

/// A name that nobody can take first, in a directory where others may write.
fn unforeseen() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).or_misused("draw random bytes")?;
    Ok(u64::from_ne_bytes(bytes))
}

fn to(file: &impl AsFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stderr(file)
}
