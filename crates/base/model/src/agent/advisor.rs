//! Advisors: a model that an agent may consult in the middle of its turn, and rosters that have one (contract 2.3).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::ModelParam;
use crate::Problem;

/// The name under which an advisor works; no agent of a roster may have it.
pub const ADVISOR: &str = "anthropic.advisor";
/// The tool that asks the advisor.
pub const ASK_ADVISOR: &str = "ask_advisor";

/// A model that may be consulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisor {
    /// Always `advisor`.
    #[serde(rename = "type")]
    kind: AdvisorTag,
    /// The model's id or alias at the endpoint.
    pub model: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum AdvisorTag {
    #[serde(rename = "advisor")]
    Advisor,
}

impl Advisor {
    /// The advisor with this model.
    pub fn new(model: impl Into<String>) -> Self {
        Self { kind: AdvisorTag::Advisor, model: model.into() }
    }

    /// Reads `{"type":"advisor","model":ID}`.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn parse(at: &str, sent: &Value) -> Result<Self, Problem> {
        let Ok(advisor) = Self::deserialize(sent) else {
            return Err(Problem::invalid_at(at, "an advisor is {\"type\":\"advisor\",\"model\":ID}"));
        };
        Ok(Self::new(model(at, &advisor.model)?))
    }
}

/// Checks the id of an advisor's model.
pub(super) fn model(at: &str, id: &str) -> Result<String, Problem> {
    let resolved = ModelParam::named(id).resolve();
    Ok(resolved.map_err(|_| Problem::invalid_at(&format!("{at}.model"), "a model id has 1 to 256 characters"))?.id)
}

/// Those of a roster: agents, and behind them the advisor, as one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team<T> {
    /// The agents, in the order they were sent.
    pub agents: Vec<T>,
    /// The model that may be consulted.
    pub advisor: Option<Advisor>,
}

impl<T: Serialize> Serialize for Team<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Entry<'a, T> {
            Agent(&'a T),
            Advisor(&'a Advisor),
        }
        serializer
            .collect_seq(self.agents.iter().map(Entry::Agent).chain(self.advisor.iter().map(|one| Entry::Advisor(one))))
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Team<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut team = Self { agents: Vec::new(), advisor: None };
        for entry in Vec::<Value>::deserialize(deserializer)? {
            if entry["type"] == "advisor" {
                team.advisor = Some(serde_json::from_value(entry).map_err(D::Error::custom)?);
            } else {
                team.agents.push(serde_json::from_value(entry).map_err(D::Error::custom)?);
            }
        }
        Ok(team)
    }
}
