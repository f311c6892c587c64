//! Reading zones from the configuration: everything that is wrong, in one go, each with its place.

use super::audit::AuditMode;
use super::explain::RuleLines;
use super::mcp_rule::McpRule;
use super::read_credential::read_credentials;
use super::read_mcp::read_mcp_rules;
use super::read_rule::read_rules;
use super::sandbox::{SandboxLimits, refuse_ours, refuse_written_caches};
use super::select::{AgentSelector, Covering};
use super::{DENY_ALL, Zone};
use crate::cedar::{Builder, PolicyFile};
use crate::document::{At, ConfigError, Document, Item, Reader, Table};
use crate::zone::rule::{Inspection, Repositories, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// A zone that was read, and where its name stands.
struct Read {
    at: At,
    covering: Covering,
    /// Of which zone it is a candidate.
    of: Option<String>,
}

/// What zones lend of `ours`, each with the place of the zone's name. What else is wrong with them [`load`] tells.
pub(super) fn lent_of(document: &Document, names: &BTreeMap<String, String>, ours: &[PathBuf]) -> Vec<ConfigError> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    let tables = root.named_tables("zone").into_iter();
    let zones: Vec<Read> = tables.filter_map(|(name, table)| read_zone(document, names, name, table)).collect();
    drop(root);
    drop(reader.finish());
    let reader = document.reader();
    zones.iter().for_each(|read| refuse_ours(&reader, read.at, &read.covering.zone.sandbox, ours));
    reader.finish()
}

/// The zones and the warnings about them.
pub(super) fn load(
    document: &Document,
    names: &BTreeMap<String, String>,
) -> Result<(Vec<Covering>, Vec<ConfigError>), Vec<ConfigError>> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    let zones: Vec<Read> = root
        .named_tables("zone")
        .into_iter()
        .filter_map(|(name, table)| read_zone(document, names, name, table))
        .collect();
    drop(root);
    let (candidates, zones): (Vec<Read>, Vec<Read>) = zones.into_iter().partition(|read| read.of.is_some());
    refuse_overlaps(&reader, &zones);
    let zones = with_candidates(&reader, zones, candidates);
    let limits: Vec<_> = zones.iter().map(|read| (read.at, &read.covering.zone.sandbox)).collect();
    refuse_written_caches(&reader, &limits);
    let (errors, warnings) = reader.finish_with_warnings();
    if errors.is_empty() { Ok((zones.into_iter().map(|read| read.covering).collect(), warnings)) } else { Err(errors) }
}

fn read_zone(
    document: &Document,
    names: &BTreeMap<String, String>,
    name: Item<&str>,
    mut table: Table<'_>,
) -> Option<Read> {
    let named_well = is_name(name.value) && name.value != DENY_ALL;
    if !named_well {
        let message = "a zone's name has lower-case letters, digits and dashes, at most 64, and is not deny-all";
        table.reader().error(name.at, message);
    }
    let digest = super::digest(name.value, &table.canonical());
    let of = read_mode(&mut table);
    let (environment_id, agents) = match &of {
        Mode::Enforce => (read_environment(&mut table, names), read_agents(&mut table)),
        Mode::Shadow(_) => (Some(String::new()), Some(Vec::new())),
    };
    table.not_in_this_build(&["ask", "approvers", "tools", "detect"]);
    let audit = AuditMode::read(&mut table);
    let sandbox = table.table("sandbox").map(|mut sandbox| SandboxLimits::read(&mut sandbox)).unwrap_or_default();
    let credentials = read_credentials(&mut table);
    let rules = read_rules(document, name.value, &mut table, &credentials);
    let mcp_rules = read_mcp_rules(name.value, &mut table);
    let policies = if named_well {
        let (rules, mcp_rules) = (rules.as_deref().unwrap_or_default(), mcp_rules.as_deref().unwrap_or_default());
        read_policies(document, name.value, &mut table, rules, mcp_rules)
    } else {
        None
    };
    let lines = RuleLines::read(name.value, &mut table);
    let zone = Zone {
        name: name.value.to_owned(),
        digest,
        audit,
        sandbox,
        credentials: credentials?,
        rules: rules?,
        mcp_rules: mcp_rules?,
        policies: policies?,
        lines,
        candidate: None,
    };
    let of = match of {
        Mode::Enforce => None,
        Mode::Shadow(of) => Some(of?),
    };
    Some(Read {
        at: name.at,
        of,
        covering: Covering { environment_id: environment_id?, agents: agents?, zone: Arc::new(zone) },
    })
}

/// Names go into rule ids and Cedar texts.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn read_environment(table: &mut Table<'_>, names: &BTreeMap<String, String>) -> Option<String> {
    let item = table.string("environment");
    let item = table.required("environment", item)?;
    if item.value.starts_with("env_") {
        return Some(item.value.to_owned());
    }
    let id = names.get(item.value);
    if id.is_none() {
        table
            .reader()
            .error(item.at, format!("no environment is known here as {:?}; use its id (env_...)", item.value));
    }
    id.cloned()
}

fn read_agents(table: &mut Table<'_>) -> Option<Vec<AgentSelector>> {
    if !table.has("agents") {
        return Some(vec![AgentSelector::Any]);
    }
    let given = table.strings("agents")?.len();
    let agents = table.parsed_all::<AgentSelector>("agents")?;
    if given == 0 {
        table.reader().error(table.at(), "agents is empty, so the zone covers nobody; write [\"*\"] or leave it out");
    }
    (given > 0 && agents.len() == given).then(|| agents.into_iter().map(|agent| agent.value).collect())
}

/// What a zone's word counts for.
enum Mode {
    /// It decides.
    Enforce,
    /// It is a candidate of that zone; none where the file does not say which.
    Shadow(Option<String>),
}

fn read_mode(table: &mut Table<'_>) -> Mode {
    match table.string("mode") {
        None | Some(Item { value: "enforce", .. }) => Mode::Enforce,
        Some(Item { value: "shadow", .. }) => {
            let of = table.string("of");
            let of = table.required("of", of).map(|of| of.value.to_owned());
            for key in ["environment", "agents"] {
                if table.has(key) {
                    let message = format!("a zone in shadow covers whom the zone in `of` covers; leave `{key}` out");
                    table.reader().error(table.at(), message);
                }
            }
            Mode::Shadow(of)
        }
        Some(Item { at, .. }) => {
            table.reader().error(at, "mode must be \"enforce\" or \"shadow\"");
            Mode::Enforce
        }
    }
}

/// The zones that decide, each with its candidate.
fn with_candidates(reader: &Reader<'_>, mut zones: Vec<Read>, candidates: Vec<Read>) -> Vec<Read> {
    for candidate in candidates {
        let of = candidate.of.as_deref().unwrap_or_default();
        let Some(zone) = zones.iter_mut().find(|zone| zone.covering.zone.name == of) else {
            reader.error(
                candidate.at,
                format!("of: no zone {of:?} decides here, so there is nothing to be a candidate of"),
            );
            continue;
        };
        match Arc::get_mut(&mut zone.covering.zone) {
            Some(zone) if zone.candidate.is_none() => {
                let name = candidate.covering.zone.name();
                let message = format!(
                    "zone {name} is in shadow: it decides nothing, and the record says where it differs from zone {of}"
                );
                reader.warn(candidate.at, message);
                zone.candidate = Some(candidate.covering.zone);
            }
            _ => reader.error(candidate.at, format!("zone {of} has a candidate already; one zone has one at most")),
        }
    }
    zones
}

fn read_policies(
    document: &Document,
    zone: &str,
    table: &mut Table<'_>,
    rules: &[Rule],
    mcp_rules: &[McpRule],
) -> Option<crate::cedar::Policies> {
    let mut builder = Builder::new(zone);
    for rule in rules {
        match rule.inspection {
            Inspection::Requests => {
                let tokens = (rule.repositories == Repositories::Taken).then_some(crate::repository::ANY_TOKEN);
                let credentials: Vec<&str> =
                    rule.credentials().map(crate::CredentialName::as_str).chain(tokens).collect();
                builder.add_rule(&rule.id, &credentials);
            }
            Inspection::None => builder.add_passing_rule(&rule.id),
        }
    }
    for rule in mcp_rules {
        builder.add_mcp_rule(&rule.id, &rule.server);
    }
    let file = table.string("policy_file");
    let report = |at: At, messages: Vec<String>| {
        for message in messages {
            table.reader().error(at, format!("policy_file: {message}"));
        }
    };
    if let Some(file) = file {
        let Some(text) = document.attachment(file.value) else {
            table.reader().error(file.at, format!("policy_file: {} cannot be read", file.value));
            return None;
        };
        if let Err(messages) = builder.add_file(PolicyFile { name: file.value, text }, &names(document)) {
            report(file.at, messages);
            return None;
        }
    }
    match builder.finish() {
        Ok(policies) => Some(policies),
        Err(messages) => {
            report(file.map_or(table.at(), |file| file.at), messages);
            None
        }
    }
}

/// The names of all zones of the file.
fn names(document: &Document) -> BTreeSet<String> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    let tables = root.named_tables("zone").into_iter().map(|(name, mut table)| {
        table.leave_rest();
        name.value.to_owned()
    });
    tables.collect()
}

fn refuse_overlaps(reader: &Reader<'_>, zones: &[Read]) {
    for (index, zone) in zones.iter().enumerate() {
        for earlier in &zones[..index] {
            if overlap(&earlier.covering, &zone.covering) {
                let message = format!(
                    "zones {} and {} could both cover one session; narrow `agents` until they cannot",
                    earlier.covering.zone.name(),
                    zone.covering.zone.name()
                );
                reader.error(zone.at, message);
            }
        }
    }
}

fn overlap(one: &Covering, other: &Covering) -> bool {
    one.environment_id == other.environment_id
        && one.agents.iter().any(|agent| other.agents.iter().any(|it| agent.could_meet(it)))
}
