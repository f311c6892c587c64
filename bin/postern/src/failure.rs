//! How a command ends: an exit code that scripts can rely on, and one sentence with its causes for a person.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Why a command did not end well. The variants are the exit codes.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: a check did not hold.
    NotHeld(String),
    /// 2: usage or configuration.
    Misused(String),
    /// 3: a server or peer is not reachable.
    Unreachable(String),
    /// 4: a required control is missing.
    ControlMissing(String),
    /// 5: denied.
    Denied(String),
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NotHeld(_) => 1,
            Self::Misused(_) => 2,
            Self::Unreachable(_) => 3,
            Self::ControlMissing(_) => 4,
            Self::Denied(_) => 5,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHeld(text)
            | Self::Misused(text)
            | Self::Unreachable(text)
            | Self::ControlMissing(text)
            | Self::Denied(text) => out.write_str(text),
        }
    }
}

/// What was being done, and the chain of causes on one line.
pub(crate) fn chain(doing: &str, error: &dyn Error) -> String {
    let mut text = format!("{doing}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Turns errors of any type into a [`Failure`], with what was being done.
pub(crate) trait Or<T> {
    /// The operator's files, arguments or machine are at fault.
    fn or_misused(self, doing: &str) -> Result<T, Failure>;
    /// Something did not answer.
    fn or_unreachable(self, doing: &str) -> Result<T, Failure>;
}

impl<T, E: Error> Or<T> for Result<T, E> {
    fn or_misused(self, doing: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Misused(chain(doing, &error)))
    }

    fn or_unreachable(self, doing: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Unreachable(chain(doing, &error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_of_causes_stands_on_one_line() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain("start", &error), "start: open the store: disk on fire");
    }
}
