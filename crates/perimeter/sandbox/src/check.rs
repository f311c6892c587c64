//! What this machine and this user can do about each control, and why not where not. Measured: what a sandbox is made of is tried in a child that ends at
//! once, groups by looking whether they are ours to write.

mod disk;
mod obstacle;
mod trial;

use rustix::io::Errno;

pub(crate) use disk::of_sandbox;
pub(crate) use obstacle::PROC_FIX;
use trial::{Failed, Trying};

use crate::cgroup::{self, Backend, Controller};
use crate::control::{Control, ControlStatus};
use crate::domain;
use crate::error::BuildError;
use crate::request::Builder;

/// Every control's state here, for a report at the start. Sandboxes built by a spawner of this process's user will have the same.
/// Blocks for some milliseconds; sound in a process with threads.
pub fn check() -> Vec<ControlStatus> {
    statuses(cgroup::detect().as_deref(), Builder::ourselves())
}

pub(crate) fn statuses(groups: Option<&dyn Backend>, builder: Builder) -> Vec<ControlStatus> {
    let mut statuses: Vec<_> = TRIALS.iter().map(|(control, trial)| tried(*control, trial(), builder)).collect();
    statuses.extend([domain::status(), ControlStatus::active(Control::NoCaps)]);
    statuses.extend([memory(groups), processes(groups), disk::in_general(), cpu(groups), distinct_uid(builder)]);
    // Part of every tool server, whatever the machine.
    statuses.push(ControlStatus::active(Control::ToolOutput));
    statuses
}

type Trial = fn() -> Result<(), Failed>;

/// What is tried, in the order of reports.
const TRIALS: [(Control, Trial); 9] = [
    (Control::Userns, trial::user),
    (Control::Mountns, trial::mounts),
    (Control::Pidns, trial::processes),
    (Control::Netns, trial::exit),
    (Control::Ipcns, trial::messages),
    (Control::Utsns, trial::name),
    (Control::Cgroupns, trial::groups),
    (Control::Timens, trial::clocks),
    (Control::Seccomp, trial::filter),
];

fn tried(control: Control, outcome: Result<(), Failed>, builder: Builder) -> ControlStatus {
    match outcome {
        Ok(()) => ControlStatus::active(control),
        Err(failed) => {
            let (cause, fix) = obstacle::of(&failed, builder);
            ControlStatus::missing(control, format!("{cause} ({})", failed.errno), fix)
        }
    }
}

/// Why the kernel refused namespaces, as far as it can be seen from here.
pub(crate) fn no_namespaces(errno: Errno, builder: Builder) -> BuildError {
    let (cause, fix) = obstacle::of(&Failed { trying: Trying::Namespaces, errno }, builder);
    BuildError {
        step: "make the namespaces".into(),
        cause: format!("{cause} ({errno})"),
        errno: Some(errno.raw_os_error()),
        fix: fix.into(),
    }
}

const DELEGATE: &str =
    "run postern as a systemd service with Delegate=yes, or give its user the control group it starts in";

fn held(groups: Option<&dyn Backend>, controller: Controller) -> bool {
    groups.is_some_and(|groups| groups.controllers().contains(&controller))
}

fn memory(groups: Option<&dyn Backend>) -> ControlStatus {
    if held(groups, Controller::Memory) {
        return ControlStatus::active(Control::MemoryHard);
    }
    let cause = "no control group for memory is ours to write: each process is limited, and a watchdog that measures four times a second ends a sandbox over its limit";
    ControlStatus::degraded(Control::MemoryHard, cause, DELEGATE)
}

/// The kernel counts processes for each user namespace and user, so the resource limit alone holds.
fn processes(_groups: Option<&dyn Backend>) -> ControlStatus {
    ControlStatus::active(Control::ProcessesHard)
}

fn cpu(groups: Option<&dyn Backend>) -> ControlStatus {
    if held(groups, Controller::Cpu) {
        ControlStatus::active(Control::CpuHard)
    } else {
        ControlStatus::missing(Control::CpuHard, "no control group for processor time is ours to write", DELEGATE)
    }
}

fn distinct_uid(builder: Builder) -> ControlStatus {
    if builder.is_root() {
        ControlStatus::active(Control::DistinctUid)
    } else {
        ControlStatus::missing(
            Control::DistinctUid,
            "an ordinary user has one kernel user for all sandboxes: namespaces and Landlock alone keep them apart",
            "run postern as root",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_has_exactly_one_status_and_what_is_not_active_says_why_and_what_helps() {
        let statuses = check();
        assert_eq!(statuses.iter().map(|status| status.control).collect::<Vec<_>>(), Control::ALL);
        for status in statuses {
            assert_eq!(
                status.state == crate::control::State::Active,
                status.cause.is_empty() && status.fix.is_empty(),
                "{status:?}"
            );
        }
    }

    #[test]
    fn without_groups_memory_is_soft_and_processor_time_is_not_held() {
        let statuses = statuses(None, Builder { uid: 1000, gid: 1000 });
        let state = |control| statuses.iter().find(|status| status.control == control).expect("each has one").state;
        assert_eq!(state(Control::MemoryHard), crate::control::State::Degraded);
        assert_eq!(state(Control::CpuHard), crate::control::State::Missing);
        assert_eq!(state(Control::DistinctUid), crate::control::State::Missing);
    }
}
