//! `postern worker --check`: each control of the sandbox, whether it is active here, and if not, why and what to do.

use postern_sandbox::{Control, ControlStatus, State};

use crate::failure::Failure;

/// Prints one line per control.
///
/// # Errors
/// [`Failure::ControlMissing`] when a control without which no sandbox starts is missing.
#[expect(clippy::print_stdout, reason = "the list is the command's result")]
pub(crate) fn run() -> Result<(), Failure> {
    let controls = postern_sandbox::check();
    for control in &controls {
        println!("{}", line(control));
    }
    let missing: Vec<_> = controls.iter().filter(|control| control.state == State::Missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::ControlMissing(format!(
        "{} of {} controls are missing on this machine",
        missing.len(),
        controls.len()
    )))
}

/// `name  state  cause; fix`.
pub(crate) fn line(status: &ControlStatus) -> String {
    let state = match status.state {
        State::Active => return format!("{:<16} active", status.control.name()),
        State::Degraded => "degraded",
        State::Missing => "missing",
    };
    format!("{:<16} {state:<9} {}; {}", status.control.name(), status.cause, status.fix)
}
