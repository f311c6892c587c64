//! The controls that make a sandbox a boundary, by the names a zone's `require` uses, and what this machine can do about each.
//! Statuses are facts that were measured or built, never hopes: a control that could not be put in place is missing, with its cause and what would mend it.

use serde::{Deserialize, Serialize};

/// One control, by its name in `require`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// A user namespace: root inside, if there were one, is nobody outside.
    Userns,
    /// A mount namespace with a root of its own.
    Mountns,
    /// A process namespace: no other process can be named.
    Pidns,
    /// A network namespace with one exit.
    Netns,
    /// System V and POSIX message queues of its own.
    Ipcns,
    /// A host name of its own.
    Utsns,
    /// A view of control groups that starts at its own.
    Cgroupns,
    /// Clocks of its own that begin with the sandbox: how long the machine runs is not seen.
    Timens,
    /// The system call filter.
    Seccomp,
    /// Landlock domains: the outer one for the sandbox, an inner one for each command.
    Landlock,
    /// Empty capability sets, bounding set and no-new-privileges included.
    NoCaps,
    /// A memory limit that the kernel holds.
    MemoryHard,
    /// A limit on processes and threads that the kernel holds.
    ProcessesHard,
    /// A limit on disk that the kernel holds.
    DiskHard,
    /// A share of processor time that the kernel holds.
    CpuHard,
    /// A kernel user of its own for each sandbox.
    DistinctUid,
    /// A bound on what a command prints.
    ToolOutput,
}

impl Control {
    /// Every control, in the order they are reported.
    pub const ALL: [Self; 17] = [
        Self::Userns,
        Self::Mountns,
        Self::Pidns,
        Self::Netns,
        Self::Ipcns,
        Self::Utsns,
        Self::Cgroupns,
        Self::Timens,
        Self::Seccomp,
        Self::Landlock,
        Self::NoCaps,
        Self::MemoryHard,
        Self::ProcessesHard,
        Self::DiskHard,
        Self::CpuHard,
        Self::DistinctUid,
        Self::ToolOutput,
    ];

    /// The name in configuration and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Userns => "userns",
            Self::Mountns => "mountns",
            Self::Pidns => "pidns",
            Self::Netns => "netns",
            Self::Ipcns => "ipcns",
            Self::Utsns => "utsns",
            Self::Cgroupns => "cgroupns",
            Self::Timens => "timens",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::NoCaps => "no-caps",
            Self::MemoryHard => "memory-hard",
            Self::ProcessesHard => "processes-hard",
            Self::DiskHard => "disk-hard",
            Self::CpuHard => "cpu-hard",
            Self::DistinctUid => "distinct-uid",
            Self::ToolOutput => "tool-output",
        }
    }

    /// The control of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }

    /// Who holds it where it is active, if not the kernel: a softer thing, because it lasts as long as that process is sound.
    pub fn held_by(self) -> Option<&'static str> {
        match self {
            Self::ToolOutput => Some(
                "soft: the tool server keeps the last 100 KiB of what a command prints and drops the rest, and the worker takes no longer message; the kernel holds no such limit",
            ),
            _ => None,
        }
    }

    /// Whether the name promises a limit that the kernel holds, so that a softer one does not satisfy `require`.
    fn promises_the_kernel(self) -> bool {
        matches!(self, Self::MemoryHard | Self::ProcessesHard | Self::DiskHard | Self::CpuHard | Self::DistinctUid)
    }
}

impl std::fmt::Display for Control {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How much of a control is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In place, whole.
    Active,
    /// A weaker form is in place.
    Degraded,
    /// Not in place.
    Missing,
}

/// One control and its state here; `cause` and `fix` are empty when it is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Which.
    pub control: Control,
    /// How much of it.
    pub state: State,
    /// Why it is not whole.
    pub cause: String,
    /// What would make it whole.
    pub fix: String,
}

impl ControlStatus {
    /// A control in place.
    pub fn active(control: Control) -> Self {
        Self { control, state: State::Active, cause: String::new(), fix: String::new() }
    }

    /// A control in place in a weaker form.
    pub fn degraded(control: Control, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { control, state: State::Degraded, cause: cause.into(), fix: fix.into() }
    }

    /// A control not in place.
    pub fn missing(control: Control, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { control, state: State::Missing, cause: cause.into(), fix: fix.into() }
    }

    /// Whether a zone that requires this control may start. A degraded control satisfies, except where its name promises what the kernel holds.
    pub fn satisfies(&self) -> bool {
        match self.state {
            State::Active => true,
            State::Degraded => !self.control.promises_the_kernel(),
            State::Missing => false,
        }
    }
}

/// The first required control that these statuses do not satisfy; one without a status counts as missing.
pub(crate) fn unsatisfied(required: &[Control], statuses: &[ControlStatus]) -> Option<ControlStatus> {
    required.iter().find_map(|control| match statuses.iter().find(|status| status.control == *control) {
        Some(status) if status.satisfies() => None,
        Some(status) => Some(status.clone()),
        None => Some(ControlStatus::missing(*control, "nothing reported on it", "report this as a defect")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_is_found_by_its_name() {
        for control in Control::ALL {
            assert_eq!(Control::parse(control.name()), Some(control));
            assert_eq!(serde_json::to_value(control).expect("serialises"), control.name());
        }
        assert_eq!(Control::parse("userns "), None);
    }

    #[test]
    fn a_soft_limit_does_not_satisfy_a_requirement_for_a_hard_one() {
        let soft = |control| ControlStatus::degraded(control, "soft", "fix");
        assert!(soft(Control::Landlock).satisfies());
        for control in
            [Control::MemoryHard, Control::ProcessesHard, Control::DiskHard, Control::CpuHard, Control::DistinctUid]
        {
            assert!(!soft(control).satisfies(), "{control}");
        }
    }

    #[test]
    fn a_required_control_that_is_missing_or_unreported_is_named() {
        let statuses = [
            ControlStatus::active(Control::Seccomp),
            ControlStatus::missing(Control::CpuHard, "no cgroup", "delegate one"),
        ];
        assert_eq!(unsatisfied(&[Control::Seccomp], &statuses), None);
        assert_eq!(
            unsatisfied(&[Control::Seccomp, Control::CpuHard], &statuses).map(|status| status.cause),
            Some("no cgroup".into())
        );
        assert_eq!(unsatisfied(&[Control::Landlock], &statuses).map(|status| status.state), Some(State::Missing));
    }
}
