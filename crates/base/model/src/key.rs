//! Records of the keys that this server issued. The key itself is shown once, in the answer that creates it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::ids::{ApiKeyId, EnvironmentId, EnvironmentKeyId, VaultId, WorkspaceId};

/// An API key's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: ApiKeyId,
    /// Always `api_key`.
    #[serde(rename = "type")]
    pub kind: ApiKeyTag,
    /// The operator's name for it.
    pub name: String,
    /// The first characters of the key, enough to recognise it by.
    pub hint: String,
    /// What it may do.
    pub role: KeyRole,
    /// The vaults that it is for; every one where there is none.
    pub vault_ids: Option<Vec<VaultId>>,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Everything that an API key can.
    #[default]
    Admin,
    /// Read everything; make and change agents, sessions, files, skills, memory stores and deployments.
    Developer,
    /// Read everything.
    Viewer,
    /// Run workers: environments, their work and their keys.
    Worker,
}

impl KeyRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Developer, Self::Viewer, Self::Worker];

    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// The constant `api_key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiKeyTag {
    /// `api_key`.
    #[default]
    #[serde(rename = "api_key")]
    ApiKey,
}

/// An environment key's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentKeyRecord {
    /// Its id.
    pub id: EnvironmentKeyId,
    /// Always `environment_key`.
    #[serde(rename = "type")]
    pub kind: EnvironmentKeyTag,
    /// The environment whose queue it opens.
    pub environment_id: EnvironmentId,
    /// The operator's name for it.
    pub name: String,
    /// The first characters of the key, enough to recognise it by.
    pub hint: String,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// The constant `environment_key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvironmentKeyTag {
    /// `environment_key`.
    #[default]
    #[serde(rename = "environment_key")]
    EnvironmentKey,
}

/// The body that issues an API key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// The operator's name for it.
    #[serde(default)]
    pub name: Option<String>,
    /// What it may do; everything unless said.
    #[serde(default)]
    pub role: KeyRole,
    /// The vaults that it is for; every one unless said.
    #[serde(default)]
    pub vault_ids: Option<Vec<VaultId>>,
    /// The workspace that it opens; the operator's own unless said.
    #[serde(default)]
    pub workspace_id: Option<WorkspaceId>,
}

/// The body that issues an environment key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The operator's name for it.
    #[serde(default)]
    pub name: Option<String>,
}
