//! Vaults and their credentials, as the contract shows them (2.8, 8.1). Secrets are not here: no answer has one.

use serde::{Deserialize, Serialize};

use crate::ids::{CredentialId, VaultId};
use crate::metadata::MetadataPatch;
use crate::tunnel::display_name;
use crate::{Field, Metadata, Problem, Timestamp};

mod hosts;
mod validation;

pub use hosts::{MAX_ALLOWED_HOSTS, allowed_hosts, covers};
pub use validation::{
    CapturedResponse, CredentialValidation, McpProbe, RefreshAttempt, RefreshStatus, ValidationTag, Verdict,
};

/// The most credentials of a vault that are not archived.
pub const MAX_CREDENTIALS: usize = 20;

/// A vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vault {
    /// Its id.
    pub id: VaultId,
    /// Always `vault`.
    #[serde(rename = "type")]
    pub kind: VaultTag,
    /// The caller's name for it.
    pub display_name: String,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `vault`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultTag {
    /// `vault`.
    #[default]
    #[serde(rename = "vault")]
    Vault,
}

/// The body that creates a vault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVault {
    /// The caller's name for it.
    pub display_name: String,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

impl CreateVault {
    /// Name and pairs within their limits.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<(String, Metadata), Problem> {
        Ok((display_name(self.display_name, 1)?, self.metadata.unwrap_or_default().checked()?))
    }
}

/// The body that updates a vault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateVault {
    /// A new name; null is refused.
    #[serde(default)]
    pub display_name: Field<String>,
    /// Merged; null as a whole clears.
    #[serde(default)]
    pub metadata: Field<MetadataPatch>,
}

impl UpdateVault {
    /// Name and pairs after this update.
    ///
    /// # Errors
    /// 400.
    pub fn apply(self, stored: &Vault) -> Result<(String, Metadata), Problem> {
        let name = match self.display_name {
            Field::Absent => stored.display_name.clone(),
            Field::Null => return Err(Problem::invalid_at("display_name", "cannot be cleared")),
            Field::Value(name) => display_name(name, 1)?,
        };
        Ok((name, merged(&stored.metadata, &self.metadata)?))
    }
}

/// Pairs after an update: absent keeps, null clears, a patch is merged.
///
/// # Errors
/// 400 `invalid_metadata`.
pub fn merged(stored: &Metadata, patch: &Field<MetadataPatch>) -> Result<Metadata, Problem> {
    match patch {
        Field::Absent => Ok(stored.clone()),
        Field::Null => Ok(Metadata::default()),
        Field::Value(patch) => stored.merged(patch),
    }
}

/// A credential's name after an update: absent keeps, null clears.
///
/// # Errors
/// 400.
pub fn renamed(stored: Option<&str>, name: Field<String>) -> Result<Option<String>, Problem> {
    match name {
        Field::Absent => Ok(stored.map(ToOwned::to_owned)),
        Field::Null => Ok(None),
        Field::Value(name) => display_name(name, 1).map(Some),
    }
}

/// A new credential's name.
///
/// # Errors
/// 400.
pub fn credential_name(name: Option<String>) -> Result<Option<String>, Problem> {
    name.map(|name| display_name(name, 0)).transpose()
}

/// A credential, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// Always `vault_credential`.
    #[serde(rename = "type")]
    pub kind: CredentialTag,
    /// Whose it is.
    pub vault_id: VaultId,
    /// What it authenticates to, and how.
    pub auth: CredentialAuth,
    /// The caller's name for it.
    pub display_name: Option<String>,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `vault_credential`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialTag {
    /// `vault_credential`.
    #[default]
    #[serde(rename = "vault_credential")]
    VaultCredential,
}

/// How a credential authenticates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CredentialAuth {
    /// A fixed bearer token for one MCP server.
    StaticBearer {
        /// As the caller wrote it.
        mcp_server_url: String,
    },
    /// An OAuth access token for one MCP server.
    McpOauth {
        /// As the caller wrote it.
        mcp_server_url: String,
        /// When the access token expires, where known.
        expires_at: Option<Timestamp>,
        /// How to get another.
        refresh: Option<OauthRefresh>,
    },
    /// A value that the sandbox sees as a placeholder in a variable.
    EnvironmentVariable {
        /// The variable.
        secret_name: String,
        /// Where the value may go.
        networking: Networking,
        /// Where in a request it may stand.
        injection_location: InjectionLocation,
    },
}

impl CredentialAuth {
    /// Which kind this is.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::StaticBearer { .. } => CredentialKind::StaticBearer,
            Self::McpOauth { .. } => CredentialKind::McpOauth,
            Self::EnvironmentVariable { .. } => CredentialKind::EnvironmentVariable,
        }
    }
}

/// The kinds of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A fixed bearer token.
    StaticBearer,
    /// An OAuth access token.
    McpOauth,
    /// A value in a variable.
    EnvironmentVariable,
}

impl CredentialKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaticBearer => "static_bearer",
            Self::McpOauth => "mcp_oauth",
            Self::EnvironmentVariable => "environment_variable",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::StaticBearer, Self::McpOauth, Self::EnvironmentVariable].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How an expired access token is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OauthRefresh {
    /// The OAuth client.
    pub client_id: String,
    /// Where new tokens come from.
    pub token_endpoint: String,
    /// How the client says who it is.
    pub token_endpoint_auth: TokenEndpointAuth,
    /// The resource indicator.
    pub resource: Option<String>,
    /// The scope that is asked for.
    pub scope: Option<String>,
}

/// How a client authenticates to a token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TokenEndpointAuth {
    /// Not at all.
    None {},
    /// HTTP Basic.
    ClientSecretBasic {},
    /// In the form.
    ClientSecretPost {},
}

impl TokenEndpointAuth {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None {} => "none",
            Self::ClientSecretBasic {} => "client_secret_basic",
            Self::ClientSecretPost {} => "client_secret_post",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::None {}, Self::ClientSecretBasic {}, Self::ClientSecretPost {}];
        all.into_iter().find(|auth| auth.as_str() == text)
    }
}

/// Where a variable's value may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Networking {
    /// Wherever the environment's policy lets requests go.
    Unrestricted {},
    /// These hosts alone.
    Limited {
        /// Bare names, IPv4 addresses, `*.` wildcards.
        allowed_hosts: Vec<String>,
    },
}

impl Networking {
    /// The hosts as a binding has them: `*` alone where there is no limit.
    pub fn hosts(&self) -> Vec<String> {
        match self {
            Self::Unrestricted {} => vec!["*".to_owned()],
            Self::Limited { allowed_hosts } => allowed_hosts.clone(),
        }
    }
}

/// Where in a request a value may stand. At least one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectionLocation {
    /// In header values.
    pub header: bool,
    /// In the body.
    pub body: bool,
}

/// Which secret of a credential: the value itself, or what only refreshing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretPart {
    /// The bearer, the access token, the variable's value.
    Value,
    /// The OAuth refresh token.
    RefreshToken,
    /// The OAuth client's secret.
    ClientSecret,
}

impl SecretPart {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::RefreshToken => "refresh_token",
            Self::ClientSecret => "client_secret",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Value, Self::RefreshToken, Self::ClientSecret].into_iter().find(|part| part.as_str() == text)
    }
}
