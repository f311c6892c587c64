//! What the gateway is told at its start, and the words it exchanges with its starter. Reads no file and no environment.

use std::{collections::BTreeMap, path::PathBuf};

use postern_exec::WireBytes;
use postern_policy::document::DocumentText;
use postern_tunnel::{handover, identity::IdentityKey};
use serde::{Deserialize, Serialize};

/// The gateway's whole configuration: the first frame to the role.
#[derive(Debug, Serialize, Deserialize)]
pub struct GatewayConfig {
    /// This binary, from which the children are started.
    pub exe: PathBuf,
    /// The server's base URL, for the control stream.
    pub server_url: String,
    /// Certificates that the server's may lead to, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Where the connector dials.
    pub edge: EdgeConfig,
    /// The tunnel: the audience of every identity.
    pub tunnel_id: String,
    /// The tunnel's token, for the connector and the control stream.
    pub tunnel_token: WireBytes,
    /// The directory with `leaf.pem` and `leaf.key`.
    pub tls_dir: PathBuf,
    /// The configuration document, from which zones and routes are read.
    pub document: DocumentText,
    /// Local environment names and the ids they stand for.
    pub environments: BTreeMap<String, String>,
    /// The data directory; everything of ours lies in `perimeter/` below it.
    pub data_dir: PathBuf,
    /// Where the audit log lies.
    pub audit_dir: PathBuf,
    /// Where custody's store lies.
    pub custody_dir: PathBuf,
    /// The operator's variables that zones and routes name with `env:`, for custody alone.
    pub variables: BTreeMap<String, WireBytes>,
    /// The keys that verify identities, where they are pinned; else the edge tells them.
    pub identity_keys: Vec<IdentityKey>,
    /// How long running calls may take to end when the gateway drains.
    pub drain_seconds: u64,
    /// What its own process protects less than it could.
    #[serde(default)]
    pub degraded: Vec<String>,
}

/// The edge, as the connector dials it.
#[derive(Debug, Serialize, Deserialize)]
pub struct EdgeConfig {
    /// `https://host[:port]`.
    pub url: String,
    /// Who signs its certificate, as PEM; without it the system's list.
    pub ca_pem: Option<String>,
    /// The HTTP proxy on the way, where there is one.
    pub proxy: Option<handover::Proxy>,
    /// Connections of the interactive lane; 0 for the connector's own number.
    pub interactive: usize,
    /// Connections of the bulk lane; 0 for the connector's own number.
    pub bulk: usize,
}

/// What the starter may say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Take no further calls, let running ones end, then end.
    Drain,
    /// Take up another configuration document, in custody and here: zones and routes, whole or not at all. Running calls
    /// go on as they were decided. Answered with [`Report::Reloaded`].
    Reload {
        /// The document.
        document: DocumentText,
        /// Local environment names and the ids they stand for.
        environments: BTreeMap<String, String>,
        /// The operator's variables that its zones and routes name with `env:`, for custody alone. One that is named and
        /// not among these keeps the value it had.
        variables: BTreeMap<String, WireBytes>,
    },
}

/// What the gateway says to its starter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The perimeter stands and the connector was started; whether it is connected comes as [`Report::Connected`].
    Ready {
        /// The routes by name.
        routes: Vec<String>,
        /// Days until the leaf expires.
        leaf_days_left: Option<i64>,
        /// What protects less than it could.
        degraded: Vec<String>,
        /// The key that signs the audit log, in hexadecimal.
        audit_key: String,
        /// The perimeter's public key, in hexadecimal.
        perimeter_public_key: String,
    },
    /// The gateway did not start, with every reason.
    Refused {
        /// One line each.
        problems: Vec<String>,
    },
    /// Whether the connector stands at the edge, at each change.
    Connected {
        /// At least one connection of each lane stands.
        connected: bool,
    },
    /// The answer to [`Order::Reload`].
    Reloaded {
        /// Empty, or why the former document stays.
        problems: Vec<String>,
    },
}
