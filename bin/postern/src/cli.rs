//! The command line: what a person can type, and nothing of what happens then.

mod credential;
mod key;
mod server;
mod workspace;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use credential::{CredentialArguments, CredentialKind, CredentialVerb, RequestPlace, Sealing};
pub(crate) use key::{KeyArguments, KeyVerb};
pub(crate) use server::{AtWorkspace, Server};
pub(crate) use workspace::{WorkspaceArguments, WorkspaceVerb};
pub(crate) use zone::{ExplainArguments, WhichSession, ZoneArguments, ZoneVerb};

/// Let AI agents use your systems without ever holding a credential.
#[derive(Parser)]
#[command(
    name = "postern",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    /// How much to log, to standard error [default: info; of `verify` nothing, unless it fails].
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<tracing::level_filters::LevelFilter>,
    /// How to log; text on a terminal, else JSON lines, unless given.
    #[arg(long, global = true, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What is logged.
    pub(crate) fn level(&self) -> tracing::level_filters::LevelFilter {
        self.log.unwrap_or(tracing::level_filters::LevelFilter::INFO)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine: server and worker, over a data directory.
    Up(UpArguments),
    /// Give an agent a task and watch it in the terminal.
    Run(RunArguments),
    /// Keep secrets in the perimeter's encrypted store.
    Secrets(SecretsArguments),
    /// Check zones before they are used.
    Zone(ZoneArguments),
    /// Verify and read the audit log.
    Audit(AuditArguments),
    /// Show agents and the digest that a zone can name.
    Agent(AgentArguments),
    /// Run the control plane alone: API, agent loop, tunnel edge; `[server]` and `[edge]` say where.
    Server(ServerArguments),
    /// Stop a session's hands at once, let them go on, or take its credentials away.
    Session(SessionArguments),
    /// Serve the queue of a server elsewhere from this machine; with --check print each control of the sandbox.
    Worker(WorkerArguments),
    /// Run the inner end of a tunnel alone, connector included: private MCP servers for a server elsewhere.
    Gateway(GatewayArguments),
    /// Make tunnels, look at them, and try the whole path to a private MCP server.
    Tunnel(TunnelArguments),
    /// Issue, list and revoke API keys, each with a role.
    Key(KeyArguments),
    /// Make workspaces, say for how long they keep sessions, erase one.
    Workspace(WorkspaceArguments),
    /// Register the perimeters that sealed credentials are opened in.
    Perimeter(PerimeterArguments),
    /// Put a secret into a vault, sealed before it leaves this machine: the server never sees it.
    Credential(CredentialArguments),
    /// Prove that the boundary of a zone holds here: attempt every attack known, inside a real sandbox and outside of it.
    Verify(VerifyArguments),
    /// Run the main job for real, with an agent that turns hostile, and print what held.
    Demo(DemoArguments),
    /// A model that plays scripts, for rehearsals and tests.
    #[command(hide = true)]
    Rehearsal(RehearsalArguments),
    /// A private MCP server, for rehearsals and tests.
    #[command(hide = true)]
    PrivateMcp(PrivateMcpArguments),
    /// An edge and a gateway without API, for tests and benchmarks.
    #[command(hide = true)]
    TunnelRig(RigArguments),
    /// A role's confinement and one thing that it must not allow, for probes and tests.
    #[command(hide = true)]
    Confined(ConfinedArguments),
}

#[derive(Args)]
pub(crate) struct UpArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Where the API listens; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7300", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Where the tunnel's edge listens; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) edge_listen: SocketAddr,
    /// Print one JSON line when everything is ready, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the worker out.
    #[arg(long)]
    pub(crate) no_worker: bool,
    /// Leave the gateway and its tunnel out.
    #[arg(long)]
    pub(crate) no_gateway: bool,
    /// Issue a new API key and a new environment key, and print them.
    #[arg(long)]
    pub(crate) new_keys: bool,
    /// File with the model endpoint's key, instead of ANTHROPIC_API_KEY.
    #[arg(long, value_name = "FILE")]
    pub(crate) model_key_file: Option<PathBuf>,
    /// How long the first Ctrl-C or SIGTERM lets running work end.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Duration,
}

/// Where configuration and data lie.
#[derive(Args, Clone)]
pub(crate) struct Place {
    /// The configuration file; ./postern.toml when it exists, unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Everything Postern keeps, mode 0700.
    #[arg(long, default_value = "./.postern", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct RunArguments {
    /// What to ask.
    pub(crate) text: String,
    /// The agent to use; `postern-run` unless given.
    #[arg(long, value_name = "ID")]
    pub(crate) agent: Option<String>,
    /// The environment to run in; `default` unless given.
    #[arg(long, value_name = "ID")]
    pub(crate) environment: Option<String>,
    /// The model of `postern-run`; `[model] default` unless given.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Args)]
pub(crate) struct SecretsArguments {
    #[command(subcommand)]
    pub(crate) verb: SecretsVerb,
}

#[derive(Subcommand)]
pub(crate) enum SecretsVerb {
    /// Store a secret; its value comes from standard input or a prompt, never from the command line.
    Set {
        /// The name that a zone refers to as store:NAME.
        name: String,
        /// Accept a value that is too short or too guessable to be scrubbed from answers safely.
        #[arg(long)]
        danger_short: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List names, never values.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a secret.
    Rm {
        /// Its name.
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
pub(crate) struct AuditArguments {
    #[command(subcommand)]
    pub(crate) verb: AuditVerb,
}

#[derive(Subcommand)]
pub(crate) enum AuditVerb {
    /// Check the hash chain and the signed checkpoints.
    Verify {
        /// A directory or file; the audit log of the configuration or the data directory unless given.
        path: Option<PathBuf>,
        /// The public key that signs it, as it was noted elsewhere: its 64 hexadecimal digits, or a file with them like the log's key.pub.
        #[arg(long, value_name = "HEX|FILE")]
        key: Option<String>,
        /// A record that it must hold, as an earlier verification printed it; shows a log that was cut back since.
        #[arg(long, value_name = "SEQ[:HASH]")]
        at_least: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Print the records, newest last.
    Show {
        /// A directory or file; the audit log of the configuration or the data directory unless given.
        path: Option<PathBuf>,
        /// Only this session's.
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// The records as they are, one JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
pub(crate) struct AgentArguments {
    #[command(subcommand)]
    pub(crate) verb: AgentVerb,
}

#[derive(Subcommand)]
pub(crate) enum AgentVerb {
    /// Print the digest of an agent's effective definition, for a zone's `agents`.
    Digest {
        /// The agent's id.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Args)]
pub(crate) struct WorkerArguments {
    /// Print each control of the sandbox as active, degraded or missing, with cause and fix, and end.
    #[arg(long, conflicts_with_all = ["url", "environment", "environment_key_file"])]
    pub(crate) check: bool,
    /// Base URL of the server whose queue to serve, ours or the hosted platform's; `[worker] server` unless given.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The environment to serve, env_...; zones name it, or `default` for it. `[worker] environment` unless given.
    #[arg(long, value_name = "ID")]
    pub(crate) environment: Option<String>,
    /// File with the environment's key; `[worker] environment_key_file` unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) environment_key_file: Option<PathBuf>,
    /// A CA to trust for the server, besides the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How long the first Ctrl-C or SIGTERM lets running tools end.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args)]
pub(crate) struct ServerArguments {
    /// Print one JSON line when everything is ready, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
    /// Issue a new API key and a new environment key, and print them.
    #[arg(long)]
    pub(crate) new_keys: bool,
    /// File with the model endpoint's key, instead of ANTHROPIC_API_KEY.
    #[arg(long, value_name = "FILE")]
    pub(crate) model_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args)]
pub(crate) struct GatewayArguments {
    /// How long the first Ctrl-C or SIGTERM lets running calls end.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args)]
pub(crate) struct SessionArguments {
    #[command(subcommand)]
    pub(crate) verb: SessionVerb,
}

#[derive(Subcommand)]
pub(crate) enum SessionVerb {
    /// Within a second nothing of it runs, and nothing leaves, until it is thawed.
    Freeze(OneSession),
    /// Let a frozen session go on.
    Thaw(OneSession),
    /// Take its credentials away, for good.
    RevokeGrants(OneSession),
}

#[derive(Args)]
pub(crate) struct OneSession {
    /// The session, sesn_...
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Args)]
pub(crate) struct TunnelArguments {
    #[command(subcommand)]
    pub(crate) verb: TunnelVerb,
}

#[derive(Subcommand)]
pub(crate) enum TunnelVerb {
    /// Make a tunnel with its own CA: registers the CA, writes token, CA and leaf into a directory for `postern gateway`.
    Create {
        /// What to call it.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The directory to write, mode 0700; it must not hold a tunnel yet.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        server: Server,
    },
    /// List the tunnels.
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Show connections, certificates, routes and last errors.
    Status {
        /// The tunnel, tnl_...; all of them unless given.
        tunnel: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Speak MCP with a route through the whole path, and print each hop's time or its named failure.
    Probe {
        /// The route, as `[[gateway.route]]` names it.
        route: String,
        /// The tunnel, tnl_...; the only active one unless given.
        #[arg(long, value_name = "ID")]
        tunnel: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Revoke a tunnel's token and end every connection at once; `tunnel token --rotate` issues the next one.
    Revoke {
        /// The tunnel, tnl_...
        tunnel: String,
        #[command(flatten)]
        server: Server,
    },
    /// Write a tunnel's token to a file, for its connector.
    Token {
        /// The tunnel, tnl_...
        tunnel: String,
        /// The file to write, mode 0600.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Issue a new token first; connections with the old one stay until they end.
        #[arg(long)]
        rotate: bool,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Args)]
pub(crate) struct PerimeterArguments {
    #[command(subcommand)]
    pub(crate) verb: PerimeterVerb,
}

#[derive(Subcommand)]
pub(crate) enum PerimeterVerb {
    /// Let this machine's perimeter pass on what is sealed to it to another one; for the operator, on this perimeter's machine.
    Approve {
        /// The other's public key, as `postern perimeter key` prints it there.
        #[arg(value_name = "HEX")]
        public_key: String,
        /// Take the approval back; what was passed on stays where it is.
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Have the perimeters that are connected pass on what was sealed before this one was registered.
    Rewrap {
        /// The perimeter that came later, pmtr_...
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Print the public key of this machine's perimeter, to be registered on the server's machine.
    Key {
        #[command(flatten)]
        place: Place,
    },
    /// Register a perimeter, so that credentials can be sealed to it; for the operator, on the server's machine.
    Register {
        /// What to call it; the machine's name unless given.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The environment it serves, env_...
        #[arg(long, value_name = "ID", conflicts_with = "tunnel")]
        environment: Option<String>,
        /// The tunnel it is the inner end of, tnl_...
        #[arg(long, value_name = "ID")]
        tunnel: Option<String>,
        /// Its public key; the data directory's own unless given.
        #[arg(long, value_name = "HEX")]
        public_key: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// List the registered perimeters.
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Remove one: nothing is sealed to it any more.
    Rm {
        /// The perimeter's id.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Args)]
pub(crate) struct ConfinedArguments {
    /// Whose confinement, or `none`.
    pub(crate) role: String,
    /// What is tried.
    pub(crate) attempt: String,
    /// On what.
    #[arg(allow_hyphen_values = true)]
    pub(crate) argument: Option<String>,
    /// The data directory of the role.
    #[arg(long, default_value = "./.postern", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct PrivateMcpArguments {
    /// Where to listen; the token comes from standard input.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Answer with JSON instead of event streams.
    #[arg(long)]
    pub(crate) json: bool,
    /// Refuse every request.
    #[arg(long)]
    pub(crate) refuse: bool,
}

#[derive(Args)]
pub(crate) struct RigArguments {
    /// Measure by this plan, print the figures as JSON, and end.
    #[arg(long, value_name = "JSON")]
    pub(crate) measure: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args)]
pub(crate) struct DemoArguments {
    /// Also fail when a step is not built.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Use a real model at this Messages API endpoint instead of the rehearsal; key from ANTHROPIC_API_KEY.
    #[arg(long, value_name = "URL", requires = "model")]
    pub(crate) model_url: Option<String>,
    /// The real model's name.
    #[arg(long, value_name = "NAME", requires = "model_url")]
    pub(crate) model: Option<String>,
    /// What to ask the real model.
    #[arg(requires = "model_url")]
    pub(crate) prompt: Option<String>,
    /// Keep the run's directory and print where it is.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args)]
pub(crate) struct RehearsalArguments {
    /// Also serve a private HTTPS API under this name, with the token that standard input gives.
    #[arg(long, value_name = "HOST")]
    pub(crate) private_api: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
}

/// `30s`, `2m`, or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| "give a number of seconds, as in 30s".to_owned())?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err("the unit is s or m, as in 30s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("1h").is_err());
        assert!(duration("s").is_err());
    }
}

#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// The configuration in force; ./postern.toml when it exists, unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The zone; the only one, or the built-in deny-all, unless given.
    #[arg(long, value_name = "NAME")]
    pub(crate) zone: Option<String>,
    /// The zone that covers this environment.
    #[arg(long, value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// Only probes of this id, area, promise or control; may be given several times.
    #[arg(long, value_name = "WORD")]
    pub(crate) only: Vec<String>,
    /// Name every probe and attempt none.
    #[arg(long)]
    pub(crate) list: bool,
    /// A line for each probe.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Also fail for what this machine, this user or this zone has nothing to test with.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report for CI, as JUnit's XML.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the report for people, as one page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}
