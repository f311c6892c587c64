//! What the agent says of its runs: starting one, asking after it, having it go on, ending it.

use postern_model::agent::{CHECK_WORKFLOW, CONTINUE_WORKFLOW, START_WORKFLOW, STOP_WORKFLOW};
use postern_model::event::{EventBody, WorkflowError, WorkflowErrorKind, WorkflowPhase, WorkflowResult};
use postern_model::ids::{self, EventId, WorkflowPhaseId, WorkflowRunId};
use serde_json::{Map, Value, json};

use super::plan::Outcome;
use super::program::Program;
use super::runs::{Pace, Run};
use crate::machine::Step;
use crate::marks;

/// How many runs of a session may be open at once.
pub const MOST_RUNS: usize = 10;

/// What the agent wants of its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// A run is to begin of this workflow.
    Start(Map<String, Value>),
    /// How this one is doing, or all.
    Check(Option<String>),
    /// This one, which an interrupt paused, is to go on; without an id, the only one there is.
    Continue(Option<String>),
    /// This one is to end; without an id, the only one there is.
    Stop(Option<String>),
}

impl Command {
    /// Reads a call; `None` where the tool is none of these.
    pub(crate) fn read(tool: &str, input: &Map<String, Value>) -> Option<Self> {
        let run = || input.get("workflow_run_id").and_then(Value::as_str).map(str::to_owned);
        Some(match tool {
            START_WORKFLOW => Self::Start(input.clone()),
            CHECK_WORKFLOW => Self::Check(run()),
            CONTINUE_WORKFLOW => Self::Continue(run()),
            STOP_WORKFLOW => Self::Stop(run()),
            _ => return None,
        })
    }
}

/// Why a run did not begin.
struct Refused {
    kind: WorkflowErrorKind,
    /// For those who watch.
    shown: &'static str,
    /// For the agent.
    told: String,
}

fn malformed(told: String) -> Refused {
    let shown = "The workflow was refused, for it could not run. The agent's call is answered with what is wrong.";
    Refused { kind: WorkflowErrorKind::ProgramError, shown, told: format!("The workflow was refused. {told}") }
}

impl Step<'_> {
    /// Does what the agent wants of its runs.
    ///
    /// # Errors
    /// What the agent is told.
    pub(crate) fn command(&mut self, command: Command) -> Result<String, String> {
        match command {
            Command::Start(source) => {
                let program = self.admit(&source);
                program.map(|program| self.begin_run(program)).map_err(|refused| self.refuse_run(refused))
            }
            Command::Check(None) => {
                Ok(json!(self.session.runs.iter().map(|run| self.report_on(run)).collect::<Vec<_>>()).to_string())
            }
            Command::Check(Some(id)) => {
                let id = self.open_run(Some(&id))?;
                Ok(self.session.runs.find(&id).map(|run| self.report_on(run)).unwrap_or_default().to_string())
            }
            Command::Continue(id) => self.continue_run(id.as_deref()),
            Command::Stop(id) => {
                let id = self.open_run(id.as_deref())?;
                self.end_run(&id, WorkflowResult::Stopped {}, None);
                Ok(format!("Workflow run {id} was stopped, and its agents with it."))
            }
        }
    }

    fn admit(&self, source: &Map<String, Value>) -> Result<Program, Refused> {
        let program = Program::read(source).map_err(malformed)?;
        let own = &self.thread().agent;
        let saved = own.of_workflows().unwrap_or_default();
        for (at, agent) in program.agents.iter().enumerate() {
            agent
                .check(own, own.workflows_define_agents(), saved)
                .map_err(|error| malformed(format!("agents[{at}]: {error}")))?;
            if program.agents[..at].iter().any(|other| other.name == agent.name) {
                return Err(malformed(format!("agents[{at}]: another agent is called `{}` too.", agent.name)));
            }
        }
        let names: Vec<&str> = program
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .chain(saved.iter().map(|agent| agent.agent().name.as_str()))
            .collect();
        if let Some((at, unknown)) = program.used().into_iter().find(|(_, name)| !names.contains(name)) {
            let known = if names.is_empty() {
                "Define it in `agents`.".to_owned()
            } else {
                format!("Use one of: {}.", names.join(", "))
            };
            return Err(malformed(format!("{at}: there is no agent `{unknown}`. {known}")));
        }
        // Those that ended while the agent spoke, which it has not heard of.
        let unheard = self.state().notices.len();
        if self.session.runs.iter().count() + unheard >= MOST_RUNS {
            return Err(Refused {
                kind: WorkflowErrorKind::MaxWorkflowRunsError,
                shown: "The session has as many open workflow runs as it may.",
                told: format!(
                    "{MOST_RUNS} runs are open or have just ended, which is the most. Wait for one to end, or stop one with `{STOP_WORKFLOW}`."
                ),
            });
        }
        Ok(program)
    }

    fn refuse_run(&mut self, refused: Refused) -> String {
        let Refused { kind, shown, told } = refused;
        let error = WorkflowError { kind, message: shown.to_owned() };
        self.append_to_session(EventBody::WorkflowRunError { error, workflow_run_id: None });
        told
    }

    fn begin_run(&mut self, program: Program) -> String {
        let created = self.chance.event_id();
        let id = named_after::<WorkflowRunId>(&created);
        let mut phases = Vec::new();
        for phase in &program.phases {
            let id = named_after::<WorkflowPhaseId>(&self.chance.event_id());
            phases.push(WorkflowPhase { id, name: phase.name.clone(), description: phase.description.clone() });
        }
        let (name, description) = (program.name.clone(), program.description.clone());
        let seconds = program.lifetime;
        let body = EventBody::WorkflowRunCreated { workflow_run_id: id.clone(), name, description, phases };
        self.append_with(body, marks::workflow(&program));
        if self.session.is_at_cap() {
            self.append(EventBody::WorkflowRunIdle { workflow_run_id: id.clone() });
        } else {
            self.append(EventBody::WorkflowRunRunning { workflow_run_id: id.clone() });
            self.conduct(&id);
        }
        format!(
            "Workflow run {id} runs in the background, for {seconds} seconds at most. When it ends you are told what it came to: do \
             something else meanwhile, or end your turn. `{CHECK_WORKFLOW}` says how it is doing, `{STOP_WORKFLOW}` ends it."
        )
    }

    /// The open run with this id; without one, the only one that is open.
    fn open_run(&self, id: Option<&str>) -> Result<WorkflowRunId, String> {
        let open: Vec<&WorkflowRunId> = self.session.runs.iter().map(|run| &run.id).collect();
        match (id, open.as_slice()) {
            (None, [only]) => Ok((*only).clone()),
            (None, []) => Err("No workflow run is open.".to_owned()),
            (None, _) => {
                Err(format!("Several workflow runs are open. Name one in `workflow_run_id`: {}.", listed(&open)))
            }
            (Some(id), _) => open.iter().find(|run| run.as_str() == id).map(|run| (*run).clone()).ok_or_else(|| {
                format!("There is no open workflow run {id}: it ended, or never was. Open are: {}.", listed(&open))
            }),
        }
    }

    fn continue_run(&mut self, id: Option<&str>) -> Result<String, String> {
        let id = self.open_run(id)?;
        let pace = self.session.runs.find(&id).map(|run| run.pace);
        if self.session.is_at_cap() || pace == Some(Pace::Unpaid) {
            return Err("The session's budget is spent: the run goes on when it is raised.".to_owned());
        }
        if pace == Some(Pace::Running) {
            return Err(format!("Workflow run {id} is running."));
        }
        self.resume_run(&id);
        Ok(format!("Workflow run {id} goes on."))
    }

    fn report_on(&self, run: &Run) -> Value {
        let working = self.session.threads_of(&run.id).len();
        let failed = run.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
        let status = match run.pace {
            Pace::Running => "running",
            Pace::Unpaid => "paused: the session's budget is spent",
            Pace::Interrupted => "paused: the user interrupted it",
        };
        json!({
            "workflow_run_id": run.id,
            "name": run.name,
            "status": status,
            "phase": run.open_phase.as_ref().and_then(|(at, _)| run.phases.get(*at)).map(|phase| &phase.name),
            "agents": {"working": working, "returned": run.outcomes.len() - failed, "failed": failed},
            "ends_at_the_latest": run.ends(),
        })
    }
}

fn listed(runs: &[&WorkflowRunId]) -> String {
    match runs {
        [] => "none".to_owned(),
        runs => runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// An id with the number of an event.
fn named_after<T: std::str::FromStr<Err = ids::InvalidId> + Prefixed>(event: &EventId) -> T {
    let number = event.as_str().split_once('_').map_or(event.as_str(), |(_, number)| number);
    format!("{}{number}", T::PREFIX).parse().expect("an event's number is a number of any id")
}

/// An id's prefix.
trait Prefixed {
    const PREFIX: &'static str;
}

impl Prefixed for WorkflowRunId {
    const PREFIX: &'static str = "wrun_";
}

impl Prefixed for WorkflowPhaseId {
    const PREFIX: &'static str = "wrph_";
}
