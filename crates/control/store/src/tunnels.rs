//! Tunnels and their tokens. Of a token only its digest is here; who may show one derives it again.

use postern_model::ids::{TunnelId, TunnelTokenId, WorkspaceId};
use postern_model::tunnel::{MAX_ACTIVE_TUNNELS, Tunnel, TunnelTag, TunnelTokenRevoked, TunnelTokenRevokedTag};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest_active};
use crate::row::{instant, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, certificates};

/// What a new tunnel is made of. The caller chose the id, because the token is derived from it.
#[derive(Clone, Debug)]
pub struct NewTunnel<'a> {
    /// Its id.
    pub id: &'a TunnelId,
    /// The caller's name for it.
    pub display_name: Option<&'a str>,
    /// Its domain, never used before.
    pub domain: &'a str,
    /// SHA-256 of the token of generation 1, as the secret crate renders it.
    pub token_digest: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What a rotation brings.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// One more than the current one's.
    pub generation: u64,
    /// SHA-256 of the value.
    pub digest: &'a str,
    /// Why, in the caller's words.
    pub reason: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// The current value of a tunnel's token, by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id, another after each rotation.
    pub id: TunnelTokenId,
    /// Counts rotations, from 1.
    pub generation: u64,
    /// SHA-256 of the value.
    pub digest: String,
    /// Since when it opens nothing.
    pub revoked_at: Option<Timestamp>,
}

/// What a tunnel token opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelGrant {
    /// Where.
    pub workspace: WorkspaceId,
    /// Which tunnel.
    pub tunnel: TunnelId,
    /// Which value of its token.
    pub token: TunnelTokenId,
}

/// What an edge must know of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTunnel {
    /// The tunnel.
    pub id: TunnelId,
    /// Where.
    pub workspace: WorkspaceId,
    /// Its domain.
    pub domain: String,
    /// The digest of the live token; none after a revocation.
    pub token_digest: Option<String>,
    /// Counts rotations.
    pub token_generation: u64,
    /// PEM texts of the active CA certificates.
    pub certificates: Vec<String>,
    /// Whether it is archived.
    pub archived: bool,
}

/// Stores a new tunnel and the digest of its first token.
///
/// # Errors
/// Refused with 400 `tunnel_limit_reached`; or the database failed.
pub async fn create(tx: &mut Tx, workspace: &WorkspaceId, new: &NewTunnel<'_>) -> Result<Tunnel, StoreError> {
    let count = sqlx::query("SELECT COUNT(*) AS n FROM tunnels WHERE workspace_id = ?1 AND archived_at IS NULL")
        .bind(workspace.as_str());
    let active: i64 = count.fetch_one(&mut **tx).await?.try_get("n")?;
    if usize::try_from(active).is_ok_and(|active| active >= MAX_ACTIVE_TUNNELS) {
        let message = format!("A workspace has at most {MAX_ACTIVE_TUNNELS} active tunnels. Archive one first.");
        return Err(Problem::invalid(message).with_code("tunnel_limit_reached").into());
    }
    sqlx::query("INSERT INTO tunnels (workspace_id, id, display_name, domain, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(workspace.as_str())
        .bind(new.id.as_str())
        .bind(new.display_name)
        .bind(new.domain)
        .bind(micros(new.now))
        .execute(&mut **tx)
        .await?;
    let token = NewToken { generation: 1, digest: new.token_digest, reason: None, now: new.now };
    insert_token(tx, workspace, new.id, &token).await?;
    required(tx, workspace, new.id).await
}

/// One tunnel, archived or not.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &TunnelId,
) -> Result<Option<Tunnel>, StoreError> {
    let row = sqlx::query("SELECT * FROM tunnels WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(tunnel).transpose()
}

/// One tunnel, archived or not.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &TunnelId,
) -> Result<Tunnel, StoreError> {
    let found = find(connection, workspace, id).await?;
    found.ok_or_else(|| Problem::not_found(format!("Tunnel {id} was not found.")).into())
}

/// One tunnel that is not archived.
///
/// # Errors
/// Refused with 404, or 400 `tunnel_archived`; or the database failed.
pub async fn active(connection: &mut Connection, workspace: &WorkspaceId, id: &TunnelId) -> Result<Tunnel, StoreError> {
    let tunnel = required(connection, workspace, id).await?;
    if tunnel.archived_at.is_some() {
        let message = format!("Tunnel {id} is archived for good. Create another one.");
        return Err(Problem::invalid(message).with_code("tunnel_archived").into());
    }
    Ok(tunnel)
}

/// One page of tunnels, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Tunnel>, StoreError> {
    let rows = query.newest_active(connection, newest_active!("tunnels", "workspace_id"), workspace.as_str()).await?;
    rows.iter().map(tunnel).collect()
}

/// Archives a tunnel with its certificates and its token, for good. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &TunnelId,
    now: Timestamp,
) -> Result<Tunnel, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    for statement in [
        "UPDATE tunnels SET archived_at = ?2 WHERE id = ?1",
        "UPDATE tunnel_certificates SET archived_at = ?2 WHERE tunnel_id = ?1 AND archived_at IS NULL",
        "UPDATE tunnel_tokens SET revoked_at = ?2 WHERE tunnel_id = ?1 AND revoked_at IS NULL",
    ] {
        sqlx::query(statement).bind(id.as_str()).bind(micros(now)).execute(&mut **tx).await?;
    }
    required(tx, workspace, id).await
}

/// The current value of a tunnel's token, revoked or not.
///
/// # Errors
/// The tunnel has none, which no commit leaves behind; or the database failed.
pub async fn token(connection: &mut Connection, id: &TunnelId) -> Result<TokenRecord, StoreError> {
    let row = sqlx::query("SELECT * FROM tunnel_tokens WHERE tunnel_id = ?1 ORDER BY generation DESC LIMIT 1")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    token_record(&row.ok_or(StoreError::Corrupt { what: "tunnel_tokens.tunnel_id" })?)
}

/// What a live tunnel token opens. Neither a rotated nor a revoked one opens anything, nor one of an archived tunnel.
///
/// # Errors
/// The database failed.
pub async fn find_token(connection: &mut Connection, digest: &str) -> Result<Option<TunnelGrant>, StoreError> {
    let row = sqlx::query(
        "SELECT k.workspace_id, k.tunnel_id, k.id FROM tunnel_tokens k JOIN tunnels t ON t.id = k.tunnel_id \
         WHERE k.digest = ?1 AND k.revoked_at IS NULL AND t.archived_at IS NULL",
    )
    .bind(digest)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(TunnelGrant {
        workspace: parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "tunnel_tokens.workspace_id")?,
        tunnel: parsed(TunnelId::parse(row.try_get("tunnel_id")?), "tunnel_tokens.tunnel_id")?,
        token: parsed(TunnelTokenId::parse(row.try_get("id")?), "tunnel_tokens.id")?,
    }))
}

/// Makes another value the tunnel's token. The one before it is refused from the commit on.
///
/// # Errors
/// Refused with 404 or 400 `tunnel_archived`; or the database failed.
pub async fn rotate_token(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &TunnelId,
    new: &NewToken<'_>,
) -> Result<TokenRecord, StoreError> {
    active(tx, workspace, id).await?;
    revoke_all(tx, id, new.now).await?;
    insert_token(tx, workspace, id, new).await?;
    token(tx, id).await
}

/// Ends the current token without a successor. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn revoke_token(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &TunnelId,
    now: Timestamp,
) -> Result<TunnelTokenRevoked, StoreError> {
    required(tx, workspace, id).await?;
    revoke_all(tx, id, now).await?;
    let record = token(tx, id).await?;
    Ok(TunnelTokenRevoked {
        id: record.id,
        kind: TunnelTokenRevokedTag::TunnelTokenRevoked,
        tunnel_id: id.clone(),
        revoked_at: record.revoked_at.unwrap_or(now),
    })
}

/// What the edge must know of one tunnel as it is now, archived or not.
///
/// # Errors
/// The database failed.
pub async fn entry(connection: &mut Connection, id: &TunnelId) -> Result<Option<EdgeTunnel>, StoreError> {
    let row = sqlx::query("SELECT * FROM tunnels WHERE id = ?1").bind(id.as_str()).fetch_optional(&mut *connection);
    match row.await? {
        Some(row) => Ok(Some(edge_tunnel(connection, &row).await?)),
        None => Ok(None),
    }
}

/// What the edge must know of every tunnel that is not archived, of all workspaces: for the start.
///
/// # Errors
/// The database failed.
pub async fn entries(connection: &mut Connection) -> Result<Vec<EdgeTunnel>, StoreError> {
    let rows = sqlx::query("SELECT * FROM tunnels WHERE archived_at IS NULL").fetch_all(&mut *connection).await?;
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        entries.push(edge_tunnel(connection, row).await?);
    }
    Ok(entries)
}

async fn edge_tunnel(connection: &mut Connection, row: &SqliteRow) -> Result<EdgeTunnel, StoreError> {
    let tunnel = tunnel(row)?;
    let token = token(connection, &tunnel.id).await?;
    Ok(EdgeTunnel {
        workspace: parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "tunnels.workspace_id")?,
        domain: tunnel.domain,
        token_digest: token.revoked_at.is_none().then_some(token.digest),
        token_generation: token.generation,
        certificates: certificates::active_pems(connection, &tunnel.id).await?,
        archived: tunnel.archived_at.is_some(),
        id: tunnel.id,
    })
}

async fn revoke_all(tx: &mut Tx, id: &TunnelId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE tunnel_tokens SET revoked_at = ?2 WHERE tunnel_id = ?1 AND revoked_at IS NULL")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn insert_token(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    new: &NewToken<'_>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO tunnel_tokens (workspace_id, id, tunnel_id, generation, digest, reason, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(workspace.as_str())
    .bind(TunnelTokenId::generate().as_str())
    .bind(tunnel.as_str())
    .bind(i64::try_from(new.generation).unwrap_or(i64::MAX))
    .bind(new.digest)
    .bind(new.reason)
    .bind(micros(new.now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn token_record(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    Ok(TokenRecord {
        id: parsed(TunnelTokenId::parse(row.try_get("id")?), "tunnel_tokens.id")?,
        generation: parsed(u64::try_from(row.try_get::<i64, _>("generation")?), "tunnel_tokens.generation")?,
        digest: row.try_get("digest")?,
        revoked_at: optional_instant(row.try_get("revoked_at")?, "tunnel_tokens.revoked_at")?,
    })
}

fn tunnel(row: &SqliteRow) -> Result<Tunnel, StoreError> {
    Ok(Tunnel {
        id: parsed(TunnelId::parse(row.try_get("id")?), "tunnels.id")?,
        kind: TunnelTag::Tunnel,
        display_name: row.try_get("display_name")?,
        domain: row.try_get("domain")?,
        created_at: instant(row.try_get("created_at")?, "tunnels.created_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "tunnels.archived_at")?,
    })
}
