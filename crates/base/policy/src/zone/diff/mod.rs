//! What becomes reachable, or loses protection, from one configuration to another: computed over what the rules cover,
//! not over their text. Where something cannot be found out exactly it is said to be possibly wider; a widening is
//! never passed over.
//!
//! All points that no rule of either zone tells apart form one cell, and each cell is asked by one of its points.

mod agents;
mod arguments;
mod cells;
mod destination;
mod egress;
mod mcp;
mod policies;
mod roles;
mod routes;
mod sandbox;

pub use roles::Roles;
pub use routes::RoutesDifference;

use super::select::Zones;
use super::{AuditMode, Zone};
use crate::{Port, Scheme};
use std::fmt;

/// The sessions that go from one zone to another, and what that changes.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Which sessions: environment and agent.
    pub sessions: Vec<Sessions>,
    /// Their zone before; `None` where they did not start.
    pub old: Option<String>,
    /// Their zone after.
    pub new: Option<String>,
    /// What is reachable now and was not, or has lost protection.
    pub wider: Vec<Change>,
    /// The reverse.
    pub narrower: Vec<Change>,
}

/// Sessions that both configurations treat alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sessions {
    /// The environment's id.
    pub environment: String,
    /// `any agent`, an agent as a zone names it, or `other agents`.
    pub agents: String,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What kind of thing.
    pub kind: ChangeKind,
    /// In words.
    pub what: String,
    /// Before and after, where there are both.
    pub values: Option<(String, String)>,
    /// The rule that makes the difference, in the configuration in which it is wider.
    pub rule: Option<String>,
    /// Its line there.
    pub line: Option<usize>,
    /// Which requests, for changes of egress.
    pub scope: Option<Scope>,
    /// Whether it is shown, or only not excluded.
    pub certainty: Certainty,
}

/// The requests that a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// A host, or `*.suffix`.
    pub host: String,
    /// The port.
    pub port: Port,
    /// The scheme.
    pub scheme: Scheme,
    /// Methods; `*` stands for all that no rule names.
    pub methods: Vec<String>,
    /// Paths as the rule names them; `/**` and `/` where it names none.
    pub paths: Vec<String>,
    /// One of the paths.
    pub example: String,
    /// `credential at location`, where the change is about one.
    pub injected: Option<String>,
}

/// How sure a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It is so.
    Shown,
    /// It may be: what would have to be compared cannot be, or costs too much.
    Possible,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal;)+) => {
        /// What a change is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ChangeKind { $($(#[doc = $doc])+ $variant,)+ }

        impl ChangeKind {
            /// The stable word of output and scripts.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(ChangeKind::$variant => $code),+ }
            }
        }
    };
}

kinds! {
    /// Sessions start that did not.
    Sessions = "sessions";
    /// A host.
    Host = "host";
    /// A port of a host.
    Port = "port";
    /// A scheme on a host and port.
    Scheme = "scheme";
    /// Paths of a destination.
    Path = "path";
    /// Methods on paths.
    Method = "method";
    /// Requests may become WebSockets.
    WebSocket = "websocket";
    /// Connections that pass through unseen.
    Inspection = "inspection";
    /// A credential where it could not be used, or at another place of a request.
    Credential = "credential";
    /// The variable in which a sandbox sees a placeholder.
    Variable = "variable";
    /// Keys of others are let through.
    ForeignCredentials = "foreign_credentials";
    /// Addresses that a name may resolve to, or the address dialled.
    Addresses = "addresses";
    /// The certificate authority that an upstream is verified by.
    Authority = "authority";
    /// An MCP server.
    McpServer = "mcp_server";
    /// MCP methods.
    McpMethod = "mcp_method";
    /// MCP tools.
    McpTool = "mcp_tool";
    /// Arguments of MCP tools.
    McpArguments = "mcp_arguments";
    /// A limit of the sandbox.
    SandboxLimit = "sandbox_limit";
    /// What the sandbox's system is made of.
    SandboxSystem = "sandbox_system";
    /// A directory or device of the host.
    SandboxMount = "sandbox_mount";
    /// A control that the sandbox required.
    SandboxControl = "sandbox_control";
    /// A `forbid` of a policy file.
    Policy = "policy";
    /// How safe records are before what they are about.
    Audit = "audit";
    /// Where a route of the gateway leads.
    Route = "gateway_route";
    /// Where refresh tokens may go.
    TokenEndpoint = "token_endpoint";
    /// Pages and searches of the server's own.
    Web = "web";
    /// How much a route carries.
    RouteLimit = "gateway_limit";
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Change {
    pub(super) fn shown(kind: ChangeKind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what, values: None, rule: None, line: None, scope: None, certainty: Certainty::Shown }
    }

    pub(super) fn possible(kind: ChangeKind, what: impl Into<String>) -> Self {
        Self { certainty: Certainty::Possible, ..Self::shown(kind, what) }
    }

    pub(super) fn between(self, from: impl ToString, to: impl ToString) -> Self {
        Self { values: Some((from.to_string(), to.to_string())), ..self }
    }

    pub(super) fn by(self, zone: &Zone, rule: &str) -> Self {
        Self { rule: Some(rule.to_owned()), line: zone.line_of(rule), ..self }
    }
}

impl Zones {
    /// What differs for every kind of session between this configuration and a newer one.
    #[must_use]
    pub fn diff(&self, newer: &Zones) -> Vec<Difference> {
        agents::pairs(self, newer)
            .into_iter()
            .map(|pair| {
                let (old, new) = (pair.old.as_deref(), pair.new.as_deref());
                Difference {
                    sessions: pair.sessions,
                    old: old.map(|zone| zone.name().to_owned()),
                    new: new.map(|zone| zone.name().to_owned()),
                    wider: widenings(old, new),
                    narrower: widenings(new, old),
                }
            })
            .collect()
    }
}

/// Everything that the second zone permits and the first does not.
fn widenings(from: Option<&Zone>, to: Option<&Zone>) -> Vec<Change> {
    let Some(to) = to else { return Vec::new() };
    let nothing = Zone::deny_all();
    let mut changes = Vec::new();
    if from.is_none() {
        changes.push(Change::shown(ChangeKind::Sessions, "sessions start"));
    }
    let from = from.unwrap_or(&nothing);
    // Every field is looked at, by this list or by whom it names: one that is added must be, too. A candidate decides nothing.
    let Zone {
        name: _,
        digest: _,
        audit,
        sandbox,
        credentials: _,
        rules: _,
        mcp_rules: _,
        policies: _,
        lines: _,
        candidate: _,
    } = to;
    if (from.audit, *audit) == (AuditMode::Disk, AuditMode::Written) {
        let change = Change::shown(ChangeKind::Audit, "from when on an action may follow its record");
        changes.push(change.between("it is on the disk", "it is written"));
    }
    changes.extend(egress::widenings(from, to));
    changes.extend(mcp::widenings(from, to));
    changes.extend(sandbox::widenings(from.sandbox(), sandbox));
    changes.extend(policies::widenings(from, to));
    changes
}

#[cfg(test)]
mod tests;
