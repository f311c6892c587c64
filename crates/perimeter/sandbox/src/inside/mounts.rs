//! The few mount operations that the steps are made of, by descriptors, so that no path is looked up twice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use super::{Ahead, Doing, Failure};
use crate::sys::{Recursive, set_mount_attributes};

/// What a copied mount allows.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Read and execute.
    System,
    /// Read, write and execute; no devices.
    Files,
    /// Read and write; nothing is executed.
    Data,
    /// One device node.
    Device,
}

impl Use {
    fn attributes(self) -> u64 {
        let flags = match self {
            Self::System => {
                MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV
            }
            Self::Files => MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
            Self::Data => {
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC
            }
            Self::Device => MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        };
        flags.bits().into()
    }
}

/// Step: nothing travels between this mount namespace and its parent.
pub(super) fn keep_private(_ahead: &mut Ahead) -> Result<(), Failure> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "make all mounts private".into())
}

/// Copies what is mounted at a path, to be attached elsewhere. Mounts below it come along: they are locked to it.
pub(super) fn copy(path: &Path, allowed: Use) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, path, flags).doing(|| format!("open {}", path.display()))?;
    restrict(&tree, allowed).map(|()| tree)
}

/// Limits what a copied mount allows.
pub(super) fn restrict(tree: &OwnedFd, allowed: Use) -> Result<(), Failure> {
    if postern_danger::off!("mounts-flags") {
        return Ok(());
    }
    set_mount_attributes(tree.as_fd(), allowed.attributes(), Recursive::Yes).doing(|| "restrict a mount".into())
}

/// A new file system in memory or of the kernel, not yet attached.
pub(super) fn create(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let doing = |what: &str| format!("{what} a file system of type {kind}");
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| doing("open"))?;
    for (name, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *name, *value)
            .doing(|| format!("set {name}={value} on {kind}"))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).doing(|| doing("create"))?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(|| doing("mount"))
}

/// Attaches a mount at a path.
pub(super) fn attach(tree: &OwnedFd, at: &Path) -> Result<(), Failure> {
    rustix::mount::move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| format!("attach {}", at.display()))
}
