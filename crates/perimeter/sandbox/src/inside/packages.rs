//! The step that lays the session's layer over /usr. What is installed is written to the layer, on disk beside the workspace, and never to the system.
//! The layer outlives the sandbox, so nothing in it may be code of the next one's process 1. That runs on the host's own libraries, and the directories
//! of libraries stay read-only in the layer all the same.

use std::collections::VecDeque;
use std::fs::{self, DirEntry};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::filesystem::make_directory;
use super::mounts;
use super::{Doing, Failure, Inside};

/// Where the layer lies until it is mounted; nothing of it can be reached by this path later.
const LAYER: &str = "/.packages";
const UPPER: &str = "/.packages/upper";
const WORK: &str = "/.packages/work";
/// What the kernel leaves in the work directory, and would take for a reason not to mount the layer again.
const LEFT_BEHIND: &str = "/.packages/work/work";
/// A directory in it that says that the agent's directories were made.
const PREPARED: &str = "/.packages/prepared";

/// How far below /usr directories become the agent's. Making one costs a disk some tens of microseconds, at the first sandbox of a session.
const DEPTH: usize = 2;
/// Where installers go deeper, and how deep.
const DEEPER: [&str; 3] = ["local", "lib/python3", "share/man"];
const DEEPER_DEPTH: usize = 6;
/// How many at most; what lies beyond stays read-only.
const MOST_DIRECTORIES: usize = 8192;

/// How the files are called that process 1 is made of, besides itself.
const LIBRARIES: [&str; 5] = ["ld-", "ld64.", "libc.so", "libgcc_s.so", "libm.so"];
/// By which of these the loader finds them: a link could be replaced by another, a directory that is not empty cannot.
const LIBRARY_ROOTS: [&str; 4] = ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32"];

/// Step: the layer, where the zone allows packages.
pub(super) fn mount_layer(inside: &mut Inside) -> Result<(), Failure> {
    let Some(layer) = inside.borrowed.packages.take() else { return Ok(()) };
    if let Some(link) = LIBRARY_ROOTS.into_iter().find(|path| Path::new(path).is_symlink()) {
        return Err(Failure::other(format!("{link} of this system is a link, which what is installed could replace")));
    }
    make_directory(Path::new(LAYER))?;
    mounts::attach(&layer, Path::new(LAYER))?;
    if !Path::new(PREPARED).exists() {
        give_directories()?;
        make_directory(Path::new(PREPARED))?;
    }
    match fs::remove_dir_all(LEFT_BEHIND) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| "clear the layer's work directory".into())?;
        }
        _ => {}
    }
    mounts::attach(&overlay()?, Path::new("/usr"))?;
    rustix::mount::unmount(LAYER, UnmountFlags::DETACH).doing(|| "let go of the layer".into())?;
    fs::remove_dir(LAYER).doing(|| "remove the layer's mount point".into())
}

/// The file system that shows the layer over /usr.
fn overlay() -> Result<OwnedFd, Failure> {
    let doing = |what: &'static str| move || format!("{what} the overlay");
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(doing("open"))?;
    for (name, value) in [("lowerdir", "/usr"), ("upperdir", UPPER), ("workdir", WORK)] {
        rustix::mount::fsconfig_set_string(&context, name, value).doing(doing("set the layers of"))?;
    }
    // Its notes are in attributes that a user namespace may write. And its end must not wait until the disk has everything: the spawner waits for it.
    for flag in ["userxattr", "volatile"] {
        rustix::mount::fsconfig_set_flag(&context, flag).doing(doing("set an option of"))?;
    }
    rustix::mount::fsconfig_create(&context).doing(doing("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(doing("mount"))
}

/// Directories of /usr belong to nobody inside. Those in which installers make entries get a place in the layer, which is the agent's. Breadth first, so
/// that what is left out lies deepest.
fn give_directories() -> Result<(), Failure> {
    let chosen = chosen(Path::new("/usr"), MOST_DIRECTORIES);
    chosen.into_iter().try_for_each(|below| make_directory(&Path::new(UPPER).join(below)))
}

/// Those directories, at most so many.
fn chosen(usr: &Path, most: usize) -> Vec<PathBuf> {
    let mut pending = VecDeque::from([(PathBuf::new(), 1)]);
    let mut chosen = Vec::new();
    while let Some((below, depth)) = pending.pop_front() {
        for directory in directories(&usr.join(&below)) {
            let below = below.join(directory.file_name());
            if chosen.len() == most {
                return chosen;
            }
            if holds_libraries(&directory.path()) {
                continue;
            }
            chosen.push(below.clone());
            let deepest = if DEEPER.iter().any(|deeper| below.starts_with(deeper)) { DEEPER_DEPTH } else { DEPTH };
            if depth < deepest {
                pending.push_back((below, depth + 1));
            }
        }
    }
    chosen
}

/// The directories in a directory, no links among them. What cannot be read has none.
fn directories(path: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn holds_libraries(directory: &Path) -> bool {
    let mut names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| LIBRARIES.iter().any(|library| name.as_encoded_bytes().starts_with(library.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installers_get_two_levels_six_where_they_go_deeper_and_so_many_directories() {
        let usr = tempfile::tempdir().expect("a directory");
        for path in ["share/doc/tool/deep", "local/1/2/3/4/5/6/7", "lib/python3/dist-packages", "lib/gcc/x"] {
            fs::create_dir_all(usr.path().join(path)).expect("makes");
        }
        let all = chosen(usr.path(), MOST_DIRECTORIES);
        for (path, given) in [
            ("share/doc", true),
            ("share/doc/tool", false),
            ("local/1/2/3/4/5", true),
            ("local/1/2/3/4/5/6", false),
            ("lib/python3/dist-packages", true),
            ("lib/gcc/x", false),
        ] {
            assert_eq!(all.contains(&PathBuf::from(path)), given, "{path}");
        }
        assert_eq!(chosen(usr.path(), 3).len(), 3);
        assert_eq!(MOST_DIRECTORIES, 8192);
    }
}
