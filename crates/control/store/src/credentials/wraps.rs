//! Keys of sealed values for a perimeter that came later.

use postern_model::ids::{CredentialId, WorkspaceId};
use postern_model::vault::SecretPart;
use postern_secret::seal::{SealedCredential, Wrap};
use sqlx::Row;

use super::{part_binding, stored};
use crate::row::json;
use crate::{Connection, StoreError, Tx};

/// One part of a credential, sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedPart {
    /// Whose.
    pub id: CredentialId,
    /// Which.
    pub part: SecretPart,
    /// Ciphertext and binding.
    pub credential: SealedCredential,
}

/// The sealed parts of a workspace's active credentials that a perimeter cannot open, after this place in their order.
///
/// # Errors
/// The database failed.
pub async fn not_wrapped_for(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    public_key: &str,
    after: Option<(&CredentialId, SecretPart)>,
    most: usize,
) -> Result<Vec<SealedPart>, StoreError> {
    let (id, part) = after.map_or(("", ""), |(id, part)| (id.as_str(), part.as_str()));
    let rows = sqlx::query(
        "SELECT c.*, s.sealed, s.part FROM vault_credentials c JOIN credential_secrets s ON s.credential_id = c.id \
         WHERE c.workspace_id = ?1 AND c.archived_at IS NULL AND (c.id > ?2 OR (c.id = ?2 AND s.part > ?3)) \
         ORDER BY c.id, s.part",
    )
    .bind(workspace.as_str())
    .bind(id)
    .bind(part)
    .fetch_all(connection)
    .await?;
    let mut parts = Vec::new();
    for row in &rows {
        let stored = stored(row)?;
        if stored.sealed.wraps.iter().any(|wrap| wrap.public_key == public_key) {
            continue;
        }
        let part =
            SecretPart::parse(row.try_get("part")?).ok_or(StoreError::Corrupt { what: "credential_secrets.part" })?;
        let binding = part_binding(&stored.binding, part);
        parts.push(SealedPart { id: stored.id, part, credential: SealedCredential { binding, sealed: stored.sealed } });
        if parts.len() >= most {
            break;
        }
    }
    Ok(parts)
}

/// Adds a wrapped key to a sealed part that is still the one it was made for. Answers whether it was.
///
/// # Errors
/// The database failed.
pub async fn add_wrap(tx: &mut Tx, of: &SealedPart, wrap: Wrap) -> Result<bool, StoreError> {
    let mut sealed = of.credential.sealed.clone();
    let before = json(&sealed);
    sealed.wraps.push(wrap);
    let done =
        sqlx::query("UPDATE credential_secrets SET sealed = ?4 WHERE credential_id = ?1 AND part = ?2 AND sealed = ?3")
            .bind(of.id.as_str())
            .bind(of.part.as_str())
            .bind(before)
            .bind(json(&sealed))
            .execute(&mut **tx)
            .await?;
    Ok(done.rows_affected() == 1)
}
