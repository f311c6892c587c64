//! What a caller asks for: one sandbox, described whole. Nothing here touches the system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::Control;

/// The user and group inside, whatever they are outside.
pub const AGENT_UID: u32 = 1000;

/// The lowest kernel user that root may give to a sandbox: below lie people and services. Which of those above nobody else has is for whoever gives it to
/// know.
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
    /// What the read-only system is made of.
    pub system: Root,
    /// The session's layer over `/usr`, into which packages are installed (see [`crate::workspace::prepare_packages`]); none to leave `/usr` read-only.
    pub packages: Option<PathBuf>,
    /// What the session was given, shown read-only: its `uploads` as `/mnt/session/uploads`, its `skills` as `/mnt/session/skills`. The
    /// builder's own directory, in which nobody else writes; what is added to it later appears inside at once.
    pub given: Option<PathBuf>,
    /// The session's directory for what it puts out, writable inside as `/mnt/session/outputs`; owned by the sandbox's kernel user.
    pub outputs: Option<PathBuf>,
    /// Memory stores of the session, shown below `/mnt/memory`.
    pub memories: Vec<MemoryDirectory>,
    /// Directories and files of the host that the zone lends.
    pub mounts: Vec<Mount>,
    /// Character devices of the host that the zone lends, by their paths below `/dev`.
    pub devices: Vec<PathBuf>,
    /// Files and directories of ours that nothing lent may show, besides [`Settings::forbidden_mounts`]: what the configuration in force names.
    pub kept: Vec<PathBuf>,
    /// Variables for the agent, placeholders among them; they win over the sandbox's own.
    pub environment: Vec<(String, String)>,
    /// The session's certificate authority, trusted inside only; empty for none.
    pub ca_certificate_pem: String,
    /// Whom programs inside trust besides it.
    pub trust: Trust,
    /// Controls without which the sandbox is not built.
    pub require: Vec<Control>,
}

impl Spec {
    /// What its disk limit counts: every directory of the host that it writes to and that is its own.
    pub(crate) fn counted(&self) -> impl Iterator<Item = &PathBuf> {
        let memories = self.memories.iter().map(|memories| &memories.directory);
        std::iter::once(&self.workspace).chain(&self.packages).chain(&self.outputs).chain(memories)
    }
}

/// What a sandbox's read-only system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The host's `/usr`, the shipped list of its `/etc`, and these directories of the host at their own places.
    Host(Vec<PathBuf>),
    /// The root of an image that was unpacked on the host. What it holds is a stranger's.
    Image(PathBuf),
}

impl Default for Root {
    fn default() -> Self {
        Self::Host(Vec::new())
    }
}

/// Whom programs inside trust besides the session's own certificate authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Nobody: every TLS connection is inspected, so whoever speaks with another authority's certificate is not the egress proxy.
    #[default]
    SessionAlone,
    /// The host's authorities too: connections of a rule that is not inspected end at the server itself.
    HostsToo,
}

/// What a session may be given, by the name of its directory in [`Spec::given`] and by where it is shown.
pub const GIVEN: [(&str, &str); 2] = [("uploads", "/mnt/session/uploads"), ("skills", "/mnt/session/skills")];

/// Where a session puts what its user shall get.
pub const OUTPUTS: &str = "/mnt/session/outputs";

/// A directory that holds the memories of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDirectory {
    /// Where it lies on the host: the sandbox's kernel user's when it may write, the builder's own when it may read.
    pub directory: PathBuf,
    /// Its name below `/mnt/memory`: lower-case letters, digits and dashes.
    pub name: String,
    /// What may be done there: read, or write.
    pub access: Access,
}

/// A directory or file of the host, lent to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it lies on the host, absolute and without symbolic links.
    pub host: PathBuf,
    /// Where it appears inside, absolute; never over the sandbox's own directories.
    pub at: PathBuf,
    /// What may be done there.
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
    /// Read, and so may others: no sandbox's kernel user owns it.
    Cache,
}

/// What the spawner is told once, at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Host directories that no mount may show, in addition to the shipped list: the data directory above all.
    pub forbidden_mounts: Vec<PathBuf>,
    /// A directory of the spawner's, made when it is not there, for what all sandboxes are shown.
    pub shared: PathBuf,
}
