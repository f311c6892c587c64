//! What a person can type after `postern zone`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Place;

#[derive(Args)]
pub(crate) struct ZoneArguments {
    #[command(subcommand)]
    pub(crate) verb: ZoneVerb,
}

#[derive(Subcommand)]
pub(crate) enum ZoneVerb {
    /// Read the configuration whole and print every error with its line and column.
    Check {
        /// The configuration file; ./postern.toml unless given.
        file: Option<PathBuf>,
        /// The same, as other commands name it.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Say what a zone decides about a request, by which rule and why. Exit code 5 when it refuses.
    Explain(ExplainArguments),
    /// Say what becomes reachable or loses protection from one configuration to another. Exit code 1 when something does.
    Diff {
        /// The configuration in force.
        old: PathBuf,
        /// The one to be judged.
        new: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what one agent was refused as rules for this agent alone; nothing is applied.
    Learn {
        /// The agent, agent_..., or one version of it, agent_...@VERSION.
        #[arg(long, value_name = "ID")]
        agent: String,
        /// From what the zone in shadow would have refused, and not from what was refused.
        #[arg(long)]
        shadow: bool,
        /// A directory or file of an audit log; the data directory's unless given.
        #[arg(value_name = "LOG")]
        path: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Decide everything that an audit log holds once more, under another configuration, and list what would change.
    Replay {
        /// A directory or file of an audit log.
        #[arg(value_name = "LOG")]
        path: PathBuf,
        /// The configuration to decide by.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct ExplainArguments {
    /// `GET https://HOST/PATH`, `connect HOST:PORT`, `mcp SERVER TOOL [ARGUMENTS AS JSON]`, `mcp-method SERVER METHOD` or `tool NAME`.
    #[arg(required_unless_present_any = ["credential", "repository"], value_name = "REQUEST")]
    pub(crate) request: Vec<String>,
    /// A placeholder in the request: ledger-api@header:authorization, @basic:password, @query:key,
    /// @json:/auth/token, @form:key, @path:TEXT for what stands for it in the URL; @body or @query for anywhere there.
    #[arg(long, value_name = "CREDENTIAL@LOCATION")]
    pub(crate) placeholder: Vec<String>,
    /// A header of the request, `name: value`: keys of others and overrides are looked for in it.
    #[arg(long, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// The address that the name resolves to; nothing is looked up.
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// Ask instead whether custody hands out this credential, and by which rules it can be used.
    #[arg(long, conflicts_with = "request", value_name = "NAME")]
    pub(crate) credential: Option<String>,
    /// Ask instead whether the token of a session's repository at this URL may be used.
    #[arg(long, conflicts_with_all = ["request", "credential"], value_name = "URL")]
    pub(crate) repository: Option<String>,
    #[command(flatten)]
    pub(crate) session: WhichSession,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration file; ./postern.toml unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Whose zone: named, or the one that covers a session.
#[derive(Args)]
pub(crate) struct WhichSession {
    /// The zone; the one that covers the agent unless given, or the only one of the file.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["environment", "agent", "definition"])]
    pub(crate) zone: Option<String>,
    /// The session's environment, env_...; `default` unless given.
    #[arg(long, value_name = "ID")]
    pub(crate) environment: Option<String>,
    /// The session's agent, agent_...@VERSION.
    #[arg(long, value_name = "ID@VERSION")]
    pub(crate) agent: Option<String>,
    /// The digest of its effective definition, as `postern agent digest` prints it.
    #[arg(long, value_name = "sha256:...")]
    pub(crate) definition: Option<String>,
}
