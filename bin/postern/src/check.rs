//! `postern worker --check`: each control of the sandbox, whether it is active here, and if not, why and what to do.

use postern_confine::{Confinement, Role};
use postern_exec::role::STARTER;
use postern_sandbox::{Control, ControlStatus, State};

use crate::failure::Failure;

/// Prints one line per control, and one per process of ours: `own:ROLE`. The spawner has what its starter has.
///
/// # Errors
/// [`Failure::ControlMissing`] when a control without which no sandbox starts is missing.
#[expect(clippy::print_stdout, reason = "the list is the command's result")]
pub(crate) fn run() -> Result<(), Failure> {
    let controls = postern_sandbox::check();
    for control in &controls {
        println!("{}", line(control));
    }
    for (name, confinement) in own_processes() {
        println!("{:<16} {}", format!("own:{name}"), confinement.line());
    }
    none_lacks(&controls)
}

/// Whether this machine and this user can build a sandbox at all.
///
/// # Errors
/// As [`run`].
pub(crate) fn every_sandbox_can_be_built() -> Result<(), Failure> {
    none_lacks(&postern_sandbox::check())
}

fn none_lacks(controls: &[ControlStatus]) -> Result<(), Failure> {
    let lacking: Vec<_> =
        controls.iter().filter(|status| stops_every_start(status)).map(|status| status.control.name()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::ControlMissing(format!("no sandbox starts without {}", lacking.join(", "))))
}

/// How far each process of ours confines itself here.
fn own_processes() -> Vec<(&'static str, Confinement)> {
    let roles = Role::ALL.into_iter().map(|role| (role.name(), postern_confine::measured(role)));
    let starter = postern_confine::measured_calls_alone(postern_sandbox::spawner_calls());
    roles.chain([(STARTER, starter)]).collect()
}

fn stops_every_start(status: &ControlStatus) -> bool {
    status.state == State::Missing && IN_EVERY_SANDBOX.contains(&status.control)
}

/// What every sandbox has, whatever a zone's `require` says.
const IN_EVERY_SANDBOX: &[Control] = &[
    Control::Userns,
    Control::Mountns,
    Control::Pidns,
    Control::Netns,
    Control::Ipcns,
    Control::Utsns,
    Control::Cgroupns,
    Control::Seccomp,
    Control::NoCaps,
];

/// `name  state  cause; fix`.
pub(crate) fn line(status: &ControlStatus) -> String {
    let state = match status.state {
        State::Active => {
            let held = status.control.held_by().map(|by| format!("    {by}")).unwrap_or_default();
            return format!("{:<16} active{held}", status.control.name());
        }
        State::Degraded => "degraded",
        State::Missing => "missing",
    };
    format!("{:<16} {state:<9} {}; {}", status.control.name(), status.cause, status.fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_control_of_every_sandbox_stops_the_start() {
        let table = [
            (ControlStatus::active(Control::Seccomp), false),
            (ControlStatus::degraded(Control::Seccomp, "why", "fix"), false),
            (ControlStatus::missing(Control::Seccomp, "why", "fix"), true),
            (ControlStatus::missing(Control::DistinctUid, "why", "fix"), false),
        ];
        for (status, stops) in table {
            assert_eq!(stops_every_start(&status), stops, "{status:?}");
        }
    }

    #[test]
    fn a_line_gives_cause_and_fix() {
        let text = line(&ControlStatus::degraded(Control::DiskHard, "no quota", "use a small disk"));
        assert_eq!(text, "disk-hard        degraded  no quota; use a small disk");
        assert_eq!(line(&ControlStatus::active(Control::Seccomp)), "seccomp          active");
    }

    #[test]
    fn what_the_kernel_does_not_hold_is_called_soft() {
        let text = line(&ControlStatus::active(Control::ToolOutput));
        assert!(text.starts_with("tool-output      active    soft: the tool server"), "{text}");
    }
}
