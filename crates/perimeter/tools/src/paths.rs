//! Which files the file tools may touch: canonicalise as the reference does, check containment, then open by descriptor without following a link.
//! A directory that is swapped for a link between the check and the open makes the open fail; it never leads outside.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::arguments::ToolError;
use crate::python;
use crate::wire::{Access, Configuration};

const MAX_SYMLINK_HOPS: usize = 40;

/// The working directory and the further roots, canonical.
#[derive(Debug)]
pub(crate) struct PathPolicy {
    workdir: PathBuf,
    roots: Vec<PermittedRoot>,
}

#[derive(Debug)]
struct PermittedRoot {
    named: PathBuf,
    canonical: PathBuf,
    access: Access,
}

/// A path inside a root: the only thing the file tools open.
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    inside: PathBuf,
}

impl PathPolicy {
    /// Reads the roots as they stand now.
    pub(crate) fn new(configuration: &Configuration) -> Self {
        let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| lexical(path));
        Self {
            workdir: canonical(&configuration.workdir),
            roots: configuration
                .roots
                .iter()
                .map(|root| PermittedRoot {
                    named: root.path.clone(),
                    canonical: canonical(&root.path),
                    access: root.access,
                })
                .collect(),
        }
    }

    /// The canonical working directory.
    pub(crate) fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// The working directory as a target.
    pub(crate) fn workdir_target(&self) -> Target {
        Target { root: self.workdir.clone(), inside: PathBuf::new() }
    }

    /// Resolves what the model wrote; the error text lacks the `op: ` in front.
    pub(crate) fn resolve(&self, path: &str) -> Result<Target, ToolError> {
        if path.contains('\0') {
            return Err(ToolError::new("embedded null byte"));
        }
        let full = canonicalize(&self.workdir.join(path))
            .map_err(|error| ToolError(format!("path {}: {}", python::repr(path), python::reason(&error))))?;
        let roots = std::iter::once(&self.workdir).chain(self.roots.iter().map(|root| &root.canonical));
        for root in roots {
            if let Ok(inside) = full.strip_prefix(root) {
                return Ok(Target { root: root.clone(), inside: inside.to_owned() });
            }
        }
        if postern_danger::off!("tool-paths") {
            return Ok(Target { inside: full.strip_prefix("/").unwrap_or(&full).to_owned(), root: "/".into() });
        }
        Err(self.outside(path))
    }

    fn outside(&self, path: &str) -> ToolError {
        let others = if self.roots.is_empty() { "" } else { " and its other permitted directories" };
        ToolError(format!("path {} is outside the session's working directory{others}", python::repr(path)))
    }

    /// Refuses a write under a read-only root.
    pub(crate) fn writable(&self, target: &Target, op: &str, path: &str) -> Result<(), ToolError> {
        let full = target.full();
        match self.roots.iter().find(|root| root.access == Access::Read && full.starts_with(&root.canonical)) {
            Some(root) => {
                Err(ToolError(format!("{op}: {path} is inside read-only directory {}", root.named.display())))
            }
            None => Ok(()),
        }
    }
}

impl Target {
    /// The canonical path.
    pub(crate) fn full(&self) -> PathBuf {
        if self.inside.as_os_str().is_empty() { self.root.clone() } else { self.root.join(&self.inside) }
    }

    /// What stands at the path, without following a link there.
    pub(crate) fn stat(&self) -> io::Result<Stat> {
        match self.split() {
            None => Ok(rustix::fs::fstat(self.open_root()?)?),
            Some((directories, name)) => {
                Ok(rustix::fs::statat(self.descend(&directories)?, name, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }

    /// Opens a regular file for reading; anything else is [`Opened::NotRegular`].
    pub(crate) fn open_regular(&self) -> io::Result<Opened> {
        let stat = self.stat()?;
        let (Some((directories, name)), FileType::RegularFile) = (self.split(), FileType::from_raw_mode(stat.st_mode))
        else {
            return Ok(Opened::NotRegular);
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(self.descend(&directories)?, name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        Ok(if metadata.is_file() { Opened::Regular { file, size_bytes: metadata.len() } } else { Opened::NotRegular })
    }

    /// Opens the file for a complete rewrite, making its directories when they are missing.
    pub(crate) fn create(&self) -> io::Result<File> {
        let Some((directories, name)) = self.split() else { return Err(Errno::ISDIR.into()) };
        let parent = self.descend_making(&directories)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o666))?))
    }

    fn split(&self) -> Option<(Vec<&OsStr>, &OsStr)> {
        let mut parts: Vec<&OsStr> = self.inside.components().map(Component::as_os_str).collect();
        let name = parts.pop()?;
        Some((parts, name))
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn descend(&self, directories: &[&OsStr]) -> io::Result<OwnedFd> {
        directories.iter().try_fold(self.open_root()?, |parent, name| Ok(enter(&parent, name)?))
    }

    fn descend_making(&self, directories: &[&OsStr]) -> io::Result<OwnedFd> {
        let last = directories.len().wrapping_sub(1);
        let mut parent = self.open_root()?;
        for (position, name) in directories.iter().enumerate() {
            parent = match enter(&parent, name) {
                Err(Errno::NOENT) => {
                    make(&parent, name)?;
                    enter(&parent, name)?
                }
                // Python's mkdir finds a file in its place: "file exists" for the directory itself, "not a directory" above it.
                Err(Errno::NOTDIR) if position == last => return Err(Errno::EXIST.into()),
                other => other?,
            };
        }
        Ok(parent)
    }
}

/// What an open found.
pub(crate) enum Opened {
    /// A regular file.
    Regular {
        /// Open for reading.
        file: File,
        /// Its size at the open.
        size_bytes: u64,
    },
    /// A directory, pipe, socket or device.
    NotRegular,
}

fn enter(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !postern_danger::off!("tool-descent"));
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn make(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Collapses `.` and `..` without looking at the disk.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// `.` and `..` collapsed lexically, then every link followed; trailing names that do not exist yet are kept as they are.
///
/// # Errors
/// A loop of links, more than 40 hops through dangling ones, or a component that may not be read.
pub(crate) fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    let mut prefix = lexical(path);
    let mut missing: Vec<OsString> = Vec::new();
    let mut hops = 0;
    loop {
        let unresolved = match fs::canonicalize(&prefix) {
            Ok(resolved) => return Ok(missing.iter().rev().fold(resolved, |path, name| path.join(name))),
            Err(error) if is_missing(&error) => error,
            Err(error) => return Err(error),
        };
        match fs::symlink_metadata(&prefix) {
            Ok(metadata) if metadata.is_symlink() => {}
            Ok(_) => return Err(unresolved),
            Err(error) if is_missing(&error) => {
                let Some(name) = prefix.file_name().map(OsStr::to_owned) else { return Err(error) };
                missing.push(name);
                prefix.pop();
                continue;
            }
            Err(error) => return Err(error),
        }
        hops += 1;
        if hops > MAX_SYMLINK_HOPS {
            return Err(Errno::LOOP.into());
        }
        let parent = fs::canonicalize(prefix.parent().unwrap_or(Path::new("/")))?;
        let followed = parent.join(fs::read_link(&prefix)?);
        prefix = lexical(&missing.drain(..).rev().fold(followed, |path, name| path.join(name)));
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NOTDIR))
}
