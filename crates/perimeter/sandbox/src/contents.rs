//! What lies in a directory that is to be lent and must not go along: sockets and pipes, which are ways past the network to whoever listens at the other
//! end (reading alone being lent stops neither), and the places where programs keep a user's keys.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::sensitive;

/// What was found, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) at: PathBuf,
    pub(crate) what: &'static str,
    pub(crate) fix: &'static str,
}

/// Looks through a directory or at a file, what lies nearest first, without following a link.
pub(crate) fn found_in(lent: &Path) -> Option<Found> {
    if postern_danger::off!("lent-mounts") {
        return None;
    }
    found_among(lent, MOST_ENTRIES)
}

fn found_among(lent: &Path, most: usize) -> Option<Found> {
    let kind = fs::symlink_metadata(lent).ok()?.file_type();
    if let Some(found) = way_out(lent, kind) {
        return Some(found);
    }
    let mut waiting = VecDeque::from([(lent.to_owned(), 1)]);
    let mut left = most;
    let names = sensitive::names();
    while let Some((directory, depth)) = waiting.pop_front() {
        // What this process may not list, a sandbox may not either: as root it lists everything, and otherwise both are the same user.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            left = left.checked_sub(1)?;
            let Ok(kind) = entry.file_type() else { continue };
            let at = entry.path();
            let found = way_out(&at, kind).or_else(|| (depth <= KEYS_DEPTH).then(|| keys(&names, &at)).flatten());
            if found.is_some() {
                return found;
            }
            if kind.is_dir() {
                waiting.push_back((at, depth + 1));
            }
        }
    }
    None
}

fn way_out(at: &Path, kind: fs::FileType) -> Option<Found> {
    let what = match (kind.is_socket(), kind.is_fifo()) {
        (true, _) => "a socket, which leads past the network to whoever listens at it",
        (_, true) => "a named pipe, which leads past the network to whoever reads it",
        _ => return None,
    };
    Some(Found { at: at.to_owned(), what, fix: "have the service put it elsewhere, or lend a directory without it" })
}

fn keys(names: &[(&Path, &'static str)], at: &Path) -> Option<Found> {
    let (_, what) = *names.iter().find(|(name, _)| at.ends_with(name))?;
    Some(Found {
        at: at.to_owned(),
        what,
        fix: "take it out of there, or lend a directory that holds only what the agent may see",
    })
}

/// How many files and directories are looked at: some milliseconds of each start of a sandbox.
const MOST_ENTRIES: usize = 10_000;
/// How deep below what is lent a user's keys are looked for: a home among others, and no sample in the depth of a program.
const KEYS_DEPTH: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_the_bound_is_not_looked_at_and_the_nearest_comes_first() {
        let place = tempfile::tempdir().expect("makes");
        let deep = place.path().join("a/b");
        fs::create_dir_all(&deep).expect("makes");
        std::os::unix::net::UnixListener::bind(deep.join("service")).expect("listens");
        for number in 0..8 {
            fs::write(place.path().join(number.to_string()), "").expect("writes");
        }
        assert_eq!(found_among(place.path(), 10), None);
        assert_eq!(found_among(place.path(), 11).map(|found| found.at), Some(deep.join("service")));
    }

    #[test]
    fn links_are_not_followed() {
        let place = tempfile::tempdir().expect("makes");
        let elsewhere = tempfile::tempdir().expect("makes");
        std::os::unix::net::UnixListener::bind(elsewhere.path().join("service")).expect("listens");
        std::os::unix::fs::symlink(elsewhere.path(), place.path().join("link")).expect("links");
        std::os::unix::fs::symlink(elsewhere.path().join("service"), place.path().join("service")).expect("links");
        assert_eq!(found_in(place.path()), None);
    }
}
