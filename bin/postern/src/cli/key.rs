//! The arguments of `postern key`.

use clap::{Args, Subcommand, ValueEnum};

use super::{AtWorkspace, Place};

#[derive(Args)]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    pub(crate) verb: KeyVerb,
}

#[derive(Subcommand)]
pub(crate) enum KeyVerb {
    /// Issue a key and print it, this once.
    Issue {
        /// What to call it.
        #[arg(long, value_name = "NAME", default_value = "")]
        name: String,
        /// What it may do.
        #[arg(long, value_enum, default_value_t = KeyRole::Developer)]
        role: KeyRole,
        /// A vault it is for, vlt_...; may be repeated. Without any it is for every vault.
        #[arg(long = "vault", value_name = "ID")]
        vaults: Vec<String>,
        #[command(flatten)]
        at: AtWorkspace,
        #[command(flatten)]
        place: Place,
    },
    /// List a workspace's keys: their roles and first characters.
    List {
        #[command(flatten)]
        at: AtWorkspace,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke one, with effect from the next request on.
    Revoke {
        /// The key's id, apikey_...
        id: String,
        #[command(flatten)]
        at: AtWorkspace,
        #[command(flatten)]
        place: Place,
    },
}

/// What an API key may do.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    /// Everything that an API key can.
    Admin,
    /// Read everything; make and change agents, sessions, files, skills, memory stores and deployments.
    Developer,
    /// Read everything, change nothing.
    Viewer,
    /// Run workers: environments, their work and their keys.
    Worker,
}

impl KeyRole {
    /// The word of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
        }
    }
}
