//! Why a command was not obeyed, each with a stable code and what to do next.

use std::time::Duration;

use postern_model::control::{CommandRefusal, OUTSTANDING, PUT_FILE_BYTES};

use super::Owner;

/// Why a command has no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailure {
    /// Nobody with that credential is connected.
    #[error("no {} is connected{}", role(.0), of(.0))]
    NobodyConnected(Owner),
    /// No worker of the workspace is connected.
    #[error("no worker of this workspace is connected")]
    NoWorker,
    /// The process did not obey, and said why.
    #[error("{}", .0.message)]
    Refused(CommandRefusal),
    /// So many commands wait for that process.
    #[error("{OUTSTANDING} commands wait for this process already")]
    Busy,
    /// No answer in time; it may have been obeyed.
    #[error("no answer within {0:?}; whether it was obeyed is not known")]
    Late(Duration),
    /// The stream ended first; it may have been obeyed.
    #[error("the process went away before it answered; whether it obeyed is not known")]
    Gone,
    /// The file is too large for a command.
    #[error("a file of at most {PUT_FILE_BYTES} bytes can be sent")]
    TooLarge,
    /// The process answered another question.
    #[error("the process' answer does not fit the command")]
    Misanswered,
}

impl CommandFailure {
    /// Stable, snake_case.
    pub fn code(&self) -> &str {
        match self {
            Self::NobodyConnected(Owner::Environment(_)) | Self::NoWorker => "worker_none",
            Self::NobodyConnected(Owner::Tunnel(_)) => "gateway_none",
            Self::Refused(refusal) => &refusal.code,
            Self::Busy => "perimeter_busy",
            Self::Late(_) => "perimeter_late",
            Self::Gone => "perimeter_gone",
            Self::TooLarge => "file_too_large",
            Self::Misanswered => "perimeter_misanswered",
        }
    }

    /// What to do about it.
    pub fn next_step(&self) -> &str {
        match self {
            Self::NobodyConnected(Owner::Environment(_)) => {
                "start `postern worker` for the session's environment, or look at its log: a worker of another make has no control stream"
            }
            Self::NoWorker => "start `postern worker` where the values were sealed to",
            Self::NobodyConnected(Owner::Tunnel(_)) => "start `postern gateway` for the tunnel, or look at its log",
            Self::Refused(refusal) => &refusal.next_step,
            Self::Busy => "send it again in a moment",
            Self::Late(_) | Self::Gone => {
                "ask for the perimeter's status, then send it again: it changes nothing twice"
            }
            Self::TooLarge => "send less",
            Self::Misanswered => "run the same build of postern on both sides",
        }
    }

    /// Whether the process only does not have the session.
    pub fn is_not_held(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == CommandRefusal::NOT_HELD)
    }
}

fn role(owner: &Owner) -> &'static str {
    owner.role().as_str()
}

fn of(owner: &Owner) -> String {
    match owner {
        Owner::Environment(environment) => format!(" for environment {environment}"),
        Owner::Tunnel(tunnel) => format!(" for tunnel {tunnel}"),
    }
}
