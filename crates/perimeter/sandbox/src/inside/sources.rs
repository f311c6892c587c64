//! Taking what comes from the host: copies of mounts, made while this process still is who may open them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use postern_exec::Channel;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::mount::OpenTreeFlags;

use super::along::Table;
use super::mounts::{self, Use};
use super::{Ahead, Doing, Failure, Inside, Order, Report, hear, image};
use crate::danger;
use crate::request::Request;
use crate::sensitive;
use crate::spec::{Access, GIVEN, OUTPUTS, Root, Spec};
use crate::system::DEVICES;

/// Mounts of the host that every sandbox gets, taken and not yet attached.
#[derive(Default)]
pub(crate) struct Taken {
    /// Read-only directories and files, by where they go.
    pub(super) shown: Vec<(PathBuf, OwnedFd, Kind)>,
    /// Device nodes, by name.
    pub(super) devices: Vec<(&'static str, OwnedFd)>,
}

/// Mounts of the host that this session gets, taken and not yet attached.
#[derive(Default)]
pub(super) struct Borrowed {
    pub(super) workspace: Option<OwnedFd>,
    /// The session's layer over /usr.
    pub(super) packages: Option<OwnedFd>,
    /// What the zone lends, by where it goes, and whether it is a directory.
    pub(super) lent: Vec<(PathBuf, OwnedFd, Kind)>,
    /// Device nodes that the zone lends, by where they go.
    pub(super) devices: Vec<(PathBuf, OwnedFd)>,
}

/// What lies at a mount point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Step: takes what is the same for every session.
pub(super) fn take_system(ahead: &mut Ahead) -> Result<(), Failure> {
    let Ahead { system, taken, .. } = ahead;
    if let Some(etc) = &system.etc {
        // Before its own directories, which are mounted in it.
        taken.shown.push(("/etc".into(), mounts::copy(etc, Use::System)?, Kind::Directory));
    }
    for path in system.shown.iter().map(PathBuf::as_path).chain(danger::shown_besides().iter().map(Path::new)) {
        let tree = mounts::copy(path, Use::System)?;
        let kind = kind_of(&tree)?;
        taken.shown.push((path.to_owned(), tree, kind));
    }
    for name in DEVICES {
        taken.devices.push((name, mounts::copy(&Path::new("/dev").join(name), Use::Device)?));
    }
    for (name, node) in danger::devices_besides() {
        taken.devices.push((name, mounts::copy(Path::new(node), Use::Device)?));
    }
    Ok(())
}

/// Step: takes what the request names.
pub(super) fn take_requested(inside: &mut Inside) -> Result<(), Failure> {
    let Inside { request, borrowed, ahead, chosen, .. } = inside;
    let spec = &request.spec;
    let lends = Lends::prepare(request)?;
    match &spec.system {
        Root::Host(directories) => {
            for directory in directories {
                let (tree, kind) = lends.take(directory, Use::System)?;
                ahead.taken.shown.push((directory.clone(), tree, kind));
            }
        }
        Root::Image(image) => {
            lends.judge(image, &look_exactly(image)?.0)?;
            let (trees, system) = image::take(image)?;
            ahead.taken.shown = trees.into_iter().map(|(path, tree)| (path, tree, Kind::Directory)).collect();
            *chosen = system;
        }
    }
    borrowed.workspace = Some(take_exactly(&spec.workspace, Use::Files)?.0);
    if let Some(layer) = &spec.packages {
        borrowed.packages = Some(take_exactly(layer, Use::Files)?.0);
    }
    if let Some(given) = &spec.given {
        for (name, at) in GIVEN {
            let (tree, kind) = take_exactly(&given.join(name), Use::System)?;
            borrowed.lent.push((at.into(), tree, kind));
        }
    }
    for memories in &spec.memories {
        let allowed = match memories.access {
            Access::Read | Access::Cache => Use::System,
            Access::Write => Use::Files,
        };
        let (tree, kind) = take_exactly(&memories.directory, allowed)?;
        borrowed.lent.push((Path::new("/mnt/memory").join(&memories.name), tree, kind));
    }
    if let Some(outputs) = &spec.outputs {
        let (tree, kind) = take_exactly(outputs, Use::Files)?;
        borrowed.lent.push((OUTPUTS.into(), tree, kind));
    }
    for mount in &spec.mounts {
        let allowed = match mount.access {
            Access::Read | Access::Cache => Use::System,
            Access::Write => Use::Files,
        };
        let (tree, kind) = lends.take(&mount.host, allowed)?;
        borrowed.lent.push((mount.at.clone(), tree, kind));
    }
    if spec.kernel_uid.is_some() && !postern_danger::off!("lent-mounts") {
        close_to_writing(&ahead.spawner, spec, borrowed)?;
    }
    for device in &spec.devices {
        borrowed.devices.push((device.clone(), take_device(device)?));
    }
    Ok(())
}

/// What is lent to be read is taken, and not yet attached: only then, and only by root of the host, can it be closed to writing to what a mount that is read-only
/// does not close, sockets and pipes.
fn close_to_writing(spawner: &Channel, spec: &Spec, borrowed: &Borrowed) -> Result<(), Failure> {
    let read = |at: &Path| spec.mounts.iter().any(|mount| mount.at == at && mount.access != Access::Write);
    let trees: Vec<_> = borrowed.lent.iter().filter(|(at, ..)| read(at)).map(|(_, tree, _)| tree.as_fd()).collect();
    for some in trees.chunks(IN_ONE_FRAME) {
        let told = spawner.send(&Report::Lent, some);
        told.map_err(|error| Failure::other(format!("hand over what is lent: {error}")))?;
        let (Order::Closed, _) = hear(spawner)? else {
            return Err(Failure::other("the spawner did not close what is lent"));
        };
    }
    Ok(())
}

/// Fewer than a frame may carry.
const IN_ONE_FRAME: usize = 16;

/// What a zone lends of the host's files, in distinction from what is the session's own.
struct Lends<'a> {
    /// None where nothing is lent: then nobody reads what is mounted.
    mounted: Option<Table>,
    forbidden: &'a [PathBuf],
}

impl<'a> Lends<'a> {
    fn prepare(request: &'a Request) -> Result<Self, Failure> {
        let lends = !request.spec.mounts.is_empty() || request.spec.system != Root::default();
        let mounted = lends.then(Table::of_this_process).transpose()?;
        Ok(Self { mounted, forbidden: &request.forbidden })
    }

    fn judge(&self, path: &Path, place: &OwnedFd) -> Result<(), Failure> {
        let mounted = self.mounted.as_ref().ok_or_else(|| Failure::other("nothing was to be lent"))?;
        mounted.judge(path, place, self.forbidden)
    }

    /// Takes a path of the host with what is mounted below it, if all of it may be lent.
    fn take(&self, path: &Path, allowed: Use) -> Result<(OwnedFd, Kind), Failure> {
        let (place, about) = look_exactly(path)?;
        self.judge(path, &place)?;
        copy_of(&place, allowed).map(|tree| (tree, kind_in(&about))).map_err(|failure| failure.at(path))
    }
}

/// Takes a device of the request. What it is was checked, and may have been changed since.
fn take_device(path: &Path) -> Result<OwnedFd, Failure> {
    let (place, about) = look_exactly(path)?;
    if !FileType::from_raw_mode(about.st_mode).is_char_device() {
        return Err(Failure::other(format!("{} is no character device any more", path.display())));
    }
    if let Some(reason) = sensitive::device(about.st_rdev) {
        return Err(Failure::other(format!("{} is never lent: {reason}", path.display())));
    }
    copy_of(&place, Use::Device).map_err(|failure| failure.at(path))
}

/// Takes a path of the request, refusing any symbolic link on the way: it was checked without one, and may have been changed since.
fn take_exactly(path: &Path, allowed: Use) -> Result<(OwnedFd, Kind), Failure> {
    let (place, about) = look_exactly(path)?;
    copy_of(&place, allowed).map(|tree| (tree, kind_in(&about))).map_err(|failure| failure.at(path))
}

/// What is at the root of a copied mount.
fn kind_of(tree: &OwnedFd) -> Result<Kind, Failure> {
    let about = rustix::fs::fstat(tree).doing(|| "look at a copied mount".into())?;
    Ok(kind_in(&about))
}

fn kind_in(about: &Stat) -> Kind {
    if FileType::from_raw_mode(about.st_mode).is_dir() { Kind::Directory } else { Kind::File }
}

/// Opens a path without following any link, only to look at it and to copy it.
pub(super) fn look_exactly(path: &Path) -> Result<(OwnedFd, Stat), Failure> {
    let doing = || format!("open {} without following links", path.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).doing(doing)?;
    let about = rustix::fs::fstat(&place).doing(doing)?;
    Ok((place, about))
}

/// Copies what is mounted at an opened place.
pub(super) fn copy_of(place: &OwnedFd, allowed: Use) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(place, "", flags).doing(|| "copy a mount".into())?;
    mounts::restrict(&tree, allowed).map(|()| tree)
}
