//! What probing a credential found (contract 2.8).

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::ids::{CredentialId, VaultId};

/// The outcome of a validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CredentialValidation {
    /// Always `vault_credential_validation`.
    #[serde(rename = "type")]
    pub kind: ValidationTag,
    /// Which credential.
    pub credential_id: CredentialId,
    /// Of which vault.
    pub vault_id: VaultId,
    /// The verdict.
    pub status: Verdict,
    /// Whether a refresh token is stored.
    pub has_refresh_token: bool,
    /// When.
    pub validated_at: Timestamp,
    /// The step that failed; null when none did, or there was nothing to try.
    pub mcp_probe: Option<McpProbe>,
    /// The refresh that was tried; null when none was.
    pub refresh: Option<RefreshAttempt>,
}

/// The constant `vault_credential_validation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValidationTag {
    /// `vault_credential_validation`.
    #[default]
    #[serde(rename = "vault_credential_validation")]
    VaultCredentialValidation,
}

/// Whether a credential works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Valid,
    /// It does not, and trying again will not help.
    Invalid,
    /// Nobody knows.
    Unknown,
}

/// The MCP request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpProbe {
    /// Its method.
    pub method: String,
    /// The HTTP error that came back, where one did.
    pub http_response: Option<CapturedResponse>,
}

/// A refresh that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshAttempt {
    /// How it went.
    pub status: RefreshStatus,
    /// The HTTP error that came back, where one did.
    pub http_response: Option<CapturedResponse>,
}

/// How a refresh went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshStatus {
    /// A new token came.
    Succeeded,
    /// The endpoint refused.
    Failed,
    /// The endpoint was not reached.
    ConnectError,
    /// There is nothing to refresh with.
    NoRefreshToken,
}

/// An HTTP answer, scrubbed and maybe cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedResponse {
    /// The status.
    pub status_code: u16,
    /// The content type.
    pub content_type: String,
    /// The body.
    pub body: String,
    /// Whether the body was cut.
    pub body_truncated: bool,
}
