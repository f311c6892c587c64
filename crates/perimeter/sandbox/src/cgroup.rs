//! Control groups: limits that the kernel holds, where a hierarchy is ours to write. Version 2 where the controllers are there, else version 1, else
//! none, and then the caller reports it. Groups are made ahead of need, because making one costs milliseconds.

mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One resource that a group can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// Its name in the kernel's files.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// What a group holds its members to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u32,
    pub(crate) cpus: f64,
}

impl Limits {
    /// Microseconds of processor time in each [`PERIOD_US`]; the kernel takes no less than a millisecond.
    fn quota_us(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the share was checked to be positive and small"
        )]
        let quota = (self.cpus * 100_000.0) as u64;
        quota.max(1000)
    }
}

/// The period of processor shares.
const PERIOD_US: u64 = 100_000;

/// A group: one directory for each hierarchy.
#[derive(Debug)]
pub(crate) struct Group {
    directories: Vec<(Controller, PathBuf)>,
}

/// A way to limit processes by groups.
pub(crate) trait Backend {
    /// Which resources it can limit here.
    fn controllers(&self) -> Vec<Controller>;
    /// Makes an empty group.
    fn create(&self, name: &str) -> io::Result<Group>;
    /// Sets the limits of a group.
    fn limit(&self, group: &Group, limits: &Limits) -> io::Result<()>;
}

impl Group {
    /// Whether it limits this resource.
    pub(crate) fn holds(&self, controller: Controller) -> bool {
        self.directories.iter().any(|(held, _)| *held == controller)
    }

    /// Moves a process, and with it its children to come, into the group.
    pub(crate) fn enter(&self, process: u32) -> io::Result<()> {
        self.paths().try_for_each(|path| fs::write(path.join("cgroup.procs"), process.to_string()))
    }

    fn exists(&self) -> bool {
        self.paths().all(Path::exists)
    }

    /// Removes the group; fails while a process is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.paths().try_for_each(|path| match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let mut seen: Vec<&Path> = Vec::new();
        self.directories.iter().filter_map(move |(_, path)| {
            let new = !seen.contains(&path.as_path());
            seen.push(path);
            new.then_some(path.as_path())
        })
    }
}

/// The back end of this machine and user, if there is one.
pub(crate) fn detect() -> Option<Box<dyn Backend>> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    if let Some(v2) = v2::detect(&own, &mounts) {
        return Some(Box::new(v2));
    }
    v1::detect(&own, &mounts).map(|v1| Box::new(v1) as Box<dyn Backend>)
}

/// Groups made ahead of need and groups that wait for their removal.
pub(crate) struct Pool {
    backend: Option<Box<dyn Backend>>,
    ready: Vec<Group>,
    discarded: Vec<Group>,
    made: u64,
    failed: bool,
}

/// How many groups are kept ready.
const READY: usize = 2;

impl Pool {
    /// A pool over this machine's back end.
    pub(crate) fn new(backend: Option<Box<dyn Backend>>) -> Self {
        Self { backend, ready: Vec::new(), discarded: Vec::new(), made: 0, failed: false }
    }

    /// A group, not yet limited; none where there is no back end.
    pub(crate) fn take(&mut self) -> io::Result<Option<Group>> {
        // Somebody may have removed those that nobody is in.
        self.ready.retain(Group::exists);
        self.ready.pop().map_or_else(|| self.make(), |group| Ok(Some(group)))
    }

    /// Limits a group, whether anybody is in it or not.
    pub(crate) fn limit(&self, group: &Group, limits: &Limits) -> io::Result<()> {
        self.backend.as_ref().map_or(Ok(()), |backend| backend.limit(group, limits))
    }

    /// Gives a group up; it is removed as soon as the kernel lets it go.
    pub(crate) fn discard(&mut self, group: Group) {
        self.discarded.push(group);
        self.sweep();
    }

    /// Whether one more group should be made ahead of need.
    pub(crate) fn wanted(&self) -> bool {
        self.backend.is_some() && !self.failed && self.ready.len() < READY
    }

    /// Makes one more.
    pub(crate) fn prepare(&mut self) {
        match self.make() {
            Ok(group) => self.ready.extend(group),
            // Whoever needs a group next meets the error and reports it.
            Err(_) => self.failed = true,
        }
    }

    fn make(&mut self) -> io::Result<Option<Group>> {
        self.made += 1;
        let name = format!("{PREFIX}{}-{}", std::process::id(), self.made);
        let made = self.backend.as_ref().map(|backend| backend.create(&name)).transpose()?;
        self.failed = false;
        Ok(made)
    }

    /// Removes what the kernel has let go of meanwhile.
    pub(crate) fn sweep(&mut self) {
        self.discarded.retain(|group| group.remove().is_err());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for group in self.ready.iter().chain(&self.discarded) {
            // What stays is empty and is removed by the next spawner.
            let _busy = group.remove();
        }
    }
}

/// How our groups are named: prefix, the spawner's process, a number.
const PREFIX: &str = "postern-";

/// Removes the empty groups that spawners left which were killed, one with this process's number among them. Called before the first is made.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner
            && owner.bytes().all(|byte| byte.is_ascii_digit())
            && (owner == std::process::id().to_string() || !Path::new("/proc").join(owner).exists())
        {
            // A group in use says so.
            let _busy = fs::remove_dir(entry.path());
        }
    }
}

/// The path of this process in the hierarchy whose line in /proc/self/cgroup satisfies `wanted` (given its controllers).
fn own_path(own: &str, wanted: impl Fn(&str) -> bool) -> Option<&str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        wanted(controllers).then(|| fields.next()).flatten()
    })
}

/// Where a hierarchy is mounted: mount point and the path in the hierarchy that it shows.
fn mounted(mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<(&str, &str)> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        wanted(kind, options).then_some((root, point))
    })
}

/// The directory of a process's group, seen through a mount that may show only a part of the hierarchy.
fn directory(own: &str, root: &str, point: &str) -> Option<PathBuf> {
    let below = own.strip_prefix(root.trim_end_matches('/'))?;
    Some(Path::new(point).join(below.trim_start_matches('/')))
}

/// Whether this process may make directories there.
fn writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests;
