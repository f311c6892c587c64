//! Tokens of repositories that sessions were given: ciphertext, and what it is bound to, or the deployment's whose run a session is. A token is sealed before
//! its row is written, and only a perimeter's custody opens it.

use postern_model::Timestamp;
use postern_model::ids::{DeploymentId, DeploymentRunId, ResourceId, SessionId, WorkspaceId};
use postern_secret::seal::{Binding, Places, Run, Sealed, SealedCredential, SealedVariable};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::deployments::tokens;
use crate::row::{from_json, json, micros, parsed};
use crate::wraps::{Place, SealedPart};
use crate::{Connection, StoreError, Tx};

/// A token that is to be stored, in place of the one that its resource had.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// What it is sealed to: session, resource, URL.
    pub binding: &'a Binding,
    /// The ciphertext.
    pub sealed: &'a Sealed,
    /// The time.
    pub now: Timestamp,
}

/// A token as it goes to the perimeter that is to open it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredToken {
    /// Its repository.
    pub url: String,
    /// Ciphertext and binding, as text.
    pub sealed: String,
}

/// Stores a token.
///
/// # Errors
/// The database failed.
pub async fn put(tx: &mut Tx, token: &Token<'_>) -> Result<(), StoreError> {
    let Token { binding, sealed, now } = token;
    sqlx::query(
        "INSERT INTO repository_tokens (workspace_id, session_id, resource_id, host, url, sealed, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (resource_id) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at, \
           deployment_token_id = NULL, run_id = NULL",
    )
    .bind(&binding.workspace)
    .bind(&binding.vault)
    .bind(&binding.credential)
    .bind(binding.hosts.first())
    .bind(&binding.mcp_url)
    .bind(json(sealed))
    .bind(micros(*now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The token of a deployment for a resource of the session that a run of it began.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentId,
    /// The run.
    pub run: &'a DeploymentRunId,
    /// Its session.
    pub session: &'a SessionId,
    /// The session's resource.
    pub resource: &'a ResourceId,
    /// The repository.
    pub url: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// Lets a session use the token that its deployment has for a repository, where it has one: the one that it has then.
///
/// # Errors
/// The database failed.
pub async fn lend(tx: &mut Tx, lent: &Lent<'_>) -> Result<(), StoreError> {
    let Lent { deployment, run, session, resource, url, now } = lent;
    sqlx::query(
        "INSERT INTO repository_tokens (workspace_id, session_id, resource_id, host, url, updated_at, deployment_token_id, run_id) \
         SELECT workspace_id, ?3, ?4, host, url, ?6, id, ?5 FROM deployment_tokens WHERE deployment_id = ?1 AND url = ?2",
    )
    .bind(deployment.as_str())
    .bind(url)
    .bind(session.as_str())
    .bind(resource.as_str())
    .bind(run.as_str())
    .bind(micros(*now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes the token of one resource, where it has one. That it had one stays known as long as its session has a worker.
///
/// # Errors
/// The database failed.
pub async fn remove(tx: &mut Tx, resource: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE repository_tokens SET sealed = NULL, deployment_token_id = NULL, run_id = NULL, updated_at = ?2 \
         WHERE resource_id = ?1",
    )
    .bind(resource)
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes every token of a session.
///
/// # Errors
/// The database failed.
pub async fn remove_all(tx: &mut Tx, session: &SessionId) -> Result<(), StoreError> {
    let all = "DELETE FROM repository_tokens WHERE session_id = ?1";
    sqlx::query(all).bind(session.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// The tokens of a session, its own and those of the deployment whose run it is; `None` where it never had one.
///
/// # Errors
/// The database failed.
pub async fn of_session(
    connection: &mut Connection,
    session: &SessionId,
) -> Result<Option<Vec<StoredToken>>, StoreError> {
    let rows = sqlx::query(
        "SELECT r.workspace_id, r.session_id, r.resource_id, r.host, r.url, r.sealed, r.run_id, d.deployment_id, d.id AS token_id, \
           d.host AS token_host, d.url AS token_url, d.sealed AS token_sealed \
         FROM repository_tokens r LEFT JOIN deployment_tokens d ON d.id = r.deployment_token_id \
         WHERE r.session_id = ?1 ORDER BY r.resource_id",
    )
    .bind(session.as_str())
    .fetch_all(connection)
    .await?;
    let tokens = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    Ok((!tokens.is_empty()).then(|| tokens.into_iter().flatten().collect()))
}

/// Other numbers whenever a workspace has other tokens, of sessions or of deployments.
///
/// # Errors
/// The database failed.
pub async fn fingerprint(connection: &mut Connection, workspace: &WorkspaceId) -> Result<(i64, i64, i64), StoreError> {
    // Sums of a remainder fit where sums of microseconds would not.
    let row = sqlx::query(
        "SELECT COUNT(*) AS present, COALESCE(MAX(updated_at), 0) AS newest, COALESCE(SUM(updated_at % 1000003), 0) AS mixed \
         FROM (SELECT updated_at FROM repository_tokens WHERE workspace_id = ?1 \
               UNION ALL SELECT updated_at FROM deployment_tokens WHERE workspace_id = ?1) AS tokens",
    )
    .bind(workspace.as_str())
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("present")?, row.try_get("newest")?, row.try_get("mixed")?))
}

/// The tokens of a workspace's sessions, after that of this resource in their order.
pub(crate) async fn sealed_parts(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    after: Option<&ResourceId>,
) -> Result<Vec<SealedPart>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM repository_tokens WHERE workspace_id = ?1 AND resource_id > ?2 AND sealed IS NOT NULL ORDER BY resource_id",
    )
    .bind(workspace.as_str())
    .bind(after.map_or("", ResourceId::as_str))
    .fetch_all(connection)
    .await?;
    let part = |row: &SqliteRow| {
        let id = parsed(ResourceId::parse(row.try_get("resource_id")?), "repository_tokens.resource_id")?;
        Ok(sealed(row)?.map(|credential| SealedPart { place: Place::Repository(id), credential }))
    };
    rows.iter().filter_map(|row| part(row).transpose()).collect()
}

fn stored(row: &SqliteRow) -> Result<Option<StoredToken>, StoreError> {
    let (credential, run) = match (sealed(row)?, row.try_get::<Option<&str>, _>("token_id")?) {
        (Some(own), _) => (own, None),
        (None, Some(_)) => {
            let (id, resource) = (row.try_get("run_id")?, row.try_get("resource_id")?);
            (tokens::sealed(row)?, Some(Run { id, resource }))
        }
        (None, None) => return Ok(None),
    };
    let (hosts, places) = (credential.binding.hosts.clone(), Places { body: false, header: true });
    let sealed = SealedVariable { credential, hosts, places, run }.encode();
    Ok(Some(StoredToken { url: row.try_get("url")?, sealed }))
}

/// Its own ciphertext and binding, as the columns say: edited ones make it unopenable. Nothing where its resource was removed, or the deployment's is used.
fn sealed(row: &SqliteRow) -> Result<Option<SealedCredential>, StoreError> {
    let Some(sealed) = row.try_get::<Option<&str>, _>("sealed")? else { return Ok(None) };
    let sealed: Sealed = from_json(sealed, "repository_tokens.sealed")?;
    let binding = Binding::of_repository(
        row.try_get("workspace_id")?,
        row.try_get("session_id")?,
        row.try_get("resource_id")?,
        row.try_get("host")?,
        row.try_get("url")?,
    );
    Ok(Some(SealedCredential { binding, sealed }))
}
