//! Refreshing an OAuth credential: its sealed parts, what took their place, and that none did.

use postern_model::Timestamp;
use postern_model::control::{CommandRefusal, OauthParts, OauthRefreshParts};
use postern_model::ids::{CredentialId, VaultId, WorkspaceId};
use postern_model::vault::{CredentialAuth, CredentialKind, OauthRefresh, SecretPart};
use postern_model::webhook::{Happening, Subject};
use postern_secret::seal::{Sealed, SealedCredential};
use sqlx::Row;

use super::{StoredCredential, part_binding, put_secrets, required_row, stored};
use crate::row::{from_json, json, micros};
use crate::{Connection, StoreError, Tx, webhooks};

/// An OAuth credential as it goes to the perimeter that is to refresh it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredOauth {
    /// The access token.
    pub access: StoredCredential,
    /// What it is refreshed with.
    pub refresh: Option<StoredRefresh>,
    /// Why the last refresh brought no tokens.
    pub failed: Option<CommandRefusal>,
}

/// What an access token is refreshed with.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRefresh {
    /// How, as its owner said.
    pub shown: OauthRefresh,
    /// The refresh token.
    pub token: SealedCredential,
    /// The client's secret.
    pub client_secret: Option<SealedCredential>,
}

/// Tokens that a perimeter sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewed {
    /// The access token.
    pub access: Sealed,
    /// The refresh token, where there is another.
    pub refresh_token: Option<Sealed>,
    /// When the access token expires, where that is known.
    pub expires_at: Option<Timestamp>,
}

impl StoredOauth {
    /// As a command carries it.
    #[must_use]
    pub fn parts(&self) -> OauthParts {
        let refresh = self.refresh.as_ref().map(|StoredRefresh { shown, token, client_secret }| OauthRefreshParts {
            refresh_token: token.encode(),
            client_secret: client_secret.as_ref().map(SealedCredential::encode),
            scope: shown.scope.clone(),
        });
        OauthParts { access: self.access.encode(), refresh }
    }
}

/// An active credential's parts; `None` for one that is archived, gone, of another kind or without an access token.
///
/// # Errors
/// The database failed.
pub async fn oauth(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &CredentialId,
) -> Result<Option<StoredOauth>, StoreError> {
    let rows = sqlx::query(
        "SELECT c.*, s.sealed, s.part FROM vault_credentials c JOIN credential_secrets s ON s.credential_id = c.id \
         WHERE c.workspace_id = ?1 AND c.id = ?2 AND c.kind = ?3 AND c.archived_at IS NULL ORDER BY s.part",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(CredentialKind::McpOauth.as_str())
    .fetch_all(connection)
    .await?;
    let (mut access, mut token, mut client_secret) = (None, None, None);
    let (mut shown, mut failed) = (None, None);
    for row in &rows {
        let found = stored(row)?;
        let part =
            SecretPart::parse(row.try_get("part")?).ok_or(StoreError::Corrupt { what: "credential_secrets.part" })?;
        let sealed = || SealedCredential { binding: part_binding(&found.binding, part), sealed: found.sealed.clone() };
        if let CredentialAuth::McpOauth { refresh, .. } = from_json(row.try_get("auth")?, "vault_credentials.auth")? {
            shown = refresh;
        }
        let why: Option<&str> = row.try_get("refresh_failed")?;
        failed = why.map(|why| from_json(why, "vault_credentials.refresh_failed")).transpose()?;
        match part {
            SecretPart::RefreshToken => token = Some(sealed()),
            SecretPart::ClientSecret => client_secret = Some(sealed()),
            SecretPart::Value => access = Some(found),
        }
    }
    let refresh = shown.zip(token).map(|(shown, token)| StoredRefresh { shown, token, client_secret });
    Ok(access.map(|access| StoredOauth { access, refresh, failed }))
}

/// Puts new tokens in the place of the very ones that they came for: each that its owner replaced meanwhile stays. The refresh counts as having succeeded.
///
/// # Errors
/// The database failed.
pub async fn renewed(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    used: &StoredOauth,
    renewed: &Renewed,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = &used.access.id;
    let Some(present) = oauth(tx, workspace, id).await? else { return Ok(()) };
    let Some(refresh) = &present.refresh else { return Ok(()) };
    let mut secrets = Vec::new();
    if is_same(&present.access.sealed, &used.access.sealed) {
        secrets.push((SecretPart::Value, renewed.access.clone()));
        let auth = CredentialAuth::McpOauth {
            mcp_server_url: server_url(tx, workspace, &used.access.vault_id, id).await?,
            expires_at: renewed.expires_at,
            refresh: Some(refresh.shown.clone()),
        };
        sqlx::query("UPDATE vault_credentials SET auth = ?2, updated_at = ?3 WHERE id = ?1")
            .bind(id.as_str())
            .bind(json(&auth))
            .bind(micros(now))
            .execute(&mut **tx)
            .await?;
    }
    let used_refresh = used.refresh.as_ref().map(|refresh| &refresh.token.sealed);
    if let Some(token) = &renewed.refresh_token
        && used_refresh.is_some_and(|used| is_same(&refresh.token.sealed, used))
    {
        secrets.push((SecretPart::RefreshToken, token.clone()));
    }
    put_secrets(tx, workspace, id, &secrets).await?;
    forget_failure(tx, id).await
}

/// Remembers why a refresh brought no tokens; the first time after one that did, it is announced. Nothing where its owner replaced a token meanwhile.
///
/// # Errors
/// The database failed.
pub async fn refresh_failed(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    used: &StoredOauth,
    why: &CommandRefusal,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = &used.access.id;
    let Some(present) = oauth(tx, workspace, id).await? else { return Ok(()) };
    let tokens = |oauth: &StoredOauth| oauth.refresh.as_ref().map(|refresh| refresh.token.sealed.ciphertext.clone());
    if !is_same(&present.access.sealed, &used.access.sealed) || tokens(&present) != tokens(used) {
        return Ok(());
    }
    sqlx::query("UPDATE vault_credentials SET refresh_failed = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(json(why))
        .execute(&mut **tx)
        .await?;
    if present.failed.is_some() {
        return Ok(());
    }
    let subject = Subject::new(Happening::VaultCredentialRefreshFailed, id).in_vault(&used.access.vault_id);
    webhooks::announce(tx, workspace, subject, now).await
}

/// Its owner sent other tokens, or new ones came.
pub(super) async fn forget_failure(tx: &mut Tx, id: &CredentialId) -> Result<(), StoreError> {
    sqlx::query("UPDATE vault_credentials SET refresh_failed = NULL WHERE id = ?1")
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn server_url(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
) -> Result<String, StoreError> {
    let row = required_row(tx, workspace, vault, id).await?;
    match from_json(row.try_get("auth")?, "vault_credentials.auth")? {
        CredentialAuth::McpOauth { mcp_server_url, .. } => Ok(mcp_server_url),
        CredentialAuth::StaticBearer { .. } | CredentialAuth::EnvironmentVariable { .. } => {
            Err(StoreError::Corrupt { what: "vault_credentials.auth" })
        }
    }
}

/// The same value; another perimeter's wrap makes it no other one.
#[must_use]
pub fn is_same(one: &Sealed, other: &Sealed) -> bool {
    (one.version, &one.nonce, &one.ciphertext) == (other.version, &other.nonce, &other.ciphertext)
}
