//! Looks through a directory of the agent's, and reads and writes in it, without ever following a link or waiting for a pipe: the agent may swap
//! anything there for anything at any time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How deep directories are looked through.
const MAX_DEPTH: usize = 20;
/// Under which a file is written before it takes its place.
const INCOMING: &str = ".postern-incoming";

/// A file as it was when it was looked at: it is another when any of this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: u64,
}

/// What a look through a directory found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Regular files, by their paths below it.
    pub(super) files: Vec<(String, Version)>,
    /// What is passed over, and why.
    pub(super) refused: Vec<(String, String)>,
    entries: usize,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The largest file, in bytes.
    pub(super) bytes: u64,
    /// The most entries, directories among them.
    pub(super) entries: usize,
}

/// Looks through a directory; one that is not there is empty.
pub(super) fn look(directory: &Path, bounds: Bounds) -> io::Result<Found> {
    let mut found = Found::default();
    match open(CWD, directory.as_os_str(), OFlags::DIRECTORY) {
        Ok(root) => look_through(&root, &mut Vec::new(), bounds, &mut found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// Opens without following a link and without waiting for whoever writes into a pipe.
fn open(at: impl AsFd, name: &OsStr, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn look_through(directory: &OwnedFd, path: &mut Vec<String>, bounds: Bounds, found: &mut Found) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || name == INCOMING.as_bytes() {
            continue;
        }
        if found.entries >= bounds.entries {
            found
                .refused
                .push((path.join("/"), format!("at most {} files and directories are looked at", bounds.entries)));
            return Ok(());
        }
        found.entries += 1;
        let Some(text) = plain(name) else {
            found.refused.push((
                String::from_utf8_lossy(name).escape_default().to_string(),
                "its name is not plain UTF-8".to_owned(),
            ));
            continue;
        };
        path.push(text.to_owned());
        match open(directory, OsStr::from_bytes(name), OFlags::empty()) {
            Ok(opened) => look_at(&opened, path, bounds, found)?,
            Err(error) => match Unopened::of(&error) {
                Unopened::NoFile => {}
                Unopened::Closed => found.refused.push((path.join("/"), "the worker may not read it".to_owned())),
                Unopened::Trouble => return Err(error),
            },
        }
        path.pop();
    }
    Ok(())
}

/// What it is that could not be opened.
#[derive(Debug, PartialEq, Eq)]
enum Unopened {
    /// It went away or was swapped meanwhile, which is for the next look; or it is a link, a socket or a device.
    NoFile,
    /// It is there, and closed to us.
    Closed,
    /// Nothing is known of it: whoever takes it for gone would have the server forget it.
    Trouble,
}

impl Unopened {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Self::NoFile,
            Some(Errno::ACCESS | Errno::PERM) => Self::Closed,
            _ => Self::Trouble,
        }
    }
}

fn look_at(opened: &OwnedFd, path: &mut Vec<String>, bounds: Bounds, found: &mut Found) -> io::Result<()> {
    let about = rustix::fs::fstat(opened)?;
    let shown = path.join("/");
    match FileType::from_raw_mode(about.st_mode) {
        FileType::Directory if path.len() < MAX_DEPTH => look_through(opened, path, bounds, found)?,
        FileType::Directory => found.refused.push((shown, format!("it lies more than {MAX_DEPTH} directories deep"))),
        FileType::RegularFile => {
            let size = u64::try_from(about.st_size).unwrap_or(u64::MAX);
            let (seconds, nanoseconds) = (about.st_mtime, about.st_mtime_nsec);
            match size <= bounds.bytes {
                true => found.files.push((shown, Version { inode: about.st_ino, size, seconds, nanoseconds })),
                false => found.refused.push((shown, too_large(bounds.bytes))),
            }
        }
        _ => {}
    }
    Ok(())
}

/// The bytes of a file below a directory.
pub(super) fn contents(directory: &Path, path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut at = open(CWD, directory.as_os_str(), OFlags::DIRECTORY)?;
    for part in path.split('/') {
        at = open(&at, OsStr::new(part), OFlags::empty())?;
    }
    if FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(at).take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(too_large(most)));
    }
    Ok(bytes)
}

/// Puts a file below a directory, and the directories on its way, all of this user's; what was there before is replaced. Says what is there now.
pub(super) fn put(directory: &Path, path: &str, bytes: &[u8], owner: Option<u32>) -> io::Result<Version> {
    let (at, name) = parent(directory, path, owner)?;
    let _left_over = rustix::fs::unlinkat(&at, INCOMING, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at, INCOMING, flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    give(&file, owner)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    rustix::fs::renameat(&at, INCOMING, &at, name).inspect_err(|_| {
        let _left_over = rustix::fs::unlinkat(&at, INCOMING, AtFlags::empty());
    })?;
    let about = rustix::fs::fstat(&file)?;
    let (seconds, nanoseconds) = (about.st_mtime, about.st_mtime_nsec);
    Ok(Version { inode: about.st_ino, size: bytes.len() as u64, seconds, nanoseconds })
}

/// Whether it is this path that has no place, and not the disk: something else lies there, or on the way, or the way is closed.
pub(super) fn is_of_the_path(error: &io::Error) -> bool {
    const OF_THE_PATH: [Errno; 8] = [
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::NOTEMPTY,
        Errno::EXIST,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        // A directory that the session closed, where it runs as the worker's own user.
        Errno::ACCESS,
        Errno::PERM,
    ];
    error.raw_os_error().is_some_and(|number| OF_THE_PATH.contains(&Errno::from_raw_os_error(number)))
}

/// Removes a file below a directory, where it is, and the directories on its way that it leaves empty.
pub(super) fn remove(directory: &Path, path: &str) -> io::Result<()> {
    let mut way = vec![open(CWD, directory.as_os_str(), OFlags::DIRECTORY)?];
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    for part in &parts {
        let at = way.last().expect("it begins with the directory");
        match open(at, OsStr::new(part), OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => way.push(opened?),
        }
    }
    match rustix::fs::unlinkat(way.last().expect("it begins with the directory"), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        removed => return Ok(removed?),
    }
    for (at, part) in way.iter().zip(&parts).rev() {
        if rustix::fs::unlinkat(at, *part, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(())
}

fn parent<'a>(directory: &Path, path: &'a str, owner: Option<u32>) -> io::Result<(OwnedFd, &'a str)> {
    let mut at = open(CWD, directory.as_os_str(), OFlags::DIRECTORY)?;
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    for part in parts {
        at = match open(&at, OsStr::new(part), OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                let made = open(&at, OsStr::new(part), OFlags::DIRECTORY)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                give(&made, owner)?;
                made
            }
            opened => opened?,
        };
    }
    Ok((at, name))
}

fn give(file: &OwnedFd, owner: Option<u32>) -> io::Result<()> {
    let Some(uid) = owner else { return Ok(()) };
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?)
}

fn too_large(most: u64) -> String {
    match most >> 20 {
        0 => format!("it is larger than {} KiB", most >> 10),
        mebibytes => format!("it is larger than {mebibytes} MiB"),
    }
}

fn plain(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 1 << 20, entries: 100 };

    fn paths(directory: &Path) -> Vec<String> {
        let mut paths: Vec<String> = look(directory, BOUNDS).unwrap().files.into_iter().map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    #[test]
    fn files_are_found_at_any_depth_with_their_version() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("report.txt"), "1").unwrap();
        fs::write(directory.path().join("a/b/ü.txt"), "2").unwrap();
        assert_eq!(paths(directory.path()), ["a/b/ü.txt", "report.txt"]);
        assert_eq!(contents(directory.path(), "a/b/ü.txt", 1).unwrap(), b"2");
        let before = look(directory.path(), BOUNDS).unwrap().files;
        fs::write(directory.path().join("report.txt"), "longer").unwrap();
        assert_ne!(look(directory.path(), BOUNDS).unwrap().files, before);
        assert!(look(&directory.path().join("none"), BOUNDS).unwrap().files.is_empty());
    }

    #[test]
    fn no_link_pipe_or_device_of_the_agents_leads_the_worker_anywhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "the worker's own").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        symlink(outside.path().join("secret"), root.join("link")).unwrap();
        symlink(outside.path(), root.join("directory")).unwrap();
        // Opening a pipe without a writer would wait for ever.
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let found = look(root, BOUNDS).unwrap();
        assert!(found.files.is_empty() && found.refused.is_empty(), "{found:?}");
        for path in ["link", "directory/secret", "pipe"] {
            assert!(contents(root, path, 100).is_err(), "{path}");
        }
        assert!(put(root, "directory/secret", b"planted", None).is_err());
        assert!(remove(root, "directory/secret").is_err());
        // A link in a file's place is replaced, never written through.
        put(root, "link", b"new", None).unwrap();
        assert_eq!(fs::read(root.join("link")).unwrap(), b"new");
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"the worker's own");
    }

    #[test]
    fn a_directory_that_itself_is_a_link_is_not_looked_through() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/etc", directory.path().join("outputs")).unwrap();
        let link = directory.path().join("outputs");
        assert!(look(&link, BOUNDS).is_err());
        assert!(put(&link, "x", b"x", None).is_err());
        assert!(contents(&link, "passwd", 1 << 20).is_err());
    }

    #[test]
    fn what_is_too_large_too_deep_or_too_much_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        // Sparse: it takes no room.
        File::create(root.join("large")).unwrap().set_len(BOUNDS.bytes + 1).unwrap();
        fs::create_dir_all(root.join(["d"; MAX_DEPTH + 1].join("/"))).unwrap();
        fs::write(root.join("a\nb"), "").unwrap();
        let found = look(root, BOUNDS).unwrap();
        assert!(found.files.is_empty(), "{found:?}");
        for expected in ["larger than 1 MiB", "more than 20 directories deep", "not plain UTF-8"] {
            assert!(found.refused.iter().any(|(_, why)| why.contains(expected)), "{expected}: {found:?}");
        }
        for number in 0..=BOUNDS.entries {
            fs::write(root.join(number.to_string()), "").unwrap();
        }
        let found = look(root, BOUNDS).unwrap();
        assert!(found.files.len() <= BOUNDS.entries);
        assert!(found.refused.iter().any(|(_, why)| why.contains("at most 100")), "{:?}", found.refused);
        assert!(contents(root, "large", BOUNDS.bytes).is_err());
    }

    #[test]
    fn what_cannot_be_opened_is_what_it_is_and_never_taken_for_gone() {
        for (errno, what) in [
            (Errno::NOENT, Unopened::NoFile),
            (Errno::LOOP, Unopened::NoFile),
            (Errno::NXIO, Unopened::NoFile),
            (Errno::ACCESS, Unopened::Closed),
            (Errno::MFILE, Unopened::Trouble),
            (Errno::NFILE, Unopened::Trouble),
            (Errno::NOMEM, Unopened::Trouble),
            (Errno::IO, Unopened::Trouble),
        ] {
            assert_eq!(Unopened::of(&errno.into()), what, "{errno}");
        }
        let directory = tempfile::tempdir().unwrap();
        for name in ["open", "closed"] {
            fs::write(directory.path().join(name), "text").unwrap();
        }
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(directory.path(), 0o755);
        mode(&directory.path().join("open"), 0o644);
        mode(&directory.path().join("closed"), 0o000);
        let root = directory.path().to_owned();
        let as_an_ordinary_user = move || {
            if rustix::process::geteuid().is_root() {
                // Of this thread alone.
                let nobody = Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            look(&root, BOUNDS).unwrap()
        };
        let found = std::thread::spawn(as_an_ordinary_user).join().unwrap();
        assert_eq!(found.files.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["open"]);
        assert_eq!(found.refused, [("closed".to_owned(), "the worker may not read it".to_owned())]);
    }

    #[test]
    fn a_file_is_put_whole_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let version = put(directory.path(), "a/b/c.md", b"text", None).unwrap();
        assert_eq!(look(directory.path(), BOUNDS).unwrap().files, [("a/b/c.md".to_owned(), version)]);
        put(directory.path(), "a/b/c.md", b"other", None).unwrap();
        assert_eq!(contents(directory.path(), "a/b/c.md", 100).unwrap(), b"other");
        remove(directory.path(), "a/b/c.md").unwrap();
        remove(directory.path(), "a/b/c.md").unwrap();
        remove(directory.path(), "none/c.md").unwrap();
        assert!(paths(directory.path()).is_empty());
        assert!(!directory.path().join("a").exists(), "nor are the directories on its way in the way of what comes");
    }

    #[test]
    fn a_path_that_has_no_place_is_told_from_a_disk_that_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "a/b", b"text", None).unwrap();
        symlink("/etc", directory.path().join("link")).unwrap();
        for path in ["a", "a/b/c", "link/c", &format!("{}/x", "n".repeat(256)), &"n".repeat(256)] {
            let error = put(directory.path(), path, b"text", None).unwrap_err();
            assert!(is_of_the_path(&error), "{path}: {error}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left over");
        fs::set_permissions(directory.path().join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        let closed = put(directory.path(), "a/c", b"text", None).map_err(|error| is_of_the_path(&error));
        // To root nothing is closed.
        assert_eq!(closed.err(), (!rustix::process::geteuid().is_root()).then_some(true));
        let gone = put(&directory.path().join("none"), "a", b"text", None).unwrap_err();
        assert!(!is_of_the_path(&gone), "{gone}");
    }
}
