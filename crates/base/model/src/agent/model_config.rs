//! The model of an agent and how it is asked.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::{Field, Problem};

/// A model as stored and shown. Members that were never chosen are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model's id or alias at the endpoint.
    pub id: String,
    /// How hard it thinks; absent means the model's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// Where it is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_geo: Option<String>,
    /// How fast it is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
}

/// `{type: high}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// The level.
    #[serde(rename = "type")]
    pub level: EffortLevel,
}

/// How hard a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the variants are the words of the wire")]
pub enum EffortLevel {
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// How fast a model is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speed {
    /// The ordinary way.
    Standard,
    /// Faster, at a higher price.
    Fast,
}

/// A model as requests carry it: `"name"` or `{id, effort?, inference_geo?, speed?}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelParam {
    config: ModelConfig,
}

impl ModelParam {
    /// Only the model's name.
    pub(crate) fn named(id: impl Into<String>) -> Self {
        Self { config: ModelConfig::named(id) }
    }

    /// The configuration, within the limits.
    ///
    /// # Errors
    /// 400 when the id is empty or too long.
    pub fn resolve(self) -> Result<ModelConfig, Problem> {
        let length = self.config.id.chars().count();
        if !(1..=256).contains(&length) {
            return Err(Problem::invalid_at("model.id", "a model id has 1 to 256 characters"));
        }
        Ok(self.config)
    }
}

impl ModelConfig {
    /// Only the model's name.
    pub fn named(id: impl Into<String>) -> Self {
        Self { id: id.into(), effort: None, inference_geo: None, speed: None }
    }

    /// This configuration, with the effort of `stored` when the model is the same and no effort was sent.
    #[must_use]
    pub fn keeping_effort_of(mut self, stored: &Self) -> Self {
        if self.id == stored.id && self.effort.is_none() {
            self.effort = stored.effort;
        }
        self
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectInput {
    id: String,
    #[serde(default)]
    effort: Field<Value>,
    #[serde(default)]
    inference_geo: Option<String>,
    #[serde(default)]
    speed: Option<Speed>,
}

impl<'de> Deserialize<'de> for ModelParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = match Value::deserialize(deserializer)? {
            Value::String(id) => ModelConfig::named(id),
            object @ Value::Object(_) => object_input(object).map_err(de::Error::custom)?,
            _ => return Err(de::Error::custom("expected a model name or an object with `id`")),
        };
        Ok(Self { config })
    }
}

fn object_input(object: Value) -> Result<ModelConfig, serde_json::Error> {
    let input: ObjectInput = serde_json::from_value(object)?;
    let effort = match input.effort {
        Field::Absent | Field::Null => None,
        Field::Value(word @ Value::String(_)) => Some(Effort { level: serde_json::from_value(word)? }),
        Field::Value(object) => Some(serde_json::from_value(object)?),
    };
    Ok(ModelConfig { id: input.id, effort, inference_geo: input.inference_geo, speed: input.speed })
}
