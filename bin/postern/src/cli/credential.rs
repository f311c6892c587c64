//! What `postern credential` is told.

use clap::{ArgGroup, Args, Subcommand};

use super::Server;

#[derive(Args)]
pub(crate) struct CredentialArguments {
    #[command(subcommand)]
    pub(crate) verb: CredentialVerb,
}

#[derive(Subcommand)]
pub(crate) enum CredentialVerb {
    /// Seal the value on standard input and put it into a vault.
    #[command(group = ArgGroup::new("is").args(["variable", "bearer"]).required(true))]
    Create {
        /// The vault, vlt_...
        #[arg(long, value_name = "ID")]
        vault: String,
        #[command(flatten)]
        kind: CredentialKind,
        /// What to call it.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        sealing: Sealing,
        #[command(flatten)]
        server: Server,
    },
    /// Seal the value on standard input and put it in place of a credential's former one; with --public-key say what kind it is, as it was created.
    Rotate {
        /// The credential, vcrd_...
        id: String,
        /// Its vault, vlt_...
        #[arg(long, value_name = "ID")]
        vault: String,
        #[command(flatten)]
        kind: CredentialKind,
        #[command(flatten)]
        sealing: Sealing,
        #[command(flatten)]
        server: Server,
    },
}

/// What kind of credential it is.
#[derive(Args)]
#[group(multiple = true)]
pub(crate) struct CredentialKind {
    /// A variable that a sandbox sees a placeholder in.
    #[arg(long, value_name = "NAME", conflicts_with = "bearer")]
    pub(crate) variable: Option<String>,
    /// The URL of an MCP server that wants it as bearer.
    #[arg(long, value_name = "URL")]
    pub(crate) bearer: Option<String>,
    /// A host that the variable may go to: a name, `*.name` or an IPv4 address. Without one: wherever the zone sends it.
    #[arg(long = "host", value_name = "HOST", requires = "variable")]
    pub(crate) hosts: Vec<String>,
    /// Where the variable may stand in a request; both unless given.
    #[arg(long = "place", value_name = "PLACE", requires = "variable")]
    pub(crate) places: Vec<RequestPlace>,
}

/// Where in a request a variable may stand.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RequestPlace {
    /// In a header.
    Header,
    /// In the body.
    Body,
}

/// To whom a value is sealed.
#[derive(Args)]
pub(crate) struct Sealing {
    /// A perimeter's public key, as `postern perimeter key` prints it there: sealed to these alone, whatever the server lists.
    #[arg(long = "public-key", value_name = "HEX")]
    pub(crate) public_keys: Vec<String>,
}
