//! What the worker and the egress process say to each other. Carries ids, names and placeholders, never a secret.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use postern_policy::RepositoryToken;
use postern_policy::document::DocumentText;
use serde::{Deserialize, Serialize};

/// First message to a fresh egress process. Two descriptors come with it: the audit connection, then custody's.
/// The process answers with [`Ready`] or ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configuration {
    /// The whole configuration document with its files, from which the process reads the zones for itself.
    pub document: DocumentText,
    /// Local environment names and the `env_` ids they stand for.
    pub environments: BTreeMap<String, String>,
    /// Who is asked where names lead, if not the operating system. A run of `verify` has a server of its own; no configuration names one.
    #[serde(default)]
    pub names: Option<SocketAddr>,
}

/// First message back: the zones were read and the connections taken up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Empty, or why the process ends.
    pub problems: Vec<String>,
}

/// What a session is, for the egress proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenSession {
    /// Session id.
    pub session: String,
    /// Agent id, for the records.
    pub agent: Option<String>,
    /// The zone that the worker selected.
    pub zone_name: String,
    /// Digest of that zone as the worker read it; another digest here refuses the session.
    pub digest: String,
    /// Placeholders that custody issued for this session.
    pub placeholders: Vec<SessionPlaceholder>,
    /// What those among them are for that stand for tokens of repositories. A word beside the zone's and custody's: it can only narrow.
    #[serde(default)]
    pub repositories: Vec<RepositoryToken>,
}

/// One placeholder of a session and the credential it stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionPlaceholder {
    /// The credential's name in the zone.
    pub credential: String,
    /// The placeholder as the sandbox sees it.
    pub placeholder: String,
}

/// A session is ready to be attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    /// The session's own CA, to be trusted inside that sandbox alone.
    pub ca_certificate_pem: String,
}

/// One refusal that had no body in which to say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Name or address that was asked for.
    pub host: String,
    /// Port that was asked for.
    pub port: u16,
    /// Stable reason code.
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}

impl std::fmt::Display for Refusal {
    /// The line that is appended to a tool result.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[postern] refused {}:{} reason={} next={}", self.host, self.port, self.reason, self.next_step)
    }
}

/// A request to the egress process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// Make a session's CA, tables and secrets ready.
    Open(OpenSession),
    /// Serve the sandbox's sockets; one descriptor per entry of `sockets`, in that order.
    Attach {
        /// Session id.
        session: String,
        /// What each descriptor is.
        sockets: Vec<Socket>,
    },
    /// Take the refusals that no body carried.
    Refusals {
        /// Session id.
        session: String,
    },
    /// Which tool use the session is at; goes into its records.
    CurrentToolUse {
        /// Session id.
        session: String,
        /// Tool use id, or none between two of them.
        tool_use: Option<String>,
    },
    /// Cut what is open and refuse what would begin, until the session is thawed.
    Freeze {
        /// Session id.
        session: String,
    },
    /// Let traffic begin again.
    Thaw {
        /// Session id.
        session: String,
    },
    /// Cut what is open and forget the session's secrets; none of them is used any more.
    Revoke {
        /// Session id.
        session: String,
    },
    /// Take up another configuration, whole or not at all. From then on sessions are opened by it, and those that are
    /// open are narrowed by the zone that it selects for them.
    Reload {
        /// The configuration document with its files.
        document: DocumentText,
        /// Local environment names and the `env_` ids they stand for.
        environments: BTreeMap<String, String>,
        /// What it selects for each open session; one that is not among them has no zone any more.
        selected: BTreeMap<String, Selected>,
    },
    /// End the session: stop its tasks, forget its secrets.
    Close {
        /// Session id.
        session: String,
    },
}

/// The zone that a configuration selects for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// This one.
    Zone {
        /// Its name.
        name: String,
        /// Its digest as the worker read it.
        digest: String,
    },
    /// None; the sentence for whoever is refused.
    Nothing {
        /// What to do.
        next_step: String,
    },
}

/// What a descriptor of [`Question::Attach`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    /// TCP listener that IPv4 connections are redirected to.
    RedirectV4,
    /// The same for IPv6.
    RedirectV6,
    /// DNS over UDP, IPv4.
    DnsUdpV4,
    /// DNS over UDP, IPv6.
    DnsUdpV6,
    /// DNS over TCP, IPv4.
    DnsTcpV4,
    /// DNS over TCP, IPv6.
    DnsTcpV6,
    /// The explicit HTTP proxy.
    Proxy,
    /// NFLOG netlink socket that reports refused UDP.
    RefusedUdp,
}

/// The egress process' answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Open`].
    Opened(Opened),
    /// To [`Question::Refusals`].
    Refusals {
        /// Oldest first.
        refusals: Vec<Refusal>,
    },
    /// To [`Question::Reload`]: empty, or what is wrong, and then nothing changed.
    Reloaded {
        /// One line each.
        problems: Vec<String>,
    },
    /// Done, nothing to say.
    Done,
    /// Not done.
    Failed {
        /// Stable code.
        code: String,
        /// For the operator.
        message: String,
    },
}

/// The longest message of either side: a configuration as long as a worker takes one, and a word about each open session.
pub const LIMIT: usize = 2 << 20;
