//! How far a workflow has come: a function of the workflow and of what its agents returned, and of nothing else. It is
//! asked anew with each result, so a crash leaves nothing to be put right.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::program::{Act, AgentStep, NOW, OnFailure, Program, ROUND, Returns, Step};
use super::text::{DEEPEST_VALUE, Fault, Values, as_text, is_deeper, take, weight};

/// How many agents a run may start.
pub(crate) const MOST_AGENTS: usize = 1000;
/// How many items a `for_each` may have.
const MOST_ITEMS: usize = 1000;
/// What one look at a run may cost, in bytes that are put together: the work that a workflow can make for this server.
const MOST_WORK: usize = 16 << 20;
/// The longest prompt, in characters.
const LONGEST_PROMPT: usize = 100_000;
/// What a step costs that puts nothing together, in bytes.
const STEP: usize = 512;

/// What came of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It returned this.
    Returned(Value),
    /// It failed, for this reason.
    Failed(String),
}

/// An agent that the run waits for and that has not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// The place of its step among all that the run does: what its result is known by.
    pub(crate) place: String,
    pub(crate) agent: String,
    pub(crate) prompt: String,
    pub(crate) returns: Returns,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The phase that it is in, or was in last.
    pub(crate) phase: usize,
    pub(crate) state: Standing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits for agents; these are to begin.
    Waits(Vec<Task>),
    /// It came to its end with this.
    Over(String),
    /// It failed.
    Failed(Failure),
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The workflow's own fault, or one of its agents' that it did not let go; for its agent.
    Program(String),
    /// It asked for more agents than it may start.
    Agents,
    /// It went over another limit; for its agent.
    Limit(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Program(message) => Self::Program(message),
            Fault::Size => Self::Limit(format!(
                "Its values and prompts together have more than {MOST_WORK} bytes. Use fewer or shorter ones."
            )),
        }
    }
}

/// What a run's agents came to so far, and which of them work.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// When the run began.
    pub(crate) began: &'a str,
    pub(crate) outcomes: &'a BTreeMap<String, Outcome>,
    /// The places of the agents that work.
    pub(crate) working: &'a BTreeSet<String>,
    /// How many more may.
    pub(crate) room: usize,
}

impl Program {
    /// How far it is.
    pub(crate) fn progress(&self, facts: Facts<'_>) -> Progress {
        let mut walk = Walk { facts, tasks: Vec::new(), reached: 0, left: MOST_WORK };
        let mut scope = Scope { parent: None, values: vec![(NOW, facts.began.into())] };
        let mut last = Value::Null;
        for (phase, steps) in self.phases.iter().map(|phase| &phase.steps).enumerate() {
            match walk.steps(&format!("phases[{phase}].steps"), steps, &mut scope) {
                Ok(Flow::Done(value)) => last = value,
                Ok(Flow::Waits) => return Progress { phase, state: Standing::Waits(walk.tasks) },
                Err(failure) => return Progress { phase, state: Standing::Failed(failure) },
            }
        }
        let result = match &self.result {
            Some(result) => result.render_text(&scope, &mut walk.left).map_err(|fault| placed("result", fault)),
            None => Ok(as_text(&last)),
        };
        let state = result.map_or_else(Standing::Failed, Standing::Over);
        Progress { phase: self.phases.len().saturating_sub(1), state }
    }
}

/// What a sequence of steps came to.
enum Flow {
    Done(Value),
    Waits,
}

struct Walk<'a> {
    facts: Facts<'a>,
    tasks: Vec<Task>,
    reached: usize,
    left: usize,
}

/// The values that steps can use, those of what they stand in included.
struct Scope<'a> {
    parent: Option<&'a Scope<'a>>,
    values: Vec<(&'a str, Value)>,
}

impl Values for Scope<'_> {
    fn find(&self, name: &str) -> Option<&Value> {
        let own = self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        own.or_else(|| self.parent.and_then(|parent| parent.find(name)))
    }
}

impl<'a> Scope<'a> {
    fn within(&'a self) -> Self {
        Self { parent: Some(self), values: Vec::new() }
    }

    fn set(&mut self, name: &'a str, value: Value) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }
}

impl Walk<'_> {
    fn steps<'p>(&mut self, at: &str, steps: &'p [Step], scope: &mut Scope<'p>) -> Result<Flow, Failure> {
        let mut last = Value::Null;
        for (index, step) in steps.iter().enumerate() {
            let at = format!("{at}[{index}]");
            take(&mut self.left, STEP)?;
            let Flow::Done(value) = self.step(&at, step, scope)? else { return Ok(Flow::Waits) };
            if let Some(name) = &step.save_as {
                take(&mut self.left, weight(&value))?;
                if is_deeper(&value, DEEPEST_VALUE) {
                    return Err(Failure::Program(format!("{at}: a value nests at most {DEEPEST_VALUE} deep.")));
                }
                scope.set(name, value.clone());
            }
            last = value;
        }
        Ok(Flow::Done(last))
    }

    fn step<'p>(&mut self, at: &str, step: &'p Step, scope: &mut Scope<'p>) -> Result<Flow, Failure> {
        match &step.act {
            Act::Agent(step) => self.agent(at, step, scope),
            Act::Set { value } => {
                let value = value.render(scope, &mut self.left).map_err(|fault| placed(at, fault))?;
                Ok(Flow::Done(value))
            }
            Act::ForEach { items, item, steps } => {
                let items = items.render(scope, &mut self.left).map_err(|fault| placed(at, fault))?;
                let Value::Array(items) = items else {
                    return Err(Failure::Program(format!("{at}: `items` is no list.")));
                };
                if items.len() > MOST_ITEMS {
                    return Err(Failure::Limit(format!(
                        "{at}: `items` has {} items, and may have {MOST_ITEMS}.",
                        items.len()
                    )));
                }
                let mut all = Gathered::default();
                for (index, value) in items.into_iter().enumerate() {
                    let mut of_item = scope.within();
                    of_item.set(item, value);
                    all.add(self.steps(&format!("{at}.item[{index}]"), steps, &mut of_item)?);
                }
                Ok(all.flow())
            }
            Act::Parallel { branches } => {
                let mut all = Gathered::default();
                for (index, steps) in branches.iter().enumerate() {
                    all.add(self.steps(&format!("{at}.branches[{index}]"), steps, &mut scope.within())?);
                }
                Ok(all.flow())
            }
            Act::Repeat { at_most, until, steps } => {
                let outer = scope.find(ROUND).cloned();
                let mut last = Value::Null;
                for round in 1..=*at_most {
                    scope.set(ROUND, round.into());
                    let flow = self.steps(&format!("{at}.round[{round}]"), steps, scope)?;
                    let Flow::Done(value) = flow else { return Ok(Flow::Waits) };
                    last = value;
                    if let Some(until) = until
                        && until.holds(scope, &mut self.left).map_err(|fault| placed(at, fault))?
                    {
                        break;
                    }
                }
                scope.set(ROUND, outer.unwrap_or_default());
                Ok(Flow::Done(last))
            }
            Act::If { condition, then, otherwise } => {
                match condition.holds(scope, &mut self.left).map_err(|fault| placed(at, fault))? {
                    true => self.steps(&format!("{at}.then"), then, scope),
                    false => self.steps(&format!("{at}.else"), otherwise, scope),
                }
            }
        }
    }

    fn agent(&mut self, at: &str, step: &AgentStep, scope: &Scope<'_>) -> Result<Flow, Failure> {
        self.reached += 1;
        if self.reached > MOST_AGENTS {
            return Err(Failure::Agents);
        }
        match (self.facts.outcomes.get(at), step.on_failure) {
            (Some(Outcome::Returned(value)), _) => {
                take(&mut self.left, weight(value))?;
                return Ok(Flow::Done(value.clone()));
            }
            (Some(Outcome::Failed(_)), OnFailure::Continue) => return Ok(Flow::Done(Value::Null)),
            (Some(Outcome::Failed(reason)), OnFailure::Fail) => {
                return Err(Failure::Program(format!("{at}: the agent `{}` failed: {reason}", step.agent)));
            }
            (None, _) => {}
        }
        if !self.facts.working.contains(at) && self.tasks.len() < self.facts.room {
            let prompt = step.prompt.render_text(scope, &mut self.left).map_err(|fault| placed(at, fault))?;
            if prompt.trim().is_empty() || prompt.chars().count() > LONGEST_PROMPT {
                return Err(Failure::Program(format!("{at}: a prompt has 1 to {LONGEST_PROMPT} characters.")));
            }
            let (agent, returns) = (step.agent.clone(), step.returns.clone());
            self.tasks.push(Task { place: at.to_owned(), agent, prompt, returns });
        }
        Ok(Flow::Waits)
    }
}

fn placed(at: &str, fault: Fault) -> Failure {
    match fault {
        Fault::Program(message) => Failure::Program(format!("{at}: {message}")),
        Fault::Size => fault.into(),
    }
}

/// What came of several at once: a list when all are done.
#[derive(Default)]
struct Gathered {
    values: Vec<Value>,
    waits: bool,
}

impl Gathered {
    fn add(&mut self, flow: Flow) {
        match flow {
            Flow::Done(value) => self.values.push(value),
            Flow::Waits => self.waits = true,
        }
    }

    fn flow(self) -> Flow {
        if self.waits { Flow::Waits } else { Flow::Done(self.values.into()) }
    }
}
