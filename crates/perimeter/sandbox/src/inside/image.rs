//! Taking an unpacked image in place of the host's system. What it holds is a stranger's: it is opened from its root alone, nothing in it is followed on
//! the host, its links are made anew inside, and its set-user-id programs and devices are without effect.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

use super::mounts::Use;
use super::sources::{copy_of, look_exactly};
use super::{Doing, Failure};
use crate::system::{BUNDLES, System};

/// Directories of an image's root that are not taken: the sandbox has its own, or nobody needs them.
const NOT_TAKEN: [&str; 14] = [
    "dev",
    "etc",
    "proc",
    "sys",
    "tmp",
    "run",
    "var",
    "mnt",
    "workspace",
    "boot",
    "media",
    "lost+found",
    ".empty",
    ".postern",
];
/// Files of an image's /etc that are not taken: the sandbox has its own, or nobody inside may read them.
const NOT_TAKEN_OF_ETC: [&str; 10] =
    ["passwd", "group", "shadow", "gshadow", "resolv.conf", "hosts", "hostname", "mtab", "postern", "machine-id"];
/// Entries of the root and of /etc, together: each is a mount, a link or a file of the sandbox's root.
const MOST_ENTRIES: usize = 600;
/// What the files of /etc may take together: they lie in memory.
const ETC_BYTES: u64 = 2 << 20;

/// Mounts of the image by where they go, and what else the sandbox sees of it.
pub(super) fn take(path: &Path) -> Result<(Vec<(PathBuf, OwnedFd)>, System), Failure> {
    let root = root_of(path)?;
    let mut taken = Taken { left: MOST_ENTRIES, bytes_left: ETC_BYTES, ..Taken::default() };
    taken.directory(&root, Path::new("/"), &NOT_TAKEN)?;
    if !taken.trees.iter().any(|(path, _)| path == Path::new("/usr")) {
        return Err(Failure::other(format!("{} holds no directory usr: it is no unpacked image", path.display())));
    }
    match beneath(&root, OsStr::new("etc")) {
        Ok(etc) if kind(&etc) == Some(FileType::Directory) => {
            taken.directory(&etc, Path::new("/etc"), &NOT_TAKEN_OF_ETC)?;
        }
        _ => {}
    }
    let Taken { trees, links, copied, .. } = taken;
    let system = System {
        copied,
        etc: None,
        shown: trees.iter().map(|(path, _)| path.clone()).collect(),
        links,
        hidden: Vec::new(),
        bundles: BUNDLES.map(PathBuf::from).to_vec(),
    };
    Ok((trees, system))
}

/// The image's root: the directory itself, or `rootfs` in it, as unpackers leave it.
fn root_of(path: &Path) -> Result<OwnedFd, Failure> {
    let (place, _) = look_exactly(path)?;
    if beneath(&place, OsStr::new("oci-layout")).is_ok() {
        let shown = path.display();
        let message = format!(
            "{shown} is a packed OCI layout: unpack it first (`umoci raw unpack --image {shown}:TAG ROOT` lays its layers over each other), and name ROOT"
        );
        return Err(Failure::other(message));
    }
    match beneath(&place, OsStr::new("rootfs")) {
        Ok(root) if kind(&root) == Some(FileType::Directory) => Ok(root),
        _ => Ok(place),
    }
}

#[derive(Default)]
struct Taken {
    trees: Vec<(PathBuf, OwnedFd)>,
    links: Vec<(PathBuf, PathBuf)>,
    copied: Vec<(PathBuf, Vec<u8>)>,
    left: usize,
    bytes_left: u64,
}

impl Taken {
    /// Takes what lies directly in a directory: directories as mounts, links as they are written, of /etc the files that everybody may read.
    fn directory(&mut self, from: &OwnedFd, at: &Path, not_taken: &[&str]) -> Result<(), Failure> {
        let doing = || format!("read {} of the image", at.display());
        let listed = rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(doing)?;
        for entry in Dir::read_from(&listed).doing(doing)? {
            let entry = entry.doing(doing)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || not_taken.iter().any(|other| name == *other) {
                continue;
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| {
                Failure::other(format!("the image's root and /etc have more than {MOST_ENTRIES} entries"))
            })?;
            self.entry(from, name, at.join(name)).map_err(|failure| failure.at(&at.join(name)))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, name: &OsStr, at: PathBuf) -> Result<(), Failure> {
        let place = beneath(from, name)?;
        match kind(&place) {
            Some(FileType::Directory) => self.trees.push((at, copy_of(&place, Use::System)?)),
            Some(FileType::Symlink) => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new()).doing(|| "read a link".into())?;
                self.links.push((at, PathBuf::from(OsStr::from_bytes(target.to_bytes()))));
            }
            Some(FileType::RegularFile) if at.starts_with("/etc") => {
                let contents = self.contents(from, name)?;
                self.copied.extend(contents.map(|contents| (at, contents)));
            }
            _ => {}
        }
        Ok(())
    }

    /// A file's contents, where everybody may read it: a copy belongs to the agent.
    fn contents(&mut self, from: &OwnedFd, name: &OsStr) -> Result<Option<Vec<u8>>, Failure> {
        let doing = || "read a file".into();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat2(from, name, flags, Mode::empty(), BENEATH) else { return Ok(None) };
        let about = rustix::fs::fstat(&file).doing(doing)?;
        let public = Mode::from_raw_mode(about.st_mode).contains(Mode::ROTH);
        if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile || !public {
            return Ok(None);
        }
        let mut contents = Vec::new();
        File::from(file).take(self.bytes_left + 1).read_to_end(&mut contents).doing(doing)?;
        self.bytes_left = self
            .bytes_left
            .checked_sub(contents.len() as u64)
            .ok_or_else(|| Failure::other(format!("the files of the image's /etc take more than {ETC_BYTES} bytes")))?;
        Ok(Some(contents))
    }
}

/// One name in a directory, itself and not what it links to.
fn beneath(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), BENEATH).doing(|| "open without following links".into())
}

/// With NOFOLLOW a link at the end is opened itself; on the way there is none.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

fn kind(place: &OwnedFd) -> Option<FileType> {
    rustix::fs::fstat(place).ok().map(|about| FileType::from_raw_mode(about.st_mode))
}
