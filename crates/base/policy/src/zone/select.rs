//! Which zone covers a session: by environment, narrowed by agent id, id@version or digest of the definition.
//! Never by a name, which any API key can write.

use super::{DENY_ALL, Zone, load};
use crate::document::{ConfigError, Document};
use crate::reason::{Denial, Reason};
use crate::request::SessionFacts;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// All zones of a configuration: a whole generation.
#[derive(Clone, Debug)]
pub struct Zones {
    pub(super) zones: Vec<Covering>,
    deny_all: Arc<Zone>,
    warnings: Vec<ConfigError>,
}

/// A zone and the sessions it covers.
#[derive(Clone, Debug)]
pub(super) struct Covering {
    pub(super) environment_id: String,
    pub(super) agents: Vec<AgentSelector>,
    pub(super) zone: Arc<Zone>,
}

/// Which agents of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AgentSelector {
    Any,
    Id(String),
    Version(String, u64),
    Digest(String),
}

/// The text names no agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an agent: write \"*\", an id (agent_...), an id@version, or sha256: and 64 hexadecimal digits; names are not matched"
)]
pub(super) struct BadSelector;

impl FromStr for AgentSelector {
    type Err = BadSelector;
    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(digits) = text.strip_prefix("sha256:") {
            let whole =
                digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            return if whole { Ok(Self::Digest(text.to_owned())) } else { Err(BadSelector) };
        }
        let (id, version) = text.split_once('@').map_or((text, None), |(id, version)| (id, Some(version)));
        let suffix = id.strip_prefix("agent_").ok_or(BadSelector)?;
        if suffix.is_empty() || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(BadSelector);
        }
        match version {
            None => Ok(Self::Id(id.to_owned())),
            Some(version) => {
                let number: u64 = version.parse().map_err(|_| BadSelector)?;
                // One spelling each, so that two selectors of one agent are seen to be.
                (number.to_string() == version).then(|| Self::Version(id.to_owned(), number)).ok_or(BadSelector)
            }
        }
    }
}

impl fmt::Display for AgentSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Id(text) | Self::Digest(text) => f.write_str(text),
            Self::Version(id, version) => write!(f, "{id}@{version}"),
        }
    }
}

impl AgentSelector {
    fn covers(&self, facts: &SessionFacts) -> bool {
        match self {
            Self::Any => true,
            Self::Id(id) => *id == facts.agent_id,
            Self::Version(id, version) => *id == facts.agent_id && *version == facts.agent_version,
            Self::Digest(digest) => *digest == facts.definition_digest,
        }
    }

    /// Whether one session could be covered by both. A digest says nothing about the id, so it could be any.
    pub(super) fn could_meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Digest(one), Self::Digest(two)) => one == two,
            (Self::Any | Self::Digest(_), _) | (_, Self::Any | Self::Digest(_)) => true,
            (Self::Version(id, version), Self::Version(other_id, other_version)) => {
                id == other_id && version == other_version
            }
            (Self::Id(id) | Self::Version(id, _), Self::Id(other_id) | Self::Version(other_id, _)) => id == other_id,
        }
    }
}

impl Zones {
    /// Reads every zone of the configuration. `names` maps the environments' local names to their ids.
    ///
    /// # Errors
    /// Everything that is wrong in the zones, with its place; two zones that could cover one session are an error.
    pub fn load(document: &Document, names: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigError>> {
        let (zones, warnings) = load::load(document, names)?;
        Ok(Self { zones, warnings, ..Self::deny_all() })
    }

    /// What zones lend that is, holds or lies in one of `ours`, files and directories by absolute paths: errors besides those of [`Zones::load`].
    #[must_use]
    pub fn lent_of(document: &Document, names: &BTreeMap<String, String>, ours: &[PathBuf]) -> Vec<ConfigError> {
        load::lent_of(document, names, ours)
    }

    /// No zone at all: every environment has the built-in one.
    #[must_use]
    pub fn deny_all() -> Self {
        Self { zones: Vec::new(), deny_all: Arc::new(Zone::deny_all()), warnings: Vec::new() }
    }

    /// What the operator should know about the zones although they load.
    #[must_use]
    pub fn warnings(&self) -> &[ConfigError] {
        &self.warnings
    }

    /// The one zone that covers the session.
    ///
    /// # Errors
    /// `zone_none`: the environment has zones, but none for this agent.
    pub fn select(&self, facts: &SessionFacts) -> Result<Arc<Zone>, Denial> {
        let mut here = self.zones.iter().filter(|zone| zone.environment_id == facts.environment_id).peekable();
        if here.peek().is_none() {
            return Ok(Arc::clone(&self.deny_all));
        }
        here.find(|zone| zone.agents.iter().any(|agent| agent.covers(facts)))
            .map(|covering| Arc::clone(&covering.zone))
            .ok_or_else(|| Denial::advising(Reason::ZoneNone, no_zone(facts)))
    }

    /// Whether some zone speaks of this environment; where none does, its sessions have [`DENY_ALL`].
    #[must_use]
    pub fn cover_environment(&self, environment_id: &str) -> bool {
        self.zones.iter().any(|zone| zone.environment_id == environment_id)
    }

    /// The zone of this name, [`DENY_ALL`] included.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Zone>> {
        if name == DENY_ALL {
            return Some(Arc::clone(&self.deny_all));
        }
        self.iter().find(|zone| zone.name() == name).map(Arc::clone)
    }

    /// The agents that a zone covers, as it names them; `*` for all. A zone in shadow covers those of the zone it is a candidate of.
    #[must_use]
    pub fn agents_of(&self, zone: &str) -> Vec<String> {
        self.covering(zone).into_iter().flat_map(|covering| &covering.agents).map(ToString::to_string).collect()
    }

    /// The id of a zone's environment; of a zone in shadow, that of the zone it is a candidate of.
    #[must_use]
    pub fn environment_of(&self, zone: &str) -> Option<&str> {
        self.covering(zone).map(|covering| covering.environment_id.as_str())
    }

    fn covering(&self, zone: &str) -> Option<&Covering> {
        let is_it = |named: &Zone| named.name() == zone || named.candidate().is_some_and(|one| one.name() == zone);
        self.zones.iter().find(|covering| is_it(&covering.zone))
    }

    /// The zones of the file that decide, in its order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.zones.iter().map(|covering| &covering.zone)
    }
}

fn no_zone(facts: &SessionFacts) -> String {
    format!(
        "no zone of environment {} covers agent {} version {}; add \"{}\" or \"{}\" to `agents` of one zone and start a new session",
        facts.environment_id, facts.agent_id, facts.agent_version, facts.agent_id, facts.definition_digest
    )
}
