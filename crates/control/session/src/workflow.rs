//! Workflows: programs that the session's agent writes to have many agents work, and the runs of them.
//!
//! A run goes on in the background, in threads of its own. The program is data and is read by this server, so what a model
//! writes executes nowhere; where it stands is computed from what its agents returned, which the log has. The agent's calls
//! and the programs in them are on record like any other; what the agents return goes to the program, and at the end to the agent.

mod command;
mod plan;
mod program;
mod runs;
mod text;
mod tools;

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_model::Timestamp;
use postern_model::agent::ThreadAgent;
use postern_model::content::Block;
use postern_model::event::{Event, EventBody, StopReason, WorkflowError, WorkflowErrorKind, WorkflowResult};
use postern_model::ids::WorkflowRunId;
use postern_model::session::{SessionAgent, SessionStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use command::Command;
pub use command::MOST_RUNS;
pub(crate) use plan::Outcome;
pub(crate) use program::{Program, Returns};
pub(crate) use runs::Runs;
pub(crate) use tools::definitions;

use crate::machine::Step;
use crate::marks::{self, Mark};
use crate::session::Session;
use crate::thread::Thread;
use plan::{Facts, Failure, Standing, Task};
#[cfg(test)]
pub(crate) use runs::Pace as PaceOfRun;
use runs::{MOST_RESULTS, Pace, Run};

/// How many agents of a run may work at once.
pub const MOST_WORKING: usize = 64;
/// The longest last message of an agent of a run, in bytes.
const LONGEST_RESULT: usize = 64 << 10;
/// The longest end of a run that its agent is told, in bytes.
const LONGEST_END: usize = 100_000;
/// How many agents of runs a session may start in all.
const MOST_ERRANDS: usize = 10_000;

/// What an agent of a run is there for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) run: WorkflowRunId,
    /// The place of its step.
    place: String,
    returns: Returns,
    /// Whether the workflow defines it; it is one of the saved ones otherwise.
    pub(crate) is_inline: bool,
}

impl Session {
    /// Whether a run of a workflow has not ended.
    pub fn has_open_runs(&self) -> bool {
        self.runs.iter().next().is_some()
    }

    /// When the first lifetime of its open runs is over: then [`crate::Input::Lapsed`] is due.
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.runs.iter().map(Run::ends).min()
    }

    /// Whether the thread is of a run that has not ended.
    pub fn is_of_open_run(&self, thread: &Thread) -> bool {
        thread.errand().is_some_and(|errand| self.runs.find(&errand.run).is_some())
    }

    /// Whether a run waits for the budget.
    pub(crate) fn has_unpaid_runs(&self) -> bool {
        self.runs.iter().any(|run| run.pace == Pace::Unpaid)
    }

    /// Takes in what an event says of runs.
    pub(crate) fn apply_to_runs(&mut self, at: usize, event: &Event, kept: Option<&[Value]>) {
        self.runs.apply(event, kept);
        if let EventBody::ThreadStatusTerminated { .. } = &event.body
            && let Some(errand) = self.threads[at].errand()
            && let Some(outcome) = marks::read_outcome(kept)
        {
            self.runs.take(&errand.run, &errand.place, outcome);
        }
    }

    /// The places of the threads that work for a run.
    fn threads_of(&self, run: &WorkflowRunId) -> Vec<usize> {
        let works = |thread: &Thread| {
            thread.state.status != SessionStatus::Terminated && thread.errand().is_some_and(|errand| errand.run == *run)
        };
        (1..self.threads.len()).filter(|at| works(&self.threads[*at])).collect()
    }

    fn running(&self) -> Vec<WorkflowRunId> {
        self.runs.iter().filter(|run| run.pace == Pace::Running).map(|run| run.id.clone()).collect()
    }
}

impl Thread {
    /// What it is there for, if it works for a run of a workflow.
    pub(crate) fn errand(&self) -> Option<&Errand> {
        self.state.origin.errand()
    }

    /// The run of a workflow that created it.
    pub fn workflow_run_id(&self) -> Option<&WorkflowRunId> {
        self.errand().map(|errand| &errand.run)
    }
}

impl Step<'_> {
    /// Takes whatever steps a run calls for now: begins agents, enters phases, ends it. Says nothing to the agent's loop: that
    /// is settled by whoever calls.
    fn conduct(&mut self, id: &WorkflowRunId) {
        let Some(run) = self.session.runs.find(id).filter(|run| run.pace == Pace::Running) else { return };
        if self.session.is_at_cap() {
            return self.rest_runs();
        }
        let Some(program) = &run.program else {
            let told = "It was begun by another version of this server. Start it anew.".to_owned();
            return self.fail_run(id, Failure::Limit(told));
        };
        let threads = self.session.threads_of(id);
        let place = |at: &usize| self.session.threads[*at].errand().map(|errand| errand.place.clone());
        let working: BTreeSet<String> = threads.iter().filter_map(place).collect();
        let began = run.began.to_string();
        let room = MOST_WORKING.saturating_sub(threads.len());
        let progress = program.progress(Facts { began: &began, outcomes: &run.outcomes, working: &working, room });
        self.enter_phases(id, progress.phase);
        match progress.state {
            Standing::Waits(tasks) if self.session.errands() + tasks.len() > MOST_ERRANDS => {
                self.fail_run(
                    id,
                    Failure::Limit(format!("A session starts at most {MOST_ERRANDS} agents of runs in all.")),
                );
            }
            Standing::Waits(tasks) => tasks.into_iter().for_each(|task| self.begin_task(id, task)),
            Standing::Over(end) => {
                let notice = self.notice(id, "it came to its end. Its result:", &end);
                self.end_run(id, WorkflowResult::Completed {}, Some(notice));
            }
            Standing::Failed(failure) => self.fail_run(id, failure),
        }
    }

    fn enter_phases(&mut self, id: &WorkflowRunId, phase: usize) {
        let entered = self.session.runs.find(id).map_or(0, |run| run.entered);
        for at in entered..=phase {
            self.leave_phase(id);
            let of_run = self.session.runs.find(id).and_then(|run| run.phases.get(at));
            let Some(workflow_run_phase_id) = of_run.map(|phase| phase.id.clone()) else { return };
            let workflow_run_id = id.clone();
            self.append_to_session(EventBody::WorkflowRunPhaseStarted { workflow_run_id, workflow_run_phase_id });
        }
    }

    fn leave_phase(&mut self, id: &WorkflowRunId) {
        let Some(run) = self.session.runs.find(id) else { return };
        let Some((at, phase_started_id)) = run.open_phase.clone() else { return };
        let (workflow_run_id, workflow_run_phase_id) = (id.clone(), run.phases[at].id.clone());
        self.append_to_session(EventBody::WorkflowRunPhaseEnded {
            workflow_run_id,
            workflow_run_phase_id,
            phase_started_id,
        });
    }

    fn begin_task(&mut self, id: &WorkflowRunId, task: Task) {
        let Task { place, agent, prompt, returns } = task;
        let program = self.session.runs.find(id).and_then(|run| run.program.as_ref());
        let is_inline = program.is_some_and(|program| program.agents.iter().any(|defined| defined.name == agent));
        let asked = vec![Block::text(prompt), Block::text(asked_for(&returns))];
        let errand = Errand { run: id.clone(), place, returns, is_inline };
        let session_thread_id = self.chance.thread_id();
        let created =
            EventBody::ThreadCreated { agent_name: agent, session_thread_id, workflow_run_id: Some(id.clone()) };
        self.on(0, |step| step.append_with(created, marks::errand(&errand)));
        let from_session_thread_id = self.session.threads[0].id.clone();
        // The agent's own log has it in the workflow.
        self.on(self.session.threads.len() - 1, |step| {
            step.append(EventBody::ThreadMessageReceived {
                content: asked,
                from_session_thread_id,
                from_agent_name: None,
            });
            step.settle();
        });
    }

    /// The agent of a run has said what it has to say.
    pub(crate) fn returned(&mut self, errand: &Errand) {
        let said = self.state().said.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        let said = said.collect::<Vec<_>>().join("\n");
        let outcome = read(&errand.returns, &said).map_or_else(Outcome::Failed, Outcome::Returned);
        let (agent_name, session_thread_id) = self.named();
        let (stop_reason, stop_details) = (StopReason::EndTurn {}, None);
        self.append(EventBody::ThreadStatusIdle { agent_name, session_thread_id, stop_reason, stop_details });
        self.end_errand(outcome);
        self.go_on_with_run(&errand.run.clone());
    }

    /// The agent of a run will return nothing, for this reason.
    pub(crate) fn returned_nothing(&mut self, errand: &Errand, reason: &str) {
        self.end_errand(Outcome::Failed(reason.to_owned()));
        self.go_on_with_run(&errand.run.clone());
    }

    /// Ends the thread of an agent of a run, and keeps what came of it.
    pub(crate) fn end_errand(&mut self, outcome: Outcome) {
        let (agent_name, session_thread_id) = self.named();
        let over = EventBody::ThreadStatusTerminated { agent_name, session_thread_id };
        self.append_with(over, marks::outcome(&outcome));
    }

    fn go_on_with_run(&mut self, id: &WorkflowRunId) {
        let is_full = self.session.runs.find(id).is_some_and(|run| run.bytes > MOST_RESULTS);
        if is_full {
            self.fail_run(id, Failure::Limit(format!("Its agents returned more than {MOST_RESULTS} bytes.")));
        } else {
            self.conduct(id);
        }
        self.on(0, Self::settle);
        self.session_rests_too();
    }

    /// Goes on with every run that goes on, after agents of several may have failed.
    pub(crate) fn conduct_all(&mut self) {
        for id in self.session.running() {
            self.conduct(&id);
        }
    }

    fn fail_run(&mut self, id: &WorkflowRunId, failure: Failure) {
        let (kind, shown, told) = match failure {
            Failure::Program(told) => (
                WorkflowErrorKind::ProgramError,
                "The workflow failed, or one of its agents did and the workflow let that end the run. The agent was told which.",
                told,
            ),
            Failure::Agents => (
                WorkflowErrorKind::ThreadLimitError,
                "The workflow asked for more agents than a run may start.",
                format!("It asked for more than {} agents. Give each of them several things to do.", plan::MOST_AGENTS),
            ),
            Failure::Limit(told) => (
                WorkflowErrorKind::UnknownError,
                "The run went over a limit of this server, or the server could not go on with it. The agent was told which.",
                told,
            ),
        };
        let notice = self.notice(id, "it failed.", &told);
        let error = WorkflowError { kind, message: shown.to_owned() };
        self.end_run(id, WorkflowResult::Error { error }, Some(notice));
    }

    fn notice(&self, id: &WorkflowRunId, how: &str, text: &str) -> Vec<Block> {
        let name = self.session.runs.find(id).map_or("", |run| &run.name);
        let head = format!("[Workflow run {id} ({name:?}) has ended: {how}]");
        let text = match text.len() {
            0..=LONGEST_END => text.to_owned(),
            whole => format!("{}\n[cut here: it has {whole} bytes]", &text[..text.floor_char_boundary(LONGEST_END)]),
        };
        vec![Block::text(head), Block::text(text)]
    }

    /// Ends a run, its open phase and whatever works for it. The notice is what its agent is told.
    fn end_run(&mut self, id: &WorkflowRunId, result: WorkflowResult, notice: Option<Vec<Block>>) {
        for at in self.session.threads_of(id) {
            self.on(at, |step| {
                step.stop_request();
                step.stop_servers();
                step.close_calls("The workflow's run ended before the tool was run.");
                step.terminate();
            });
        }
        self.leave_phase(id);
        if let WorkflowResult::Error { error } = &result {
            let (error, workflow_run_id) = (error.clone(), Some(id.clone()));
            self.append_to_session(EventBody::WorkflowRunError { error, workflow_run_id });
        }
        let ended = EventBody::WorkflowRunEnded { workflow_run_id: id.clone(), result };
        self.on(0, |step| match notice {
            Some(notice) => drop(step.append_with(ended, marks::notice(&notice))),
            None => drop(step.append(ended)),
        });
    }

    /// Ends every open run, since its session does.
    pub(crate) fn end_runs(&mut self) {
        let open: Vec<_> = self.session.runs.iter().map(|run| run.id.clone()).collect();
        for id in open {
            self.end_run(&id, WorkflowResult::Stopped {}, None);
        }
    }

    /// Ends the runs whose lifetime is over, and has the agent hear of it.
    pub(crate) fn lapse(&mut self) {
        if self.end_overdue_runs() {
            self.on(0, Self::settle);
            self.session_rests_too();
        }
    }

    /// Ends the runs whose lifetime is over; whether there was one.
    pub(crate) fn end_overdue_runs(&mut self) -> bool {
        let over: Vec<_> =
            self.session.runs.iter().filter(|run| run.ends() <= self.now).map(|run| run.id.clone()).collect();
        for id in &over {
            let notice = self.notice(id, "its lifetime is over.", "What its agents returned until then is lost.");
            let message = "The run reached its lifetime.".to_owned();
            let error = WorkflowError { kind: WorkflowErrorKind::TimeoutError, message };
            self.end_run(id, WorkflowResult::Error { error }, Some(notice));
        }
        !over.is_empty()
    }

    /// An interrupt pauses every run that goes on, until the agent says so. On one that waits for the budget it has no effect, as
    /// on a thread that does (contract 3.11).
    pub(crate) fn pause_runs(&mut self) {
        for workflow_run_id in self.session.running() {
            self.on(0, |step| {
                step.append_with(EventBody::WorkflowRunIdle { workflow_run_id }, Mark::Interrupted.kept())
            });
        }
    }

    /// Every run waits, since the budget is spent.
    pub(crate) fn rest_runs(&mut self) {
        for workflow_run_id in self.session.running() {
            self.append_to_session(EventBody::WorkflowRunIdle { workflow_run_id });
        }
    }

    /// The budget allows more: the runs go on that waited for that.
    pub(crate) fn wake_runs(&mut self) {
        if self.session.is_at_cap() {
            return;
        }
        let unpaid = self.session.runs.iter().filter(|run| run.pace == Pace::Unpaid);
        for id in unpaid.map(|run| run.id.clone()).collect::<Vec<_>>() {
            self.resume_run(&id);
        }
    }

    fn resume_run(&mut self, id: &WorkflowRunId) {
        self.append_to_session(EventBody::WorkflowRunRunning { workflow_run_id: id.clone() });
        for at in self.session.threads_of(id) {
            let state = &self.session.threads[at].state;
            // One that ended its turn by itself is over: an interrupt ended this one's.
            if state.status == SessionStatus::Idle && state.stop == Some(StopReason::EndTurn {}) {
                self.on(at, |step| {
                    step.run();
                    step.ensure_work();
                    step.settle();
                });
            }
        }
        self.conduct(id);
    }
}

/// What an agent is told of what it returns.
fn asked_for(returns: &Returns) -> String {
    let last = "[Your last message is what you return, to a program that reads nothing else of what you do.";
    match returns {
        Returns::Text => format!("{last}]"),
        Returns::Json(fields) if fields.is_empty() => format!("{last} It must be one JSON value and nothing else.]"),
        Returns::Json(fields) => {
            let fields = fields.iter().map(|field| format!("{field:?}")).collect::<Vec<_>>().join(", ");
            format!("{last} It must be one JSON object with {fields}, and nothing else.]")
        }
    }
}

/// Reads what an agent said at the end.
fn read(returns: &Returns, said: &str) -> Result<Value, String> {
    if said.len() > LONGEST_RESULT {
        return Err(format!("what it returned has {} bytes, and may have {LONGEST_RESULT}.", said.len()));
    }
    let Returns::Json(fields) = returns else { return Ok(said.into()) };
    let value: Value =
        serde_json::from_str(crate::judge::bare(said)).map_err(|_| "what it returned is no JSON value.".to_owned())?;
    if text::is_deeper(&value, text::DEEPEST_VALUE) {
        return Err(format!("what it returned nests more than {} deep.", text::DEEPEST_VALUE));
    }
    match fields.iter().find(|field| value.get(field.as_str()).is_none()) {
        None => Ok(value),
        Some(field) => Err(format!("what it returned has no `{field}`.")),
    }
}

impl Session {
    /// The agent of this name that works in a thread with such an errand: all of one run are one.
    pub(crate) fn agent_of(&self, errand: &Errand, name: &str) -> Option<Arc<SessionAgent>> {
        let own = &self.threads[0].agent;
        let is_another = |thread: &&Thread| {
            thread.agent.name == name && thread.errand().is_some_and(|other| other.run == errand.run)
        };
        if let Some(other) = self.threads.iter().rev().find(is_another) {
            return Some(Arc::clone(&other.agent));
        }
        if !errand.is_inline {
            let mut saved = own.of_workflows()?.iter().map(ThreadAgent::agent);
            return saved.find(|agent| agent.name == name).cloned().map(Arc::new);
        }
        match self.runs.find(&errand.run).and_then(|run| run.program.as_ref()) {
            Some(program) => {
                let defined = program.agents.iter().find(|defined| defined.name == name)?;
                defined.agent(own).map(Arc::new)
            }
            // Of a run that is over, as its thread is: nobody works in it again.
            None => Some(Arc::new(SessionAgent { name: name.to_owned(), multiagent: None, ..(**own).clone() })),
        }
    }

    /// How many agents of runs it ever started.
    fn errands(&self) -> usize {
        self.threads.iter().filter(|thread| thread.errand().is_some()).count()
    }
}
