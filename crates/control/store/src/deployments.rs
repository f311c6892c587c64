//! Deployments: what starts sessions, and when next.

use postern_model::deployment::{AgentReference, Deployment, DeploymentStatus, DeploymentTag, Schedule, ScheduleParam};
use postern_model::ids::{AgentId, DeploymentId, EnvironmentId, WorkspaceId};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, webhooks};

pub mod runs;
pub mod tokens;

/// A deployment as stored. The times that its schedule comes to are not: `upcoming_runs_at` is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whose it is.
    pub workspace_id: WorkspaceId,
    /// The deployment.
    pub deployment: Deployment,
    /// When it runs by itself next.
    pub next: Option<Next>,
}

/// A time at which a deployment runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The time by its schedule.
    pub scheduled_at: Timestamp,
    /// When that is acted on.
    pub fires_at: Timestamp,
}

/// Which deployments a list shows.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    /// Only those of this agent.
    pub agent_id: Option<String>,
    /// Only those in this state.
    pub status: Option<DeploymentStatus>,
}

/// Stores a new deployment.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Tx, record: &Record) -> Result<(), StoreError> {
    let Record { workspace_id, deployment, next } = record;
    sqlx::query(
        "INSERT INTO deployments (workspace_id, id, name, description, agent_id, agent_version, environment_id, initial_events, \
           resources, vault_ids, metadata, budget, schedule, status, paused_reason, last_run_at, scheduled_at, fires_at, created_at, \
           updated_at, archived_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )
    .bind(workspace_id.as_str())
    .bind(deployment.id.as_str())
    .bind(&deployment.name)
    .bind(&deployment.description)
    .bind(deployment.agent.id.as_str())
    .bind(i64::try_from(deployment.agent.version).unwrap_or(i64::MAX))
    .bind(deployment.environment_id.as_str())
    .bind(json(&deployment.initial_events))
    .bind(json(&deployment.resources))
    .bind(json(&deployment.vault_ids))
    .bind(json(&deployment.metadata))
    .bind(deployment.budget.as_ref().map(json))
    .bind(deployment.schedule.as_ref().map(|schedule| json(&schedule.param)))
    .bind(deployment.status.as_str())
    .bind(deployment.paused_reason.as_ref().map(json))
    .bind(deployment.schedule.as_ref().and_then(|schedule| schedule.last_run_at).map(micros))
    .bind(next.map(|next| micros(next.scheduled_at)))
    .bind(next.map(|next| micros(next.fires_at)))
    .bind(micros(deployment.created_at))
    .bind(micros(deployment.updated_at))
    .bind(deployment.archived_at.map(micros))
    .execute(&mut **tx)
    .await?;
    let subject = Subject::new(Happening::DeploymentCreated, &deployment.id);
    webhooks::announce(tx, workspace_id, subject, deployment.created_at).await
}

/// Stores all that a deployment says now, and tells webhooks what happened to it. One that is archived keeps no token.
///
/// # Errors
/// The database failed.
pub async fn save(tx: &mut Tx, record: &Record, happening: Happening) -> Result<(), StoreError> {
    let Record { workspace_id, deployment, next } = record;
    sqlx::query(
        "UPDATE deployments SET name = ?2, description = ?3, agent_id = ?4, agent_version = ?5, environment_id = ?6, \
           initial_events = ?7, resources = ?8, vault_ids = ?9, metadata = ?10, budget = ?11, schedule = ?12, status = ?13, \
           paused_reason = ?14, last_run_at = ?15, scheduled_at = ?16, fires_at = ?17, updated_at = ?18, archived_at = ?19 \
         WHERE id = ?1",
    )
    .bind(deployment.id.as_str())
    .bind(&deployment.name)
    .bind(&deployment.description)
    .bind(deployment.agent.id.as_str())
    .bind(i64::try_from(deployment.agent.version).unwrap_or(i64::MAX))
    .bind(deployment.environment_id.as_str())
    .bind(json(&deployment.initial_events))
    .bind(json(&deployment.resources))
    .bind(json(&deployment.vault_ids))
    .bind(json(&deployment.metadata))
    .bind(deployment.budget.as_ref().map(json))
    .bind(deployment.schedule.as_ref().map(|schedule| json(&schedule.param)))
    .bind(deployment.status.as_str())
    .bind(deployment.paused_reason.as_ref().map(json))
    .bind(deployment.schedule.as_ref().and_then(|schedule| schedule.last_run_at).map(micros))
    .bind(next.map(|next| micros(next.scheduled_at)))
    .bind(next.map(|next| micros(next.fires_at)))
    .bind(micros(deployment.updated_at))
    .bind(deployment.archived_at.map(micros))
    .execute(&mut **tx)
    .await?;
    if deployment.archived_at.is_some() {
        tokens::keep_only(tx, &deployment.id, &[]).await?;
    }
    webhooks::announce(tx, workspace_id, Subject::new(happening, &deployment.id), deployment.updated_at).await
}

/// One deployment, archived or not.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &DeploymentId,
) -> Result<Record, StoreError> {
    let row = sqlx::query("SELECT * FROM deployments WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    let found = row.as_ref().map(record).transpose()?;
    found.ok_or_else(|| Problem::not_found(format!("Deployment {id} was not found.")).into())
}

/// One page of deployments, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
    filter: &DeploymentFilter,
) -> Result<Vec<Record>, StoreError> {
    let (key, id) = query.below();
    let (least, most) = query.created_at.micros();
    let rows = sqlx::query(
        "SELECT * FROM deployments WHERE workspace_id = ?1 AND (created_at < ?2 OR (created_at = ?2 AND id < ?3)) \
           AND created_at BETWEEN ?4 AND ?5 AND (?6 OR archived_at IS NULL) AND (?7 IS NULL OR agent_id = ?7) \
           AND (?8 IS NULL OR status = ?8) ORDER BY created_at DESC, id DESC LIMIT ?9",
    )
    .bind(workspace.as_str())
    .bind(key)
    .bind(id)
    .bind(least)
    .bind(most)
    .bind(query.include_archived)
    .bind(&filter.agent_id)
    .bind(filter.status.map(DeploymentStatus::as_str))
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(record).collect()
}

/// How many deployments of a workspace run by themselves.
///
/// # Errors
/// The database failed.
pub async fn scheduled(connection: &mut Connection, workspace: &WorkspaceId) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM deployments WHERE workspace_id = ?1 AND schedule IS NOT NULL AND archived_at IS NULL",
    )
    .bind(workspace.as_str())
    .fetch_one(connection)
    .await?;
    parsed(u64::try_from(count), "a count of deployments")
}

/// Archives the deployments of an agent that is archived, all for good.
///
/// # Errors
/// The database failed.
pub(crate) async fn archive_of_agent(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    agent: &AgentId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let archived: Vec<String> = sqlx::query_scalar(
        "UPDATE deployments SET archived_at = ?2, updated_at = ?2, status = 'active', paused_reason = NULL, scheduled_at = NULL, \
           fires_at = NULL WHERE agent_id = ?1 AND archived_at IS NULL RETURNING id",
    )
    .bind(agent.as_str())
    .bind(micros(now))
    .fetch_all(&mut **tx)
    .await?;
    for id in archived {
        tokens::keep_only(tx, &parsed(DeploymentId::parse(&id), "deployments.id")?, &[]).await?;
        webhooks::announce(tx, workspace, Subject::new(Happening::DeploymentArchived, id), now).await?;
    }
    Ok(())
}

/// The deployments whose time has come, the most overdue first.
///
/// # Errors
/// The database failed.
pub async fn due(connection: &mut Connection, now: Timestamp, most: u32) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query("SELECT * FROM deployments WHERE fires_at <= ?1 ORDER BY fires_at, id LIMIT ?2")
        .bind(micros(now))
        .bind(most)
        .fetch_all(connection)
        .await?;
    rows.iter().map(record).collect()
}

/// When the next deployment's time comes.
///
/// # Errors
/// The database failed.
pub async fn next_time(connection: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let first: Option<i64> = sqlx::query_scalar("SELECT MIN(fires_at) FROM deployments").fetch_one(connection).await?;
    optional_instant(first, "deployments.fires_at")
}

/// Takes a scheduled time for whoever calls: true for one caller alone, and for none once the deployment was paused, archived or
/// scheduled otherwise. Sets the next time.
///
/// # Errors
/// The database failed.
pub async fn claim(
    tx: &mut Tx,
    id: &DeploymentId,
    scheduled_at: Timestamp,
    next: Option<Next>,
) -> Result<bool, StoreError> {
    let claimed =
        sqlx::query("UPDATE deployments SET scheduled_at = ?3, fires_at = ?4 WHERE id = ?1 AND scheduled_at = ?2")
            .bind(id.as_str())
            .bind(micros(scheduled_at))
            .bind(next.map(|next| micros(next.scheduled_at)))
            .bind(next.map(|next| micros(next.fires_at)))
            .execute(&mut **tx)
            .await?;
    Ok(claimed.rows_affected() == 1)
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let schedule: Option<String> = row.try_get("schedule")?;
    let param: Option<ScheduleParam> =
        schedule.as_deref().map(|text| from_json(text, "deployments.schedule")).transpose()?;
    let last_run_at = optional_instant(row.try_get("last_run_at")?, "deployments.last_run_at")?;
    let optional = |column: &'static str| row.try_get::<Option<String>, _>(column);
    let status = match row.try_get("status")? {
        "active" => DeploymentStatus::Active,
        "paused" => DeploymentStatus::Paused,
        _ => return Err(StoreError::Corrupt { what: "deployments.status" }),
    };
    let deployment = Deployment {
        id: parsed(DeploymentId::parse(row.try_get("id")?), "deployments.id")?,
        kind: DeploymentTag::Deployment,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        agent: agent(row)?,
        environment_id: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "deployments.environment_id")?,
        initial_events: from_json(row.try_get("initial_events")?, "deployments.initial_events")?,
        resources: from_json(row.try_get("resources")?, "deployments.resources")?,
        vault_ids: from_json(row.try_get("vault_ids")?, "deployments.vault_ids")?,
        metadata: from_json(row.try_get("metadata")?, "deployments.metadata")?,
        schedule: param.map(|param| Schedule { param, last_run_at, upcoming_runs_at: Vec::new() }),
        status,
        paused_reason: optional("paused_reason")?
            .map(|text| from_json(&text, "deployments.paused_reason"))
            .transpose()?,
        created_at: instant(row.try_get("created_at")?, "deployments.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "deployments.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "deployments.archived_at")?,
        budget: optional("budget")?.map(|text| from_json(&text, "deployments.budget")).transpose()?,
    };
    let scheduled_at = optional_instant(row.try_get("scheduled_at")?, "deployments.scheduled_at")?;
    let fires_at = optional_instant(row.try_get("fires_at")?, "deployments.fires_at")?;
    let next = scheduled_at.zip(fires_at).map(|(scheduled_at, fires_at)| Next { scheduled_at, fires_at });
    let workspace_id = parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "deployments.workspace_id")?;
    Ok(Record { workspace_id, deployment, next })
}

/// The pinned agent of a deployment or a run.
fn agent(row: &SqliteRow) -> Result<AgentReference, StoreError> {
    Ok(AgentReference {
        kind: postern_model::agent::AgentTag::Agent,
        id: parsed(AgentId::parse(row.try_get("agent_id")?), "agent_id")?,
        version: parsed(u64::try_from(row.try_get::<i64, _>("agent_version")?), "agent_version")?,
    })
}
