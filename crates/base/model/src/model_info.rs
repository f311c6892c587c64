//! Models as `GET /v1/models` shows them (contract 2.12). What an endpoint does not tell is null.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// One model of the configured endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The id to use in an agent.
    pub id: String,
    /// Always `model`.
    #[serde(rename = "type")]
    pub kind: ModelTag,
    /// The name for people.
    pub display_name: String,
    /// When it was released; the epoch when unknown.
    pub created_at: Timestamp,
    /// `active`, `deprecated` or `retired`.
    pub lifecycle: String,
    /// The model's line.
    pub line: Option<String>,
    /// When it was or will be deprecated.
    pub deprecated_at: Option<Timestamp>,
    /// When it was or will be retired.
    pub retires_at: Option<Timestamp>,
    /// The context window.
    pub max_input_tokens: Option<u64>,
    /// The longest answer.
    pub max_tokens: Option<u64>,
    /// Models that may stand in.
    pub allowed_fallback_models: Option<Vec<String>>,
    /// What it can do, as the endpoint said it.
    pub capabilities: Option<Value>,
}

/// The constant `model`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelTag {
    /// `model`.
    #[default]
    #[serde(rename = "model")]
    Model,
}

impl ModelInfo {
    /// A model of which only the id is known.
    pub fn unknown(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            kind: ModelTag::Model,
            display_name: id.to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            lifecycle: "active".to_owned(),
            line: None,
            deprecated_at: None,
            retires_at: None,
            max_input_tokens: None,
            max_tokens: None,
            allowed_fallback_models: None,
            capabilities: None,
        }
    }
}
