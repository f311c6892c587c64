//! Which zone each kind of session has before and after. Sessions of one kind are told apart by no zone of either
//! configuration, and each kind is asked by one session of it.

use super::super::select::{AgentSelector, Zones};
use super::Sessions;
use crate::request::SessionFacts;
use crate::zone::Zone;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The sessions that go from one zone to another.
pub(super) struct Pair {
    pub(super) sessions: Vec<Sessions>,
    pub(super) old: Option<Arc<Zone>>,
    pub(super) new: Option<Arc<Zone>>,
}

/// Every pair of zones that some session has.
pub(super) fn pairs(old: &Zones, new: &Zones) -> Vec<Pair> {
    let mut pairs: BTreeMap<(Option<String>, Option<String>), Pair> = BTreeMap::new();
    let environments: BTreeSet<&str> = old.environments().chain(new.environments()).collect();
    for environment in environments {
        let selectors: Vec<&AgentSelector> = old.selectors(environment).chain(new.selectors(environment)).collect();
        for (agents, facts) in kinds(environment, &selectors) {
            let (before, after) = (old.select(&facts).ok(), new.select(&facts).ok());
            let name = |zone: &Option<Arc<Zone>>| zone.as_ref().map(|zone| zone.name().to_owned());
            let pair = pairs.entry((name(&before), name(&after))).or_insert_with(|| Pair {
                sessions: Vec::new(),
                old: before,
                new: after,
            });
            pair.sessions.push(Sessions { environment: environment.to_owned(), agents });
        }
    }
    pairs.into_values().collect()
}

/// One session of each kind, with the words for the kind.
fn kinds(environment: &str, selectors: &[&AgentSelector]) -> Vec<(String, SessionFacts)> {
    let agents = agents(selectors);
    let digests: BTreeSet<&str> = selectors
        .iter()
        .filter_map(|selector| if let AgentSelector::Digest(digest) = selector { Some(digest.as_str()) } else { None })
        .collect();
    let only = agents.len() == 1 && digests.is_empty();
    let mut kinds = Vec::new();
    for (agent, id, version) in agents {
        let facts = |digest: &str| SessionFacts {
            environment_id: environment.to_owned(),
            agent_id: id.clone(),
            agent_version: version,
            definition_digest: digest.to_owned(),
        };
        kinds.push((if only { "any agent".to_owned() } else { agent.clone() }, facts("")));
        kinds.extend(digests.iter().map(|digest| (format!("{agent} with {digest}"), facts(digest))));
    }
    kinds
}

/// Words, id and version for each agent that is told apart: those named, each with a version that none names, and one
/// that is not named.
fn agents(selectors: &[&AgentSelector]) -> Vec<(String, String, u64)> {
    let mut named: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for selector in selectors {
        match selector {
            AgentSelector::Id(id) => drop(named.entry(id).or_default()),
            AgentSelector::Version(id, version) => drop(named.entry(id).or_default().insert(*version)),
            AgentSelector::Any | AgentSelector::Digest(_) => {}
        }
    }
    let mut agents = vec![("other agents".to_owned(), String::new(), 0)];
    for (id, versions) in named {
        agents.extend(versions.iter().map(|version| (format!("{id}@{version}"), id.to_owned(), *version)));
        let unnamed = (0..).find(|version| !versions.contains(version)).unwrap_or_default();
        let words = if versions.is_empty() { id.to_owned() } else { format!("{id}, other versions") };
        agents.push((words, id.to_owned(), unnamed));
    }
    agents
}

impl Zones {
    fn environments(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().map(|covering| covering.environment_id.as_str())
    }

    fn selectors(&self, environment: &str) -> impl Iterator<Item = &AgentSelector> {
        let here = self.zones.iter().filter(move |covering| covering.environment_id == environment);
        here.flat_map(|covering| &covering.agents)
    }
}
