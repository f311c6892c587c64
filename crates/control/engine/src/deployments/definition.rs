//! What a deployment says: from a request, checked, and as the session that it starts.

use postern_model::agent::AgentTag;
use postern_model::deployment::{
    AgentReference, CreateDeployment, Deployment, DeploymentStatus, DeploymentTag, Schedule, ScheduleParam,
    UpdateDeployment,
};
use postern_model::event::ClientEvent;
use postern_model::ids::{AgentId, DeploymentId, EnvironmentId, VaultId};
use postern_model::resource::{MAX_RESOURCES, ResourceParam};
use postern_model::session::{AgentParam, AgentReferenceParam, CreateSession};
use postern_model::vault::merged;
use postern_model::{Field, Problem};
use serde_json::{Value, json};

use super::tokens::Tokens;
use crate::create::{Begins, may_begin, now};
use crate::schedule::Cron;

const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 2048;
const MAX_EVENTS: usize = 50;

/// A deployment whose agent may still have to be pinned to its latest version.
pub(super) struct Definition {
    deployment: Deployment,
    /// Not the version that stands in the deployment, but the latest.
    latest: bool,
    /// What it says of tokens, where it says something of resources.
    tokens: Option<Tokens>,
}

impl Definition {
    /// The session that it would start.
    ///
    /// # Errors
    /// 400 for what no session could have.
    pub(super) fn session(&self) -> Result<CreateSession, Problem> {
        let AgentReference { id, version, .. } = &self.deployment.agent;
        let agent = if self.latest { json!(id) } else { json!({"type": "agent", "id": id, "version": version}) };
        session(&self.deployment, &agent)
    }

    /// The deployment with its agent at the version that was found, and what it says of tokens.
    pub(super) fn pinned(self, version: u64) -> (Deployment, Option<Tokens>) {
        let agent = AgentReference { version, ..self.deployment.agent };
        (Deployment { agent, ..self.deployment }, self.tokens)
    }
}

/// The session that a deployment starts with this agent.
///
/// # Errors
/// 400 for what no session could have.
pub(super) fn session(deployment: &Deployment, agent: &Value) -> Result<CreateSession, Problem> {
    let mut body = json!({
        "agent": agent,
        "environment_id": deployment.environment_id,
        "initial_events": deployment.initial_events,
        "vault_ids": deployment.vault_ids,
    });
    if !deployment.resources.is_empty() {
        body["resources"] = json!(deployment.resources);
    }
    if let Some(budget) = &deployment.budget {
        body["budget"] = budget.clone();
    }
    serde_json::from_value(body).map_err(|error| Problem::invalid(error.to_string()))
}

/// A new deployment.
///
/// # Errors
/// 400 or 404 naming the field.
pub(super) fn created(body: CreateDeployment) -> Result<Definition, Problem> {
    let now = now();
    let (agent, latest) = agent(body.agent)?;
    let (resources, tokens) = resources(body.resources.value())?;
    let deployment = Deployment {
        id: DeploymentId::generate(),
        kind: DeploymentTag::Deployment,
        name: name(body.name)?,
        description: description(body.description.value())?,
        agent,
        environment_id: environment(&body.environment_id)?,
        initial_events: events(body.initial_events)?,
        resources,
        vault_ids: vaults(body.vault_ids.value())?,
        metadata: body.metadata.value().unwrap_or_default().checked()?,
        schedule: body.schedule.value().map(schedule).transpose()?,
        status: DeploymentStatus::Active,
        paused_reason: None,
        created_at: now,
        updated_at: now,
        archived_at: None,
        budget: body.budget.value(),
    };
    Ok(Definition { deployment, latest, tokens: Some(tokens) })
}

/// A deployment after an update.
///
/// # Errors
/// 400 or 404 naming the field.
pub(super) fn updated(stored: Deployment, body: UpdateDeployment) -> Result<Definition, Problem> {
    let (agent, latest) = match kept("agent", body.agent)? {
        Some(param) => agent(param)?,
        None => (stored.agent, false),
    };
    let (resources, tokens) = if body.resources.is_absent() {
        (stored.resources, None)
    } else {
        let (resources, tokens) = resources(body.resources.value())?;
        (resources, Some(tokens))
    };
    let deployment = Deployment {
        name: kept("name", body.name)?.map_or(Ok(stored.name), name)?,
        description: cleared(stored.description, body.description, description)?,
        agent,
        environment_id: kept("environment_id", body.environment_id)?
            .map_or(Ok(stored.environment_id), |id| environment(&id))?,
        initial_events: kept("initial_events", body.initial_events)?.map_or(Ok(stored.initial_events), events)?,
        resources,
        vault_ids: cleared(stored.vault_ids, body.vault_ids, vaults)?,
        metadata: merged(&stored.metadata, &body.metadata)?,
        schedule: rescheduled(stored.schedule, body.schedule)?,
        budget: cleared(stored.budget, body.budget, Ok)?,
        ..stored
    };
    Ok(Definition { deployment, latest, tokens })
}

/// The new value of a field that cannot be cleared.
fn kept<T>(name: &str, field: Field<T>) -> Result<Option<T>, Problem> {
    match field {
        Field::Absent => Ok(None),
        Field::Null => Err(Problem::invalid_at(name, "cannot be cleared")),
        Field::Value(value) => Ok(Some(value)),
    }
}

/// What a field that null clears is after an update.
fn cleared<T, U>(stored: U, field: Field<T>, check: impl Fn(Option<T>) -> Result<U, Problem>) -> Result<U, Problem> {
    if field.is_absent() { Ok(stored) } else { check(field.value()) }
}

fn rescheduled(stored: Option<Schedule>, field: Field<ScheduleParam>) -> Result<Option<Schedule>, Problem> {
    match field {
        Field::Absent => Ok(stored),
        Field::Null => Ok(None),
        Field::Value(param) => {
            let last_run_at = stored.and_then(|stored| stored.last_run_at);
            Ok(Some(Schedule { last_run_at, ..schedule(param)? }))
        }
    }
}

fn name(name: String) -> Result<String, Problem> {
    if (1..=MAX_NAME).contains(&name.chars().count()) {
        return Ok(name);
    }
    Err(Problem::invalid_at("name", format!("must have 1 to {MAX_NAME} characters")))
}

/// An empty text is none.
fn description(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.chars().count() > MAX_DESCRIPTION => {
            Err(Problem::invalid_at("description", format!("must have at most {MAX_DESCRIPTION} characters")))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

/// The agent, and whether its latest version is meant.
fn agent(param: AgentParam) -> Result<(AgentReference, bool), Problem> {
    let (id, version) = match param {
        AgentParam::Id(id) => (id, None),
        AgentParam::Reference(AgentReferenceParam::Agent { id, version }) => (id, version),
        AgentParam::Reference(AgentReferenceParam::AgentWithOverrides { .. }) => {
            let message = "a deployment takes an agent as it is; make an agent of what you would override";
            return Err(Problem::invalid_at("agent.type", message));
        }
    };
    let parsed = AgentId::parse(&id).map_err(|_| Problem::not_found(format!("Agent {id} was not found.")))?;
    let reference = AgentReference { kind: AgentTag::Agent, id: parsed, version: version.unwrap_or_default() };
    Ok((reference, version.is_none()))
}

fn environment(id: &str) -> Result<EnvironmentId, Problem> {
    EnvironmentId::parse(id)
        .map_err(|_| Problem::not_found(format!("Environment {id} was not found.")).with_code("environment_not_found"))
}

fn events(events: Vec<Value>) -> Result<Vec<Value>, Problem> {
    if events.is_empty() || events.len() > MAX_EVENTS {
        let message = format!("must have 1 to {MAX_EVENTS} events, has {}", events.len());
        return Err(Problem::invalid_at("initial_events", message));
    }
    for (index, event) in events.iter().enumerate() {
        let at = format!("initial_events.{index}");
        let parsed: ClientEvent =
            serde_json::from_value(event.clone()).map_err(|error| Problem::invalid_at(&at, error))?;
        may_begin(&parsed, Begins::Deployment, &at)?;
    }
    Ok(events)
}

fn resources(resources: Option<Vec<ResourceParam>>) -> Result<(Vec<ResourceParam>, Tokens), Problem> {
    let mut resources = resources.unwrap_or_default();
    if resources.len() > MAX_RESOURCES {
        return Err(Problem::invalid_at("resources", format!("at most {MAX_RESOURCES} are allowed")));
    }
    let tokens = Tokens::taken_out(&mut resources)?;
    Ok((resources, tokens))
}

fn vaults(ids: Option<Vec<String>>) -> Result<Vec<VaultId>, Problem> {
    let parse = |(index, id): (usize, &String)| {
        VaultId::parse(id).map_err(|_| {
            let message = format!("vault {id} was not found");
            Problem::invalid_at(&format!("vault_ids[{index}]"), message).with_code("vault_not_found")
        })
    };
    ids.unwrap_or_default().iter().enumerate().map(parse).collect()
}

fn schedule(param: ScheduleParam) -> Result<Schedule, Problem> {
    if Cron::read(&param)?.after(now(), 1).is_empty() {
        return Err(Problem::invalid_at("schedule.expression", "never comes due"));
    }
    Ok(Schedule { param, last_run_at: None, upcoming_runs_at: Vec::new() })
}
