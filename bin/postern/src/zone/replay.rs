//! `postern zone replay`: every recorded decision once more, under another configuration. What the log does not hold is
//! not guessed: a decision that hangs on it is counted as not judged.

use std::collections::BTreeMap;
use std::path::Path;

use postern_audit::{Decision, Entry, Kind};
use postern_policy::{
    Credential, CredentialName, Denial, Found, FoundValue, Issued, McpCall, Place, Reason, RepositoryToken, Request,
    Scheme, ToolUse, Zone, Zones,
};
use serde_json::{Value, json};

use super::record::{self, Recorded};
use crate::audit::harmless;
use crate::config;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// Log or configuration cannot be read, or the log does not hold.
#[expect(clippy::print_stdout, reason = "what would change is the command's result")]
pub(crate) fn run(log: &Path, new: &Path, as_json: bool) -> Result<(), Failure> {
    let configuration = config::read_file(new)?;
    let recorded = Recorded::read(log)?;
    let replay = Replay::of(&recorded, &configuration.zones);
    if as_json {
        println!("{}", replay.json(&recorded));
    } else {
        print!("{}", replay.text(&recorded));
    }
    recorded.held()
}

/// How a decision comes out now.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Now {
    Same,
    /// Refused, by this reason and rule.
    Refused(String, String),
    /// Allowed, by this rule.
    Allowed(String),
    /// It hangs on something that the log does not hold.
    Unjudged(&'static str),
}

/// All decisions, counted by what they were about and how they come out.
struct Replay {
    decisions: u64,
    same: u64,
    changed: BTreeMap<(Now, String), u64>,
    unjudged: BTreeMap<&'static str, u64>,
}

impl Replay {
    fn of(recorded: &Recorded, zones: &Zones) -> Self {
        let mut replay = Self { decisions: 0, same: 0, changed: BTreeMap::new(), unjudged: BTreeMap::new() };
        for entry in recorded.entries.iter().filter(|entry| is_decision(entry)) {
            replay.decisions += 1;
            match again(recorded, entry, zones) {
                Now::Same => replay.same += 1,
                Now::Unjudged(why) => *replay.unjudged.entry(why).or_default() += 1,
                now => *replay.changed.entry((now, words(entry))).or_default() += 1,
            }
        }
        replay
    }

    fn text(&self, recorded: &Recorded) -> String {
        let mut lines: Vec<String> =
            recorded.doubt.iter().map(|doubt| format!("warning: the log does not hold: {}", harmless(doubt))).collect();
        for ((now, what), count) in &self.changed {
            lines.push(match now {
                Now::Refused(reason, rule) => format!("allow -> DENY   {count}x  {what}  {reason} {rule}"),
                Now::Allowed(rule) => format!("deny -> ALLOW   {count}x  {what}  {rule}"),
                Now::Same | Now::Unjudged(_) => continue,
            });
        }
        let changed: u64 = self.changed.values().sum();
        let unjudged: u64 = self.unjudged.values().sum();
        lines.push(format!(
            "{} decisions: {} the same, {changed} changed, {unjudged} not judged",
            self.decisions, self.same
        ));
        lines.extend(self.unjudged.iter().map(|(why, count)| format!("not judged: {count}x {why}")));
        lines.push(format!("never judged: {NEVER}"));
        lines.join("\n") + "\n"
    }

    fn json(&self, recorded: &Recorded) -> Value {
        let changed: Vec<Value> = self
            .changed
            .iter()
            .map(|((now, what), count)| match now {
                Now::Refused(reason, rule) => {
                    json!({"change": "allow_to_deny", "what": what, "count": count, "reason": reason, "rule": rule})
                }
                Now::Allowed(rule) => json!({"change": "deny_to_allow", "what": what, "count": count, "rule": rule}),
                Now::Same | Now::Unjudged(_) => Value::Null,
            })
            .collect();
        json!({
            "decisions": self.decisions, "same": self.same, "changed": changed, "not_judged": self.unjudged,
            "never_judged": NEVER, "doubt": recorded.doubt,
        })
    }
}

/// The records in which a zone's rules spoke.
fn is_decision(entry: &Entry) -> bool {
    let kind = matches!(entry.record.kind, Kind::EgressRequest | Kind::EgressConnect | Kind::McpCall | Kind::ToolUse);
    kind && entry.record.decision != Decision::Info
}

fn again(recorded: &Recorded, entry: &Entry, zones: &Zones) -> Now {
    let Some(name) = recorded.zone_of(entry) else {
        return Now::Unjudged("the log does not say which zone the session had");
    };
    let Some(zone) = zones.named(name) else {
        return compare(entry, Err(Denial::new(Reason::ZoneNone)));
    };
    match entry.record.kind {
        Kind::ToolUse => match record::tool(entry) {
            Some(tool) => plain(entry, tool_use(&zone, tool)),
            None => Now::Unjudged("the tool's name is not in the record"),
        },
        Kind::McpCall => mcp(entry, &zone),
        _ => egress(recorded, entry, &zone),
    }
}

fn tool_use(zone: &Zone, tool: &str) -> Result<String, Denial> {
    zone.tool_use(&ToolUse { name: tool.to_owned() }).map(|permit| permit.rule().to_owned())
}

/// A request as its record has it. A credential that was injected stands at a place which the record does not name: the
/// answer is yes where one of the zone's places makes it so.
fn egress(recorded: &Recorded, entry: &Entry, zone: &Zone) -> Now {
    if let Some((Scheme::Https, host, port)) = record::place(entry)
        && let Some(unseen) = zone.pass(&host, port).transpose()
    {
        return plain(entry, unseen.map(|permit| permit.rule().to_owned()));
    }
    let Some(bare) = record::request(entry) else {
        return Now::Unjudged("method or path is not in the record, or was cut or withheld");
    };
    let bare = Request { upgrade: recorded.upgrade_of(entry), ..bare };
    let presented = |name: &CredentialName| zone.credential(name).is_some_and(Credential::is_client_certificate);
    let Some(name) = entry.record.credential.as_deref().map(CredentialName::new).filter(|name| !presented(name)) else {
        return plain(entry, zone.request(&bare).map(|permit| permit.rule().to_owned()));
    };
    if name.as_str().starts_with(RepositoryToken::NAMES) {
        return Now::Unjudged("it carried the token of a session's repository, whose URL the log does not hold");
    }
    let places = zone.credential(&name).map(|credential| credential.inject.clone()).unwrap_or_default();
    let answers = places.into_iter().map(|location| {
        let value = FoundValue::Placeholder(Issued::ThisSession);
        let found = Found { credential: name.clone(), value, place: Place::At(location) };
        zone.request(&Request { credentials_present: vec![found], ..bare.clone() })
    });
    let mut refused = Denial::new(Reason::PlaceholderUnresolved);
    for answer in answers {
        match answer {
            Ok(permit) => return compare(entry, Ok(permit.rule().to_owned())),
            // A place in the path depends on the path's form, which only the request itself shows.
            Err(denial) if denial.reason == Reason::PlaceholderWrongLocation => {
                return Now::Unjudged("where the placeholder stood in the path is not in the record");
            }
            Err(denial) => refused = denial,
        }
    }
    compare(entry, Err(refused))
}

fn mcp(entry: &Entry, zone: &Zone) -> Now {
    let Some(destination) = &entry.record.destination else {
        return Now::Unjudged("the call is not in the record");
    };
    let (Some(route), Some(method)) = (destination.host.as_deref(), destination.method.as_deref()) else {
        return Now::Unjudged("the call is not in the record");
    };
    let call = McpCall { route, method, tool: destination.path.as_deref(), arguments: None };
    if zone.asks_for_arguments(&call) {
        return Now::Unjudged("a rule asks for arguments, which the log does not hold");
    }
    plain(entry, zone.mcp(&call).map(|permit| permit.rule().to_owned()))
}

/// A refusal for something that the log does not hold stays one unless the rules refuse now.
fn plain(entry: &Entry, answer: Result<String, Denial>) -> Now {
    match (entry.record.decision, &answer) {
        (Decision::Deny, Ok(_)) if !record::reason(entry).is_some_and(by_rules) => {
            Now::Unjudged("it was refused for what stood in it, which the log does not hold")
        }
        _ => compare(entry, answer),
    }
}

fn compare(entry: &Entry, answer: Result<String, Denial>) -> Now {
    match (entry.record.decision, answer) {
        (Decision::Allow, Err(denial)) => {
            Now::Refused(denial.reason.code().to_owned(), denial.rule.unwrap_or_default())
        }
        (Decision::Deny, Ok(rule)) => Now::Allowed(rule),
        (Decision::Allow, Ok(_)) | (Decision::Deny, Err(_)) | (Decision::Info, _) => Now::Same,
    }
}

/// Reasons that follow from what the record holds.
fn by_rules(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::HostNotAllowed
            | Reason::PortNotAllowed
            | Reason::SchemeNotAllowed
            | Reason::MethodNotAllowed
            | Reason::PathNotAllowed
            | Reason::RawAddress
            | Reason::McpServerNotAllowed
            | Reason::McpMethodNotAllowed
            | Reason::ToolNotAllowed
            | Reason::PolicyForbidden
            | Reason::ZoneNone
    )
}

/// The decision in words, with nothing of a request but what the log shows.
fn words(entry: &Entry) -> String {
    match (record::tool(entry), &entry.record.destination) {
        (Some(tool), _) => harmless(&format!("tool {tool}")),
        (None, Some(destination)) => crate::audit::place(destination),
        (None, None) => "a decision without a destination".to_owned(),
    }
}

const NEVER: &str = "which zone an agent gets, addresses that names resolve to, queries, other people's keys, limits of \
                     sandboxes: `zone diff` compares those";

#[cfg(test)]
mod tests;
