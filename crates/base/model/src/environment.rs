//! Environments: where sessions run and whose queue their work waits in.

use serde::{Deserialize, Serialize};

use crate::ids::EnvironmentId;
use crate::{Field, Metadata, Problem, Timestamp, metadata::MetadataPatch};

/// An environment as the contract shows it (2.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Always `environment`.
    #[serde(rename = "type")]
    pub kind: EnvironmentTag,
    /// Unique in its workspace among environments that are not archived.
    pub name: String,
    /// Free text; null when cleared.
    pub description: Option<String>,
    /// What runs the tools.
    pub config: EnvironmentConfig,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `environment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvironmentTag {
    /// `environment`.
    #[default]
    #[serde(rename = "environment")]
    Environment,
}

/// What runs the tools of an environment. This plane has no cloud of its own: the organisation's workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum EnvironmentConfig {
    /// Workers of the organisation.
    SelfHosted {},
}

/// The `config` of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigInput(serde_json::Value);

impl<'de> Deserialize<'de> for ConfigInput {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(Self)
    }
}

impl ConfigInput {
    /// The configuration this build can serve.
    ///
    /// # Errors
    /// 400 for a cloud environment (with the reason), for an unknown type and for further fields.
    pub fn checked(self) -> Result<EnvironmentConfig, Problem> {
        if self.is_cloud() {
            return Err(Problem::invalid_at(
                "config.type",
                "this server runs no cloud sandboxes; use {\"type\":\"self_hosted\"} and start a worker",
            ));
        }
        // A derived parser would also take an array, by position.
        if !self.0.is_object() {
            return Err(Problem::invalid_at("config", "must be an object"));
        }
        serde_json::from_value(self.0).map_err(|error| Problem::invalid_at("config", error))
    }

    /// Whether a cloud environment is meant.
    pub fn is_cloud(&self) -> bool {
        self.0.get("type").and_then(serde_json::Value::as_str) == Some("cloud")
    }
}

/// The body that creates an environment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    /// Its name.
    pub name: String,
    /// Absent or null: self-hosted.
    #[serde(default)]
    pub config: Field<ConfigInput>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// `organization` alone: the other scope belongs to accounts of people.
    #[serde(default)]
    pub scope: Option<String>,
}

/// The body that updates an environment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateEnvironment {
    /// A new name; null is refused.
    #[serde(default)]
    pub name: Field<String>,
    /// The configuration; its type cannot change.
    #[serde(default)]
    pub config: Field<ConfigInput>,
    /// Null clears; an empty text is stored.
    #[serde(default)]
    pub description: Field<String>,
    /// Merged; null or an empty text deletes a key.
    #[serde(default)]
    pub metadata: Field<MetadataPatch>,
    /// As on creation.
    #[serde(default)]
    pub scope: Field<String>,
}

/// `{id, type: "environment_deleted"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EnvironmentDeleted {
    /// What was deleted.
    pub id: EnvironmentId,
    /// Always `environment_deleted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}
