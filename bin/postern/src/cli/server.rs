//! Which server a command asks, and in which workspace.

use std::path::PathBuf;

use clap::Args;

use super::Place;

/// How to reach a server.
#[derive(Args, Clone)]
pub(crate) struct Server {
    /// Base URL of a server elsewhere, with POSTERN_API_KEY; the socket in the data directory unless given.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// A CA to trust for the server, besides the system's.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) server_ca: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtWorkspace,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// In which workspace a command acts.
#[derive(Args, Clone)]
pub(crate) struct AtWorkspace {
    /// The workspace to act in, wrkspc_...; the operator's own unless given, the key's with a URL.
    #[arg(long, value_name = "ID")]
    pub(crate) workspace: Option<String>,
}
