//! `postern zone learn`: what one agent was refused, as rules that a person may take over. Printed, never applied; for this
//! agent alone; never a credential. What the log holds was chosen by an agent, so it is parsed like any hostile text,
//! and nothing of it becomes a pattern.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use postern_audit::{Decision, Entry, Kind};
use postern_policy::{CanonicalPath, Host, Method, Port, Reason, Scheme, Zones, minting, zone};

use super::diff::environment;
use super::record::{self, Recorded};
use crate::audit::harmless;
use crate::config::{self, DEFAULT_ENVIRONMENT};
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// Log or configuration cannot be read.
#[expect(clippy::print_stdout, reason = "the proposal is the command's result")]
pub(crate) fn run(agent: &str, whose: Whose, log: &Path, file: &Path) -> Result<(), Failure> {
    if !agent.starts_with("agent_")
        || !agent.chars().all(|letter| letter.is_ascii_alphanumeric() || "_@".contains(letter))
    {
        return Err(Failure::Misused("--agent is an id, agent_..., or agent_...@VERSION".to_owned()));
    }
    let configuration = config::read_file(file)?;
    let recorded = Recorded::read(log)?;
    print!("{}", Proposal::of(agent, whose, &recorded, &configuration.zones).text());
    recorded.held()
}

/// Whose refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those that were made.
    Enforced,
    /// Those that a zone in shadow would have made: what the agent does now and could not do under it.
    Candidate,
}

impl Whose {
    /// The reason of a refusal, if the entry is one.
    fn refusal(self, entry: &Entry) -> Option<Reason> {
        let shadow = entry.record.shadow.as_ref().filter(|shadow| shadow.decision == Decision::Deny);
        match self {
            Self::Enforced => (entry.record.decision == Decision::Deny).then(|| record::reason(entry))?,
            Self::Candidate => record::reason_of(shadow?.reason.as_deref()?),
        }
    }

    fn zone<'a>(self, entry: &'a Entry, recorded: &'a Recorded) -> Option<&'a str> {
        match self {
            Self::Enforced => recorded.zone_of(entry),
            Self::Candidate => entry.record.shadow.as_ref().map(|shadow| shadow.zone.as_str()),
        }
    }
}

/// How often and when.
#[derive(Clone, Copy)]
struct Seen {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// Everything that was refused at one place with one method: two in one rule would allow each on the other's paths.
#[derive(Default)]
struct Requests {
    seen: Option<Seen>,
    paths: BTreeSet<CanonicalPath>,
}

/// What would be added, and what is left to a person.
struct Proposal {
    agent: String,
    zone: ForZone,
    egress: BTreeMap<(Host, Port, Scheme, Method), Requests>,
    tools: BTreeMap<(String, String), Seen>,
    /// Why, and how often.
    left_out: BTreeMap<String, u64>,
    doubt: Option<String>,
}

/// Where the rules would stand.
enum ForZone {
    /// The zone covers this agent alone.
    Own(String),
    /// A zone of the agent's own, in this environment.
    Apart(Why, String),
}

/// Why an agent gets a zone of its own.
enum Why {
    /// The log does not say which zone it had.
    Unknown,
    /// It had the one of environments without any.
    DenyAll,
    /// The zone it had is not in the file.
    Elsewhere(String),
    /// The zone it had covers these.
    Shared(String, Vec<String>),
}

impl Proposal {
    fn of(agent: &str, whose: Whose, recorded: &Recorded, zones: &Zones) -> Self {
        let of_agent = |entry: &&Entry| {
            entry.record.agent.as_deref().is_some_and(|one| one == agent || one.split('@').next() == Some(agent))
        };
        let refusal = |entry| Some((entry, whose.refusal(entry)?));
        let denials: Vec<(&Entry, Reason)> = recorded.entries.iter().filter(of_agent).filter_map(refusal).collect();
        let zone = denials.iter().rev().find_map(|(entry, _)| whose.zone(entry, recorded));
        let mut proposal = Self {
            agent: agent.to_owned(),
            zone: for_zone(agent, zone, zones),
            egress: BTreeMap::new(),
            tools: BTreeMap::new(),
            left_out: BTreeMap::new(),
            doubt: recorded.doubt.clone(),
        };
        denials.into_iter().for_each(|(entry, reason)| proposal.take(entry, reason));
        proposal
    }

    fn take(&mut self, entry: &Entry, reason: Reason) {
        let taken = match (entry.record.kind, reason) {
            (Kind::EgressRequest | Kind::EgressConnect, reason) if of_rules(reason) => self.take_request(entry),
            (Kind::McpCall, Reason::McpServerNotAllowed | Reason::ToolNotAllowed) => self.take_tool(entry),
            (Kind::EgressRequest | Kind::EgressConnect | Kind::McpCall | Kind::ToolUse, reason) => {
                Err(reason.code().to_owned())
            }
            _ => return,
        };
        if let Err(why) = taken {
            *self.left_out.entry(why).or_default() += 1;
        }
    }

    /// One request becomes its own method and path, letter for letter.
    fn take_request(&mut self, entry: &Entry) -> Result<(), String> {
        let cut = || "host, method or path is not in the record, or was cut or withheld".to_owned();
        let request = record::request(entry).ok_or_else(cut)?;
        if request.host.address().is_some() {
            return Err("an address instead of a name".to_owned());
        }
        if request.path.as_str().contains('*') {
            return Err("a path with a star, which in a rule would stand for more".to_owned());
        }
        let requests = self.egress.entry((request.host, request.port, request.scheme, request.method)).or_default();
        requests.seen = Some(again(requests.seen, entry.ts));
        requests.paths.insert(request.path);
        Ok(())
    }

    fn take_tool(&mut self, entry: &Entry) -> Result<(), String> {
        let destination = entry.record.destination.as_ref();
        let named = destination.and_then(|destination| Some((destination.host.as_ref()?, destination.path.as_ref()?)));
        let (server, tool) = named.ok_or_else(|| "the tool is not in the record".to_owned())?;
        let plain = |text: &str| {
            text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        };
        let server_like = server.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !plain(tool) || !server_like || server.len() > 64 {
            return Err("a name that in a rule would stand for more, or was cut or withheld".to_owned());
        }
        let key = (server.clone(), tool.clone());
        let before = self.tools.get(&key).copied();
        self.tools.insert(key, again(before, entry.ts));
        Ok(())
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.doubt.iter().map(|doubt| format!("# WARNING: the log does not hold: {}", harmless(doubt))).collect();
        lines.push(format!(
            "# What {} was refused, as rules. Nothing is applied: read each, narrow it, take what is meant.",
            self.agent
        ));
        if self.egress.is_empty() && self.tools.is_empty() {
            lines.push("# No refusal from which a rule could be made.".to_owned());
        } else {
            lines.extend(self.head());
        }
        let name = self.zone_name();
        for (place, requests) in &self.egress {
            lines.extend(egress_rule(&name, place, requests));
        }
        for ((server, tool), seen) in &self.tools {
            lines.push(format!("\n# {}", when(*seen)));
            lines.push("# Without `arguments` the tool may be called with any.".to_owned());
            lines.push(format!("[[zone.{name}.mcp]]\nserver = {}\ntools = [{}]", quoted(server), quoted(tool)));
        }
        if !self.left_out.is_empty() {
            lines.push("\n# Refused, and not proposed:".to_owned());
            lines.extend(self.left_out.iter().map(|(why, count)| format!("#   {count}x {why}")));
        }
        lines.join("\n") + "\n"
    }

    fn head(&self) -> Vec<String> {
        match &self.zone {
            ForZone::Own(zone) => vec![format!("# For zone {zone}, which covers this agent alone.")],
            ForZone::Apart(why, environment) => vec![
                format!("{} This is a zone for this agent alone{}", why.words(), why.advice()),
                format!(
                    "config = 1\n\n[zone.{}]\nenvironment = {}\nagents = [{}]",
                    self.zone_name(),
                    quoted(environment),
                    quoted(&self.agent)
                ),
            ],
        }
    }

    fn zone_name(&self) -> String {
        match &self.zone {
            ForZone::Own(zone) => zone.clone(),
            ForZone::Apart(..) => {
                let tail: String = self.agent.chars().filter(char::is_ascii_alphanumeric).collect();
                format!("only-{}", tail.to_ascii_lowercase().chars().take(48).collect::<String>())
            }
        }
    }
}

impl Why {
    fn words(&self) -> String {
        match self {
            Self::Unknown => "# The log does not say which zone the agent had.".to_owned(),
            Self::DenyAll => "# The agent's environment had no zone.".to_owned(),
            Self::Elsewhere(zone) => format!("# Zone {} is not in this file.", harmless(zone)),
            Self::Shared(zone, agents) => {
                format!("# Zone {zone} covers others too ({}), so nothing is proposed for it.", agents.join(", "))
            }
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Unknown | Self::Elsewhere(_) => ":\n# correct `environment` where the agent's is another.".to_owned(),
            Self::DenyAll => {
                ":\n# correct `environment` where the agent's is another. Once an environment has a zone, agents that none covers start no session there.".to_owned()
            }
            Self::Shared(zone, _) => format!(
                ":\n# it needs the rules of {zone} that the agent is to keep, and `agents` of {zone} must name the others alone."
            ),
        }
    }
}

fn egress_rule(zone: &str, place: &(Host, Port, Scheme, Method), requests: &Requests) -> Vec<String> {
    let (host, port, scheme, method) = place;
    let mut lines = vec![format!("\n# {}", requests.seen.map(when).unwrap_or_default())];
    if let Some(reason) = zone::shared_domain(host) {
        lines.push(format!("# WARNING: anybody can have a name there: {reason}"));
    }
    if requests.paths.iter().any(|path| minting::minted_at(host, method, path).is_some()) {
        lines.push("# WARNING: an endpoint that issues credentials; its answer would not be scrubbed".to_owned());
    }
    lines.push(format!("[[zone.{zone}.egress]]\nhost = {}", quoted(&host.to_string())));
    if *scheme == Scheme::Http {
        lines.push("scheme = \"http\"".to_owned());
    }
    if *port != scheme.default_port() {
        lines.push(format!("ports = [{port}]"));
    }
    let paths: Vec<String> = requests.paths.iter().map(|path| quoted(path.as_str())).collect();
    lines.push(format!("methods = [{}]\npaths = [{}]", quoted(method.as_str()), paths.join(", ")));
    lines
}

/// Refusals that a rule could have made otherwise, and nothing else was wrong.
fn of_rules(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::HostNotAllowed
            | Reason::PortNotAllowed
            | Reason::SchemeNotAllowed
            | Reason::MethodNotAllowed
            | Reason::PathNotAllowed
    )
}

fn for_zone(agent: &str, zone: Option<&str>, zones: &Zones) -> ForZone {
    let id = agent.split('@').next().unwrap_or(agent);
    let covers_it_alone = |name: &&str| {
        let agents = zones.agents_of(name);
        !agents.is_empty()
            && agents.iter().all(|one| one == agent || (agent == id && one.split('@').next() == Some(id)))
    };
    match zone.filter(covers_it_alone) {
        Some(name) => ForZone::Own(name.to_owned()),
        None => {
            let id = zone.and_then(|name| zones.environment_of(name)).map_or(DEFAULT_ENVIRONMENT, environment);
            ForZone::Apart(why(zone, zones), id.to_owned())
        }
    }
}

fn why(zone: Option<&str>, zones: &Zones) -> Why {
    let Some(zone) = zone else { return Why::Unknown };
    match zones.agents_of(zone) {
        _ if zone == zone::DENY_ALL => Why::DenyAll,
        agents if agents.is_empty() => Why::Elsewhere(zone.to_owned()),
        agents => Why::Shared(zone.to_owned(), agents),
    }
}

fn again(before: Option<Seen>, now: Timestamp) -> Seen {
    match before {
        None => Seen { count: 1, first: now, last: now },
        Some(seen) => Seen { count: seen.count + 1, first: seen.first.min(now), last: seen.last.max(now) },
    }
}

fn when(seen: Seen) -> String {
    let Seen { count, first, last } = seen;
    format!("refused {count}x, first {first:.0}, last {last:.0}")
}

/// A basic string of TOML. Everything that comes here is ASCII without control characters: it was parsed.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
