//! CA certificates of tunnels. Whether one is acceptable was decided before it comes here.

use postern_model::ids::{CertificateId, TunnelId, WorkspaceId};
use postern_model::tunnel::{MAX_ACTIVE_CERTIFICATES, TunnelCertificate, TunnelCertificateTag};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest_active};
use crate::row::{instant, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, tunnels};

/// An accepted certificate.
#[derive(Clone, Debug)]
pub struct NewCertificate<'a> {
    /// SHA-256 of its DER form, lower-case hex.
    pub fingerprint: &'a str,
    /// Its text.
    pub pem: &'a str,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// Registers a CA certificate of a tunnel.
///
/// # Errors
/// Refused with 404, 400 (`tunnel_archived`, `certificate_limit_reached`) or 409 (registered already); or the database
/// failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    new: &NewCertificate<'_>,
) -> Result<TunnelCertificate, StoreError> {
    tunnels::active(tx, workspace, tunnel).await?;
    let rows = sqlx::query("SELECT * FROM tunnel_certificates WHERE tunnel_id = ?1 AND archived_at IS NULL")
        .bind(tunnel.as_str());
    let active = rows.fetch_all(&mut **tx).await?.iter().map(certificate).collect::<Result<Vec<_>, _>>()?;
    if let Some(same) = active.iter().find(|certificate| certificate.fingerprint == new.fingerprint) {
        let message = format!("The tunnel trusts this certificate already, as {}.", same.id);
        return Err(Problem::conflict(message).with_code("certificate_registered").into());
    }
    if active.len() >= MAX_ACTIVE_CERTIFICATES {
        let message = format!("A tunnel has at most {MAX_ACTIVE_CERTIFICATES} active certificates. Archive one first.");
        return Err(Problem::invalid(message).with_code("certificate_limit_reached").into());
    }
    let row = sqlx::query(
        "INSERT INTO tunnel_certificates (workspace_id, id, tunnel_id, fingerprint, pem, created_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(CertificateId::generate().as_str())
    .bind(tunnel.as_str())
    .bind(new.fingerprint)
    .bind(new.pem)
    .bind(micros(new.now))
    .bind(new.expires_at.map(micros))
    .fetch_one(&mut **tx)
    .await?;
    certificate(&row)
}

/// One certificate of a tunnel, archived or not.
///
/// # Errors
/// Refused with 404, for the tunnel or the certificate; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    id: &CertificateId,
) -> Result<TunnelCertificate, StoreError> {
    tunnels::required(connection, workspace, tunnel).await?;
    let row = sqlx::query("SELECT * FROM tunnel_certificates WHERE tunnel_id = ?1 AND id = ?2")
        .bind(tunnel.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    certificate(&row.ok_or_else(|| Problem::not_found(format!("Certificate {id} was not found in this tunnel.")))?)
}

/// One page of a tunnel's certificates, newest first, and one more when another page follows.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    query: &ListQuery,
) -> Result<Vec<TunnelCertificate>, StoreError> {
    tunnels::required(connection, workspace, tunnel).await?;
    let rows =
        query.newest_active(connection, newest_active!("tunnel_certificates", "tunnel_id"), tunnel.as_str()).await?;
    rows.iter().map(certificate).collect()
}

/// Takes a certificate out of the trusted set, for good; the last one too. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    id: &CertificateId,
    now: Timestamp,
) -> Result<TunnelCertificate, StoreError> {
    required(tx, workspace, tunnel, id).await?;
    sqlx::query("UPDATE tunnel_certificates SET archived_at = COALESCE(archived_at, ?2) WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    required(tx, workspace, tunnel, id).await
}

/// The texts of a tunnel's active certificates, oldest first.
pub(crate) async fn active_pems(connection: &mut Connection, tunnel: &TunnelId) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query(
        "SELECT pem FROM tunnel_certificates WHERE tunnel_id = ?1 AND archived_at IS NULL ORDER BY created_at, id",
    )
    .bind(tunnel.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(row.try_get("pem")?)).collect()
}

fn certificate(row: &SqliteRow) -> Result<TunnelCertificate, StoreError> {
    Ok(TunnelCertificate {
        id: parsed(CertificateId::parse(row.try_get("id")?), "tunnel_certificates.id")?,
        kind: TunnelCertificateTag::TunnelCertificate,
        tunnel_id: parsed(TunnelId::parse(row.try_get("tunnel_id")?), "tunnel_certificates.tunnel_id")?,
        fingerprint: row.try_get("fingerprint")?,
        created_at: instant(row.try_get("created_at")?, "tunnel_certificates.created_at")?,
        expires_at: optional_instant(row.try_get("expires_at")?, "tunnel_certificates.expires_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "tunnel_certificates.archived_at")?,
    })
}
