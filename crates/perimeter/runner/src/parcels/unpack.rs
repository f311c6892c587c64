//! The archive of a skill, as hostile input: whatever is not a plain file or directory in it, or is too much, refuses the whole.
//!
//! It is unpacked where nobody looks, into a directory that is the worker's alone, so no link can be met on the way.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use postern_model::skill::{INSTRUCTIONS, MemberPath};
use zip::ZipArchive;
use zip::result::ZipError;

/// The most bytes of an archive.
pub(super) const MAX_ARCHIVE: u64 = 40 << 20;
/// The most bytes of what it holds: what no ratio gets round.
const MAX_UNPACKED: u64 = 64 << 20;
/// The most files and directories that it names.
const MAX_MEMBERS: usize = 2000;

const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// It is no archive, or broken.
    #[error("its archive cannot be read")]
    Broken(#[from] ZipError),
    /// It has what no skill has.
    #[error("its archive {0}")]
    Refused(String),
    /// Our own disk does not take it.
    #[error("keep it on the worker's disk")]
    Disk(#[source] io::Error),
}

/// Unpacks the archive's one directory as `to`, which must not be there. What is there after an error is to be removed. Blocks.
///
/// # Errors
/// [`UnpackError`].
pub(super) fn unpack(archive: &Path, to: &Path) -> Result<(), UnpackError> {
    unpack_within(archive, to, MAX_UNPACKED)
}

fn unpack_within(archive: &Path, to: &Path, most: u64) -> Result<(), UnpackError> {
    let mut zip = ZipArchive::new(fs::File::open(archive).map_err(UnpackError::Disk)?)?;
    let members = members(&mut zip)?;
    directory(to)?;
    let mut left = most;
    for member in &members {
        for above in member.path.directories() {
            directory(&to.join(above))?;
        }
        let at = to.join(member.path.as_str());
        match member.kind {
            Kind::Directory => directory(&at)?,
            Kind::File { mode } => left -= copy(&mut zip.by_index(member.index)?, &at, mode, left)?,
        }
    }
    Ok(())
}

/// A member of an archive, below its top directory.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    /// Its place in the archive.
    index: usize,
    path: MemberPath,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File { mode: u32 },
}

/// Looks at every member before anything is written.
fn members(zip: &mut ZipArchive<fs::File>) -> Result<Vec<Member>, UnpackError> {
    if zip.len() > MAX_MEMBERS {
        return Err(UnpackError::Refused(format!("has more than {MAX_MEMBERS} members")));
    }
    let mut members = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        let file = zip.by_index(index)?;
        members.push(member(index, &file.name()?, file.unix_mode())?);
    }
    let members = below_top(members)?;
    check(&members)?;
    Ok(members)
}

fn member(index: usize, name: &str, mode: Option<u32>) -> Result<Member, UnpackError> {
    let shown = || name.chars().filter(|character| !character.is_control()).take(100).collect::<String>();
    let mode = mode.unwrap_or_default();
    let (plain, kind) = match name.strip_suffix('/') {
        Some(plain) => (plain, Kind::Directory),
        None => (name, Kind::File { mode: if mode & 0o111 == 0 { 0o644 } else { 0o755 } }),
    };
    match (mode & KIND, kind) {
        (0 | FILE, Kind::File { .. }) | (0 | DIRECTORY, Kind::Directory) => {}
        _ => return Err(UnpackError::Refused(format!("has `{}`, which is neither a file nor a directory", shown()))),
    }
    let path = MemberPath::parse(plain);
    let path = path.map_err(|why| UnpackError::Refused(format!("has a path that is none, `{}`: {why}", shown())))?;
    Ok(Member { index, path, kind })
}

/// The members as they lie below the one directory that all of them lie in.
fn below_top(members: Vec<Member>) -> Result<Vec<Member>, UnpackError> {
    let top = members.iter().find_map(|member| member.path.split().map(|(top, _)| top.to_owned()));
    let apart = || UnpackError::Refused("has no directory that all of it lies in".to_owned());
    let top = top.ok_or_else(apart)?;
    let mut below = Vec::with_capacity(members.len());
    for Member { index, path, kind } in members {
        match (path.split(), kind) {
            (Some((first, path)), kind) if first == top => below.push(Member { index, path, kind }),
            // The directory itself.
            (None, Kind::Directory) if path.as_str() == top => {}
            _ => return Err(apart()),
        }
    }
    Ok(below)
}

fn check(members: &[Member]) -> Result<(), UnpackError> {
    let mut files = BTreeSet::new();
    let mut directories = BTreeSet::new();
    for Member { path, kind, .. } in members {
        directories.extend(path.directories());
        match kind {
            Kind::Directory => {
                directories.insert(path.as_str());
            }
            Kind::File { .. } if files.insert(path.as_str()) => {}
            Kind::File { .. } => return Err(UnpackError::Refused(format!("has `{}` twice", path.as_str()))),
        }
    }
    if let Some(both) = files.intersection(&directories).next() {
        return Err(UnpackError::Refused(format!("has `{both}` as a file and as a directory")));
    }
    if files.contains(INSTRUCTIONS) {
        return Ok(());
    }
    Err(UnpackError::Refused(format!("has no {INSTRUCTIONS} at its root")))
}

/// Writes one file of at most `left` bytes; how many it had.
fn copy(from: &mut impl Read, to: &Path, mode: u32, left: u64) -> Result<u64, UnpackError> {
    let options = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
    let mut written = options.open(to).map_err(UnpackError::Disk)?;
    let (mut piece, mut size) = (vec![0; 64 * 1024], 0);
    loop {
        let count = from.read(&mut piece).map_err(|error| UnpackError::Broken(error.into()))?;
        size += count as u64;
        if size > left {
            return Err(UnpackError::Refused("holds more than a skill may".to_owned()));
        }
        if count == 0 {
            break;
        }
        written.write_all(&piece[..count]).map_err(UnpackError::Disk)?;
    }
    written.set_permissions(fs::Permissions::from_mode(mode)).map_err(UnpackError::Disk)?;
    Ok(size)
}

fn directory(at: &Path) -> Result<(), UnpackError> {
    super::make_readable(at).map_err(UnpackError::Disk)
}

/// For the fuzz target: what stands there after an archive was taken, and that nothing stands beside it.
pub(crate) fn promised(bytes: &[u8]) {
    const MOST: u64 = 1 << 20;
    let place = std::env::temp_dir().join(format!("postern-fuzz-{}", std::process::id()));
    fs::create_dir(&place).expect("a temporary directory");
    let (archive, to) = (place.join("archive"), place.join("to"));
    fs::write(&archive, bytes).expect("a temporary file");
    let unpacked = unpack_within(&archive, &to, MOST);
    let mut beside: Vec<_> =
        fs::read_dir(&place).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    beside.sort();
    assert!(beside == ["archive"] || beside == ["archive", "to"], "beside it: {beside:?}");
    let (mut size, mut ahead) = (0, vec![to.clone()]);
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let about = entry.metadata().expect("it is there");
            assert!(about.is_dir() || about.is_file(), "{entry:?} is neither file nor directory");
            assert_eq!(about.permissions().mode() & 0o7022, 0, "{entry:?} can be written by others, or has a mark");
            if about.is_dir() {
                ahead.push(entry.path());
            } else {
                size += about.len();
            }
        }
    }
    assert!(size <= MOST, "{size} bytes");
    assert!(unpacked.is_err() || to.join(INSTRUCTIONS).is_file(), "a skill has instructions");
    fs::remove_dir_all(&place).expect("it is ours");
}

#[cfg(test)]
mod tests;
