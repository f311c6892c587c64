//! What gateway (parent) and connector (child) say to each other over the role's channel. The connector never sees what a stream carries.

use postern_exec::WireBytes;
use serde::{Deserialize, Serialize};

use crate::wire::{Lane, Welcome};

/// The connector's first message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The edge: `https://host[:port]`, without a path.
    pub edge: String,
    /// Who signs the edge's certificate, as PEM; without it the system's list.
    pub edge_ca_pem: Option<String>,
    /// The way out, where there is one.
    pub proxy: Option<Proxy>,
    /// The tunnel token's text.
    pub token: WireBytes,
    /// Connections of the interactive lane, 1 to 4.
    pub interactive: usize,
    /// Connections of the bulk lane, 1 to 4.
    pub bulk: usize,
    /// How long streams may go on after [`ToConnector::Drain`].
    pub drain_seconds: u64,
}

impl Configuration {
    /// One connection per lane, straight to the edge.
    #[must_use]
    pub fn new(edge: String, edge_ca_pem: Option<String>, token: WireBytes) -> Self {
        Self { edge, edge_ca_pem, proxy: None, token, interactive: 1, bulk: 1, drain_seconds: 30 }
    }
}

/// An HTTP proxy that answers CONNECT.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proxy {
    /// `http://host:port`.
    pub url: String,
    /// `user:password` for `Proxy-Authorization: Basic`, from a file.
    pub credentials: Option<WireBytes>,
}

/// From connector to gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromConnector {
    /// The first message: it can dial, or why it cannot.
    Ready {
        /// Problems of the configuration; the connector ends after naming any.
        problems: Vec<String>,
    },
    /// A stream; one descriptor comes with it, a Unix stream socket.
    Stream {
        /// `<route>.<domain>`, as the edge asked.
        host: String,
        /// The lane it came by.
        lane: Lane,
    },
    /// What the edge told: at each connection, and when it changes.
    Welcome(Welcome),
    /// How the connections stand, at each change.
    Status(ConnectorStatus),
    /// The edge asked for what no edge of ours asks, and was refused here.
    Refused {
        /// What was refused.
        refusal: Refusal,
        /// How often since the last word of it.
        times: u64,
    },
}

/// What a connector refuses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A head beyond its bound.
    HeadTooLong,
    /// What is no request of an edge, or no HTTP/2.
    Malformed,
    /// A host, or a welcome, of another tunnel.
    HostForeign,
    /// More frames or resets than HTTP/2 needs.
    TooMuch,
}

/// From gateway to connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToConnector {
    /// Take no new streams, let the open ones end, then end.
    Drain,
}

/// How the connections of a connector stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorStatus {
    /// One per connection that should be.
    pub connections: Vec<ConnectionStatus>,
}

impl ConnectorStatus {
    /// Whether at least one connection of each lane stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        Lane::ALL.iter().all(|lane| self.connections.iter().any(|one| one.lane == *lane && one.connected))
    }
}

/// How one connection stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its lane.
    pub lane: Lane,
    /// Whether the edge took it.
    pub connected: bool,
    /// Attempts that failed since it last stood.
    pub failures: u32,
    /// Why the last attempt failed: a code and a sentence.
    pub last_error: Option<ConnectorError>,
}

/// Why a connection does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorError {
    /// A stable word: `edge_unreachable`, `edge_untrusted`, `proxy_refused`, `edge_protocol`, `connection_lost`, or the edge's own reason.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub next_step: String,
}

/// The longest message either way in bytes.
pub const MESSAGE_BYTES: usize = 64 << 10;
