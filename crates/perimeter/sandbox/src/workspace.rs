//! The session's directory on the host: made, and given to the sandbox's kernel user. Never follows a symbolic link, on no part of a way: the agent
//! wrote them, and may swap anything for one meanwhile.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// Makes the directory (0700) with `.home` inside, and as root gives it and everything in it to `kernel_uid`. Blocks.
///
/// # Errors
/// The system's; directories too deep within each other.
pub fn prepare(workspace: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    for directory in [workspace.to_owned(), workspace.join(".home")] {
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            // A link in the agent's place for `.home` stays what it is: inside it leads nowhere that the agent could not go anyway.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let Some(uid) = kernel_uid else { return Ok(()) };
    if fs::symlink_metadata(workspace)?.uid() != uid {
        return give(workspace, uid);
    }
    let workspace = directory(CWD, workspace)?;
    let home = rustix::fs::statat(&workspace, ".home", AtFlags::SYMLINK_NOFOLLOW)?;
    if home.st_uid != uid {
        give_one(&workspace, c".home", uid)?;
    }
    Ok(())
}

/// Makes the session's layer over `/usr` (0700): what is installed lies in `upper`, `work` is the kernel's. As root both belong to `kernel_uid`.
///
/// # Errors
/// The system's, with the path.
pub fn prepare_packages(layer: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    // The mode of `upper` is the one that `/usr` shows inside.
    for (directory, mode) in [(layer.to_owned(), 0o700), (layer.join("upper"), 0o755), (layer.join("work"), 0o700)] {
        match fs::DirBuilder::new().mode(mode).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
                kernel_uid.map_or(Ok(()), |uid| lchown(&directory, Some(uid), Some(uid)))?;
            }
        }
    }
    Ok(())
}

/// Makes the directory for what the session puts out (0700), and as root gives it to `kernel_uid`.
///
/// # Errors
/// The system's.
pub fn prepare_outputs(directory: &Path, kernel_uid: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match kernel_uid {
        Some(uid) if fs::symlink_metadata(directory)?.uid() != uid => lchown(directory, Some(uid), Some(uid)),
        _ => Ok(()),
    }
}

/// Gives a directory and everything in it to `kernel_uid`, links themselves and not what they name; the directory itself last, so that one that was
/// given was given whole. Blocks.
///
/// # Errors
/// The system's; more than [`DEEPEST`] directories within each other.
pub fn give(path: &Path, kernel_uid: u32) -> io::Result<()> {
    let mut giving = Giving::of(path, kernel_uid)?;
    while giving.step()? {}
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(CWD, path, Some(Uid::from_raw(kernel_uid)), Some(Gid::from_raw(kernel_uid)), flags)?)
}

/// How many directories within each other are given: each is held open.
pub const DEEPEST: usize = 256;

/// A directory that is being given: by descriptors, since by the time a path is looked up again it may lead elsewhere.
struct Giving {
    /// Each in the one before it.
    open: Vec<Dir>,
    kernel_uid: u32,
}

impl Giving {
    fn of(path: &Path, kernel_uid: u32) -> io::Result<Self> {
        Ok(Self { open: vec![Dir::new(directory(CWD, path)?)?], kernel_uid })
    }

    /// Gives the next entry; whether there may be more.
    fn step(&mut self) -> io::Result<bool> {
        let Some(at) = self.open.last_mut() else { return Ok(false) };
        let Some(entry) = at.read().transpose()? else {
            self.open.pop();
            return Ok(true);
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return Ok(true);
        }
        match give_one(at.fd()?, name, self.kernel_uid).and_then(|()| directory(at.fd()?, name)) {
            Ok(_) if self.open.len() >= DEEPEST => {
                return Err(io::Error::other(format!("more than {DEEPEST} directories lie within each other")));
            }
            Ok(inside) => self.open.push(Dir::new(inside)?),
            // It is no directory; a link is none. Or it is gone by now.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }
}

fn give_one(at: impl AsFd, name: &CStr, kernel_uid: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(kernel_uid), Gid::from_raw(kernel_uid));
    rustix::fs::chownat(at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

fn directory(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Who owns what is outside and who is given what is inside. An ordinary user can give to itself alone, which still shows as a change of the file.
    fn taker() -> u32 {
        let user = rustix::process::geteuid();
        if user.is_root() { 123_456 } else { user.as_raw() }
    }

    /// A directory outside, with its state once the clock has gone on since it was made.
    fn outside() -> (tempfile::TempDir, [(u32, i64, i64); 2]) {
        let outside = tempfile::tempdir().expect("makes");
        fs::write(outside.path().join("file"), "").expect("writes");
        let before = state(outside.path());
        let clock = tempfile::NamedTempFile::new().expect("makes");
        while (0..2).any(|at| (before[at].1, before[at].2) >= changed(clock.path())) {
            fs::set_permissions(clock.path(), fs::Permissions::from_mode(0o600)).expect("changes");
        }
        (outside, before)
    }

    fn state(outside: &Path) -> [(u32, i64, i64); 2] {
        [outside.to_owned(), outside.join("file")].map(|path| {
            let about = fs::symlink_metadata(path).expect("there");
            (about.uid(), about.ctime(), about.ctime_nsec())
        })
    }

    fn changed(path: &Path) -> (i64, i64) {
        let about = fs::symlink_metadata(path).expect("there");
        (about.ctime(), about.ctime_nsec())
    }

    #[test]
    fn links_at_every_level_are_given_themselves_and_lead_nowhere() {
        let ((outside, before), workspace) = (outside(), tempfile::tempdir().expect("makes"));
        let root = workspace.path();
        fs::create_dir_all(root.join("a/b")).expect("makes");
        for level in ["", "a", "a/b"] {
            symlink(outside.path(), root.join(level).join("directory")).expect("links");
            symlink(outside.path().join("file"), root.join(level).join("file")).expect("links");
        }
        rustix::fs::mknodat(CWD, root.join("a/pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("makes");
        give(root, taker()).expect("gives");
        assert_eq!(state(outside.path()), before);
        for path in ["", "a", "a/b", "a/b/directory", "a/b/file", "a/pipe", "directory"] {
            assert_eq!(fs::symlink_metadata(root.join(path)).expect("there").uid(), taker(), "{path}");
        }
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_while_it_is_given_leads_nowhere() {
        for steps in 0..12 {
            let ((outside, before), workspace) = (outside(), tempfile::tempdir().expect("makes"));
            let root = workspace.path().join("root");
            fs::create_dir_all(root.join("a")).expect("makes");
            fs::write(root.join("a/file"), "").expect("writes");
            let mut giving = Giving::of(&root, taker()).expect("begins");
            (0..steps).for_each(|_| assert!(giving.step().is_ok()));
            fs::rename(root.join("a"), workspace.path().join("away")).expect("moves");
            symlink(outside.path(), root.join("a")).expect("links");
            while giving.step().expect("gives") {}
            assert_eq!(state(outside.path()), before, "swapped after {steps} steps");
        }
    }

    #[test]
    fn a_home_that_is_not_the_agents_is_given_alone() {
        let workspace = tempfile::tempdir().expect("makes");
        prepare(workspace.path(), Some(taker())).expect("prepares");
        fs::create_dir(workspace.path().join("kept")).expect("makes");
        fs::remove_dir(workspace.path().join(".home")).expect("removes");
        prepare(workspace.path(), Some(taker())).expect("prepares");
        let owner = |name: &str| fs::symlink_metadata(workspace.path().join(name)).expect("there").uid();
        assert_eq!((owner(".home"), owner("kept")), (taker(), rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn directories_within_each_other_beyond_the_bound_are_an_error_and_no_deep_recursion() {
        let workspace = tempfile::tempdir().expect("makes");
        fs::create_dir_all(workspace.path().join(vec!["d"; DEEPEST - 1].join("/"))).expect("makes");
        give(workspace.path(), taker()).expect("gives");
        fs::create_dir(workspace.path().join(vec!["d"; DEEPEST].join("/"))).expect("makes");
        let error = give(workspace.path(), taker()).expect_err("is too deep");
        assert!(error.to_string().contains("within each other"), "{error}");
    }
}
