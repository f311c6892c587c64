//! Mounts in which nobody is anybody, for what is lent to be read as root: the kernel lets nobody write to a file whose owner is not mapped, and so neither
//! connect to a socket nor write to a pipe, whenever it is made and whatever its permissions say. Reading goes by what everybody may read, as for a kernel user
//! of a sandbox's own it does anyway.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::builder::{Process, number};
use crate::sys::{self, Cloned};

/// A user that no file belongs to: the one below the number that means none.
const NOBODY: &str = "4294967294 4294967294 1";

/// Maps nobody in these copied mounts. One whose kind of file system, or whose kernel, knows no maps stays as it is.
pub(crate) fn own(mounts: &[OwnedFd]) {
    let Ok(users) = namespace() else { return };
    for mount in mounts {
        let _stays = sys::map_mount(mount.as_fd(), users.as_fd());
    }
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
