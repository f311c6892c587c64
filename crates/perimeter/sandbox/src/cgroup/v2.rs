//! Control groups, version 2: one hierarchy, whose controllers must be delegated to us. A group with processes cannot give controllers to its
//! children, so the spawner's own processes first move into a leaf beside the sandboxes.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Backend, Controller, Group, Limits, PERIOD_US, directory, mounted, own_path, remove_leftovers, writable};

/// The hierarchy, delegated to us.
pub(super) struct V2 {
    parent: PathBuf,
    controllers: Vec<Controller>,
    /// Whether the groups below have their controllers.
    handed_down: Cell<bool>,
}

/// The leaf for processes that are not in a sandbox.
const OURSELVES: &str = "postern";

/// Finds it; `None` when not one of our controllers is there or it is not ours to write.
pub(super) fn detect(own: &str, mounts: &str) -> Option<V2> {
    let path = own_path(own, str::is_empty)?;
    let (root, point) = mounted(mounts, |kind, _| kind == "cgroup2")?;
    let here = directory(path, root, point)?;
    // A second spawner, or one started again, finds itself in the leaf already.
    let parent = if here.ends_with(OURSELVES) { here.parent()?.to_owned() } else { here };
    if !writable(&parent) || is_kept_by_the_service_manager(&parent, marked) {
        return None;
    }
    let offered = fs::read_to_string(parent.join("cgroup.controllers")).ok()?;
    let controllers = Controller::ALL
        .into_iter()
        .filter(|controller| offered.split_whitespace().any(|name| name == controller.name()))
        .collect();
    let v2 = V2 { parent, controllers, handed_down: Cell::new(false) };
    (!v2.controllers.is_empty()).then_some(v2)
}

/// Whether systemd keeps this group for itself. It takes from a group that it did not delegate whatever it did not put there, limits too, the next time
/// that it looks: after `systemctl daemon-reload` at the latest. It marks its units, and those that it delegated; what is made below one is like it.
fn is_kept_by_the_service_manager(group: &Path, marked: impl Fn(&Path, &str) -> bool) -> bool {
    let unit =
        group.ancestors().find(|path| path.extension().is_some_and(|kind| UNITS.iter().any(|unit| kind == *unit)));
    unit.is_some_and(|unit| marked(unit, "invocation_id") && !marked(unit, "delegate"))
}

/// As which units processes run.
const UNITS: [&str; 3] = ["service", "scope", "slice"];

/// Whether systemd put a mark on a group: for everybody since version 251, before that for root alone.
fn marked(group: &Path, mark: &str) -> bool {
    ["user", "trusted"].iter().any(|space| {
        rustix::fs::getxattr(group, format!("{space}.{mark}"), &mut [0; 64]).is_ok_and(|length| length > 0)
    })
}

impl V2 {
    fn hand_down_controllers(&self) -> io::Result<()> {
        let wanted =
            self.controllers.iter().map(|controller| format!("+{}", controller.name())).collect::<Vec<_>>().join(" ");
        let control = self.parent.join("cgroup.subtree_control");
        while_busy(|| fs::write(&control, &wanted), || move_aside(&self.parent))
    }
}

/// Moves aside and tries again while the group is busy: a process that is moved may have started another just before.
fn while_busy(
    mut attempt: impl FnMut() -> io::Result<()>,
    mut move_aside: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    for _ in 0..ROUNDS {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => move_aside()?,
            other => return other,
        }
    }
    attempt()
}

/// How often processes are moved aside before the group counts as taken by others.
const ROUNDS: u32 = 20;

/// Moves every process of a group into the leaf below it.
fn move_aside(parent: &Path) -> io::Result<()> {
    let leaf = parent.join(OURSELVES);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for process in fs::read_to_string(parent.join("cgroup.procs"))?.lines() {
        match fs::write(leaf.join("cgroup.procs"), process) {
            // It ended meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Backend for V2 {
    fn controllers(&self) -> Vec<Controller> {
        self.controllers.clone()
    }

    fn create(&self, name: &str) -> io::Result<Group> {
        if !self.handed_down.get() {
            remove_leftovers(&self.parent);
            self.hand_down_controllers()?;
            self.handed_down.set(true);
        }
        let path = self.parent.join(name);
        fs::create_dir(&path)?;
        Ok(Group { directories: self.controllers.iter().map(|controller| (*controller, path.clone())).collect() })
    }

    fn limit(&self, group: &Group, limits: &Limits) -> io::Result<()> {
        for (controller, path) in &group.directories {
            match controller {
                Controller::Memory => {
                    fs::write(path.join("memory.max"), limits.memory_bytes.to_string())?;
                    match fs::write(path.join("memory.swap.max"), "0") {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                Controller::Pids => fs::write(path.join("pids.max"), limits.processes.to_string())?,
                Controller::Cpu => fs::write(path.join("cpu.max"), format!("{} {PERIOD_US}", limits.quota_us()))?,
            }
        }
        Ok(())
    }
}

/// The back end over a directory that is no hierarchy, for tests.
#[cfg(test)]
pub(super) fn over(parent: &Path) -> V2 {
    V2 { parent: parent.to_owned(), controllers: Controller::ALL.to_vec(), handed_down: Cell::new(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_to_the_files_of_version_2() {
        let parent = tempfile::tempdir().expect("makes a directory");
        fs::write(parent.path().join("cgroup.subtree_control"), "").expect("writes");
        let v2 = over(parent.path());
        let group = v2.create("postern-7-1").expect("creates");
        v2.limit(&group, &Limits { memory_bytes: 64 << 20, processes: 9, cpus: 0.5 }).expect("limits");
        let read = |path: &str| fs::read_to_string(parent.path().join(path)).expect("was written");
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids +cpu");
        assert_eq!(read("postern-7-1/memory.max"), "67108864");
        assert_eq!(read("postern-7-1/memory.swap.max"), "0");
        assert_eq!(read("postern-7-1/pids.max"), "9");
        assert_eq!(read("postern-7-1/cpu.max"), "50000 100000");
    }

    #[test]
    fn a_group_into_which_processes_still_come_is_emptied_again_up_to_a_bound() {
        let busy = || Err(io::ErrorKind::ResourceBusy.into());
        let (mut left, rounds) = (3, Cell::new(0));
        let aside = || {
            rounds.set(rounds.get() + 1);
            Ok(())
        };
        let attempt = || {
            left -= 1;
            if left == 0 { Ok(()) } else { busy() }
        };
        assert!(while_busy(attempt, aside).is_ok());
        assert_eq!(rounds.get(), 2);
        assert!(while_busy(busy, aside).is_err());
        assert_eq!(rounds.get(), 2 + ROUNDS);
    }

    #[test]
    fn controllers_that_could_not_be_handed_down_are_tried_again_with_the_next_group() {
        let parent = tempfile::tempdir().expect("makes a directory");
        let control = parent.path().join("cgroup.subtree_control");
        fs::create_dir(&control).expect("stands in the way");
        let v2 = over(parent.path());
        assert!(v2.create("postern-7-1").is_err());
        fs::remove_dir(&control).expect("goes away");
        v2.create("postern-7-2").expect("creates");
        assert_eq!(fs::read_to_string(&control).expect("was written"), "+memory +pids +cpu");
        fs::remove_file(&control).expect("removes");
        v2.create("postern-7-3").expect("creates");
        assert!(!control.exists(), "once is enough");
    }

    #[test]
    fn a_group_that_the_service_manager_did_not_delegate_is_not_ours() {
        let service = Path::new("/sys/fs/cgroup/system.slice/agents.service");
        let kept = |group: &Path, marks: &[&str]| {
            is_kept_by_the_service_manager(group, |unit, mark| unit == service && marks.contains(&mark))
        };
        for group in [service, &service.join("supervised")] {
            assert!(kept(group, &["invocation_id"]), "{group:?}");
            assert!(!kept(group, &["invocation_id", "delegate"]), "{group:?}");
            assert!(!kept(group, &[]), "{group:?}: it marks nothing, so that nobody can tell");
        }
        assert!(!kept(Path::new("/sys/fs/cgroup/agents"), &["invocation_id"]), "no unit");
    }

    #[test]
    fn a_hybrid_machine_without_our_controllers_has_no_version_2() {
        let here = tempfile::tempdir().expect("makes a directory");
        fs::write(here.path().join("cgroup.controllers"), "hugetlb\n").expect("writes");
        let mounts = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", here.path().display());
        assert!(detect("4:memory:/x\n0::/\n", &mounts).is_none());
        fs::write(here.path().join("cgroup.controllers"), "hugetlb memory pids\n").expect("writes");
        let found = detect("0::/\n", &mounts).expect("two of our controllers are there");
        assert_eq!(found.controllers(), [Controller::Memory, Controller::Pids]);
    }
}
