//! /etc as every sandbox of this host has it: put together in a directory of our own, shown to all of them read-only, and made anew when the host's files
//! are others. Mounting twenty small files one by one in each sandbox took a good part of a start, and of what a sandbox weighs.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use postern_confine::list::entries;
use rustix::fs::FlockOperation;

use crate::spec::AGENT_UID;

const LIST: &str = include_str!("../data/etc.list");

/// The longest file that is copied. What is longer is no setting, and is left out.
const FILE_BYTES: u64 = 1 << 20;

/// The directories of one spawner, one for each state of the host's files that it met: sandboxes keep the one that they started with.
pub(crate) struct Etc {
    ours: PathBuf,
    made: u32,
    copied: Vec<Copied>,
    /// Held for as long as sandboxes may look at the directories.
    _lock: File,
}

/// A file of the host as it was when it was copied.
#[derive(PartialEq, Eq)]
struct Copied {
    path: PathBuf,
    state: Option<State>,
}

/// By what another file or another content is known.
#[derive(PartialEq, Eq)]
struct State {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Etc {
    /// Makes the first one below `shared`, where what earlier spawners left is removed.
    ///
    /// # Errors
    /// The system's, with what was being done.
    pub(crate) fn prepare(shared: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(shared)?;
        remove_what_nobody_holds(shared)?;
        let ours = shared.join(format!("spawner-{}", std::process::id()));
        directory(&ours)?;
        let lock = File::open(&ours)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let mut etc = Self { ours, made: 0, copied: Vec::new(), _lock: lock };
        etc.make()?;
        Ok(etc)
    }

    /// Where it is now.
    pub(crate) fn directory(&self) -> PathBuf {
        self.ours.join(format!("etc-{}", self.made))
    }

    /// Makes it anew where a file of the host is another than the one that was copied; answers whether it did.
    ///
    /// # Errors
    /// The system's. What was there before is still there.
    pub(crate) fn renew(&mut self) -> io::Result<bool> {
        if look() == self.copied {
            return Ok(false);
        }
        self.make().map(|()| true)
    }

    fn make(&mut self) -> io::Result<()> {
        let copied = look();
        let made = self.made + 1;
        let etc = self.ours.join(format!("etc-{made}"));
        // Of an attempt that failed half-way. Nobody was ever shown it.
        remove_if_there(&etc)?;
        directory(&etc)?;
        for Copied { path, .. } in copied.iter().filter(|copied| copied.state.is_some()) {
            if let Some(contents) = contents(path) {
                write(&inside(&etc, path), &contents)?;
            }
        }
        for (path, contents) in generated() {
            write(&inside(&etc, Path::new(path)), contents.as_bytes())?;
        }
        for (link, target) in LINKS {
            symlink(target, inside(&etc, Path::new(link)))?;
        }
        for path in shown() {
            directory(&inside(&etc, &path))?;
        }
        (self.made, self.copied) = (made, copied);
        Ok(())
    }
}

/// What /etc holds that is ours: names, and whom to ask for addresses.
pub(crate) fn generated() -> [(&'static str, String); 5] {
    let passwd = format!(
        "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:{AGENT_UID}:{AGENT_UID}:agent:/workspace/.home:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    [
        ("/etc/passwd", passwd),
        ("/etc/group", format!("root:x:0:\nagent:x:{AGENT_UID}:\nnogroup:x:65534:\n")),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n".to_owned()),
        ("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n".to_owned()),
        ("/etc/hostname", "sandbox\n".to_owned()),
    ]
}

/// Links of /etc and where they lead: the session's certificates lie in its own root.
pub(crate) const LINKS: [(&str, &str); 2] = [("/etc/mtab", "/proc/self/mounts"), ("/etc/postern", SESSION)];

/// What of /etc is the session's own.
pub(crate) const SESSION: &str = "/.postern";

/// Directories of the host's /etc that are shown themselves.
pub(crate) fn shown() -> impl Iterator<Item = PathBuf> {
    listed("bind").filter(|path| path.is_dir())
}

/// Directories that are covered by an empty one.
pub(crate) fn hidden() -> impl Iterator<Item = PathBuf> {
    listed("hide").filter(|path| path.is_dir())
}

fn listed(how: &'static str) -> impl Iterator<Item = PathBuf> {
    entries(LIST).filter(move |entry| entry.words[0] == how).map(|entry| PathBuf::from(entry.words[1]))
}

fn look() -> Vec<Copied> {
    listed("copy").map(|path| Copied { state: state(&path), path }).collect()
}

/// None where it is not there, is no file, or is none that everybody may read: the copy belongs to everybody.
fn state(path: &Path) -> Option<State> {
    let about = fs::metadata(path).ok()?;
    let public = about.is_file() && about.mode() & 0o004 != 0 && about.len() <= FILE_BYTES;
    let changed = (about.ctime(), about.ctime_nsec());
    public.then(|| State { file: (about.dev(), about.ino()), size: about.len(), changed })
}

/// None for a file that went away or grew since it was looked at: the next look sees that it is another.
fn contents(path: &Path) -> Option<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES + 1).read_to_end(&mut contents).ok()?;
    (contents.len() as u64 <= FILE_BYTES).then_some(contents)
}

fn inside(etc: &Path, path: &Path) -> PathBuf {
    etc.join(path.strip_prefix("/etc").unwrap_or(path))
}

/// A directory that everybody may look into, whatever the umask.
fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// A file that everybody may read, whatever the umask.
fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    fs::write(path, contents)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

/// A spawner that lives holds its directory.
fn remove_what_nobody_holds(shared: &Path) -> io::Result<()> {
    for entry in fs::read_dir(shared)? {
        let path = entry?.path();
        let Ok(held) = File::open(&path) else { continue };
        if rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        remove_if_there(&path)?;
    }
    Ok(())
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_passwords_nor_keys_nor_registry_credentials_are_on_the_list() {
        let shadowed = [
            "shadow",
            "gshadow",
            "ssh",
            "sudoers",
            "npmrc",
            "pip.conf",
            "gitconfig",
            "machine-id",
            "hostname",
            "passwd",
            "krb5.keytab",
        ];
        for entry in entries(LIST) {
            let path = entry.words[1].trim_start_matches("/etc/");
            assert!(!shadowed.contains(&path) && entry.words[1].starts_with("/etc/"), "{path}");
            assert!(["copy", "bind", "hide"].contains(&entry.words[0]), "{path}");
        }
    }

    #[test]
    fn what_is_put_together_is_the_hosts_and_ours_and_readable_for_all() {
        let shared = tempfile::tempdir().expect("a directory");
        let etc = Etc::prepare(shared.path()).expect("made").directory();
        assert_eq!(fs::read(etc.join("ld.so.cache")).ok(), fs::read("/etc/ld.so.cache").ok());
        assert!(fs::read_to_string(etc.join("passwd")).expect("ours").contains("agent:x:"));
        assert_eq!(fs::read_link(etc.join("postern")).expect("a link"), Path::new(SESSION));
        assert!(etc.join("alternatives").is_dir() == Path::new("/etc/alternatives").is_dir());
        for entry in fs::read_dir(&etc).expect("listed").flatten() {
            let about = fs::symlink_metadata(entry.path()).expect("there");
            let readable = if about.is_dir() { 0o755 } else { 0o644 };
            assert!(about.is_symlink() || about.mode() & 0o7777 == readable, "{}", entry.path().display());
        }
    }

    #[test]
    fn a_file_of_the_host_beyond_its_bound_is_left_out() {
        let place = tempfile::tempdir().expect("a directory");
        for (bytes, copied) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            let path = place.path().join(bytes.to_string());
            write(&path, &vec![b'x'; bytes]).expect("written");
            assert_eq!((state(&path).is_some(), contents(&path).is_some()), (copied, copied), "{bytes}");
        }
    }

    #[test]
    fn it_is_made_anew_beside_the_old_one_when_a_file_of_the_host_is_another() {
        let shared = tempfile::tempdir().expect("a directory");
        let mut etc = Etc::prepare(shared.path()).expect("made");
        let first = etc.directory();
        assert!(!etc.renew().expect("looked"), "nothing changed");
        etc.copied[0].state = None;
        assert!(etc.renew().expect("made"));
        assert_ne!(etc.directory(), first);
        assert!(first.join("passwd").exists(), "sandboxes that started with it still look at it");
    }

    #[test]
    fn what_an_attempt_left_that_failed_half_way_is_in_nobodys_way() {
        let shared = tempfile::tempdir().expect("a directory");
        let mut etc = Etc::prepare(shared.path()).expect("made");
        let half = etc.ours.join("etc-2");
        directory(&half).expect("made");
        fs::write(half.join("left"), "").expect("written");
        etc.copied[0].state = None;
        assert!(etc.renew().expect("made"));
        assert_eq!(etc.directory(), half);
        assert!(half.join("passwd").exists() && !half.join("left").exists());
    }

    #[test]
    fn what_a_dead_spawner_left_is_removed_and_what_a_living_one_holds_is_not() {
        let shared = tempfile::tempdir().expect("a directory");
        let left = shared.path().join("spawner-0");
        directory(&left).expect("made");
        let living = Etc::prepare(shared.path()).expect("made");
        assert!(!left.exists());
        remove_what_nobody_holds(shared.path()).expect("looked");
        assert!(living.directory().join("passwd").exists());
    }
}
