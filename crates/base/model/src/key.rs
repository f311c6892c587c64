//! Records of the keys that this server issued. The key itself is shown once, in the answer that creates it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::ids::{ApiKeyId, EnvironmentId, EnvironmentKeyId};

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
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
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

/// The body that issues a key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The operator's name for it.
    #[serde(default)]
    pub name: Option<String>,
}
