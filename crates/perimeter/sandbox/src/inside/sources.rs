//! Taking what comes from the host: copies of mounts, made while this process still is who may open them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;

use super::mounts::{self, Use};
use super::{Ahead, Doing, Failure, Inside};
use crate::spec::Access;
use crate::system::DEVICES;

/// Mounts of the host that every sandbox gets, taken and not yet attached.
#[derive(Default)]
pub(crate) struct Taken {
    /// Read-only directories, by where they go.
    pub(super) shown: Vec<(PathBuf, OwnedFd)>,
    /// Device nodes, by name.
    pub(super) devices: Vec<(&'static str, OwnedFd)>,
}

/// Mounts of the host that this session gets, taken and not yet attached.
#[derive(Default)]
pub(super) struct Borrowed {
    pub(super) workspace: Option<OwnedFd>,
    /// What the zone lends, by where it goes, and whether it is a directory.
    pub(super) lent: Vec<(PathBuf, OwnedFd, Kind)>,
}

/// What lies at a mount point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Step: takes what is the same for every session.
pub(super) fn take_system(ahead: &mut Ahead<'_>) -> Result<(), Failure> {
    for path in &ahead.system.shown {
        ahead.taken.shown.push((path.clone(), mounts::copy(path, Use::System)?));
    }
    for name in DEVICES {
        ahead.taken.devices.push((name, mounts::copy(&Path::new("/dev").join(name), Use::Device)?));
    }
    Ok(())
}

/// Step: takes what the request names.
pub(super) fn take_requested(inside: &mut Inside<'_>) -> Result<(), Failure> {
    inside.borrowed.workspace = Some(take_exactly(&inside.request.spec.workspace, Use::Files)?.0);
    for mount in &inside.request.spec.mounts {
        let allowed = match mount.access {
            Access::Read => Use::System,
            Access::Write => Use::Files,
        };
        let (tree, kind) = take_exactly(&mount.host, allowed)?;
        inside.borrowed.lent.push((mount.at.clone(), tree, kind));
    }
    Ok(())
}

/// Takes a path of the request, refusing any symbolic link on the way: it was checked without one, and may have been changed since.
fn take_exactly(path: &Path, allowed: Use) -> Result<(OwnedFd, Kind), Failure> {
    let doing = || format!("open {} without following links", path.display());
    let place =
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .doing(doing)?;
    let about = rustix::fs::fstat(&place).doing(doing)?;
    let kind = if rustix::fs::FileType::from_raw_mode(about.st_mode).is_dir() { Kind::Directory } else { Kind::File };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&place, "", flags).doing(doing)?;
    mounts::restrict(&tree, allowed).map(|()| (tree, kind))
}
