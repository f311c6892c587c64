//! Rosters: whom an agent has work for it, looked up and pinned when the agent is saved, and again for a session.

use postern_model::Problem;
use postern_model::agent::{
    Agent, AgentDefinition, HasRoster, Member, MemberFacts, MemberParam, Multiagent, ThreadAgent, fitting_roster,
    fitting_roster_skills,
};
use postern_model::ids::{AgentId, WorkspaceId};
use postern_model::session::SessionAgent;
use serde_json::Value;

use super::find;
use crate::{Connection, StoreError};

/// The roster that was sent, each agent pinned to a version that exists now. `own` is the agent that has it, where it is
/// stored already.
///
/// # Errors
/// Refused with 400 or 404, naming the place; or the database failed.
pub async fn pin(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    own: Option<&Agent>,
    sent: &Value,
) -> Result<Multiagent, StoreError> {
    let sent = Multiagent::parse(sent, own.and_then(|own| own.definition.multiagent.as_ref()))?;
    let mut agents = Vec::new();
    for (index, param) in sent.all().enumerate() {
        let member = match param {
            MemberParam::Itself => Member::Itself {},
            MemberParam::Agent { id, .. } if own.is_some_and(|own| own.id.as_str() == id) => Member::Itself {},
            MemberParam::Agent { id, version } => {
                let found = required(connection, workspace, id, *version).await;
                let found = found.map_err(|error| at(&sent.place_of(index), error))?;
                Member::Agent { id: found.id, version: found.version }
            }
        };
        agents.push(member);
    }
    Ok(sent.with(agents))
}

/// Checks a definition's roster against the agents that it names.
///
/// # Errors
/// Refused with 400 or 404, naming the place; or the database failed.
pub async fn check(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    own: Option<&AgentId>,
    definition: &AgentDefinition,
) -> Result<(), StoreError> {
    let Some(multiagent) = &definition.multiagent else { return Ok(()) };
    let mut members = Vec::new();
    for (index, member) in multiagent.all().enumerate() {
        members.push(match member {
            Member::Agent { id, version } if Some(id) != own => {
                let found = required(connection, workspace, id.as_str(), Some(*version)).await;
                Some(found.map_err(|error| at(&multiagent.place_of(index), error))?)
            }
            Member::Agent { .. } | Member::Itself {} => None,
        });
    }
    let mut all: Vec<_> = members.iter().map(|member| facts(definition, member.as_ref())).collect();
    for (place, agents) in multiagent.lists() {
        let others = all.split_off(agents.len());
        fitting_roster(&place, definition.model.inference_geo.as_deref(), &all)?;
        all = others;
    }
    let skills: Vec<_> = members
        .iter()
        .map(|member| member.as_ref().map_or(&definition.skills, |agent| &agent.definition.skills).as_slice())
        .collect();
    Ok(fitting_roster_skills(multiagent, &definition.skills, &skills)?)
}

/// What the rules between a roster's agents need of one; `None` is the agent that has it.
fn facts<'a>(own: &'a AgentDefinition, member: Option<&'a Agent>) -> MemberFacts<'a> {
    let definition = member.map_or(own, |agent| &agent.definition);
    MemberFacts {
        id: member.map(|agent| &agent.id),
        name: &definition.name,
        has_roster: if definition.multiagent.is_some() { HasRoster::Yes } else { HasRoster::No },
        inference_geo: definition.model.inference_geo.as_deref(),
    }
}

/// The session's snapshot with those of the agents of its roster. What means the agent itself is as the session has it.
///
/// # Errors
/// Refused with 400 or 404 when an agent is gone or archived; or the database failed.
pub async fn snapshot(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    agent: SessionAgent,
    multiagent: Option<Multiagent>,
) -> Result<SessionAgent, StoreError> {
    let Some(multiagent) = multiagent else { return Ok(agent) };
    let mut agents = Vec::new();
    for (index, member) in multiagent.all().enumerate() {
        agents.push(match member {
            Member::Agent { id, version } if *id != agent.id => {
                let found = required(connection, workspace, id.as_str(), Some(*version)).await;
                let found = found.map_err(|error| at(&multiagent.place_of(index), error))?;
                ThreadAgent::from(SessionAgent::snapshot(found.id, found.version, found.definition))
            }
            Member::Agent { .. } | Member::Itself {} => ThreadAgent::from(agent.clone()),
        });
    }
    Ok(SessionAgent { multiagent: Some(multiagent.with(agents)), ..agent })
}

async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &str,
    version: Option<u64>,
) -> Result<Agent, StoreError> {
    let unknown = || Problem::not_found(format!("agent {id} was not found, or not in this version"));
    let parsed = AgentId::parse(id).map_err(|_| unknown())?;
    let found = find(connection, workspace, &parsed, version).await?.ok_or_else(unknown)?;
    if found.archived_at.is_some() {
        return Err(Problem::invalid(format!("agent {id} is archived")).with_code("agent_archived").into());
    }
    Ok(found)
}

fn at(place: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(problem) => Problem { message: format!("{place}: {}", problem.message), ..problem }.into(),
        other => other,
    }
}
