//! The words of the carrying connection between connector and edge.
//!
//! The connector dials TLS 1.3 and sends `GET /v1/tunnels/connect` with the headers named here; the edge answers 101 with a [`Welcome`], or a
//! refusal. From there on the connection is HTTP/2 with the edge as client: each `CONNECT <route>.<domain>:443` is one byte stream, and
//! `POST /welcome` says that streams may come, and brings a changed welcome later. Pure: texts come in, parsed values or refusals go out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::identity::IdentityKey;

/// Which of a tunnel's connections carries a stream: short calls do not wait behind long bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Calls that someone waits for.
    Interactive,
    /// Large bodies and long event streams.
    Bulk,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Bulk];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }

    /// How many streams one connection of this lane carries at once.
    #[must_use]
    pub fn streams(self) -> usize {
        match self {
            Self::Interactive => 256,
            Self::Bulk => 64,
        }
    }

    /// How many bytes of one stream may be under way without being read. Times [`Lane::streams`] it is the connection's window, so a stream
    /// that nobody reads takes nothing from another.
    #[must_use]
    pub fn stream_window(self) -> u32 {
        match self {
            Self::Interactive => 128 << 10,
            Self::Bulk => 512 << 10,
        }
    }

    /// The window of the whole connection in bytes.
    #[must_use]
    pub fn connection_window(self) -> u32 {
        self.stream_window() * u32::try_from(self.streams()).expect("a lane has few hundred streams")
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is neither lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lane is interactive or bulk")]
pub struct BadLane;

impl FromStr for Lane {
    type Err = BadLane;

    fn from_str(text: &str) -> Result<Self, BadLane> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text).ok_or(BadLane)
    }
}

/// What the edge tells a connector it let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The tunnel's id: the audience of identities.
    pub tunnel_id: String,
    /// The tunnel's domain: hosts are `<route>.<domain>`.
    pub domain: String,
    /// The keys that sign identities, the current one first.
    pub identity_keys: Vec<IdentityKey>,
}

/// The text is no welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge's welcome does not read as one")]
pub struct BadWelcome;

impl Welcome {
    /// As the value of [`WELCOME`].
    #[must_use]
    pub fn to_header(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_json())
    }

    /// As the body of `POST /welcome`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and lists of strings always serialize")
    }

    /// Reads a header's value.
    ///
    /// # Errors
    /// It is not base64url, or not a welcome.
    pub fn from_header(text: &str) -> Result<Self, BadWelcome> {
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadWelcome)?;
        Self::from_json(&json)
    }

    /// Reads a body; the domain must be one.
    ///
    /// # Errors
    /// It is not a welcome, or too long for one.
    pub fn from_json(json: &[u8]) -> Result<Self, BadWelcome> {
        if json.len() > WELCOME_BYTES {
            return Err(BadWelcome);
        }
        let welcome: Self = serde_json::from_slice(json).map_err(|_| BadWelcome)?;
        if is_host(&welcome.domain) { Ok(welcome) } else { Err(BadWelcome) }
    }
}

/// A host behind a tunnel, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostName<'a> {
    /// The first label: the gateway's route.
    pub route: &'a str,
    /// The rest: the tunnel's domain.
    pub domain: &'a str,
}

/// Takes `<route>.<domain>` apart; `None` unless every label is lower-case letters, digits and inner hyphens. No port, no trailing dot, no
/// upper case: one spelling of each host, so that what two parsers see cannot differ.
#[must_use]
pub fn host_name(text: &str) -> Option<HostName<'_>> {
    let (route, domain) = text.split_once('.')?;
    (is_host(text) && is_host(domain)).then_some(HostName { route, domain })
}

/// Takes the authority of a CONNECT apart: `<route>.<domain>:443` and nothing else.
#[must_use]
pub fn connect_authority(text: &str) -> Option<HostName<'_>> {
    host_name(text.strip_suffix(PORT_SUFFIX)?)
}

/// The authority of a CONNECT for this host.
#[must_use]
pub fn authority_of(host: &str) -> String {
    format!("{host}{PORT_SUFFIX}")
}

/// Whether a text is a host name in its one spelling.
#[must_use]
pub fn is_host(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let edges = label.bytes().next().zip(label.bytes().next_back());
    label.len() <= 63
        && edges.is_some_and(|(first, last)| first != b'-' && last != b'-')
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a text may stand as a reason: a short word of `a-z`, `0-9` and `_`. Anything else of a peer is not repeated.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether a text may name a connector: 8 to 64 letters, digits, `-` or `_`.
#[must_use]
pub fn is_connector_id(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// The path that connectors ask for.
pub const CONNECT_PATH: &str = "/v1/tunnels/connect";
/// The path of a changed welcome, from edge to connector.
pub const WELCOME_PATH: &str = "/welcome";
/// The protocol in `Upgrade`.
pub const PROTOCOL: &str = "postern-tunnel/1";
/// Header: the lane of this connection.
pub const LANE: &str = "postern-lane";
/// Header: the connector's random id.
pub const CONNECTOR: &str = "postern-connector";
/// Header of the 101 answer: the welcome.
pub const WELCOME: &str = "postern-welcome";
/// Header of a refusal: its reason.
pub const REASON: &str = "postern-reason";
/// The only application protocol of the outer TLS.
pub const ALPN: &[u8] = b"http/1.1";
/// The longest welcome in bytes.
pub const WELCOME_BYTES: usize = 4096;
/// A half-open connection is noticed by a ping after this much silence ...
pub const PING_EVERY: Duration = Duration::from_secs(4);
/// ... that is not answered within this.
pub const PING_PATIENCE: Duration = Duration::from_secs(5);
const PORT_SUFFIX: &str = ":443";

/// The words of refusals on the carrying connection.
pub mod reason {
    /// No token, or not in the shape of one.
    pub const TOKEN_MISSING: &str = "token_missing";
    /// The token opens no tunnel: rotated, revoked, archived or never issued.
    pub const TOKEN_REFUSED: &str = "token_refused";
    /// The request is not the one that connectors make.
    pub const REQUEST_MALFORMED: &str = "request_malformed";
    /// The tunnel has as many connections as it may.
    pub const CONNECTIONS_FULL: &str = "connections_full";
    /// The edge is about to end.
    pub const DRAINING: &str = "draining";
    /// The host does not belong to this tunnel.
    pub const HOST_FOREIGN: &str = "host_foreign";
    /// The connection carries as many streams as it may.
    pub const STREAMS_FULL: &str = "streams_full";
    /// The gateway does not take streams: it is gone, or ends.
    pub const GATEWAY_GONE: &str = "gateway_gone";
    /// The gateway does not take streams fast enough.
    pub const GATEWAY_BUSY: &str = "gateway_busy";
}

#[cfg(test)]
mod tests;
