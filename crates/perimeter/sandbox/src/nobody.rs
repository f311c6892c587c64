//! Mounts in which nobody is anybody, for what is lent to be read as root: the kernel lets nobody write to a file whose owner is not mapped, and so neither
//! connect to a socket nor write to a pipe, whenever it is made and whatever its permissions say. Reading goes by what everybody may read, as for a kernel user
//! of a sandbox's own it does anyway.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::builder::{Process, number, system};
use crate::error::BuildError;
use crate::sys::{self, Cloned, Recursive};

/// A user that no file belongs to: the one below the number that means none.
const NOBODY: &str = "4294967294 4294967294 1";

/// Maps nobody in these copied mounts, and answers for each whether all of it is closed. Where what is mounted below one is of a kind of file system that
/// knows no maps, the one itself is closed and that stays as it is; so does all of it where itself knows none.
///
/// # Errors
/// There is nobody to map.
pub(crate) fn own(mounts: &[OwnedFd]) -> Result<Vec<bool>, BuildError> {
    let users = namespace().map_err(|error| {
        let fix = "let root make user namespaces (user.max_user_namespaces), or have the zone lend nothing to be read";
        system("close what is lent", "make a user namespace of nobody", &error, fix)
    })?;
    let close = |mount: &OwnedFd| {
        let whole = sys::map_mount(mount.as_fd(), users.as_fd(), Recursive::Yes).is_ok();
        if !whole {
            let _itself_neither = sys::map_mount(mount.as_fd(), users.as_fd(), Recursive::No);
        }
        whole
    };
    Ok(mounts.iter().map(close).collect())
}

/// A user namespace of nobody. What it was made with ends; the descriptor keeps it.
fn namespace() -> io::Result<OwnedFd> {
    let (id, _process) = match sys::clone_process(libc::CLONE_NEWUSER)? {
        Cloned::Child => wait_for_the_end(),
        Cloned::Parent { child, pidfd } => (child, Process::new(child, pidfd)),
    };
    let directory = PathBuf::from(format!("/proc/{}", number(id)));
    for map in ["uid_map", "gid_map"] {
        fs::write(directory.join(map), NOBODY)?;
    }
    File::open(directory.join("ns/user")).map(OwnedFd::from)
}

fn wait_for_the_end() -> ! {
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        sys::exit_now(1);
    }
    loop {
        rustix::event::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary user may not map nobody: what stands for a machine where it cannot be done.
    #[test]
    fn where_nobody_cannot_be_mapped_the_build_fails_and_says_so() {
        let closed = own(&[]);
        match rustix::process::geteuid().is_root() {
            true => assert_eq!(closed, Ok(Vec::new())),
            false => assert!(closed.is_err_and(|error| error.step == "close what is lent" && !error.fix.is_empty())),
        }
    }
}
