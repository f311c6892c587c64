//! Which zone of a file is meant: one by name, or the one that a session would get.

use std::sync::Arc;

use postern_policy::{Denial, SessionFacts, Zone, Zones};

use crate::cli::WhichSession;
use crate::config::{ANY_ENVIRONMENT, DEFAULT_ENVIRONMENT};
use crate::failure::Failure;

/// The zone, or why a session has none.
///
/// # Errors
/// No zone of this name, or a session that is not described well enough to choose one.
pub(crate) fn zone(zones: &Zones, which: &WhichSession) -> Result<Result<Arc<Zone>, Denial>, Failure> {
    if let Some(name) = &which.zone {
        return zones.named(name).map(Ok).ok_or_else(|| Failure::Misused(format!("no zone is named {name}")));
    }
    let described = which.environment.is_some() || which.agent.is_some() || which.definition.is_some();
    let mut all = zones.iter();
    match (described, all.next(), all.next()) {
        (false, Some(only), None) => Ok(Ok(Arc::clone(only))),
        (false, Some(_), Some(_)) => Err(Failure::Misused(
            "the file has several zones: say --zone, or --agent and --environment of the session".to_owned(),
        )),
        (_, None, _) => Ok(zones.select(&facts(which)?)),
        (_, Some(_), _) => {
            let facts = facts(which)?;
            if !zones.cover_environment(&facts.environment_id) {
                return Err(no_environment(zones, &facts.environment_id));
            }
            Ok(zones.select(&facts))
        }
    }
}

/// What no zone names is mistyped more often than it is meant.
fn no_environment(zones: &Zones, asked: &str) -> Failure {
    let name = |id: &str| if id == ANY_ENVIRONMENT { DEFAULT_ENVIRONMENT.to_owned() } else { id.to_owned() };
    let mut known: Vec<String> = zones.iter().filter_map(|zone| zones.environment_of(zone.name())).map(name).collect();
    known.sort();
    known.dedup();
    let asked = name(asked);
    Failure::Misused(format!(
        "no zone of the file has the environment {asked}, so its sessions would reach nothing; say one of these: {}",
        known.join(", ")
    ))
}

/// The session as the perimeter would be told. What is not said meets no zone that asks for it.
fn facts(which: &WhichSession) -> Result<SessionFacts, Failure> {
    let environment_id = match which.environment.as_deref() {
        None | Some(DEFAULT_ENVIRONMENT) => ANY_ENVIRONMENT.to_owned(),
        Some(id) => id.to_owned(),
    };
    let (agent_id, agent_version) = match which.agent.as_deref() {
        None => (String::new(), 0),
        Some(agent) => agent_of(agent)
            .ok_or_else(|| Failure::Misused(format!("--agent is an id and a version, agent_...@1, not {agent}")))?,
    };
    let definition_digest = which.definition.clone().unwrap_or_default();
    Ok(SessionFacts { environment_id, agent_id, agent_version, definition_digest })
}

/// `agent_...@3`, or the id alone: then version 0, which no agent has.
fn agent_of(text: &str) -> Option<(String, u64)> {
    let (id, version) = match text.split_once('@') {
        Some((id, version)) => (id, version.parse().ok()?),
        None => (text, 0),
    };
    id.starts_with("agent_").then(|| (id.to_owned(), version))
}
