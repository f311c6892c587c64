//! `multiagent_20261001`: an advisor, agents that work for another, and workflows, each enabled or disabled on its own
//! (contract 2.3). What is sent is merged into what is stored, level by level: absent keeps, null is the default.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::advisor;
use super::multiagent::{self, MAX_ROSTER, Member, MemberParam, at, only};
use crate::Problem;

const ADVISOR: &str = "multiagent.advisor";
pub(super) const SUBAGENTS: &str = "multiagent.subagents";
pub(super) const WORKFLOWS: &str = "multiagent.workflows";

/// The parts, with agents in one of the forms that they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// The model that it may consult.
    pub advisor: AdvisorPart,
    /// The agents that it may start.
    pub subagents: Spawning<T>,
    /// Whether it may start runs of workflows, and the agents that these may use.
    pub workflows: Spawning<T>,
}

/// Whether there is a model that may be consulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AdvisorPart {
    /// There is not.
    Disabled {},
    /// There is.
    Enabled {
        /// The model's id or alias at the endpoint.
        model: String,
    },
}

/// Whether agents may be started, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Spawning<T> {
    /// None.
    Disabled {},
    /// These.
    Enabled {
        /// Whether agents may be defined when they are started.
        inline_agents: InlineAgents,
        /// Saved agents.
        predefined_agents: Vec<T>,
    },
}

/// Whether agents may be defined when they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InlineAgents {
    /// They may not.
    Disabled {},
    /// They may.
    Enabled {},
}

impl<T> Parts<T> {
    /// The same with these agents: first those to start, then those of workflows, as many as there are of each.
    pub(super) fn with<U>(self, mut agents: Vec<U>) -> Parts<U> {
        let of_workflows = agents.split_off(agents.len().min(self.subagents.agents().len()));
        Parts {
            advisor: self.advisor,
            subagents: self.subagents.with(agents),
            workflows: self.workflows.with(of_workflows),
        }
    }
}

impl AdvisorPart {
    /// The model that may be consulted.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Disabled {} => None,
            Self::Enabled { model } => Some(model),
        }
    }
}

impl<T> Spawning<T> {
    /// The saved agents.
    pub fn agents(&self) -> &[T] {
        match self {
            Self::Disabled {} => &[],
            Self::Enabled { predefined_agents, .. } => predefined_agents,
        }
    }

    /// Whether agents may be defined when they are started.
    pub fn defines_agents(&self) -> bool {
        matches!(self, Self::Enabled { inline_agents: InlineAgents::Enabled {}, .. })
    }

    /// Whether agents may be started.
    pub fn is_enabled(&self) -> bool {
        matches!(self, Self::Enabled { .. })
    }

    fn with<U>(self, predefined_agents: Vec<U>) -> Spawning<U> {
        match self {
            Self::Disabled {} => Spawning::Disabled {},
            Self::Enabled { inline_agents, .. } => Spawning::Enabled { inline_agents, predefined_agents },
        }
    }
}

impl Parts<MemberParam> {
    /// What was sent, merged into what is stored.
    ///
    /// # Errors
    /// 400 naming the place.
    pub(super) fn parse(sent: &Map<String, Value>, stored: Option<&Parts<Member>>) -> Result<Self, Problem> {
        only("multiagent", sent, &["type", "advisor", "subagents", "workflows"])?;
        let parts = Self {
            advisor: advisor_part(sent.get("advisor"), stored.map(|stored| &stored.advisor))?,
            subagents: spawning(SUBAGENTS, sent.get("subagents"), stored.map(|stored| &stored.subagents))?,
            workflows: spawning(WORKFLOWS, sent.get("workflows"), stored.map(|stored| &stored.workflows))?,
        };
        for (place, part) in [(SUBAGENTS, &parts.subagents), (WORKFLOWS, &parts.workflows)] {
            if part.is_enabled() && !part.defines_agents() && part.agents().is_empty() {
                let message = "must name an agent where `inline_agents` is disabled";
                return Err(Problem::invalid_at(&predefined_of(place), message));
            }
        }
        Ok(parts)
    }
}

fn advisor_part(sent: Option<&Value>, stored: Option<&AdvisorPart>) -> Result<AdvisorPart, Problem> {
    let default = AdvisorPart::Disabled {};
    let sent = match sent {
        None => return Ok(stored.cloned().unwrap_or(default)),
        Some(Value::Null) => return Ok(default),
        Some(sent) => sent,
    };
    match switch(ADVISOR, sent)? {
        (Switch::Disabled, fields) => only(ADVISOR, fields, &["type"]).map(|()| default),
        (Switch::Enabled, fields) => {
            only(ADVISOR, fields, &["type", "model"])?;
            let Some(model) = fields.get("model").and_then(Value::as_str) else {
                return Err(Problem::invalid_at("multiagent.advisor.model", "an enabled advisor needs a model's id"));
            };
            Ok(AdvisorPart::Enabled { model: advisor::model(ADVISOR, model)? })
        }
    }
}

fn spawning(
    place: &str,
    sent: Option<&Value>,
    stored: Option<&Spawning<Member>>,
) -> Result<Spawning<MemberParam>, Problem> {
    let again = |stored: &Spawning<Member>| {
        stored.clone().with(stored.agents().iter().map(MemberParam::from).collect::<Vec<_>>())
    };
    let default =
        || Spawning::Enabled { inline_agents: InlineAgents::Enabled {}, predefined_agents: Vec::<MemberParam>::new() };
    let sent = match sent {
        None => return Ok(stored.map_or_else(default, again)),
        Some(Value::Null) => return Ok(default()),
        Some(sent) => sent,
    };
    let fields = match switch(place, sent)? {
        (Switch::Disabled, fields) => return only(place, fields, &["type"]).map(|()| Spawning::Disabled {}),
        (Switch::Enabled, fields) => fields,
    };
    only(place, fields, &["type", "inline_agents", "predefined_agents"])?;
    // What was disabled has nothing to keep.
    let (mut inline_agents, mut predefined_agents) = match stored.map(again) {
        Some(Spawning::Enabled { inline_agents, predefined_agents }) => (inline_agents, predefined_agents),
        Some(Spawning::Disabled {}) | None => (InlineAgents::Enabled {}, Vec::new()),
    };
    match fields.get("inline_agents") {
        None => {}
        Some(Value::Null) => inline_agents = InlineAgents::Enabled {},
        Some(sent) => inline_agents = inline(&format!("{place}.inline_agents"), sent)?,
    }
    match fields.get("predefined_agents") {
        None => {}
        Some(Value::Null) => predefined_agents = Vec::new(),
        Some(sent) => predefined_agents = predefined(&predefined_of(place), sent)?,
    }
    Ok(Spawning::Enabled { inline_agents, predefined_agents })
}

fn inline(place: &str, sent: &Value) -> Result<InlineAgents, Problem> {
    let (switch, fields) = switch(place, sent)?;
    only(place, fields, &["type"])?;
    Ok(match switch {
        Switch::Disabled => InlineAgents::Disabled {},
        Switch::Enabled => InlineAgents::Enabled {},
    })
}

/// Where the saved agents of a part stand.
pub(super) fn predefined_of(place: &str) -> String {
    format!("{place}.predefined_agents")
}

fn predefined(place: &str, sent: &Value) -> Result<Vec<MemberParam>, Problem> {
    let agents = sent.as_array().ok_or_else(|| Problem::invalid_at(place, "must be a list of agents"))?;
    if agents.len() > MAX_ROSTER {
        let message = format!("must have at most {MAX_ROSTER} agents, has {}", agents.len());
        return Err(Problem::invalid_at(place, message));
    }
    agents.iter().enumerate().map(|(index, sent)| multiagent::member(&at(place, index), sent)).collect()
}

enum Switch {
    Disabled,
    Enabled,
}

/// Whether an object enables or disables something, and its fields.
fn switch<'a>(place: &str, sent: &'a Value) -> Result<(Switch, &'a Map<String, Value>), Problem> {
    let fields = sent.as_object().ok_or_else(|| Problem::invalid_at(place, "must be an object or null"))?;
    match fields.get("type").and_then(Value::as_str) {
        Some("disabled") => Ok((Switch::Disabled, fields)),
        Some("enabled") => Ok((Switch::Enabled, fields)),
        _ => Err(Problem::invalid_at(&format!("{place}.type"), "must be `enabled` or `disabled`")),
    }
}

#[cfg(test)]
mod tests;
