//! Tokens of repositories that deployments keep for their runs: ciphertext, and what it is bound to. A run's session refers to them, so that another token
//! counts in those that run too, and none stays when the deployment is archived.

use postern_model::Timestamp;
use postern_model::ids::{DeploymentId, DeploymentResourceId, WorkspaceId};
use postern_secret::seal::{Binding, Sealed, SealedCredential};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{from_json, json, micros, parsed};
use crate::wraps::{Place, SealedPart};
use crate::{Connection, StoreError, Tx};

/// The id of the token that a deployment has for a URL.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    deployment: &DeploymentId,
    url: &str,
) -> Result<Option<DeploymentResourceId>, StoreError> {
    let id: Option<String> =
        sqlx::query_scalar("SELECT id FROM deployment_tokens WHERE deployment_id = ?1 AND url = ?2")
            .bind(deployment.as_str())
            .bind(url)
            .fetch_optional(connection)
            .await?;
    id.map(|id| parsed(DeploymentResourceId::parse(&id), "deployment_tokens.id")).transpose()
}

/// Stores a token, in place of the one that the deployment had for its URL.
///
/// # Errors
/// The database failed.
pub async fn put(tx: &mut Tx, binding: &Binding, sealed: &Sealed, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployment_tokens (workspace_id, deployment_id, id, host, url, sealed, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at",
    )
    .bind(&binding.workspace)
    .bind(&binding.vault)
    .bind(&binding.credential)
    .bind(binding.hosts.first())
    .bind(&binding.mcp_url)
    .bind(json(sealed))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes the tokens of all but these repositories, from the sessions of its runs too.
///
/// # Errors
/// The database failed.
pub async fn keep_only(tx: &mut Tx, deployment: &DeploymentId, urls: &[String]) -> Result<(), StoreError> {
    let kept: Vec<(String, String)> = sqlx::query_as("SELECT id, url FROM deployment_tokens WHERE deployment_id = ?1")
        .bind(deployment.as_str())
        .fetch_all(&mut **tx)
        .await?;
    for (id, _) in kept.iter().filter(|(_, url)| !urls.contains(url)) {
        sqlx::query("DELETE FROM deployment_tokens WHERE id = ?1").bind(id).execute(&mut **tx).await?;
    }
    Ok(())
}

/// The tokens of a workspace's deployments, after this one in their order.
pub(crate) async fn sealed_parts(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    after: Option<&DeploymentResourceId>,
) -> Result<Vec<SealedPart>, StoreError> {
    let rows = sqlx::query(
        "SELECT workspace_id, deployment_id, id AS token_id, host AS token_host, url AS token_url, sealed AS token_sealed \
         FROM deployment_tokens WHERE workspace_id = ?1 AND id > ?2 ORDER BY id",
    )
    .bind(workspace.as_str())
    .bind(after.map_or("", DeploymentResourceId::as_str))
    .fetch_all(connection)
    .await?;
    let part = |row: &SqliteRow| {
        let id = parsed(DeploymentResourceId::parse(row.try_get("token_id")?), "deployment_tokens.id")?;
        Ok(SealedPart { place: Place::Deployment(id), credential: sealed(row)? })
    };
    rows.iter().map(part).collect()
}

/// Ciphertext and binding, as the columns say: edited ones make it unopenable.
pub(crate) fn sealed(row: &SqliteRow) -> Result<SealedCredential, StoreError> {
    let binding = Binding::of_deployment(
        row.try_get("workspace_id")?,
        row.try_get("deployment_id")?,
        row.try_get("token_id")?,
        row.try_get("token_host")?,
        row.try_get("token_url")?,
    );
    Ok(SealedCredential { binding, sealed: from_json(row.try_get("token_sealed")?, "deployment_tokens.sealed")? })
}
