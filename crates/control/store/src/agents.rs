//! Agents and their versions. A version, once written, never changes.

use postern_model::agent::{Agent, AgentDefinition, AgentTag, UpdateAgent};
use postern_model::ids::{AgentId, WorkspaceId};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Field, Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, deployments, skills, webhooks};

pub mod roster;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT a.id, v.version, v.definition, v.created_at AS updated_at, a.created_at, a.archived_at \
             FROM agents a JOIN agent_versions v ON v.agent_id = a.id ",
            $rest
        )
    };
}

/// Stores a new agent as version 1.
///
/// # Errors
/// Refused with 400 or 404 for a roster that does not hold together; or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    definition: AgentDefinition,
    now: Timestamp,
) -> Result<Agent, StoreError> {
    roster::check(tx, workspace, None, &definition).await?;
    let id = AgentId::generate();
    let definition = stored_form(&id, definition);
    sqlx::query("INSERT INTO agents (workspace_id, id, version, created_at) VALUES (?1, ?2, 1, ?3)")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    insert_version(tx, workspace, &id, 1, &definition, now).await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::AgentCreated, &id), now).await?;
    find(tx, workspace, &id, None).await?.ok_or(StoreError::Corrupt { what: "agents.id" })
}

/// One version of an agent; the latest when none is named. Archived agents are found too.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &AgentId,
    version: Option<u64>,
) -> Result<Option<Agent>, StoreError> {
    let row = sqlx::query(select!("WHERE a.workspace_id = ?1 AND a.id = ?2 AND v.version = COALESCE(?3, a.version)"))
        .bind(workspace.as_str())
        .bind(id.as_str())
        .bind(version.map(|version| i64::try_from(version).unwrap_or(i64::MAX)))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(agent).transpose()
}

/// Applies an update: a new version, or the stored one when nothing changes.
///
/// # Errors
/// Refused with 404 (unknown), 409 (another version than the caller's), 400 (archived, or out of limits); or the
/// database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &AgentId,
    update: UpdateAgent,
    now: Timestamp,
) -> Result<Agent, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Err(Problem::invalid(format!("Agent {id} is archived and cannot be updated.")).into());
    }
    check_version(&update.version, &stored)?;
    let skills = match &update.skills {
        Field::Absent => None,
        Field::Null => Some(Vec::new()),
        Field::Value(skills) => Some(skills::pin(tx, workspace, skills.clone()).await?),
    };
    let roster = match &update.multiagent {
        Field::Value(sent) => Some(roster::pin(tx, workspace, Some(&stored), sent).await?),
        Field::Absent | Field::Null => None,
    };
    let definition = stored_form(id, update.apply(&stored.definition, skills, roster)?);
    if definition == stored_form(id, stored.definition.clone()) {
        return Ok(stored);
    }
    roster::check(tx, workspace, Some(id), &definition).await?;
    let version = stored.version + 1;
    insert_version(tx, workspace, id, version, &definition, now).await?;
    sqlx::query("UPDATE agents SET version = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .execute(&mut **tx)
        .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::AgentUpdated, id), now).await?;
    required(tx, workspace, id).await
}

/// Archives an agent and its deployments for good. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(tx: &mut Tx, workspace: &WorkspaceId, id: &AgentId, now: Timestamp) -> Result<Agent, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    sqlx::query("UPDATE agents SET archived_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    deployments::archive_of_agent(tx, workspace, id, now).await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::AgentArchived, id), now).await?;
    required(tx, workspace, id).await
}

/// One page of agents at their latest version, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Agent>, StoreError> {
    let (key, id) = query.below();
    let (least, most) = query.created_at.micros();
    let rows = sqlx::query(select!(
        "WHERE a.workspace_id = ?1 AND v.version = a.version AND (a.created_at < ?2 OR (a.created_at = ?2 AND a.id < ?3)) \
           AND a.created_at BETWEEN ?4 AND ?5 AND (?6 OR a.archived_at IS NULL) \
         ORDER BY a.created_at DESC, a.id DESC LIMIT ?7"
    ))
    .bind(workspace.as_str())
    .bind(key)
    .bind(id)
    .bind(least)
    .bind(most)
    .bind(query.include_archived)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(agent).collect()
}

/// One page of an agent's versions, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn versions(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &AgentId,
    query: &ListQuery,
) -> Result<Vec<Agent>, StoreError> {
    let rows = sqlx::query(select!(
        "WHERE a.workspace_id = ?1 AND a.id = ?2 AND v.version < ?3 ORDER BY v.version DESC LIMIT ?4"
    ))
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(query.below().0)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(agent).collect()
}

fn check_version(sent: &Field<u64>, stored: &Agent) -> Result<(), Problem> {
    match sent {
        Field::Value(0) => Err(Problem::invalid_at("version", "versions count from 1")),
        Field::Value(version) if *version != stored.version => Err(Problem::conflict(format!(
            "version: the agent is at version {}, not {version}. Read it again and repeat the change.",
            stored.version
        ))),
        Field::Absent | Field::Null | Field::Value(_) => Ok(()),
    }
}

async fn required(connection: &mut Connection, workspace: &WorkspaceId, id: &AgentId) -> Result<Agent, StoreError> {
    let found = find(connection, workspace, id, None).await?;
    found.ok_or_else(|| Problem::not_found(format!("Agent {id} was not found.")).into())
}

async fn insert_version(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &AgentId,
    version: u64,
    definition: &AgentDefinition,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agent_versions (workspace_id, agent_id, version, definition, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(i64::try_from(version).unwrap_or(i64::MAX))
    .bind(json(definition))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A definition as it is stored: what its roster says of the agent itself holds for every version.
fn stored_form(id: &AgentId, definition: AgentDefinition) -> AgentDefinition {
    let multiagent = definition.multiagent.map(|multiagent| multiagent.stored(id));
    AgentDefinition { multiagent, ..definition }
}

fn agent(row: &SqliteRow) -> Result<Agent, StoreError> {
    let id = parsed(AgentId::parse(row.try_get("id")?), "agents.id")?;
    let version = parsed(u64::try_from(row.try_get::<i64, _>("version")?), "agent_versions.version")?;
    let mut definition: AgentDefinition = from_json(row.try_get("definition")?, "agent_versions.definition")?;
    definition.multiagent = definition.multiagent.map(|multiagent| multiagent.shown(&id, version));
    Ok(Agent {
        id,
        kind: AgentTag::Agent,
        version,
        definition,
        created_at: instant(row.try_get("created_at")?, "agents.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "agent_versions.created_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "agents.archived_at")?,
    })
}
