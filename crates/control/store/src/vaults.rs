//! Vaults: the groups in which credentials are lent to sessions.

use postern_model::ids::{VaultId, WorkspaceId};
use postern_model::vault::{CreateVault, UpdateVault, Vault, VaultTag};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest_active};
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, credentials, webhooks};

/// Stores a new vault.
///
/// # Errors
/// Refused with 400 (limits); or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    body: CreateVault,
    now: Timestamp,
) -> Result<Vault, StoreError> {
    let (display_name, metadata) = body.checked()?;
    let row = sqlx::query(
        "INSERT INTO vaults (workspace_id, id, display_name, metadata, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?5) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(VaultId::generate().as_str())
    .bind(display_name)
    .bind(json(&metadata))
    .bind(micros(now))
    .fetch_one(&mut **tx)
    .await?;
    let vault = vault(&row)?;
    webhooks::announce(tx, workspace, Subject::new(Happening::VaultCreated, &vault.id), now).await?;
    Ok(vault)
}

/// One vault, archived or not.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &VaultId,
) -> Result<Option<Vault>, StoreError> {
    let row = sqlx::query("SELECT * FROM vaults WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(vault).transpose()
}

/// One vault, archived or not.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(connection: &mut Connection, workspace: &WorkspaceId, id: &VaultId) -> Result<Vault, StoreError> {
    let found = find(connection, workspace, id).await?;
    found.ok_or_else(|| Problem::not_found(format!("Vault {id} was not found.")).into())
}

/// One vault that is not archived.
///
/// # Errors
/// Refused with 404, or 400 `vault_archived`; or the database failed.
pub async fn active(connection: &mut Connection, workspace: &WorkspaceId, id: &VaultId) -> Result<Vault, StoreError> {
    let vault = required(connection, workspace, id).await?;
    if vault.archived_at.is_some() {
        return Err(archived(id).into());
    }
    Ok(vault)
}

/// Whether a new session may name these vaults: each exists in the workspace and is not archived.
///
/// # Errors
/// Refused with 400 (`vault_not_found`, `vault_archived`) naming the place; or the database failed.
pub async fn check_usable(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    ids: &[VaultId],
) -> Result<(), StoreError> {
    for (index, id) in ids.iter().enumerate() {
        let place = format!("vault_ids[{index}]");
        match find(connection, workspace, id).await? {
            Some(vault) if vault.archived_at.is_none() => {}
            Some(_) => {
                let message = format!("vault {id} is archived for good; name another one");
                return Err(Problem::invalid_at(&place, message).with_code("vault_archived").into());
            }
            None => {
                let message = format!("vault {id} was not found");
                return Err(Problem::invalid_at(&place, message).with_code("vault_not_found").into());
            }
        }
    }
    Ok(())
}

/// Applies an update.
///
/// # Errors
/// Refused with 404 or 400 (`vault_archived`, limits); or the database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &VaultId,
    body: UpdateVault,
    now: Timestamp,
) -> Result<Vault, StoreError> {
    let stored = active(tx, workspace, id).await?;
    let (display_name, metadata) = body.apply(&stored)?;
    if (&display_name, &metadata) == (&stored.display_name, &stored.metadata) {
        return Ok(stored);
    }
    sqlx::query("UPDATE vaults SET display_name = ?2, metadata = ?3, updated_at = ?4 WHERE id = ?1")
        .bind(id.as_str())
        .bind(display_name)
        .bind(json(&metadata))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    required(tx, workspace, id).await
}

/// Archives a vault and its credentials for good; their secrets are gone with the commit. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(tx: &mut Tx, workspace: &WorkspaceId, id: &VaultId, now: Timestamp) -> Result<Vault, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    credentials::archive_all(tx, workspace, id, now).await?;
    sqlx::query("UPDATE vaults SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::VaultArchived, id), now).await?;
    required(tx, workspace, id).await
}

/// Removes a vault with its credentials.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &VaultId, now: Timestamp) -> Result<(), StoreError> {
    required(tx, workspace, id).await?;
    sqlx::query("DELETE FROM vaults WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::VaultDeleted, id), now).await
}

/// One page of vaults, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Vault>, StoreError> {
    let rows = query.newest_active(connection, newest_active!("vaults", "workspace_id"), workspace.as_str()).await?;
    rows.iter().map(vault).collect()
}

fn archived(id: &VaultId) -> Problem {
    Problem::invalid(format!("Vault {id} is archived for good and cannot be changed.")).with_code("vault_archived")
}

fn vault(row: &SqliteRow) -> Result<Vault, StoreError> {
    Ok(Vault {
        id: parsed(VaultId::parse(row.try_get("id")?), "vaults.id")?,
        kind: VaultTag::Vault,
        display_name: row.try_get("display_name")?,
        metadata: from_json(row.try_get("metadata")?, "vaults.metadata")?,
        created_at: instant(row.try_get("created_at")?, "vaults.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "vaults.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "vaults.archived_at")?,
    })
}
