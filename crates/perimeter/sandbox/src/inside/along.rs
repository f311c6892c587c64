//! What a copy of a lent path brings along, judged by what lies there: the mount that the path lies in, and every mount below it. They come along because
//! the kernel locks them to what they are mounted on, and a name below a lent directory says nothing of what was mounted at it. The table is this mount
//! namespace's own, private by now, so what is judged is what is copied.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use postern_confine::list::entries;
use rustix::fs::{AtFlags, StatxFlags};

use super::{Doing, Failure};
use crate::sensitive;

/// File systems that hold files and nothing else.
const FILE_SYSTEMS: &str = include_str!("../../data/file-systems.list");

/// What mends a refusal.
const FIX: &str = "unmount it, or lend a directory that it does not lie in";

/// The mounts of this namespace.
pub(super) struct Table(Vec<Mounted>);

struct Mounted {
    number: u64,
    parent: u64,
    /// The file system, as the kernel numbers it: two mounts of one have the same.
    device: String,
    /// Which of its directories is mounted.
    root: PathBuf,
    at: PathBuf,
    kind: String,
}

impl Table {
    pub(super) fn of_this_process() -> Result<Self, Failure> {
        let doing = || "read what is mounted".into();
        let text = fs::read("/proc/self/mountinfo").doing(doing)?;
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(Mounted::read)
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(|| Failure::other("the kernel describes its mounts in another way than this build knows"))
    }

    /// Whether a path that was opened as `place` may be copied with what is mounted below it. `forbidden` are trees of ours.
    pub(super) fn judge(&self, path: &Path, place: &OwnedFd, forbidden: &[PathBuf]) -> Result<(), Failure> {
        let number = number_of(place)?;
        let (own, root) = self
            .0
            .iter()
            .find(|mount| mount.number == number)
            .and_then(|mount| path.strip_prefix(&mount.at).ok().map(|rest| (mount, mount.root.join(rest))))
            .ok_or_else(|| Failure::other(format!("{} does not lie where it is mounted any more", path.display())))?;
        self.judge_one(own, &root, path, forbidden)?;
        let below =
            self.0.iter().filter(|mount| mount.at != path && mount.at.starts_with(path) && !self.covered(mount));
        below
            .map(|mount| (mount, &mount.root))
            .try_for_each(|(mount, root)| self.judge_one(mount, root, &mount.at, forbidden))
    }

    /// One mount, of which `root` is shown, at `at`.
    fn judge_one(&self, mount: &Mounted, root: &Path, at: &Path, forbidden: &[PathBuf]) -> Result<(), Failure> {
        let refused = |why: String| Err(Failure::other(format!("{} is never lent: {why}", at.display())).mended(FIX));
        for place in self.places(mount, root) {
            if let Some(reason) = sensitive::path(&place, forbidden) {
                return refused(format!("there lies what is also at {} ({reason})", place.display()));
            }
        }
        if !holds_files(&mount.kind) && !postern_danger::off!("lent-mounts") {
            return refused(format!("it is a mount of the kind {}, which is none of files alone", mount.kind));
        }
        Ok(())
    }

    /// Where else the same lies, whole or in part: by which names the host knows it.
    fn places(&self, mount: &Mounted, root: &Path) -> impl Iterator<Item = PathBuf> {
        self.0.iter().filter(|other| other.device == mount.device).filter_map(move |other| {
            match root.strip_prefix(&other.root) {
                Ok(rest) => Some(other.at.join(rest).components().collect()),
                Err(_) => other.root.starts_with(root).then(|| other.at.clone()),
            }
        })
    }

    /// Whether another mount lies over the whole of it: nobody gets there.
    fn covered(&self, mount: &Mounted) -> bool {
        self.0.iter().any(|other| other.parent == mount.number && other.at == mount.at)
    }
}

impl Mounted {
    /// A line of `/proc/self/mountinfo`.
    fn read(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        let (own, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let (root, at) = (unescaped(fields.next()?), unescaped(fields.next()?));
        let kind = String::from_utf8(fields.skip_while(|field| *field != b"-").nth(1)?.to_vec()).ok()?;
        Some(Self { number: own, parent, device, root, at, kind })
    }
}

/// The kernel writes blanks and backslashes as three digits of eight.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut left = field;
    while let Some((first, rest)) = left.split_first() {
        let code = rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                left = &rest[3..];
            }
            None => {
                bytes.push(*first);
                left = rest;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

fn number_of(place: &OwnedFd) -> Result<u64, Failure> {
    let about =
        rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).doing(|| "find the mount".into())?;
    Ok(about.stx_mnt_id)
}

fn holds_files(kind: &str) -> bool {
    entries(FILE_SYSTEMS).flat_map(|entry| entry.words.into_iter().skip(1)).any(|listed| {
        match listed.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => kind == listed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_with_blanks_in_names_and_whatever_stands_between() {
        let line = b"36 35 98:0 /a\\040b /mnt/c\\134d rw,noatime shared:1 master:2 - fuse.sshfs src rw";
        let mount = Mounted::read(line).expect("is a line");
        assert_eq!((mount.number, mount.parent, mount.device.as_str()), (36, 35, "98:0"));
        assert_eq!((mount.root, mount.at), (PathBuf::from("/a b"), PathBuf::from("/mnt/c\\d")));
        assert_eq!(mount.kind, "fuse.sshfs");
        assert!(Mounted::read(b"36 35 98:0 / /mnt rw").is_none());
    }

    #[test]
    fn only_what_holds_files_alone_is_lent() {
        for kind in ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "nfs4", "virtiofs", "fuse.sshfs", "squashfs"] {
            assert!(holds_files(kind), "{kind}");
        }
        for kind in [
            "proc",
            "sysfs",
            "cgroup",
            "cgroup2",
            "devtmpfs",
            "devpts",
            "debugfs",
            "tracefs",
            "bpf",
            "nsfs",
            "mqueue",
            "ramfs",
            "autofs",
            "fusectl",
            "securityfs",
            "binfmt_misc",
            "unknown",
        ] {
            assert!(!holds_files(kind), "{kind}");
        }
        assert_eq!(postern_confine::list::unreasoned(FILE_SYSTEMS), []);
    }

    #[test]
    fn the_same_directory_is_known_by_all_its_names() {
        let lines: [&[u8]; 4] = [
            b"1 0 8:1 / / rw - ext4 /dev/a rw",
            b"2 1 8:1 /srv/kept /var/kept rw - ext4 /dev/a rw",
            b"3 1 8:2 / /srv/disk rw - ext4 /dev/b rw",
            b"4 3 8:1 /etc /srv/disk/x rw - ext4 /dev/a rw",
        ];
        let table = Table(lines.into_iter().map(|line| Mounted::read(line).expect("is a line")).collect());
        let places = |number: usize, root: &str| -> Vec<String> {
            table.places(&table.0[number], Path::new(root)).map(|place| place.display().to_string()).collect()
        };
        assert_eq!(places(0, "/srv"), ["/srv", "/var/kept"]);
        assert_eq!(places(0, "/srv/kept/x"), ["/srv/kept/x", "/var/kept/x"]);
        assert_eq!(places(2, "/"), ["/srv/disk"]);
        assert_eq!(places(3, "/etc"), ["/etc", "/srv/disk/x"]);
    }
}
