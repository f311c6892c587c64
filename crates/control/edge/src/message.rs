//! What server and edge tell each other where they are two processes. The server asks, the edge answers; each stream has a socket of its own, whose first
//! frame, from the edge, says whether it is open.

use postern_secret::key::KeyDigest;
use postern_tunnel::carry::CarryError;
use postern_tunnel::identity::IdentityKey;
use postern_tunnel::wire::Lane;
use serde::{Deserialize, Serialize};

use crate::directory::TunnelEntry;
use crate::status::{ConnectionStatus, Numbered};

/// What the server asks.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Some tunnels as they are now.
    Put(Vec<Known>),
    /// All that there were have been put: connectors may come, and get these keys.
    Begin(Vec<IdentityKey>),
    /// End the connections of this tunnel.
    Sever(String),
    /// How this tunnel stands, and what went wrong since this number.
    Status {
        /// Its id.
        tunnel: String,
        /// The last number that the server has.
        since: u64,
    },
    /// What went wrong since this number, as soon as there is something, or after a while.
    Notes {
        /// The last number that the server has.
        since: u64,
    },
    /// Open a stream; its socket comes along, and the word about it over that.
    Open {
        /// To this host.
        host: String,
        /// In this lane.
        lane: Lane,
    },
}

/// What the edge answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is so.
    Done,
    /// What went wrong.
    Notes(Vec<Numbered>),
    /// How the tunnel stands, and what went wrong.
    Status(Vec<ConnectionStatus>, Vec<Numbered>),
}

/// The first frame over a stream's socket.
pub(crate) type Opened = Result<(), CarryError>;

/// A tunnel as an edge has to know it: whom it lets in, and to which host it belongs. Who vouches for its gateway is the server's alone.
#[derive(Serialize, Deserialize)]
pub(crate) struct Known {
    id: String,
    domain: String,
    token_digest: Option<KeyDigest>,
    token_generation: u64,
    archived: bool,
}

impl From<TunnelEntry> for Known {
    fn from(entry: TunnelEntry) -> Self {
        let TunnelEntry { id, domain, token_digest, token_generation, archived, workspace: _, certificates: _ } = entry;
        Self { id, domain, token_digest, token_generation, archived }
    }
}

impl From<Known> for TunnelEntry {
    fn from(known: Known) -> Self {
        let Known { id, domain, token_digest, token_generation, archived } = known;
        let (workspace, certificates) = (String::new(), Vec::new());
        Self { id, workspace, domain, token_digest, token_generation, certificates, archived }
    }
}
