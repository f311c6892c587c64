//! The arguments of `postern workspace`.

use clap::{Args, Subcommand};

use super::Place;

#[derive(Args)]
pub(crate) struct WorkspaceArguments {
    #[command(subcommand)]
    pub(crate) verb: WorkspaceVerb,
}

#[derive(Subcommand)]
pub(crate) enum WorkspaceVerb {
    /// Make a workspace, apart from all others.
    Create {
        /// What to call it.
        name: String,
        /// Delete a session with its log and files once it rested for so many days.
        #[arg(long, value_name = "DAYS")]
        retention_days: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// List the workspaces, and for how long each keeps sessions.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Say for how long a workspace keeps sessions at rest.
    Retain {
        /// The workspace's id, wrkspc_...
        id: String,
        /// For so many days; for good without.
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// Erase a workspace with all that it has. There is no way back.
    Erase {
        /// The workspace's id, wrkspc_...
        id: String,
        /// The workspace's name again, so that nothing else is erased by mistake.
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        place: Place,
    },
}
