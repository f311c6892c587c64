//! The questions: what a sandbox is about to do, as facts that the egress proxy has parsed.

use crate::credential::{CredentialName, Location};
use crate::location::Segment;
use crate::{CanonicalPath, ForeignCredential, Host, Method, Override, Port, Scheme};
use serde::{Deserialize, Serialize};

/// Who a session is, as the perimeter was told. A name is not among it: any API key can write one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// `env_...`.
    pub environment_id: String,
    /// `agent_...`.
    pub agent_id: String,
    /// The agent's version.
    pub agent_version: u64,
    /// `sha256:` and 64 hexadecimal digits: of the effective definition.
    pub definition_digest: String,
}

/// What the first bytes of a connection show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Nothing read yet.
    Unread,
    /// A TLS ClientHello.
    Tls,
    /// An HTTP request in the clear.
    Http,
    /// Something else over TCP.
    Other,
    /// A datagram.
    Udp,
}

/// May this host and port be talked to at all?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The name that the sandbox asked for.
    pub host: Host,
    /// The port.
    pub port: Port,
    /// What is known of the protocol.
    pub transport: Transport,
}

/// Whose placeholder was found in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Issued {
    /// Issued to this very session, and alive.
    ThisSession,
    /// Issued to another session, or to one that has ended.
    AnotherSession,
    /// Marked as a placeholder, but not one that this perimeter remembers.
    Unknown,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundValue {
    /// A placeholder.
    Placeholder(Issued),
    /// The plaintext of a secret.
    Secret,
}

/// Where in a request something stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A place where injection is possible: a whole value, alone and once.
    At(Location),
    /// One segment of the URL's path, once and as it is; whether that is a place depends on the form of the path.
    Segment(Segment),
    /// Elsewhere in the URL's path.
    Path,
    /// Elsewhere in the URL's query.
    Query,
    /// Elsewhere in the body.
    Body,
    /// Any other: a second copy in one header, another encoding, a trailer, a header's name, the authority.
    Elsewhere,
}

/// A placeholder or secret seen in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whose it is; for an unknown placeholder any text.
    pub credential: CredentialName,
    /// What was seen.
    pub value: FoundValue,
    /// Where.
    pub place: Place,
}

/// What a request asks its connection, or its stream, to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    /// Nothing else: it is answered.
    None,
    /// A WebSocket (RFC 6455, RFC 8441).
    WebSocket,
}

/// May this exact request leave?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The host: dialled, in the TLS name and in the Host header; the caller has found them equal.
    pub host: Host,
    /// The port.
    pub port: Port,
    /// The scheme.
    pub scheme: Scheme,
    /// The method.
    pub method: Method,
    /// The canonical path: what is decided on is what is sent.
    pub path: CanonicalPath,
    /// The raw query, without the question mark.
    pub query: Option<String>,
    /// What it asks to become.
    pub upgrade: Upgrade,
    /// Every placeholder and secret of ours in the request.
    pub credentials_present: Vec<Found>,
    /// Every other credential in it, see [`crate::foreign::find`].
    pub foreign: Vec<ForeignCredential>,
    /// Everything that asks the upstream for another method or path, see [`crate::overrides::find`].
    pub overrides: Vec<Override>,
}

/// May this MCP message go to a route?
#[derive(Clone, Copy, Debug)]
pub struct McpCall<'a> {
    /// The route's name: the label before the tunnel's domain.
    pub route: &'a str,
    /// The method, such as `tools/call`.
    pub method: &'a str,
    /// `params.name` of `tools/call`; otherwise `None`.
    pub tool: Option<&'a str>,
    /// `params.arguments` of `tools/call`, parsed so that no key stands twice: what is decided on must be what is
    /// sent. `None` where there are none.
    pub arguments: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

/// May this tool be used?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolUse {
    /// The tool's name.
    pub name: String,
}
