//! Measuring workspaces where no quota holds them: what the files of each take on disk, summed up a few thousand entries at a time, so that a large
//! workspace never holds up the spawner. Never follows a symbolic link and never leaves the workspace: the agent changes it meanwhile.
//! A soft limit: files that were deleted while open, and directories that the agent closed to postern's own user, are not seen.

use std::collections::{HashSet, VecDeque};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::INTERVAL;

/// How many entries are looked at in one go: some milliseconds.
const PORTION: usize = 4000;
/// How long to wait between two portions of one workspace: what is written where the walk has been counts only in the next round, so a round is short.
const PACE: Duration = Duration::from_millis(50);
/// How long to rest when every workspace has been measured.
const REST: Duration = Duration::from_secs(2);
/// Files with several names are counted once, as long as this many are remembered.
const REMEMBERED: usize = 100_000;
/// What a file system gives as the unit of `st_blocks`.
const BLOCK: u64 = 512;
/// What an entry counts at least: an empty file has no blocks, and without this millions of them would take nothing but the watchdog's time.
const LEAST: u64 = 4096;
/// How many directories within each other are looked through: each is held open, and a tree that is deeper hides what lies in it.
const DEEPEST: usize = 256;

/// Measures one workspace after the other.
#[derive(Default)]
pub(crate) struct Gauge {
    waiting: VecDeque<String>,
    current: Option<(String, Walk)>,
    rested: Option<Instant>,
}

/// A session's directories and what they may take together.
pub(crate) struct Subject<'a> {
    pub(crate) session: &'a str,
    pub(crate) directories: &'a [PathBuf],
    pub(crate) limit_bytes: u64,
}

impl Gauge {
    /// Looks at one portion; the session whose workspace takes more than it may, if that has come out.
    pub(crate) fn look<'a>(
        &mut self,
        subjects: impl Iterator<Item = Subject<'a>> + Clone,
        now: Instant,
    ) -> Option<String> {
        if self.current.is_none() {
            self.current = self.next(subjects.clone(), now);
        }
        let (session, mut walk) = self.current.take()?;
        let subject = subjects.into_iter().find(|subject| subject.session == session)?;
        match walk.go_on(subject.limit_bytes) {
            Progress::Over => return Some(session),
            Progress::More => self.current = Some((session, walk)),
            Progress::Done => {}
        }
        None
    }

    /// How long to wait before the next look.
    pub(crate) fn pause(&self) -> Duration {
        if self.current.is_some() { PACE } else { INTERVAL }
    }

    fn next<'a>(
        &mut self,
        mut subjects: impl Iterator<Item = Subject<'a>> + Clone,
        now: Instant,
    ) -> Option<(String, Walk)> {
        if self.waiting.is_empty() {
            if self.rested.is_some_and(|since| now.duration_since(since) < REST) {
                return None;
            }
            self.rested = Some(now);
            self.waiting = subjects.clone().map(|subject| subject.session.to_owned()).collect();
        }
        let session = self.waiting.pop_front()?;
        let subject = subjects.find(|subject| subject.session == session)?;
        Some((session, Walk::of(subject.directories)))
    }
}

enum Progress {
    Done,
    More,
    Over,
}

/// One walk through a session's directories.
struct Walk {
    /// Those that are yet to be looked through.
    roots: Vec<OwnedFd>,
    /// Those that are being looked through, each in the one before it.
    open: Vec<Dir>,
    counted: HashSet<u64>,
    bytes: u64,
}

impl Walk {
    /// A directory that cannot be opened counts as nothing.
    fn of(directories: &[PathBuf]) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |directory: &PathBuf| {
            rustix::fs::openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()
        };
        let roots = directories.iter().filter_map(open).collect();
        Self { roots, open: Vec::new(), counted: HashSet::new(), bytes: 0 }
    }

    fn go_on(&mut self, limit_bytes: u64) -> Progress {
        for _ in 0..PORTION {
            match self.step() {
                Progress::More if self.bytes <= limit_bytes => {}
                Progress::More => return Progress::Over,
                ended => return ended,
            }
        }
        Progress::More
    }

    /// Looks at the next entry.
    fn step(&mut self) -> Progress {
        let Some(directory) = self.open.last_mut() else {
            let Some(root) = self.roots.pop() else { return Progress::Done };
            self.open.extend(opened(&root, c"."));
            return Progress::More;
        };
        let Some(Ok(entry)) = directory.read() else {
            self.open.pop();
            return Progress::More;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return Progress::More;
        }
        // What is gone, replaced or closed meanwhile counts as nothing.
        let Ok(holder) = directory.fd() else { return Progress::More };
        let Ok(about) = rustix::fs::statat(holder, name, AtFlags::SYMLINK_NOFOLLOW) else { return Progress::More };
        let inside = FileType::from_raw_mode(about.st_mode).is_dir().then(|| opened(holder, name).ok()).flatten();
        self.count(&about);
        if inside.is_some() && self.open.len() >= DEEPEST {
            return Progress::Over;
        }
        self.open.extend(inside);
        Progress::More
    }

    fn count(&mut self, about: &Stat) {
        let several_names = about.st_nlink > 1 && !FileType::from_raw_mode(about.st_mode).is_dir();
        let again = several_names && self.counted.len() < REMEMBERED && !self.counted.insert(about.st_ino);
        let takes = if again { 0 } else { u64::try_from(about.st_blocks).unwrap_or(0).saturating_mul(BLOCK) };
        self.bytes = self.bytes.saturating_add(takes.max(LEAST));
    }
}

fn opened(at: impl AsFd, name: &CStr) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn measured(directories: &[&Path], limit_bytes: u64) -> bool {
        let directories: Vec<PathBuf> = directories.iter().map(|path| path.to_path_buf()).collect();
        let mut walk = Walk::of(&directories);
        loop {
            match walk.go_on(limit_bytes) {
                Progress::Over => return true,
                Progress::Done => return false,
                Progress::More => {}
            }
        }
    }

    #[test]
    fn files_of_all_directories_are_summed_and_links_are_neither_followed_nor_counted_twice() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        let elsewhere = tempfile::tempdir().expect("makes a directory");
        fs::write(elsewhere.path().join("large"), vec![1; 4 << 20]).expect("writes");
        fs::create_dir_all(workspace.path().join("a/b")).expect("makes");
        fs::write(workspace.path().join("a/b/file"), vec![1; 1 << 20]).expect("writes");
        fs::hard_link(workspace.path().join("a/b/file"), workspace.path().join("again")).expect("links");
        std::os::unix::fs::symlink(elsewhere.path(), workspace.path().join("out")).expect("links");
        assert!(measured(&[workspace.path()], 1 << 19));
        assert!(!measured(&[workspace.path()], 3 << 19));
        fs::write(workspace.path().join("more"), vec![1; 1 << 20]).expect("writes");
        assert!(measured(&[workspace.path()], 3 << 19));
    }

    #[test]
    fn what_is_installed_counts_with_what_is_written_and_a_directory_that_is_gone_counts_as_nothing() {
        let (workspace, layer) = (tempfile::tempdir().expect("makes"), tempfile::tempdir().expect("makes"));
        for place in [&workspace, &layer] {
            fs::write(place.path().join("file"), vec![1; 1 << 20]).expect("writes");
        }
        let both = [workspace.path(), Path::new("/nowhere"), layer.path()];
        assert!(measured(&both, 3 << 19), "together they are over");
        assert!(!measured(&both[..2], 3 << 19), "one alone is not");
        assert!(!measured(&both, 3 << 20));
    }

    #[test]
    fn of_files_with_several_names_so_many_are_remembered_and_others_count_at_each() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        fs::write(workspace.path().join("file"), vec![1; 1 << 20]).expect("writes");
        fs::hard_link(workspace.path().join("file"), workspace.path().join("again")).expect("links");
        for (remembered, over) in [(99_998, false), (100_000, true)] {
            let mut walk = Walk::of(&[workspace.path().to_owned()]);
            walk.counted = (0..remembered).map(|number| u64::MAX - number).collect();
            assert_eq!(matches!(walk.go_on(3 << 19), Progress::Over), over, "{remembered}");
        }
    }

    #[test]
    fn a_large_directory_takes_several_looks_and_ends() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        for directory in 0..3 {
            let directory = workspace.path().join(directory.to_string());
            fs::create_dir(&directory).expect("makes");
            (0..=PORTION / 2).for_each(|file| fs::write(directory.join(file.to_string()), "").expect("writes"));
        }
        let mut walk = Walk::of(&[workspace.path().to_owned()]);
        assert!(matches!(walk.go_on(u64::MAX), Progress::More));
        assert!(matches!(walk.go_on(u64::MAX), Progress::Done));
    }

    #[test]
    fn a_flat_directory_takes_several_looks_too_and_is_looked_at_again_soon() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        (0..PORTION * 3 / 2).for_each(|file| fs::write(workspace.path().join(file.to_string()), "").expect("writes"));
        let directories = [workspace.path().to_owned()];
        let mut gauge = Gauge::default();
        let mut look = || {
            let subjects = std::iter::once("flat");
            let subjects =
                subjects.map(|session| Subject { session, directories: &directories, limit_bytes: u64::MAX });
            (gauge.look(subjects, Instant::now()), gauge.pause())
        };
        assert_eq!(look(), (None, PACE), "it is not through");
        assert_eq!(look(), (None, INTERVAL));
    }

    #[test]
    fn what_has_no_blocks_counts_all_the_same_and_so_does_each_further_name() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        let path = |name: String| workspace.path().join(name);
        (0..64).for_each(|file| fs::write(path(format!("file-{file}")), "").expect("writes"));
        (0..64).for_each(|name| fs::hard_link(path("file-0".into()), path(format!("name-{name}"))).expect("links"));
        assert!(measured(&[workspace.path()], 128 * LEAST - 1));
        assert!(!measured(&[workspace.path()], 128 * LEAST));
    }

    #[test]
    fn directories_within_each_other_beyond_the_bound_are_over_whatever_lies_in_them() {
        let workspace = tempfile::tempdir().expect("makes a directory");
        let deep = |levels: usize| workspace.path().join(vec!["d"; levels].join("/"));
        fs::create_dir_all(deep(DEEPEST - 1)).expect("makes");
        assert!(!measured(&[workspace.path()], u64::MAX));
        fs::create_dir(deep(DEEPEST)).expect("makes");
        assert!(measured(&[workspace.path()], u64::MAX));
    }

    #[test]
    fn every_workspace_has_its_turn_and_then_there_is_rest() {
        let full = tempfile::tempdir().expect("makes a directory");
        fs::write(full.path().join("file"), vec![1; 1 << 20]).expect("writes");
        let empty = tempfile::tempdir().expect("makes a directory");
        let subjects = [("empty", [empty.path().to_owned()]), ("full", [full.path().to_owned()])];
        let look = |gauge: &mut Gauge, now| {
            let subjects = subjects.iter();
            gauge.look(
                subjects.map(|(session, directories)| Subject { session, directories, limit_bytes: 1 << 16 }),
                now,
            )
        };
        let (mut gauge, now) = (Gauge::default(), Instant::now());
        assert_eq!(look(&mut gauge, now), None);
        assert_eq!(look(&mut gauge, now).as_deref(), Some("full"));
        assert_eq!(look(&mut gauge, now), None);
        assert!(gauge.current.is_none() && gauge.waiting.is_empty(), "it rests");
        look(&mut gauge, now + REST);
        assert_eq!(gauge.waiting.len(), 1);
    }
}
