//! What this machine and this user can do about each control, and why not where not. Measured: namespaces are tried with a child that ends at once,
//! groups by looking whether they are ours to write.

use std::fs;

use rustix::io::Errno;

use crate::cgroup::{self, Backend, Controller};
use crate::control::{Control, ControlStatus};
use crate::error::BuildError;
use crate::request::Builder;
use crate::{domain, sys};

/// Every control's state here, for a report at the start. Sandboxes built by a spawner of this process's user will have the same.
pub fn check() -> Vec<ControlStatus> {
    statuses(cgroup::detect().as_deref(), Builder::ourselves())
}

pub(crate) fn statuses(groups: Option<&dyn Backend>, builder: Builder) -> Vec<ControlStatus> {
    let mut statuses: Vec<_> = NAMESPACES.iter().map(|(control, flag)| namespace(*control, *flag, builder)).collect();
    statuses.extend([seccomp(), domain::status(), ControlStatus::active(Control::NoCaps)]);
    statuses.extend([memory(groups), processes(groups), disk(), cpu(groups), distinct_uid(builder)]);
    statuses
}

const NAMESPACES: [(Control, libc::c_int); 7] = [
    (Control::Userns, 0),
    (Control::Mountns, libc::CLONE_NEWNS),
    (Control::Pidns, libc::CLONE_NEWPID),
    (Control::Netns, libc::CLONE_NEWNET),
    (Control::Ipcns, libc::CLONE_NEWIPC),
    (Control::Utsns, libc::CLONE_NEWUTS),
    (Control::Cgroupns, libc::CLONE_NEWCGROUP),
];

fn namespace(control: Control, flag: libc::c_int, builder: Builder) -> ControlStatus {
    match sys::try_namespaces(libc::CLONE_NEWUSER | flag) {
        Ok(()) => ControlStatus::active(control),
        Err(errno) => {
            let error = no_namespaces(errno, builder);
            ControlStatus::missing(control, error.cause, error.fix)
        }
    }
}

/// Why the kernel refused namespaces, as far as it can be seen from here.
pub(crate) fn no_namespaces(errno: Errno, builder: Builder) -> BuildError {
    let (cause, fix) = obstacle(errno, builder);
    BuildError {
        step: "make the namespaces".into(),
        cause: format!("{cause} ({errno})"),
        errno: Some(errno.raw_os_error()),
        fix: fix.into(),
    }
}

fn obstacle(errno: Errno, builder: Builder) -> (&'static str, &'static str) {
    if setting("user/max_user_namespaces") == Some(0) {
        return ("user namespaces are limited to none", "sysctl user.max_user_namespaces=10000");
    }
    if errno == Errno::NOSPC || errno == Errno::USERS {
        return (
            "the limit of namespaces, or of their nesting, is reached",
            "raise sysctl user.max_*_namespaces, or run postern less deeply nested",
        );
    }
    if errno == Errno::NOSYS || errno == Errno::INVAL {
        return (
            "the kernel was built without one of the namespaces",
            "boot a kernel with CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS and CONFIG_IPC_NS",
        );
    }
    if !builder.is_root() && setting("kernel/unprivileged_userns_clone") == Some(0) {
        return ("user namespaces are for root alone", "sysctl kernel.unprivileged_userns_clone=1");
    }
    if !builder.is_root() && setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return (
            "AppArmor restricts user namespaces",
            "add an AppArmor profile for postern with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    if filtered() {
        return (
            "a seccomp filter around postern forbids them",
            "in Docker --security-opt seccomp=unconfined; in systemd no RestrictNamespaces=; in Kubernetes seccompProfile Unconfined",
        );
    }
    ("the kernel or a security module forbids them", "look into the kernel's log")
}

fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
}

/// Whether this process runs under a system call filter itself.
fn filtered() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])))
}

fn seccomp() -> ControlStatus {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => ControlStatus::active(Control::Seccomp),
        _ => ControlStatus::missing(
            Control::Seccomp,
            "the kernel has no seccomp filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        ),
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

fn disk() -> ControlStatus {
    ControlStatus::degraded(
        Control::DiskHard,
        "no quota: one file cannot pass the limit; a watchdog that measures every few seconds ends a sandbox whose files together do",
        "put the data directory on a file system of the size that sandboxes may fill",
    )
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
