//! A workflow as the agent writes it: phases of steps, as data. Read once, and what is not well-formed, names no agent or uses a
//! name that nothing saves is refused with its place; what turns out later (a field that an agent did not return, a branch that
//! was not taken) ends the run.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::text::{Condition, Template};
use crate::inline::Definition;

/// The largest workflow, in bytes of JSON.
const MOST_BYTES: usize = 128 << 10;
/// How many phases it may have.
const MOST_PHASES: usize = 32;
/// How many steps, in all phases and on all levels.
const MOST_STEPS: usize = 200;
/// How deep steps may stand in one another.
const DEEPEST: usize = 8;
/// How many fields an agent may be asked for.
const MOST_FIELDS: usize = 64;
/// How often a `repeat` may repeat.
const MOST_ROUNDS: u64 = 100;
/// The longest lifetime, and the one of a run that names none, in seconds.
pub(crate) const LONGEST_LIFETIME: u64 = 24 * 60 * 60;
/// How long a name and a description may be, in characters: what is longer is cut.
const NAME: usize = 64;
const DESCRIPTION: usize = 256;

/// What every step can use without a step that saved it: when the run began.
pub(crate) const NOW: &str = "now";
/// What the steps of a `repeat` can use: which round it is, from 1.
pub(crate) const ROUND: &str = "round";

/// A workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub(crate) struct Program {
    /// As the agent wrote it.
    source: Map<String, Value>,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// In seconds.
    pub(crate) lifetime: u64,
    pub(crate) agents: Vec<Definition>,
    pub(crate) phases: Vec<Phase>,
    /// What the agent is told at the end; the last step's value unless given.
    pub(crate) result: Option<Template>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// One step: what it does, and under which name the steps after it find its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) save_as: Option<String>,
    pub(crate) act: Act,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    /// An agent works; its last message is the value.
    Agent(AgentStep),
    /// The steps for each item of a list, all at once; the value is a list of what each came to.
    ForEach { items: Template, item: String, steps: Vec<Step> },
    /// Several sequences of steps, all at once; the value is a list of what each came to.
    Parallel { branches: Vec<Vec<Step>> },
    /// The steps again and again; the value is what the last round came to.
    Repeat { at_most: u64, until: Option<Condition>, steps: Vec<Step> },
    /// One of two sequences of steps.
    If { condition: Condition, then: Vec<Step>, otherwise: Vec<Step> },
    /// A value that is put together.
    Set { value: Template },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AgentStep {
    pub(crate) agent: String,
    pub(crate) prompt: Template,
    pub(crate) returns: Returns,
    pub(crate) on_failure: OnFailure,
}

/// What an agent's last message is taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Returns {
    /// A text.
    Text,
    /// A JSON value; an object with these fields, where there are any.
    Json(Vec<String>),
}

/// What becomes of the run when an agent fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailure {
    /// It fails.
    #[default]
    Fail,
    /// It goes on; the step's value is null.
    Continue,
}

impl From<Program> for Map<String, Value> {
    fn from(program: Program) -> Self {
        program.source
    }
}

impl TryFrom<Map<String, Value>> for Program {
    type Error = String;

    fn try_from(source: Map<String, Value>) -> Result<Self, String> {
        Self::read(&source)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramSource {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    lifetime_seconds: Option<u64>,
    #[serde(default)]
    agents: Vec<Value>,
    phases: Vec<PhaseSource>,
    #[serde(default)]
    result: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseSource {
    name: String,
    #[serde(default)]
    description: Option<String>,
    steps: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum StepSource {
    Agent {
        agent: String,
        prompt: String,
        #[serde(default)]
        returns: ReturnsSource,
        #[serde(default)]
        fields: Vec<String>,
        #[serde(default)]
        on_failure: OnFailure,
        #[serde(default)]
        save_as: Option<String>,
    },
    ForEach {
        items: Value,
        #[serde(rename = "as")]
        item: String,
        steps: Vec<Value>,
        #[serde(default)]
        save_as: Option<String>,
    },
    Parallel {
        branches: Vec<Vec<Value>>,
        #[serde(default)]
        save_as: Option<String>,
    },
    Repeat {
        at_most: u64,
        #[serde(default)]
        until: Option<Value>,
        steps: Vec<Value>,
        #[serde(default)]
        save_as: Option<String>,
    },
    If {
        condition: Value,
        then: Vec<Value>,
        #[serde(rename = "else", default)]
        otherwise: Vec<Value>,
        #[serde(default)]
        save_as: Option<String>,
    },
    Set {
        value: Value,
        save_as: String,
    },
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReturnsSource {
    #[default]
    Text,
    Json,
}

impl Program {
    /// Reads what a model wrote.
    ///
    /// # Errors
    /// What the model is told: what is wrong, and where.
    pub(crate) fn read(source: &Map<String, Value>) -> Result<Self, String> {
        let size = Value::Object(source.clone()).to_string().len();
        if size > MOST_BYTES {
            return Err(format!("The workflow has {size} bytes, and may have {MOST_BYTES}."));
        }
        let read = ProgramSource::deserialize(&Value::Object(source.clone())).map_err(|error| error.to_string())?;
        if read.phases.is_empty() || read.phases.len() > MOST_PHASES {
            return Err(format!("`phases` has 1 to {MOST_PHASES} phases."));
        }
        let Some(lifetime @ 1..=LONGEST_LIFETIME) = read.lifetime_seconds.or(Some(LONGEST_LIFETIME)) else {
            return Err(format!("`lifetime_seconds` is a number from 1 to {LONGEST_LIFETIME}."));
        };
        let define = |(at, agent): (usize, &Value)| {
            Definition::read(agent).map_err(|_| {
                format!(
                    "agents[{at}]: an agent has `name` and `system`, and may have `description` and `model`, all texts."
                )
            })
        };
        let agents: Vec<Definition> = read.agents.iter().enumerate().map(define).collect::<Result<_, _>>()?;
        let mut reader = Reader { steps: 0, known: BTreeSet::from([NOW.to_owned()]) };
        let mut phases = Vec::new();
        for (at, phase) in read.phases.into_iter().enumerate() {
            let at = format!("phases[{at}]");
            let steps = reader.steps(&format!("{at}.steps"), &phase.steps, 1)?;
            phases.push(Phase {
                name: named(&at, &phase.name)?,
                description: phase.description.as_deref().map(described),
                steps,
            });
        }
        Ok(Self {
            name: named("name", &read.name)?,
            description: read.description.as_deref().map(described),
            lifetime,
            agents,
            phases,
            result: read.result.map(|result| reader.template("result", result)).transpose()?,
            source: source.clone(),
        })
    }

    /// The names of the agents that its steps use, each with the place of one.
    pub(crate) fn used(&self) -> Vec<(String, &str)> {
        let mut used = Vec::new();
        for (at, phase) in self.phases.iter().enumerate() {
            collect(&format!("phases[{at}].steps"), &phase.steps, &mut used);
        }
        used
    }
}

fn collect<'a>(at: &str, steps: &'a [Step], used: &mut Vec<(String, &'a str)>) {
    for (index, step) in steps.iter().enumerate() {
        let at = format!("{at}[{index}]");
        match &step.act {
            Act::Agent(step) => used.push((at, &step.agent)),
            Act::ForEach { steps, .. } | Act::Repeat { steps, .. } => collect(&format!("{at}.steps"), steps, used),
            Act::Parallel { branches } => {
                for (branch, steps) in branches.iter().enumerate() {
                    collect(&format!("{at}.branches[{branch}]"), steps, used);
                }
            }
            Act::If { then, otherwise, .. } => {
                collect(&format!("{at}.then"), then, used);
                collect(&format!("{at}.else"), otherwise, used);
            }
            Act::Set { .. } => {}
        }
    }
}

/// Reads steps, with the names that those before them saved.
struct Reader {
    steps: usize,
    known: BTreeSet<String>,
}

impl Reader {
    fn steps(&mut self, at: &str, sources: &[Value], depth: usize) -> Result<Vec<Step>, String> {
        if sources.is_empty() {
            return Err(format!("{at}: has no steps."));
        }
        if depth > DEEPEST {
            return Err(format!("{at}: steps stand in one another at most {DEEPEST} deep."));
        }
        let mut steps = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            steps.push(self.step(&format!("{at}[{index}]"), source, depth)?);
        }
        Ok(steps)
    }

    fn step(&mut self, at: &str, source: &Value, depth: usize) -> Result<Step, String> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(format!("{at}: a workflow has at most {MOST_STEPS} steps."));
        }
        let read = StepSource::deserialize(source).map_err(|error| format!("{at}: {error}"))?;
        let (act, save_as) = match read {
            StepSource::Agent { agent, prompt, returns, fields, on_failure, save_as } => {
                if fields.len() > MOST_FIELDS || fields.iter().any(|field| field.is_empty() || field.len() > NAME) {
                    return Err(format!("{at}.fields: at most {MOST_FIELDS} names of 1 to {NAME} bytes."));
                }
                let returns = match returns {
                    ReturnsSource::Json => Returns::Json(fields),
                    ReturnsSource::Text if fields.is_empty() => Returns::Text,
                    ReturnsSource::Text => {
                        return Err(format!("{at}: `fields` are of an agent that returns `json`."));
                    }
                };
                let prompt = self.template(&format!("{at}.prompt"), prompt.into())?;
                (Act::Agent(AgentStep { agent, prompt, returns, on_failure }), save_as)
            }
            StepSource::ForEach { items, item, steps, save_as } => {
                let items = self.template(&format!("{at}.items"), items)?;
                let outside = self.known.clone();
                self.learn(&format!("{at}.as"), &item)?;
                let steps = self.steps(&format!("{at}.steps"), &steps, depth + 1)?;
                // What is saved for one item is of no other, and of nothing behind them.
                self.known = outside;
                (Act::ForEach { items, item, steps }, save_as)
            }
            StepSource::Parallel { branches, save_as } => {
                let outside = self.known.clone();
                let mut read = Vec::new();
                for (branch, steps) in branches.iter().enumerate() {
                    read.push(self.steps(&format!("{at}.branches[{branch}]"), steps, depth + 1)?);
                    self.known.clone_from(&outside);
                }
                (Act::Parallel { branches: read }, save_as)
            }
            StepSource::Repeat { at_most, until, steps, save_as } => {
                if !(1..=MOST_ROUNDS).contains(&at_most) {
                    return Err(format!("{at}.at_most: is a number from 1 to {MOST_ROUNDS}."));
                }
                let had_rounds = !self.known.insert(ROUND.to_owned());
                // A round finds what the one before it saved.
                saved(&steps, &mut self.known);
                let steps = self.steps(&format!("{at}.steps"), &steps, depth + 1)?;
                let until = until.map(|until| self.condition(&format!("{at}.until"), &until)).transpose()?;
                if !had_rounds {
                    self.known.remove(ROUND);
                }
                (Act::Repeat { at_most, until, steps }, save_as)
            }
            StepSource::If { condition, then, otherwise, save_as } => {
                let condition = self.condition(&format!("{at}.condition"), &condition)?;
                let then = self.steps(&format!("{at}.then"), &then, depth + 1)?;
                let otherwise = match otherwise.is_empty() {
                    true => Vec::new(),
                    false => self.steps(&format!("{at}.else"), &otherwise, depth + 1)?,
                };
                (Act::If { condition, then, otherwise }, save_as)
            }
            StepSource::Set { value, save_as } => {
                (Act::Set { value: self.template(&format!("{at}.value"), value)? }, Some(save_as))
            }
        };
        if let Some(name) = &save_as {
            self.learn(&format!("{at}.save_as"), name)?;
        }
        Ok(Step { save_as, act })
    }

    fn learn(&mut self, at: &str, name: &str) -> Result<(), String> {
        let is_name = |text: &str| {
            text.len() <= NAME
                && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        if !is_name(name) || [NOW, ROUND].contains(&name) {
            return Err(format!(
                "{at}: a name has 1 to {NAME} letters, digits and `_`, begins with no digit, and is not `{NOW}` or `{ROUND}`."
            ));
        }
        self.known.insert(name.to_owned());
        Ok(())
    }

    fn template(&self, at: &str, source: Value) -> Result<Template, String> {
        let template = Template::read(source).map_err(|error| format!("{at}: {error}"))?;
        self.must_know(at, template.names())?;
        Ok(template)
    }

    fn condition(&self, at: &str, source: &Value) -> Result<Condition, String> {
        let condition = Condition::read(source, DEEPEST).map_err(|error| format!("{at}: {error}"))?;
        self.must_know(at, condition.names())?;
        Ok(condition)
    }

    fn must_know(&self, at: &str, names: Vec<&str>) -> Result<(), String> {
        match names.into_iter().find(|name| !self.known.contains(*name)) {
            None => Ok(()),
            Some(unknown) => {
                let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
                Err(format!("{at}: nothing before it is saved as `{unknown}`. It can use: {}.", known.join(", ")))
            }
        }
    }
}

/// The names under which steps of a sequence save something, those within others of it included.
fn saved(steps: &[Value], names: &mut BTreeSet<String>) {
    for step in steps {
        names.extend(step["save_as"].as_str().map(str::to_owned));
        let within = match step["type"].as_str() {
            Some("repeat") => &["steps"][..],
            Some("if") => &["then", "else"],
            _ => &[],
        };
        for key in within {
            saved(step[*key].as_array().map(Vec::as_slice).unwrap_or_default(), names);
        }
    }
}

fn named(at: &str, name: &str) -> Result<String, String> {
    match name.trim().is_empty() {
        true => Err(format!("{at}: has no name.")),
        false => Ok(name.chars().take(NAME).collect()),
    }
}

fn described(text: &str) -> String {
    text.chars().take(DESCRIPTION).collect()
}
