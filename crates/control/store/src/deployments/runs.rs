//! What came of a deployment's runs.

use postern_model::deployment::{DeploymentRun, DeploymentRunTag, Trigger};
use postern_model::ids::{DeploymentId, DeploymentRunId, SessionId, WorkspaceId};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Problem, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, webhooks};

/// Which runs a list shows.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only those of this deployment.
    pub deployment_id: Option<String>,
    /// Only those that began a session, or only those that did not.
    pub has_error: Option<bool>,
    /// Only those that this started.
    pub trigger_type: Option<String>,
}

/// Stores a run, and with a scheduled one that the schedule ran.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Tx, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<(), StoreError> {
    let scheduled_at = scheduled_at(run.trigger_context);
    sqlx::query(
        "INSERT INTO deployment_runs (workspace_id, id, deployment_id, agent_id, agent_version, trigger_type, scheduled_at, \
           session_id, error, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )
    .bind(workspace.as_str())
    .bind(run.id.as_str())
    .bind(run.deployment_id.as_str())
    .bind(run.agent.id.as_str())
    .bind(i64::try_from(run.agent.version).unwrap_or(i64::MAX))
    .bind(run.trigger_context.as_str())
    .bind(scheduled_at.map(micros))
    .bind(run.session_id.as_ref().map(SessionId::as_str))
    .bind(run.error.as_ref().map(json))
    .bind(micros(run.created_at))
    .execute(&mut **tx)
    .await?;
    if scheduled_at.is_some() {
        announce(tx, workspace, run).await?;
        sqlx::query("UPDATE deployments SET last_run_at = ?2 WHERE id = ?1")
            .bind(run.deployment_id.as_str())
            .bind(micros(run.created_at))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// A run has no time between its begin and what came of it: its session is there, or the reason why not.
async fn announce(tx: &mut Tx, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<(), StoreError> {
    let came_of_it = match run.error {
        None => Happening::DeploymentRunSucceeded,
        Some(_) => Happening::DeploymentRunFailed,
    };
    for happening in [Happening::DeploymentRunStarted, came_of_it] {
        webhooks::announce(tx, workspace, Subject::new(happening, &run.id), run.created_at).await?;
    }
    Ok(())
}

fn scheduled_at(trigger: Trigger) -> Option<Timestamp> {
    match trigger {
        Trigger::Manual => None,
        Trigger::Schedule { scheduled_at } => Some(scheduled_at),
    }
}

/// One run.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &DeploymentRunId,
) -> Result<DeploymentRun, StoreError> {
    let row = sqlx::query("SELECT * FROM deployment_runs WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    let found = row.as_ref().map(run).transpose()?;
    found.ok_or_else(|| not_found(id).into())
}

/// What is said of a run that nobody has.
pub fn not_found(id: &DeploymentRunId) -> Problem {
    Problem::not_found(format!("Deployment run {id} was not found."))
}

/// One page of runs, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
    filter: &RunFilter,
) -> Result<Vec<DeploymentRun>, StoreError> {
    let (key, id) = query.below();
    let (least, most) = query.created_at.micros();
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM deployment_runs WHERE workspace_id = ");
    sql.push_bind(workspace.as_str())
        .push(" AND (created_at, id) < (")
        .push_bind(key)
        .push(", ")
        .push_bind(id)
        .push(")");
    sql.push(" AND created_at BETWEEN ").push_bind(least).push(" AND ").push_bind(most);
    if let Some(deployment) = &filter.deployment_id {
        sql.push(" AND deployment_id = ").push_bind(deployment);
    }
    match filter.has_error {
        Some(true) => sql.push(" AND error IS NOT NULL"),
        Some(false) => sql.push(" AND error IS NULL"),
        None => &mut sql,
    };
    if let Some(trigger) = &filter.trigger_type {
        sql.push(" AND trigger_type = ").push_bind(trigger);
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(query.limit_plus_one());
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(run).collect()
}

fn run(row: &SqliteRow) -> Result<DeploymentRun, StoreError> {
    let scheduled_at = optional_instant(row.try_get("scheduled_at")?, "deployment_runs.scheduled_at")?;
    let session: Option<String> = row.try_get("session_id")?;
    let error: Option<String> = row.try_get("error")?;
    Ok(DeploymentRun {
        id: parsed(DeploymentRunId::parse(row.try_get("id")?), "deployment_runs.id")?,
        kind: DeploymentRunTag::DeploymentRun,
        deployment_id: parsed(DeploymentId::parse(row.try_get("deployment_id")?), "deployment_runs.deployment_id")?,
        agent: super::agent(row)?,
        trigger_context: scheduled_at.map_or(Trigger::Manual, |scheduled_at| Trigger::Schedule { scheduled_at }),
        session_id: session.map(|id| parsed(SessionId::parse(&id), "deployment_runs.session_id")).transpose()?,
        error: error.map(|text| from_json(&text, "deployment_runs.error")).transpose()?,
        created_at: instant(row.try_get("created_at")?, "deployment_runs.created_at")?,
    })
}
