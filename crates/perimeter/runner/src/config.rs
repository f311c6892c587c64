//! What the worker is told at its start, and the words it exchanges with its supervisor. Reads no file and no environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use postern_exec::WireBytes;
use postern_exec::frame::{HEADER, encode};
use postern_policy::document::DocumentText;
use postern_sandbox::ControlStatus;
use serde::{Deserialize, Serialize};

use crate::kernel_users::KernelUsers;

/// The worker's whole configuration: the first frame to the role.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// This binary, from which the children are started.
    pub exe: PathBuf,
    /// The server's base URL; `bin` makes the permit for it.
    pub server_url: String,
    /// Certificates that the server's may lead to, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The environment to serve.
    pub environment_id: String,
    /// The environment's key.
    pub environment_key: WireBytes,
    /// The configuration document, from which worker, custody and egress each read the zones.
    pub document: DocumentText,
    /// Local environment names and the ids they stand for.
    pub environments: BTreeMap<String, String>,
    /// The data directory; everything of ours lies in `perimeter/` below it.
    pub data_dir: PathBuf,
    /// Where the audit log lies.
    pub audit_dir: PathBuf,
    /// Where custody's store lies.
    pub custody_dir: PathBuf,
    /// Keys, secrets and texts of ours that the configuration names: nothing that a zone lends may show them.
    #[serde(default)]
    pub kept: Vec<PathBuf>,
    /// How many sessions are served at one time.
    pub sessions: usize,
    /// How long running tools may take to end when the worker drains.
    pub drain_seconds: u64,
    /// The operator's variables that zones name with `env:`, for custody alone.
    pub variables: BTreeMap<String, WireBytes>,
    /// Who is asked where names lead, if not the operating system: for a run of `verify`, which has a server of its own.
    #[serde(default)]
    pub names: Option<SocketAddr>,
    /// What its own process protects less than it could.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Which kernel users it may give to sandboxes.
    #[serde(default)]
    pub kernel_users: KernelUsers,
}

/// How many sessions a worker serves unless told otherwise.
pub const SESSIONS: usize = 16;

/// What the supervisor may say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Claim nothing more, let running tools end, then end.
    Drain,
    /// Take up changed zones, whole or not at all. Sessions that are open keep theirs, narrowed by what would cover them
    /// now. Answered with [`Report::Reloaded`].
    Reload {
        /// The configuration document with its files.
        document: DocumentText,
        /// Local environment names and the ids they stand for.
        environments: BTreeMap<String, String>,
        /// The operator's variables that zones name with `env:`, for custody alone.
        variables: BTreeMap<String, WireBytes>,
    },
}

impl Order {
    /// Whether a worker reads it. One that is sent all the same ends the worker: what comes after it cannot be told apart from it.
    #[must_use]
    pub fn fits(&self) -> bool {
        encode(self, 0).is_ok_and(|frame| frame.len() - HEADER <= ORDER_LIMIT)
    }
}

/// A configuration with its files; custody takes more.
pub(crate) const ORDER_LIMIT: usize = 1 << 20;

/// What the worker says to its supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The perimeter stands and the worker polls.
    Ready {
        /// What this machine and this user can do about each control.
        controls: Vec<ControlStatus>,
        /// What protects less than it could.
        degraded: Vec<String>,
        /// The key that signs the audit log, in hexadecimal.
        audit_key: String,
        /// The perimeter's public key, in hexadecimal.
        perimeter_public_key: String,
    },
    /// The answer to [`Order::Reload`].
    Reloaded {
        /// Empty, or what is wrong; then the former configuration stays in force.
        problems: Vec<String>,
    },
    /// The worker did not start, with every reason.
    Refused {
        /// One line each.
        problems: Vec<String>,
    },
}
