//! Keys of sealed values for a perimeter that came later: of whatever a workspace keeps sealed, by one walk through all of it.

use postern_model::ids::{CredentialId, DeploymentResourceId, ResourceId, WorkspaceId};
use postern_model::vault::SecretPart;
use postern_secret::seal::{MOST_RECIPIENTS, SealedCredential, Wrap};

use crate::deployments::tokens;
use crate::row::json;
use crate::{Connection, StoreError, Tx, credentials, repositories};

/// Where a sealed value is kept; the kinds are walked through in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One part of a vault's credential.
    Credential(CredentialId, SecretPart),
    /// The token of a repository that a session was given.
    Repository(ResourceId),
    /// The token that a deployment keeps for a repository of its runs.
    Deployment(DeploymentResourceId),
}

/// A sealed value in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedPart {
    /// Where.
    pub place: Place,
    /// Ciphertext and binding.
    pub credential: SealedCredential,
}

/// The sealed values of a workspace that a perimeter cannot open, after this place in their order.
///
/// # Errors
/// The database failed.
pub async fn not_wrapped_for(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    public_key: &str,
    after: Option<&Place>,
    most: usize,
) -> Result<Vec<SealedPart>, StoreError> {
    let missing = |part: &SealedPart| !part.credential.sealed.wraps.iter().any(|wrap| wrap.public_key == public_key);
    let mut parts = match after {
        None => credentials::sealed_parts(connection, workspace, None).await?,
        Some(Place::Credential(id, part)) => {
            credentials::sealed_parts(connection, workspace, Some((id, *part))).await?
        }
        Some(Place::Repository(_) | Place::Deployment(_)) => Vec::new(),
    };
    parts.retain(missing);
    if parts.len() < most && !matches!(after, Some(Place::Deployment(_))) {
        let after = if let Some(Place::Repository(id)) = after { Some(id) } else { None };
        parts.extend(repositories::sealed_parts(connection, workspace, after).await?.into_iter().filter(missing));
    }
    if parts.len() < most {
        let after = if let Some(Place::Deployment(id)) = after { Some(id) } else { None };
        parts.extend(tokens::sealed_parts(connection, workspace, after).await?.into_iter().filter(missing));
    }
    parts.truncate(most);
    Ok(parts)
}

/// Adds a wrapped key to a sealed value that is still the one it was made for. Answers whether it was, and had room: with more keys than a value
/// has it would open nowhere.
///
/// # Errors
/// The database failed.
pub async fn add_wrap(tx: &mut Tx, of: &SealedPart, wrap: Wrap) -> Result<bool, StoreError> {
    let mut sealed = of.credential.sealed.clone();
    if sealed.wraps.len() >= MOST_RECIPIENTS {
        return Ok(false);
    }
    let before = json(&sealed);
    sealed.wraps.push(wrap);
    let update = match &of.place {
        Place::Credential(id, part) => sqlx::query(
            "UPDATE credential_secrets SET sealed = ?2 WHERE sealed = ?1 AND credential_id = ?3 AND part = ?4",
        )
        .bind(before)
        .bind(json(&sealed))
        .bind(id.as_str())
        .bind(part.as_str()),
        Place::Repository(id) => {
            sqlx::query("UPDATE repository_tokens SET sealed = ?2 WHERE sealed = ?1 AND resource_id = ?3")
                .bind(before)
                .bind(json(&sealed))
                .bind(id.as_str())
        }
        Place::Deployment(id) => sqlx::query("UPDATE deployment_tokens SET sealed = ?2 WHERE sealed = ?1 AND id = ?3")
            .bind(before)
            .bind(json(&sealed))
            .bind(id.as_str()),
    };
    Ok(update.execute(&mut **tx).await?.rows_affected() == 1)
}

#[cfg(test)]
mod tests;
