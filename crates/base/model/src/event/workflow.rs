//! Runs of workflows: how one is announced, what goes wrong with it and how it ends (contract 3.2).

use serde::{Deserialize, Serialize};

use crate::ids::WorkflowPhaseId;

/// A phase that a workflow declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowPhase {
    /// Its id: what the events of phases name.
    pub id: WorkflowPhaseId,
    /// What the agent calls it.
    pub name: String,
    /// What the agent says of it.
    pub description: Option<String>,
}

/// Why a run did not finish, or was not created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowError {
    /// The type.
    #[serde(rename = "type")]
    pub kind: WorkflowErrorKind,
    /// This server's own words: nothing of what the run or its agents said.
    pub message: String,
}

/// The types of a run's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowErrorKind {
    /// It reached its lifetime.
    TimeoutError,
    /// The workflow failed, or was refused.
    ProgramError,
    /// It asked for more agents than a run may start.
    ThreadLimitError,
    /// The session had as many open runs as it may; only where no run was created.
    MaxWorkflowRunsError,
    /// Whatever has no type of its own.
    UnknownError,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WorkflowResult {
    /// The workflow came to its end, which does not say that the work succeeded.
    Completed {},
    /// The agent stopped it, or the session was archived.
    Stopped {},
    /// It failed.
    Error {
        /// Why.
        error: WorkflowError,
    },
}
