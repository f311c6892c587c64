//! The steps that make what the agent sees as files. From "enter the new root" on every path is one inside: whatever links lie in an image or in what is
//! lent, they lead nowhere else.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::mounts::{self, Use};
use super::sources::Kind;
use super::{Doing, Failure, Inside, Report};
use crate::environment::{BUNDLE, SESSION_CA};
use crate::etc;
use crate::spec::Trust;
use crate::sys::{Recursive, set_mount_attributes};
use postern_confine::list::entries;

const PROC_MASKS: &str = include_str!("../../data/proc-masks.list");

/// Where the new root is put together: a directory that every system has, covered for the moment.
const ASSEMBLY: &str = "/usr";
/// An empty directory and an empty file, which lie over what is hidden.
const EMPTY_DIRECTORY: &str = "/.empty/directory";
const EMPTY_FILE: &str = "/.empty/file";

/// Below /proc: the shared segments of a namespace.
const SEGMENTS: &str = "sysvipc/shm";

/// The most that the root, /tmp and /dev/shm take together, whatever the memory limit.
const IN_MEMORY_AT_MOST: u64 = 1 << 30;

fn quiet() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV
}

/// Step: an empty root, where the working directory now is. It lies in memory as /tmp and /dev/shm do, each a directory of one file system that is itself
/// mounted nowhere: the kernel keeps something for every file system in every control group.
pub(super) fn new_root(inside: &mut Inside) -> Result<(), Failure> {
    let memory = mounts::create("tmpfs", &[("mode", "0755"), ("size", &in_memory(inside))], quiet())?;
    mounts::attach(&memory, Path::new(ASSEMBLY))?;
    let part = |name: &str, mode: u32, allowed: Use| {
        let path = Path::new(ASSEMBLY).join(name);
        make_directory(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).doing(|| format!("open {name} to its users"))?;
        mounts::copy(&path, allowed)
    };
    let root = part("root", 0o755, Use::Files)?;
    inside.tmp = Some(part("tmp", 0o1777, Use::Files)?);
    inside.shared = Some(part("shm", 0o1777, Use::Data)?);
    mounts::attach(&root, Path::new(ASSEMBLY))?;
    rustix::process::chdir(ASSEMBLY).doing(|| "enter the unfinished root".into())?;
    inside.new_root = Some(root);
    Ok(())
}

/// Step: directories and links.
pub(super) fn lay_out(inside: &mut Inside) -> Result<(), Failure> {
    for directory in [
        "/usr",
        "/etc",
        etc::SESSION,
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/tmp",
        "/workspace",
        "/run",
        "/var",
        "/sys",
        "/mnt",
        "/mnt/session",
        "/mnt/session/uploads",
        "/mnt/session/outputs",
        "/mnt/memory",
        "/.empty",
        EMPTY_DIRECTORY,
    ] {
        make_directory(Path::new(directory))?;
    }
    write(Path::new(EMPTY_FILE), b"")?;
    // Restricted here, once: what is copied of them is restricted alike.
    for empty in [EMPTY_DIRECTORY, EMPTY_FILE].map(Path::new) {
        mounts::attach(&mounts::copy(empty, Use::System)?, empty)?;
    }
    for (link, target) in &inside.chosen.links {
        make_link(target, link)?;
    }
    for (target, link) in [
        ("/tmp", "/var/tmp"),
        ("/run", "/var/run"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        make_link(Path::new(target), Path::new(link))?;
    }
    let proc = inside.proc.take().ok_or_else(|| Failure::other("/proc was not made"))?;
    mounts::attach(&proc, Path::new("/proc"))
}

/// Step: what is the session's own of /etc, and all of it for an image.
pub(super) fn write_etc(inside: &mut Inside) -> Result<(), Failure> {
    if inside.chosen.etc.is_none() {
        for (path, contents) in &inside.chosen.copied {
            write(path, contents)?;
        }
        for (path, contents) in etc::generated() {
            write(Path::new(path), contents.as_bytes())?;
        }
        for (link, target) in etc::LINKS {
            make_link(Path::new(target), Path::new(link))?;
        }
    }
    let session = inside.request.spec.ca_certificate_pem.as_bytes();
    if !session.is_empty() {
        let mut bundle = match inside.request.spec.trust {
            Trust::SessionAlone => Vec::new(),
            Trust::HostsToo => all_of(&inside.authorities)?,
        };
        if !bundle.is_empty() && !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        bundle.extend(session);
        write(&own(BUNDLE), &bundle)?;
        write(&own(SESSION_CA), session)?;
    }
    Ok(())
}

/// Step: the read-only directories, the trust bundle over its own place.
pub(super) fn mount_system(inside: &mut Inside) -> Result<(), Failure> {
    for (path, tree, kind) in std::mem::take(&mut inside.ahead.taken.shown) {
        make_place(&path, kind)?;
        mounts::attach(&tree, &path)?;
    }
    for hidden in &inside.chosen.hidden {
        cover(Path::new(EMPTY_DIRECTORY), hidden)?;
    }
    if !inside.request.spec.ca_certificate_pem.is_empty() {
        // In an image the place may be anything; only a file is covered by a file.
        for bundle in inside.chosen.bundles.iter().filter(|bundle| bundle.is_file()) {
            mounts::attach(&mounts::copy(&own(BUNDLE), Use::System)?, bundle)?;
        }
    }
    Ok(())
}

/// Step: /dev.
pub(super) fn mount_devices(inside: &mut Inside) -> Result<(), Failure> {
    let own = std::mem::take(&mut inside.ahead.taken.devices);
    let own = own.into_iter().map(|(name, node)| (Path::new("/dev").join(name), node));
    for (at, node) in own.chain(std::mem::take(&mut inside.borrowed.devices)) {
        make_place(&at, Kind::File)?;
        mounts::attach(&node, &at)?;
    }
    let noexec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let terminals = mounts::create("devpts", &[("ptmxmode", "0666"), ("mode", "620")], noexec)?;
    mounts::attach(&terminals, Path::new("/dev/pts"))?;
    let shared = inside.shared.take().ok_or_else(|| Failure::other("/dev/shm was not made"))?;
    mounts::attach(&shared, Path::new("/dev/shm"))
}

/// Step: /tmp.
pub(super) fn mount_tmp(inside: &mut Inside) -> Result<(), Failure> {
    let tmp = inside.tmp.take().ok_or_else(|| Failure::other("/tmp was not made"))?;
    mounts::attach(&tmp, Path::new("/tmp"))
}

/// Files in memory may take half of it: the rest is for processes.
fn in_memory(inside: &Inside) -> String {
    (inside.request.spec.memory_bytes / 2).min(IN_MEMORY_AT_MOST).to_string()
}

/// Step: /workspace, with a home in it.
pub(super) fn mount_workspace(inside: &mut Inside) -> Result<(), Failure> {
    let tree = inside.borrowed.workspace.take().ok_or_else(|| Failure::other("the workspace was not taken"))?;
    mounts::attach(&tree, Path::new("/workspace"))?;
    match fs::DirBuilder::new().mode(0o700).create("/workspace/.home") {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).doing(|| "make the home directory".into())?;
        }
        _ => {}
    }
    rustix::process::chdir("/workspace").doing(|| "enter the workspace".into())
}

/// Step: what the zone lends.
pub(super) fn mount_lent(inside: &mut Inside) -> Result<(), Failure> {
    for (at, tree, kind) in std::mem::take(&mut inside.borrowed.lent) {
        make_place(&at, kind)?;
        mounts::attach(&tree, &at)?;
    }
    Ok(())
}

/// Step: /proc of this process namespace. The kernel refuses it where the host's own is covered.
pub(super) fn make_proc(inside: &mut Inside) -> Result<(), Failure> {
    inside.proc = Some(if postern_danger::off!("pidns") {
        // The kernel makes none for the machine's processes.
        mounts::copy(Path::new("/proc"), Use::Files)?
    } else {
        mounts::create("proc", &[], quiet() | MountAttrFlags::MOUNT_ATTR_NOEXEC)?
    });
    Ok(())
}

/// Step: what the spawner looks at to count memory that no process shows. Its list of segments is opened here: it tells of the namespace of whoever opens it.
pub(super) fn show_memory(inside: &mut Inside) -> Result<(), Failure> {
    if inside.memory_held {
        return Ok(());
    }
    let (Some(proc), Some(files)) = (&inside.proc, &inside.tmp) else {
        return Err(Failure::other("neither /proc nor /tmp was made"));
    };
    let segments = match rustix::fs::openat(proc, SEGMENTS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => None,
        opened => Some(opened.doing(|| format!("open /proc/{SEGMENTS}"))?),
    };
    let shown: Vec<_> = std::iter::once(files).chain(&segments).map(AsFd::as_fd).collect();
    let sent = inside.ahead.spawner.send(&Report::Memory, &shown);
    sent.map_err(|error| Failure::other(error.to_string()))
}

/// Step: the new root becomes the root, and the old one is gone.
pub(super) fn enter_root(_inside: &mut Inside) -> Result<(), Failure> {
    rustix::process::pivot_root(".", ".").doing(|| "exchange the roots".into())?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "let go of the old root".into())?;
    rustix::process::chdir("/").doing(|| "enter the new root".into())
}

/// Step: the reviewed list over /proc. What this kernel does not have needs no mask.
pub(super) fn mask_proc(_inside: &mut Inside) -> Result<(), Failure> {
    for entry in entries(PROC_MASKS) {
        let path = PathBuf::from(entry.words[1]);
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        match entry.words[0] {
            "hide" if about.is_dir() => cover(Path::new(EMPTY_DIRECTORY), &path)?,
            "hide" => cover(Path::new(EMPTY_FILE), &path)?,
            _ => mounts::copy(&path, Use::System).and_then(|tree| mounts::attach(&tree, &path))?,
        }
    }
    Ok(())
}

/// Step: the root itself, on which everything else is mounted.
pub(super) fn seal_root(inside: &mut Inside) -> Result<(), Failure> {
    let root = inside.new_root.take().ok_or_else(|| Failure::other("there is no new root"))?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY | quiet();
    set_mount_attributes(root.as_fd(), read_only.bits().into(), Recursive::No)
        .doing(|| "make the root read-only".into())
}

/// Lays one of our own empty places over another. The copy is restricted as the empty place is.
fn cover(with: &Path, over: &Path) -> Result<(), Failure> {
    rustix::mount::mount_bind(with, over).doing(|| format!("cover {}", over.display()))
}

pub(super) fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().mode(0o755).recursive(true).create(path).doing(|| format!("make {}", path.display()))
}

/// Where a file of /etc/postern lies, which is a link.
fn own(path: &str) -> PathBuf {
    Path::new(etc::SESSION).join(Path::new(path).file_name().unwrap_or_default())
}

/// Makes a place to mount something at, where there is none.
fn make_place(at: &Path, kind: Kind) -> Result<(), Failure> {
    if kind == Kind::Directory {
        return make_directory(at);
    }
    let made = match (File::create_new(at), at.parent()) {
        (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
            make_directory(parent)?;
            File::create_new(at)
        }
        (made, _) => made,
    };
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop).doing(|| format!("make {}", at.display())),
    }
}

fn make_link(target: &Path, link: &Path) -> Result<(), Failure> {
    symlink(target, link).doing(|| format!("link {}", link.display()))
}

/// What is in the host's bundle. All sandboxes share the descriptor, and so its position, which is left alone.
fn all_of(authorities: &File) -> Result<Vec<u8>, Failure> {
    let doing = || "read the host's certificate authorities".into();
    let mut bytes = vec![0; usize::try_from(authorities.metadata().doing(doing)?.len()).unwrap_or_default()];
    authorities.read_exact_at(&mut bytes, 0).doing(doing)?;
    Ok(bytes)
}

/// Writes a file that everybody may read: the umask of "become the agent" sees to that.
fn write(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let doing = || format!("write {}", path.display());
    match (fs::write(path, contents), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
            make_directory(parent)?;
            fs::write(path, contents).doing(doing)
        }
        (written, _) => written.doing(doing),
    }
}
