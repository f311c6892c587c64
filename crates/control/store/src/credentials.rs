//! Credentials of vaults: what the API shows of them, what their secrets are bound to, and ciphertext.
//!
//! No plaintext comes here: a secret is sealed before its row is written, and only a perimeter's custody opens it.

mod oauth;

use postern_model::ids::{CredentialId, VaultId, WorkspaceId};
use postern_model::vault::{
    Credential, CredentialAuth, CredentialKind, CredentialTag, InjectionLocation, MAX_CREDENTIALS, OauthRefresh,
    SecretPart,
};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Metadata, Problem, Timestamp};
use postern_secret::seal::{Binding, Places, RefreshTerms, Sealed, SealedCredential, SealedVariable};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest_active};
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::wraps::{Place, SealedPart};
use crate::{Connection, StoreError, Tx, vaults, webhooks};

pub use oauth::{Renewed, StoredOauth, StoredRefresh, is_same, oauth, refresh_failed, renewed};

/// What a new credential is made of. The caller chose the id, because the secrets are bound to it.
#[derive(Clone, Debug)]
pub struct NewCredential<'a> {
    /// What the API shows, and what its secrets are bound to.
    pub shown: Shown<'a>,
    /// What only one active credential of the vault may have.
    pub key: &'a str,
    /// The sealed secrets.
    pub secrets: &'a [(SecretPart, Sealed)],
    /// The time.
    pub now: Timestamp,
}

/// What the API shows of a credential, and what its secrets are bound to.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    /// How it authenticates, without secrets.
    pub auth: &'a CredentialAuth,
    /// The caller's name for it.
    pub display_name: Option<&'a str>,
    /// The caller's pairs.
    pub metadata: &'a Metadata,
    /// What its value is sealed to.
    pub binding: &'a Binding,
}

/// A credential's value as it goes to a perimeter.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCredential {
    /// The vault.
    pub vault_id: VaultId,
    /// The credential.
    pub id: CredentialId,
    /// Its kind.
    pub kind: CredentialKind,
    /// When its token expires, where that is known.
    pub expires_at: Option<Timestamp>,
    /// How its owner says another is got.
    pub refresh: Option<OauthRefresh>,
    /// The ciphertext.
    pub sealed: Sealed,
    /// What it is bound to, as the columns say: edited ones make it unopenable.
    pub binding: Binding,
}

impl StoredCredential {
    /// Ciphertext and binding as text that fits a header, for the perimeter that is to open it.
    #[must_use]
    pub fn encode(&self) -> String {
        SealedCredential { binding: self.binding.clone(), sealed: self.sealed.clone() }.encode()
    }
}

/// What a value is bound to of how its credential is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The OAuth client.
    pub client_id: Option<String>,
    /// The places in a request; an update may show fewer.
    pub injection: Option<Places>,
    /// How its tokens are refreshed.
    pub refresh: Option<RefreshTerms>,
    /// The variable.
    pub secret_name: Option<String>,
}

impl Bound {
    /// Of this `auth`.
    #[must_use]
    pub fn new(auth: &CredentialAuth) -> Self {
        match auth {
            CredentialAuth::StaticBearer { .. } => Self::default(),
            CredentialAuth::McpOauth { refresh: None, .. } => Self::default(),
            CredentialAuth::McpOauth { refresh: Some(refresh), .. } => {
                let (auth, resource) = (refresh.token_endpoint_auth.as_str().to_owned(), refresh.resource.clone());
                let refresh_terms = RefreshTerms { auth, resource };
                Self { client_id: Some(refresh.client_id.clone()), refresh: Some(refresh_terms), ..Self::default() }
            }
            CredentialAuth::EnvironmentVariable { secret_name, injection_location, .. } => {
                let InjectionLocation { header, body } = *injection_location;
                Self {
                    injection: Some(Places { body, header }),
                    secret_name: Some(secret_name.clone()),
                    ..Self::default()
                }
            }
        }
    }
}

/// Stores a new credential.
///
/// # Errors
/// Refused with 404, 400 (`vault_archived`, `credential_limit_reached`) or 409 `credential_key_taken`; or the database
/// failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
    new: &NewCredential<'_>,
) -> Result<Credential, StoreError> {
    check_room(tx, workspace, vault, new.key).await?;
    not_taken(tx, id).await?;
    let Shown { auth, display_name, metadata, binding } = &new.shown;
    sqlx::query(
        "INSERT INTO vault_credentials (workspace_id, id, vault_id, display_name, metadata, auth, key, kind, hosts, \
           mcp_url, token_endpoint, injection, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(vault.as_str())
    .bind(*display_name)
    .bind(json(metadata))
    .bind(json(auth))
    .bind(new.key)
    .bind(auth.kind().as_str())
    .bind(json(&binding.hosts))
    .bind(&binding.mcp_url)
    .bind(&binding.token_endpoint)
    .bind(binding.injection.map(|places| json(&places)))
    .bind(micros(new.now))
    .execute(&mut **tx)
    .await?;
    put_secrets(tx, workspace, id, new.secrets).await?;
    let subject = Subject::new(Happening::VaultCredentialCreated, id).in_vault(vault);
    webhooks::announce(tx, workspace, subject, new.now).await?;
    required(tx, workspace, vault, id).await
}

/// A variable of a vault as it goes to the perimeter that is to open it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredVariable {
    /// The vault.
    pub vault_id: VaultId,
    /// The credential.
    pub id: CredentialId,
    /// The variable's name.
    pub name: String,
    /// Ciphertext, binding and how far it may go now, as text.
    pub sealed: String,
}

/// The variables of vaults in their order: of two with one name the first vault's. Only active ones that have a value.
///
/// # Errors
/// The database failed.
pub async fn variables(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vaults: &[VaultId],
) -> Result<Vec<StoredVariable>, StoreError> {
    let mut variables: Vec<StoredVariable> = Vec::new();
    for vault in vaults {
        let rows = sqlx::query(
            "SELECT c.*, s.sealed FROM vault_credentials c \
               JOIN credential_secrets s ON s.credential_id = c.id AND s.part = ?4 \
             WHERE c.workspace_id = ?1 AND c.vault_id = ?2 AND c.kind = ?3 AND c.archived_at IS NULL \
             ORDER BY c.created_at, c.id",
        )
        .bind(workspace.as_str())
        .bind(vault.as_str())
        .bind(CredentialKind::EnvironmentVariable.as_str())
        .bind(SecretPart::Value.as_str())
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            let variable = variable(row)?;
            if !variables.iter().any(|other| other.name == variable.name) {
                variables.push(variable);
            }
        }
    }
    Ok(variables)
}

fn variable(row: &SqliteRow) -> Result<StoredVariable, StoreError> {
    let corrupt = StoreError::Corrupt { what: "vault_credentials.auth" };
    let (stored, shown) = (stored(row)?, credential(row)?);
    let CredentialAuth::EnvironmentVariable { secret_name, networking, injection_location } = shown.auth else {
        return Err(corrupt);
    };
    let InjectionLocation { header, body } = injection_location;
    let sealed = SealedVariable {
        credential: SealedCredential { binding: stored.binding, sealed: stored.sealed },
        hosts: networking.hosts(),
        places: Places { body, header },
        run: None,
    };
    Ok(StoredVariable { vault_id: stored.vault_id, id: stored.id, name: secret_name, sealed: sealed.encode() })
}

/// Other numbers whenever a workspace's active credentials are others, or one of them was changed.
///
/// # Errors
/// The database failed.
pub async fn fingerprint(connection: &mut Connection, workspace: &WorkspaceId) -> Result<(i64, i64, i64), StoreError> {
    // Sums of a remainder fit where sums of microseconds would not.
    let row = sqlx::query(
        "SELECT COUNT(*) AS active, COALESCE(MAX(updated_at), 0) AS newest, COALESCE(SUM(updated_at % 1000003), 0) AS mixed \
         FROM vault_credentials WHERE workspace_id = ?1 AND archived_at IS NULL",
    )
    .bind(workspace.as_str())
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("active")?, row.try_get("newest")?, row.try_get("mixed")?))
}

/// One credential of a vault, archived or not.
///
/// # Errors
/// Refused with 404, for the vault or the credential; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
) -> Result<Credential, StoreError> {
    credential(&required_row(connection, workspace, vault, id).await?)
}

/// One credential that is not archived, and what its value is sealed to.
///
/// # Errors
/// Refused with 404, or 400 (`vault_archived`, `credential_archived`); or the database failed.
pub async fn active(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
) -> Result<(Credential, Binding), StoreError> {
    let row = required_row(connection, workspace, vault, id).await?;
    let found = credential(&row)?;
    if found.archived_at.is_some() {
        let message = format!("Credential {id} is archived for good: its secret is gone. Create another one.");
        return Err(Problem::invalid(message).with_code("credential_archived").into());
    }
    Ok((found, binding(&row)?))
}

/// Stores what an update left, and the secrets it brought.
///
/// # Errors
/// The database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    stored: &Credential,
    shown: &Shown<'_>,
    secrets: &[(SecretPart, Sealed)],
    now: Timestamp,
) -> Result<Credential, StoreError> {
    sqlx::query(
        "UPDATE vault_credentials SET display_name = ?2, metadata = ?3, auth = ?4, hosts = ?5, injection = ?6, \
         updated_at = ?7 WHERE id = ?1",
    )
    .bind(stored.id.as_str())
    .bind(shown.display_name)
    .bind(json(shown.metadata))
    .bind(json(shown.auth))
    .bind(json(&shown.binding.hosts))
    .bind(shown.binding.injection.map(|places| json(&places)))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    put_secrets(tx, workspace, &stored.id, secrets).await?;
    if !secrets.is_empty() {
        oauth::forget_failure(tx, &stored.id).await?;
    }
    required(tx, workspace, &stored.vault_id, &stored.id).await
}

/// Archives a credential for good: its secrets are gone with the commit, its key is free. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
    now: Timestamp,
) -> Result<Credential, StoreError> {
    let stored = required(tx, workspace, vault, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    sqlx::query("DELETE FROM credential_secrets WHERE credential_id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    sqlx::query("UPDATE vault_credentials SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    let subject = Subject::new(Happening::VaultCredentialArchived, id).in_vault(vault);
    webhooks::announce(tx, workspace, subject, now).await?;
    required(tx, workspace, vault, id).await
}

/// Removes a credential with its secrets.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
    now: Timestamp,
) -> Result<(), StoreError> {
    required(tx, workspace, vault, id).await?;
    sqlx::query("DELETE FROM vault_credentials WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    let subject = Subject::new(Happening::VaultCredentialDeleted, id).in_vault(vault);
    webhooks::announce(tx, workspace, subject, now).await
}

/// One page of a vault's credentials, newest first, and one more when another page follows.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vault: &VaultId,
    query: &ListQuery,
) -> Result<Vec<Credential>, StoreError> {
    vaults::required(connection, workspace, vault).await?;
    let rows = query.newest_active(connection, newest_active!("vault_credentials", "vault_id"), vault.as_str()).await?;
    rows.iter().map(credential).collect()
}

/// The credential for an MCP server: of the vaults in their order, the first active one for this normalised URL.
///
/// # Errors
/// The database failed.
pub async fn for_url(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vaults: &[VaultId],
    url: &str,
) -> Result<Option<StoredCredential>, StoreError> {
    for vault in vaults {
        let row = sqlx::query(
            "SELECT c.*, s.sealed FROM vault_credentials c \
               JOIN credential_secrets s ON s.credential_id = c.id AND s.part = ?4 \
             WHERE c.workspace_id = ?1 AND c.vault_id = ?2 AND c.mcp_url = ?3 AND c.archived_at IS NULL LIMIT 1",
        )
        .bind(workspace.as_str())
        .bind(vault.as_str())
        .bind(url)
        .bind(SecretPart::Value.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(row) = row {
            return stored(&row).map(Some);
        }
    }
    Ok(None)
}

/// Whether a secret of this part is stored.
///
/// # Errors
/// The database failed.
pub async fn has_secret(connection: &mut Connection, id: &CredentialId, part: SecretPart) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT 1 FROM credential_secrets WHERE credential_id = ?1 AND part = ?2")
        .bind(id.as_str())
        .bind(part.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
}

/// What one part of a credential is bound to: another kind for each, so that a refresh token cannot stand where the
/// access token belongs.
#[must_use]
pub fn part_binding(binding: &Binding, part: SecretPart) -> Binding {
    let kind = match part {
        SecretPart::Value => binding.kind.clone(),
        SecretPart::RefreshToken | SecretPart::ClientSecret => format!("{}.{}", binding.kind, part.as_str()),
    };
    Binding { kind, ..binding.clone() }
}

/// The sealed parts of a workspace's active credentials, after this one in their order.
pub(crate) async fn sealed_parts(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    after: Option<(&CredentialId, SecretPart)>,
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
    rows.iter().map(sealed_part).collect()
}

fn sealed_part(row: &SqliteRow) -> Result<SealedPart, StoreError> {
    let StoredCredential { id, binding, sealed, .. } = stored(row)?;
    let part = SecretPart::parse(row.try_get("part")?);
    let part = part.ok_or(StoreError::Corrupt { what: "credential_secrets.part" })?;
    let binding = part_binding(&binding, part);
    Ok(SealedPart { place: Place::Credential(id, part), credential: SealedCredential { binding, sealed } })
}

/// Archives every credential of a vault.
pub(crate) async fn archive_all(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    vault: &VaultId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM credential_secrets WHERE credential_id IN (SELECT id FROM vault_credentials WHERE vault_id = ?1)",
    )
    .bind(vault.as_str())
    .execute(&mut **tx)
    .await?;
    let archived: Vec<String> = sqlx::query_scalar(
        "UPDATE vault_credentials SET archived_at = ?2, updated_at = ?2 WHERE vault_id = ?1 AND archived_at IS NULL RETURNING id",
    )
    .bind(vault.as_str())
    .bind(micros(now))
    .fetch_all(&mut **tx)
    .await?;
    for id in archived {
        let subject = Subject::new(Happening::VaultCredentialArchived, id).in_vault(vault);
        webhooks::announce(tx, workspace, subject, now).await?;
    }
    Ok(())
}

async fn check_room(tx: &mut Tx, workspace: &WorkspaceId, vault: &VaultId, key: &str) -> Result<(), StoreError> {
    vaults::active(tx, workspace, vault).await?;
    let rows = sqlx::query("SELECT id, key FROM vault_credentials WHERE vault_id = ?1 AND archived_at IS NULL")
        .bind(vault.as_str())
        .fetch_all(&mut **tx)
        .await?;
    for row in &rows {
        if row.try_get::<&str, _>("key")? == key {
            let id: &str = row.try_get("id")?;
            let message =
                format!("Credential {id} of this vault has the same server URL or variable. Archive it first.");
            return Err(Problem::conflict(message).with_code("credential_key_taken").into());
        }
    }
    if rows.len() >= MAX_CREDENTIALS {
        let message = format!("A vault has at most {MAX_CREDENTIALS} credentials. Archive one, or use another vault.");
        return Err(Problem::invalid(message).with_code("credential_limit_reached").into());
    }
    Ok(())
}

/// Whoever seals a value before it comes here chooses the credential's id.
async fn not_taken(tx: &mut Tx, id: &CredentialId) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT 1 FROM vault_credentials WHERE id = ?1").bind(id.as_str());
    match row.fetch_optional(&mut **tx).await? {
        Some(_) => {
            let message = format!("The id {id} is taken. Seal the value with another one.");
            Err(Problem::conflict(message).with_code("credential_id_taken").into())
        }
        None => Ok(()),
    }
}

async fn put_secrets(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &CredentialId,
    secrets: &[(SecretPart, Sealed)],
) -> Result<(), StoreError> {
    for (part, sealed) in secrets {
        sqlx::query(
            "INSERT INTO credential_secrets (workspace_id, credential_id, part, sealed) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (credential_id, part) DO UPDATE SET sealed = excluded.sealed",
        )
        .bind(workspace.as_str())
        .bind(id.as_str())
        .bind(part.as_str())
        .bind(json(sealed))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

async fn required_row(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
) -> Result<SqliteRow, StoreError> {
    vaults::required(connection, workspace, vault).await?;
    let row = sqlx::query("SELECT * FROM vault_credentials WHERE vault_id = ?1 AND id = ?2")
        .bind(vault.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.ok_or_else(|| Problem::not_found(format!("Credential {id} was not found in this vault.")).into())
}

fn stored(row: &SqliteRow) -> Result<StoredCredential, StoreError> {
    let sealed: Sealed = from_json(row.try_get("sealed")?, "credential_secrets.sealed")?;
    let (expires_at, refresh) = match from_json(row.try_get("auth")?, "vault_credentials.auth")? {
        CredentialAuth::McpOauth { expires_at, refresh, .. } => (expires_at, refresh),
        CredentialAuth::StaticBearer { .. } | CredentialAuth::EnvironmentVariable { .. } => (None, None),
    };
    Ok(StoredCredential {
        vault_id: parsed(VaultId::parse(row.try_get("vault_id")?), "vault_credentials.vault_id")?,
        id: parsed(CredentialId::parse(row.try_get("id")?), "vault_credentials.id")?,
        kind: CredentialKind::parse(row.try_get("kind")?)
            .ok_or(StoreError::Corrupt { what: "vault_credentials.kind" })?,
        expires_at,
        refresh,
        binding: binding(row)?.in_version(sealed.version),
        sealed,
    })
}

fn binding(row: &SqliteRow) -> Result<Binding, StoreError> {
    let auth: CredentialAuth = from_json(row.try_get("auth")?, "vault_credentials.auth")?;
    let Bound { client_id, secret_name, refresh, injection: _ } = Bound::new(&auth);
    let injection: Option<&str> = row.try_get("injection")?;
    Ok(Binding {
        client_id,
        credential: row.try_get("id")?,
        hosts: from_json(row.try_get("hosts")?, "vault_credentials.hosts")?,
        injection: injection.map(|places| from_json(places, "vault_credentials.injection")).transpose()?,
        kind: row.try_get("kind")?,
        mcp_url: row.try_get("mcp_url")?,
        refresh,
        secret_name,
        token_endpoint: row.try_get("token_endpoint")?,
        vault: row.try_get("vault_id")?,
        workspace: row.try_get("workspace_id")?,
    })
}

fn credential(row: &SqliteRow) -> Result<Credential, StoreError> {
    Ok(Credential {
        id: parsed(CredentialId::parse(row.try_get("id")?), "vault_credentials.id")?,
        kind: CredentialTag::VaultCredential,
        vault_id: parsed(VaultId::parse(row.try_get("vault_id")?), "vault_credentials.vault_id")?,
        auth: from_json(row.try_get("auth")?, "vault_credentials.auth")?,
        display_name: row.try_get("display_name")?,
        metadata: from_json(row.try_get("metadata")?, "vault_credentials.metadata")?,
        created_at: instant(row.try_get("created_at")?, "vault_credentials.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "vault_credentials.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "vault_credentials.archived_at")?,
    })
}
