//! Tokens of repositories that sessions were given: ciphertext, and what it is bound to. A token is sealed before its row is written, and only a
//! perimeter's custody opens it.

use postern_model::Timestamp;
use postern_model::ids::{ResourceId, SessionId, WorkspaceId};
use postern_secret::seal::{Binding, Places, Sealed, SealedCredential, SealedVariable};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

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
         ON CONFLICT (resource_id) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at",
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

/// Removes the token of one resource, where it has one. That it had one stays known as long as its session has a worker.
///
/// # Errors
/// The database failed.
pub async fn remove(tx: &mut Tx, resource: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE repository_tokens SET sealed = NULL, updated_at = ?2 WHERE resource_id = ?1")
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

/// The tokens of a session; `None` where it never had one.
///
/// # Errors
/// The database failed.
pub async fn of_session(
    connection: &mut Connection,
    session: &SessionId,
) -> Result<Option<Vec<StoredToken>>, StoreError> {
    let rows = sqlx::query("SELECT * FROM repository_tokens WHERE session_id = ?1 ORDER BY resource_id")
        .bind(session.as_str())
        .fetch_all(connection)
        .await?;
    let tokens = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    Ok((!tokens.is_empty()).then(|| tokens.into_iter().flatten().collect()))
}

/// Other numbers whenever a workspace has other tokens.
///
/// # Errors
/// The database failed.
pub async fn fingerprint(connection: &mut Connection, workspace: &WorkspaceId) -> Result<(i64, i64, i64), StoreError> {
    // Sums of a remainder fit where sums of microseconds would not.
    let row = sqlx::query(
        "SELECT COUNT(*) AS present, COALESCE(MAX(updated_at), 0) AS newest, COALESCE(SUM(updated_at % 1000003), 0) AS mixed \
         FROM repository_tokens WHERE workspace_id = ?1",
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
    let Some(credential) = sealed(row)? else { return Ok(None) };
    let (hosts, places) = (credential.binding.hosts.clone(), Places { body: false, header: true });
    let sealed = SealedVariable { credential, hosts, places }.encode();
    Ok(Some(StoredToken { url: row.try_get("url")?, sealed }))
}

/// Ciphertext and binding, as the columns say: edited ones make it unopenable. Nothing where its resource was removed.
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
