//! Workspaces: who is apart from whom, for how long sessions are kept, and erasing all that one has.

use postern_model::ids::{SessionId, WorkspaceId};
use postern_model::workspace::{CreateWorkspace, UpdateWorkspace, Workspace, WorkspaceTag};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::ListQuery;
use crate::row::{instant, micros, parsed};
use crate::{Connection, StoreError, Tx, blobs};

#[cfg(test)]
mod tests;

/// Every table that belongs to workspaces, those that refer to others before them. Blobs are none of them: what is
/// being written is given up, and bytes are swept when nothing names them any more.
const ERASED: &[&str] = &[
    "webhook_deliveries",
    "webhooks",
    "request_answers",
    "session_holds",
    "mcp_calls",
    "session_snapshots",
    "model_blocks",
    "session_events",
    "threads",
    "files",
    "repository_tokens",
    "sessions",
    "skills",
    "session_tokens",
    "work",
    "environment_keys",
    "environments",
    "deployment_runs",
    "deployment_tokens",
    "deployments",
    "agent_versions",
    "agents",
    "memory_versions",
    "memories",
    "memory_contents",
    "memory_stores",
    "credential_secrets",
    "vault_credentials",
    "vaults",
    "tunnel_tokens",
    "tunnel_certificates",
    "tunnels",
    "perimeters",
    "api_keys",
];

/// Stores a new workspace.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Tx, body: CreateWorkspace, now: Timestamp) -> Result<Workspace, StoreError> {
    let row = sqlx::query(
        "INSERT INTO workspaces (id, name, retention_days, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4) RETURNING *",
    )
    .bind(WorkspaceId::generate().as_str())
    .bind(body.name)
    .bind(body.retention_days.map(i64::from))
    .bind(micros(now))
    .fetch_one(&mut **tx)
    .await?;
    workspace(&row)
}

/// One workspace.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(connection: &mut Connection, id: &WorkspaceId) -> Result<Workspace, StoreError> {
    let row =
        sqlx::query("SELECT * FROM workspaces WHERE id = ?1").bind(id.as_str()).fetch_optional(connection).await?;
    match row {
        Some(row) => workspace(&row),
        None => Err(Problem::not_found(format!("Workspace {id} was not found.")).into()),
    }
}

/// One page of workspaces, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(connection: &mut Connection, query: &ListQuery) -> Result<Vec<Workspace>, StoreError> {
    let (key, id) = query.below();
    let rows = sqlx::query(
        "SELECT * FROM workspaces WHERE created_at < ?1 OR (created_at = ?1 AND id < ?2) \
         ORDER BY created_at DESC, id DESC LIMIT ?3",
    )
    .bind(key)
    .bind(id)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(workspace).collect()
}

/// Changes a workspace.
///
/// # Errors
/// Refused with 400 or 404; or the database failed.
pub async fn update(
    tx: &mut Tx,
    id: &WorkspaceId,
    body: UpdateWorkspace,
    now: Timestamp,
) -> Result<Workspace, StoreError> {
    let changed = body.applied_to(&required(tx, id).await?)?;
    sqlx::query("UPDATE workspaces SET name = ?2, retention_days = ?3, updated_at = ?4 WHERE id = ?1")
        .bind(id.as_str())
        .bind(&changed.name)
        .bind(changed.retention_days.map(i64::from))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    required(tx, id).await
}

/// Removes a workspace with all that it has. Its sessions were ended before: none may be at work.
///
/// # Errors
/// Refused with 404, with 409 while it has a session; or the database failed.
pub async fn erase(tx: &mut Tx, id: &WorkspaceId) -> Result<(), StoreError> {
    required(tx, id).await?;
    let has_session = sqlx::query("SELECT 1 FROM sessions WHERE workspace_id = ?1 LIMIT 1").bind(id.as_str());
    if has_session.fetch_optional(&mut **tx).await?.is_some() {
        return Err(Problem::conflict(format!("Workspace {id} has a session that began meanwhile. Try again.")).into());
    }
    blobs::give_up_all(tx, id).await?;
    for table in ERASED {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE workspace_id = ?1")))
            .bind(id.as_str())
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query("DELETE FROM workspaces WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// Every session of a workspace.
///
/// # Errors
/// The database failed.
pub async fn sessions(connection: &mut Connection, id: &WorkspaceId) -> Result<Vec<SessionId>, StoreError> {
    let rows =
        sqlx::query("SELECT id FROM sessions WHERE workspace_id = ?1").bind(id.as_str()).fetch_all(connection).await?;
    rows.iter().map(|row| parsed(SessionId::parse(row.try_get("id")?), "sessions.id")).collect()
}

/// Sessions that rested for longer than their workspace keeps them, at most so many.
///
/// # Errors
/// The database failed.
pub async fn sessions_to_forget(
    connection: &mut Connection,
    now: Timestamp,
    most: u32,
) -> Result<Vec<(WorkspaceId, SessionId)>, StoreError> {
    let rows = sqlx::query(
        "SELECT s.workspace_id, s.id FROM sessions s JOIN workspaces w ON w.id = s.workspace_id \
         WHERE w.retention_days IS NOT NULL AND s.status IN ('idle', 'terminated') \
         AND s.updated_at < ?1 - w.retention_days * 86400000000 ORDER BY s.updated_at, s.id LIMIT ?2",
    )
    .bind(micros(now))
    .bind(i64::from(most))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let workspace = parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "sessions.workspace_id")?;
            Ok((workspace, parsed(SessionId::parse(row.try_get("id")?), "sessions.id")?))
        })
        .collect()
}

fn workspace(row: &SqliteRow) -> Result<Workspace, StoreError> {
    let retention: Option<i64> = row.try_get("retention_days")?;
    Ok(Workspace {
        id: parsed(WorkspaceId::parse(row.try_get("id")?), "workspaces.id")?,
        kind: WorkspaceTag::Workspace,
        name: row.try_get("name")?,
        retention_days: retention.map(|days| parsed(u32::try_from(days), "workspaces.retention_days")).transpose()?,
        created_at: instant(row.try_get("created_at")?, "workspaces.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "workspaces.updated_at")?,
    })
}
