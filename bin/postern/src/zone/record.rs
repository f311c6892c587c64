//! What the audit log says of decisions, as far as zones can be asked about it: payload-free, so without arguments,
//! queries and the places of placeholders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use postern_audit::{Decision, Entry, Kind};
use postern_policy::{Host, Method, Port, Reason, Request, Scheme, Upgrade};

use crate::audit::harmless;
use crate::failure::{Failure, Or};

/// The log's entries, and what only several of them together say.
pub(crate) struct Recorded {
    pub(crate) entries: Vec<Entry>,
    /// The zone that each session was opened with.
    zones: BTreeMap<String, String>,
    /// The records of requests after which another protocol was spoken.
    upgraded: BTreeSet<u64>,
    /// What is wrong with the log, if anything.
    pub(crate) doubt: Option<String>,
}

impl Recorded {
    /// Reads a directory or a file. One that does not hold is read all the same, and said not to hold.
    ///
    /// # Errors
    /// It cannot be read, or is no log.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let mut entries = Vec::new();
        let mut doubt = postern_audit::verify(path).err().map(|broken| broken.to_string());
        for entry in postern_audit::entries(path).or_misused(&format!("read the audit log {}", path.display()))? {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => doubt = doubt.or_else(|| Some(error.to_string())),
            }
        }
        match doubt {
            Some(doubt) if entries.is_empty() => Err(Failure::Misused(format!(
                "{} has no audit log that could be read: {}",
                path.display(),
                harmless(&doubt)
            ))),
            doubt => Ok(Self::of(entries, doubt)),
        }
    }

    /// Nothing, where the log holds. What was read of one that does not has been said by then, and is not the whole.
    ///
    /// # Errors
    /// [`Failure::NotHeld`].
    pub(crate) fn held(&self) -> Result<(), Failure> {
        let failure = |doubt: &String| Failure::NotHeld(format!("the audit log does not hold: {}", harmless(doubt)));
        self.doubt.as_ref().map_or(Ok(()), |doubt| Err(failure(doubt)))
    }

    /// Entries that were read.
    pub(crate) fn of(entries: Vec<Entry>, doubt: Option<String>) -> Self {
        let opened = |entry: &Entry| {
            let record = &entry.record;
            (record.kind == Kind::SessionOpened && record.decision == Decision::Allow)
                .then(|| Some((record.session.clone()?, record.zone.clone()?)))
                .flatten()
        };
        let zones = entries.iter().filter_map(opened).collect();
        let switched = |entry: &&Entry| entry.record.counts.get("status") == Some(&101);
        let outcomes = entries.iter().filter(|entry| entry.record.kind == Kind::EgressOutcome);
        let upgraded = outcomes.filter(switched).filter_map(|entry| entry.record.caused_by).collect();
        Self { entries, zones, upgraded, doubt }
    }

    /// What the connection of a request became.
    pub(crate) fn upgrade_of(&self, entry: &Entry) -> Upgrade {
        if self.upgraded.contains(&entry.seq) { Upgrade::WebSocket } else { Upgrade::None }
    }

    /// The zone that decided: as recorded, or the one of the session.
    pub(crate) fn zone_of<'a>(&'a self, entry: &'a Entry) -> Option<&'a str> {
        let of_session = || self.zones.get(entry.record.session.as_ref()?).map(String::as_str);
        entry.record.zone.as_deref().or_else(of_session)
    }
}

/// The reason of a denial.
pub(crate) fn reason(entry: &Entry) -> Option<Reason> {
    reason_of(entry.record.reason.as_deref()?)
}

/// A reason by its code.
pub(crate) fn reason_of(code: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.code() == code)
}

/// Host, port and scheme of a record, where they are whole.
pub(crate) fn place(entry: &Entry) -> Option<(Scheme, Host, Port)> {
    let destination = entry.record.destination.as_ref()?;
    let scheme = match destination.scheme.as_deref()? {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return None,
    };
    Some((scheme, destination.host.as_ref()?.parse().ok()?, Port::new(destination.port?)?))
}

/// The request of a record, with nothing in it but its line. `None` where the record cut or withheld a part.
pub(crate) fn request(entry: &Entry) -> Option<Request> {
    let (scheme, host, port) = place(entry)?;
    let destination = entry.record.destination.as_ref()?;
    let method: Method = destination.method.as_ref()?.parse().ok()?;
    Some(Request {
        host,
        port,
        scheme,
        method,
        path: destination.path.as_ref()?.parse().ok()?,
        query: None,
        credentials_present: Vec::new(),
        foreign: Vec::new(),
        overrides: Vec::new(),
        upgrade: Upgrade::None,
    })
}

/// The tool of a tool use.
pub(crate) fn tool(entry: &Entry) -> Option<&str> {
    entry.record.counts.keys().find_map(|name| name.strip_prefix("tool_"))
}

#[cfg(test)]
pub(crate) mod examples {
    use postern_audit::{Destination, Record};

    use super::*;

    /// A record about `METHOD scheme://host:port/path`, refused for a reason or allowed.
    pub(crate) fn egress(agent: &str, line: &str, reason: Option<Reason>) -> Entry {
        let (method, url) = line.split_once(' ').unwrap();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_at(rest.find('/').unwrap());
        let (host, port) = authority.rsplit_once(':').unwrap();
        let destination = Destination {
            scheme: Some(scheme.to_owned()),
            host: Some(host.to_owned()),
            port: port.parse().ok(),
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            address: None,
        };
        entry(Kind::EgressRequest, agent, Some(destination), reason)
    }

    /// A record about a tool of an MCP server.
    pub(crate) fn mcp(agent: &str, server: &str, tool: &str, reason: Option<Reason>) -> Entry {
        let destination = Destination {
            scheme: Some("mcp".to_owned()),
            host: Some(server.to_owned()),
            method: Some("tools/call".to_owned()),
            path: Some(tool.to_owned()),
            ..Destination::default()
        };
        entry(Kind::McpCall, agent, Some(destination), reason)
    }

    /// The session got this zone.
    pub(crate) fn opened(agent: &str, zone: &str) -> Entry {
        let mut opened = entry(Kind::SessionOpened, agent, None, None);
        opened.record.zone = Some(zone.to_owned());
        opened
    }

    fn entry(kind: Kind, agent: &str, destination: Option<Destination>, reason: Option<Reason>) -> Entry {
        let decision = if reason.is_some() { Decision::Deny } else { Decision::Allow };
        let record = Record {
            session: Some(format!("sesn_{agent}")),
            agent: Some(agent.to_owned()),
            reason: reason.map(|reason| reason.code().to_owned()),
            destination,
            ..Record::new(kind, decision)
        };
        let (ts, text) = ("2026-01-02T03:04:05Z".parse().unwrap(), String::new);
        Entry { seq: 1, ts, previous: text(), class_uid: 0, activity_id: 0, severity_id: 0, record, hash: text() }
    }

    /// A configuration's zones.
    pub(crate) fn zones(text: &str) -> postern_policy::Zones {
        with_policy(text, "")
    }

    /// The same, with `a.cedar` beside the configuration.
    pub(crate) fn with_policy(text: &str, policy: &str) -> postern_policy::Zones {
        let mut document = postern_policy::Document::parse("postern.toml", text).unwrap();
        document.attach("a.cedar", policy);
        let names = BTreeMap::from([("default".to_owned(), "env_1".to_owned())]);
        postern_policy::Zones::load(&document, &names).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
    }
}
