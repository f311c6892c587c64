//! The runs of a session that have not ended: a fold over the session's own events and the notes beside them.

use std::collections::BTreeMap;

use postern_model::Timestamp;
use postern_model::event::{Event, EventBody, WorkflowPhase};
use postern_model::ids::{EventId, WorkflowRunId};
use serde::{Deserialize, Serialize};

use super::plan::Outcome;
use super::program::{LONGEST_LIFETIME, Program};
use super::text::weight;
use crate::marks;

/// What the agents of a run may return together, in bytes.
pub(crate) const MOST_RESULTS: usize = 4 << 20;

/// The open runs, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Runs(Vec<Run>);

/// One open run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: WorkflowRunId,
    pub(crate) name: String,
    pub(crate) began: Timestamp,
    /// What it does; `None` where what the log has is none of this build's.
    pub(crate) program: Option<Program>,
    pub(crate) phases: Vec<WorkflowPhase>,
    pub(crate) pace: Pace,
    /// The phase that is open, with the event that opened it.
    pub(crate) open_phase: Option<(usize, EventId)>,
    /// How many phases it has entered.
    pub(crate) entered: usize,
    /// What came of its agents, by the places of their steps.
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    /// What they returned, in bytes.
    pub(crate) bytes: usize,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// It does.
    Running,
    /// Not until the budget allows more; so is one that was just created, until the next event says which it is.
    Unpaid,
    /// Not until the agent says so: an interrupt paused it.
    Interrupted,
}

impl Run {
    /// When its lifetime is over.
    pub(crate) fn ends(&self) -> Timestamp {
        let lifetime = self.program.as_ref().map_or(LONGEST_LIFETIME, |program| program.lifetime);
        self.began + std::time::Duration::from_secs(lifetime)
    }
}

impl Runs {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    pub(crate) fn find(&self, id: &WorkflowRunId) -> Option<&Run> {
        self.0.iter().find(|run| run.id == *id)
    }

    fn find_mut(&mut self, id: &WorkflowRunId) -> Option<&mut Run> {
        self.0.iter_mut().find(|run| run.id == *id)
    }

    /// Takes in an event of the session's own, with the note beside it.
    pub(crate) fn apply(&mut self, event: &Event, kept: Option<&[serde_json::Value]>) {
        match &event.body {
            EventBody::WorkflowRunCreated { workflow_run_id, name, phases, .. } => self.0.push(Run {
                id: workflow_run_id.clone(),
                name: name.clone(),
                began: event.processed_at.unwrap_or_default(),
                program: marks::read_workflow(kept),
                phases: phases.clone(),
                pace: Pace::Unpaid,
                open_phase: None,
                entered: 0,
                outcomes: BTreeMap::new(),
                bytes: 0,
            }),
            EventBody::WorkflowRunRunning { workflow_run_id } => {
                if let Some(run) = self.find_mut(workflow_run_id) {
                    run.pace = Pace::Running;
                }
            }
            EventBody::WorkflowRunIdle { workflow_run_id } => {
                if let Some(run) = self.find_mut(workflow_run_id) {
                    let by_interrupt = marks::Mark::read(kept) == Some(marks::Mark::Interrupted);
                    run.pace = if by_interrupt { Pace::Interrupted } else { Pace::Unpaid };
                }
            }
            EventBody::WorkflowRunPhaseStarted { workflow_run_id, workflow_run_phase_id } => {
                if let Some(run) = self.find_mut(workflow_run_id) {
                    let at = run.phases.iter().position(|phase| phase.id == *workflow_run_phase_id);
                    run.open_phase = at.map(|at| (at, event.id.clone()));
                    run.entered = run.entered.max(at.map_or(0, |at| at + 1));
                }
            }
            EventBody::WorkflowRunPhaseEnded { workflow_run_id, .. } => {
                if let Some(run) = self.find_mut(workflow_run_id) {
                    run.open_phase = None;
                }
            }
            EventBody::WorkflowRunEnded { workflow_run_id, .. } => self.0.retain(|run| run.id != *workflow_run_id),
            _ => {}
        }
    }

    /// Takes in what came of an agent of a run.
    pub(crate) fn take(&mut self, id: &WorkflowRunId, place: &str, outcome: Outcome) {
        if let Some(run) = self.find_mut(id) {
            run.bytes += match &outcome {
                Outcome::Returned(value) => weight(value),
                Outcome::Failed(reason) => reason.len(),
            };
            run.outcomes.insert(place.to_owned(), outcome);
        }
    }
}
