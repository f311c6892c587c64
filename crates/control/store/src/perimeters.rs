//! Registered perimeters: the public keys that credentials are sealed to.

use postern_model::ids::{EnvironmentId, PerimeterId, TunnelId, WorkspaceId};
use postern_model::perimeter::{CreatePerimeter, Perimeter, PerimeterTag};
use postern_model::{Problem, Timestamp};
use postern_secret::seal::MOST_RECIPIENTS;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest};
use crate::row::{instant, micros, parsed};
use crate::{Connection, StoreError, Tx, environments, tunnels};

/// Registers a perimeter. The same key for the same environment and tunnel is the same perimeter: registering it again
/// changes nothing.
///
/// # Errors
/// Refused with 404 (environment, tunnel), 400 (archived, malformed, `perimeter_limit_reached`) or 409 (the key serves something else); or the
/// database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    body: CreatePerimeter,
    now: Timestamp,
) -> Result<Perimeter, StoreError> {
    let body = body.checked()?;
    check_served(tx, workspace, &body).await?;
    if let Some(stored) = find_by_key(tx, workspace, &body.public_key).await? {
        if (&stored.environment_id, &stored.tunnel_id) == (&body.environment_id, &body.tunnel_id) {
            return Ok(stored);
        }
        let message =
            format!("This key is registered as {}, which serves something else. Delete that one first.", stored.id);
        return Err(Problem::conflict(message).with_code("perimeter_registered").into());
    }
    check_room(tx, workspace).await?;
    let row = sqlx::query(
        "INSERT INTO perimeters (workspace_id, id, name, public_key, environment_id, tunnel_id, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(PerimeterId::generate().as_str())
    .bind(&body.name)
    .bind(&body.public_key)
    .bind(body.environment_id.as_ref().map(EnvironmentId::as_str))
    .bind(body.tunnel_id.as_ref().map(TunnelId::as_str))
    .bind(micros(now))
    .fetch_one(&mut **tx)
    .await?;
    perimeter(&row)
}

/// A registered perimeter.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &PerimeterId,
) -> Result<Perimeter, StoreError> {
    let row = sqlx::query("SELECT * FROM perimeters WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("Perimeter {id} was not found.")))?;
    perimeter(&row)
}

/// Removes a perimeter: nothing new is sealed to it.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &PerimeterId) -> Result<(), StoreError> {
    let done = sqlx::query("DELETE FROM perimeters WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    match done.rows_affected() {
        0 => Err(Problem::not_found(format!("Perimeter {id} was not found.")).into()),
        _ => Ok(()),
    }
}

/// One page of perimeters, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Perimeter>, StoreError> {
    let rows = query.newest(connection, newest!("perimeters", "workspace_id"), workspace.as_str()).await?;
    rows.iter().map(perimeter).collect()
}

/// The perimeters of a workspace that serve something that is there and not archived: those a secret is sealed to.
///
/// # Errors
/// The database failed.
pub async fn active(connection: &mut Connection, workspace: &WorkspaceId) -> Result<Vec<Perimeter>, StoreError> {
    let rows = sqlx::query(
        "SELECT p.* FROM perimeters p WHERE p.workspace_id = ?1 AND ( \
           EXISTS (SELECT 1 FROM environments e WHERE e.workspace_id = p.workspace_id AND e.id = p.environment_id \
                   AND e.archived_at IS NULL) \
           OR EXISTS (SELECT 1 FROM tunnels t WHERE t.workspace_id = p.workspace_id AND t.id = p.tunnel_id \
                      AND t.archived_at IS NULL)) \
         ORDER BY p.created_at, p.id",
    )
    .bind(workspace.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(perimeter).collect()
}

async fn check_served(tx: &mut Tx, workspace: &WorkspaceId, body: &CreatePerimeter) -> Result<(), StoreError> {
    if let Some(id) = &body.environment_id {
        let found = environments::find(tx, workspace, id).await?.ok_or_else(|| {
            Problem::not_found(format!("Environment {id} was not found.")).with_code("environment_not_found")
        })?;
        if found.archived_at.is_some() {
            return Err(Problem::invalid("The environment is archived.").with_code("environment_archived").into());
        }
    }
    if let Some(id) = &body.tunnel_id {
        tunnels::active(tx, workspace, id).await?;
    }
    Ok(())
}

/// A value is wrapped for each perimeter, and for so many at most.
async fn check_room(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), StoreError> {
    let count = sqlx::query("SELECT COUNT(*) AS n FROM perimeters WHERE workspace_id = ?1").bind(workspace.as_str());
    let registered: i64 = count.fetch_one(&mut **tx).await?.try_get("n")?;
    if usize::try_from(registered).is_ok_and(|registered| registered >= MOST_RECIPIENTS) {
        let message = format!("A workspace has at most {MOST_RECIPIENTS} perimeters. Delete those that are gone.");
        return Err(Problem::invalid(message).with_code("perimeter_limit_reached").into());
    }
    Ok(())
}

async fn find_by_key(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    key: &str,
) -> Result<Option<Perimeter>, StoreError> {
    let row = sqlx::query("SELECT * FROM perimeters WHERE workspace_id = ?1 AND public_key = ?2")
        .bind(workspace.as_str())
        .bind(key)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(perimeter).transpose()
}

fn perimeter(row: &SqliteRow) -> Result<Perimeter, StoreError> {
    let environment = row.try_get::<Option<&str>, _>("environment_id")?.map(EnvironmentId::parse).transpose();
    let tunnel = row.try_get::<Option<&str>, _>("tunnel_id")?.map(TunnelId::parse).transpose();
    Ok(Perimeter {
        id: parsed(PerimeterId::parse(row.try_get("id")?), "perimeters.id")?,
        kind: PerimeterTag::Perimeter,
        name: row.try_get("name")?,
        public_key: row.try_get("public_key")?,
        environment_id: parsed(environment, "perimeters.environment_id")?,
        tunnel_id: parsed(tunnel, "perimeters.tunnel_id")?,
        created_at: instant(row.try_get("created_at")?, "perimeters.created_at")?,
    })
}
