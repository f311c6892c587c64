//! What a caller asks for: one sandbox, described whole. Nothing here touches the system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::Control;

/// The user and group inside, whatever they are outside.
pub const AGENT_UID: u32 = 1000;

/// The lowest kernel user that root may give to a sandbox: below lie people and services.
pub const LOWEST_KERNEL_UID: u32 = 100_000;

/// One sandbox, described whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The session it serves: the name by which it is destroyed. One sandbox per session.
    pub session: String,
    /// The session's directory on the host, writable inside as `/workspace`; owned by the sandbox's kernel user (see [`crate::workspace::prepare`]).
    pub workspace: PathBuf,
    /// The kernel user, from [`LOWEST_KERNEL_UID`] upward: needed when running as root, refused otherwise.
    pub kernel_uid: Option<u32>,
    /// Memory of all processes inside and of `/tmp`, in bytes.
    pub memory_bytes: u64,
    /// Processors, as a share: 0.5 is half of one.
    pub cpus: f64,
    /// Processes and threads.
    pub processes: u32,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Directories and files of the host that the zone lends.
    pub mounts: Vec<Mount>,
    /// Variables for the agent, placeholders among them; they win over the sandbox's own.
    pub environment: Vec<(String, String)>,
    /// The session's certificate authority, trusted inside only; empty for none.
    pub ca_certificate_pem: String,
    /// Controls without which the sandbox is not built.
    pub require: Vec<Control>,
}

/// A directory or file of the host, lent to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it lies on the host, absolute and without symbolic links.
    pub host: PathBuf,
    /// Where it appears inside, absolute; never over the sandbox's own directories.
    pub at: PathBuf,
    /// Read or write.
    pub access: Access,
}

/// What a sandbox may do with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read.
    Read,
    /// Read and write, as far as the kernel user may.
    Write,
}

/// What the spawner is told once, at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Host directories that no mount may show, in addition to the shipped list: the data directory above all.
    pub forbidden_mounts: Vec<PathBuf>,
}
