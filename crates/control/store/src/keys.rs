//! Keys that this server issued, by their digests: API keys, environment keys, session tokens.
//!
//! A key's text is never here. Revoking takes effect with the next request.

use postern_model::ids::{ApiKeyId, EnvironmentId, EnvironmentKeyId, SessionId, VaultId, WorkId, WorkspaceId};
use postern_model::key::{ApiKeyRecord, ApiKeyTag, EnvironmentKeyRecord, EnvironmentKeyTag, KeyRole};
use postern_model::work::WorkState;
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::clock::Tick;
use crate::list::{ListQuery, newest};
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, vaults};

/// What is stored of a fresh key.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// The operator's name for it.
    pub name: &'a str,
    /// The first characters of the key.
    pub hint: &'a str,
    /// SHA-256 of the key, as the secret crate renders it.
    pub digest: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What an API key may do, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReach {
    /// What it may do.
    pub role: KeyRole,
    /// The vaults that it is for; every one where there is none.
    pub vault_ids: Option<Vec<VaultId>>,
}

/// What an API key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyGrant {
    /// Where.
    pub workspace: WorkspaceId,
    /// Which key.
    pub key: ApiKeyId,
    /// What it may do there.
    pub reach: KeyReach,
}

/// What an environment key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentGrant {
    /// Where.
    pub workspace: WorkspaceId,
    /// Whose queue and sessions.
    pub environment: EnvironmentId,
    /// Which key.
    pub key: EnvironmentKeyId,
}

/// What a session token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionGrant {
    /// Where.
    pub workspace: WorkspaceId,
    /// Whose queue the item is in.
    pub environment: EnvironmentId,
    /// The item it was handed out with.
    pub work: WorkId,
    /// The item's session.
    pub session: SessionId,
    /// What is left of its lease.
    pub lease: Lease,
}

/// The lease behind a session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It lives: the token opens its session.
    Alive,
    /// It ended or the item stopped: the token only learns that, by heartbeat and stop.
    Ended,
    /// The item was handed out again: likewise.
    Superseded,
    /// The environment key that the item was handed out to was revoked: likewise, and whoever has the token keeps the lease
    /// no longer.
    Revoked,
}

/// Stores a fresh API key.
///
/// # Errors
/// The database failed.
pub async fn create_api_key(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    key: &NewKey<'_>,
    reach: &KeyReach,
) -> Result<ApiKeyRecord, StoreError> {
    let id = ApiKeyId::generate();
    for vault in reach.vault_ids.iter().flatten() {
        vaults::required(tx, workspace, vault).await?;
    }
    let row = sqlx::query(
        "INSERT INTO api_keys (workspace_id, id, name, hint, digest, created_at, role, vault_ids) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(key.name)
    .bind(key.hint)
    .bind(key.digest)
    .bind(micros(key.now))
    .bind(reach.role.as_str())
    .bind(reach.vault_ids.as_ref().map(json))
    .fetch_one(&mut **tx)
    .await?;
    api_key(&row)
}

/// What a live API key opens.
///
/// # Errors
/// The database failed.
pub async fn find_api_key(connection: &mut Connection, digest: &str) -> Result<Option<ApiKeyGrant>, StoreError> {
    let row =
        sqlx::query("SELECT workspace_id, id, role, vault_ids FROM api_keys WHERE digest = ?1 AND revoked_at IS NULL")
            .bind(digest)
            .fetch_optional(connection)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let workspace = parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "api_keys.workspace_id")?;
    let key = parsed(ApiKeyId::parse(row.try_get("id")?), "api_keys.id")?;
    Ok(Some(ApiKeyGrant { workspace, key, reach: reach(&row)? }))
}

/// One page of API keys, revoked ones included, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list_api_keys(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<ApiKeyRecord>, StoreError> {
    let rows = query.newest(connection, newest!("api_keys", "workspace_id"), workspace.as_str()).await?;
    rows.iter().map(api_key).collect()
}

/// Revokes an API key. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn revoke_api_key(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
    now: Timestamp,
) -> Result<ApiKeyRecord, StoreError> {
    let row = sqlx::query(
        "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?3) WHERE workspace_id = ?1 AND id = ?2 RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(micros(now))
    .fetch_optional(&mut **tx)
    .await?;
    api_key(&row.ok_or_else(|| Problem::not_found(format!("API key {id} was not found.")))?)
}

/// Stores a fresh key of an environment, which the caller knows to exist in the workspace.
///
/// # Errors
/// The database failed.
pub async fn create_environment_key(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    key: &NewKey<'_>,
) -> Result<EnvironmentKeyRecord, StoreError> {
    let id = EnvironmentKeyId::generate();
    let row = sqlx::query(
        "INSERT INTO environment_keys (workspace_id, id, environment_id, name, hint, digest, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(environment.as_str())
    .bind(key.name)
    .bind(key.hint)
    .bind(key.digest)
    .bind(micros(key.now))
    .fetch_one(&mut **tx)
    .await?;
    environment_key(&row)
}

/// What a live environment key opens.
///
/// # Errors
/// The database failed.
pub async fn find_environment_key(
    connection: &mut Connection,
    digest: &str,
) -> Result<Option<EnvironmentGrant>, StoreError> {
    let row = sqlx::query(
        "SELECT workspace_id, environment_id, id FROM environment_keys WHERE digest = ?1 AND revoked_at IS NULL",
    )
    .bind(digest)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(EnvironmentGrant {
        workspace: parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "environment_keys.workspace_id")?,
        environment: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "environment_keys.environment_id")?,
        key: parsed(EnvironmentKeyId::parse(row.try_get("id")?), "environment_keys.id")?,
    }))
}

/// One page of an environment's keys, revoked ones included, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list_environment_keys(
    connection: &mut Connection,
    environment: &EnvironmentId,
    query: &ListQuery,
) -> Result<Vec<EnvironmentKeyRecord>, StoreError> {
    let rows = query.newest(connection, newest!("environment_keys", "environment_id"), environment.as_str()).await?;
    rows.iter().map(environment_key).collect()
}

/// Revokes a key of an environment. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn revoke_environment_key(
    tx: &mut Tx,
    environment: &EnvironmentId,
    id: &EnvironmentKeyId,
    now: Timestamp,
) -> Result<EnvironmentKeyRecord, StoreError> {
    let row = sqlx::query(
        "UPDATE environment_keys SET revoked_at = COALESCE(revoked_at, ?3) WHERE environment_id = ?1 AND id = ?2 RETURNING *",
    )
    .bind(environment.as_str())
    .bind(id.as_str())
    .bind(micros(now))
    .fetch_optional(&mut **tx)
    .await?;
    environment_key(&row.ok_or_else(|| Problem::not_found(format!("Environment key {id} was not found.")))?)
}

/// What a session token opens, its lease judged now.
///
/// # Errors
/// The database failed.
pub async fn find_session_token(connection: &mut Connection, digest: &str) -> Result<Option<SessionGrant>, StoreError> {
    let now = connection.clock().tick();
    let row = sqlx::query(
        "SELECT w.workspace_id, w.environment_id, w.id, w.session_id, w.state, w.lease_end_tick, t.superseded, \
           t.environment_key_id IS NOT NULL AND (k.id IS NULL OR k.revoked_at IS NOT NULL) AS revoked \
         FROM session_tokens t JOIN work w ON w.id = t.work_id \
           LEFT JOIN environment_keys k ON k.id = t.environment_key_id WHERE t.digest = ?1",
    )
    .bind(digest)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| session_grant(row, now)).transpose()
}

fn session_grant(row: &SqliteRow, now: Tick) -> Result<SessionGrant, StoreError> {
    let stopped = row.try_get::<&str, _>("state")? == WorkState::Stopped.as_str();
    let end: Option<i64> = row.try_get("lease_end_tick")?;
    let is = |column: &'static str| row.try_get::<bool, _>(column);
    let lease = match () {
        () if is("superseded")? => Lease::Superseded,
        () if is("revoked")? => Lease::Revoked,
        () if stopped || end.is_none_or(|end| end <= now.micros()) => Lease::Ended,
        () => Lease::Alive,
    };
    Ok(SessionGrant {
        workspace: parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "work.workspace_id")?,
        environment: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "work.environment_id")?,
        work: parsed(WorkId::parse(row.try_get("id")?), "work.id")?,
        session: parsed(SessionId::parse(row.try_get("session_id")?), "work.session_id")?,
        lease,
    })
}

fn reach(row: &SqliteRow) -> Result<KeyReach, StoreError> {
    let role: String = row.try_get("role")?;
    let vault_ids: Option<String> = row.try_get("vault_ids")?;
    Ok(KeyReach {
        role: KeyRole::parse(&role).ok_or(StoreError::Corrupt { what: "api_keys.role" })?,
        vault_ids: vault_ids.map(|text| from_json(&text, "api_keys.vault_ids")).transpose()?,
    })
}

fn api_key(row: &SqliteRow) -> Result<ApiKeyRecord, StoreError> {
    let KeyReach { role, vault_ids } = reach(row)?;
    Ok(ApiKeyRecord {
        id: parsed(ApiKeyId::parse(row.try_get("id")?), "api_keys.id")?,
        kind: ApiKeyTag::ApiKey,
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        role,
        vault_ids,
        created_at: instant(row.try_get("created_at")?, "api_keys.created_at")?,
        revoked_at: optional_instant(row.try_get("revoked_at")?, "api_keys.revoked_at")?,
    })
}

fn environment_key(row: &SqliteRow) -> Result<EnvironmentKeyRecord, StoreError> {
    Ok(EnvironmentKeyRecord {
        id: parsed(EnvironmentKeyId::parse(row.try_get("id")?), "environment_keys.id")?,
        kind: EnvironmentKeyTag::EnvironmentKey,
        environment_id: parsed(
            EnvironmentId::parse(row.try_get("environment_id")?),
            "environment_keys.environment_id",
        )?,
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        created_at: instant(row.try_get("created_at")?, "environment_keys.created_at")?,
        revoked_at: optional_instant(row.try_get("revoked_at")?, "environment_keys.revoked_at")?,
    })
}
