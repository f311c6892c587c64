//! The roles this binary can be started as by its own kind, and what each is handed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_policy::{Endpoint, Zones, configured};
use postern_runner::WorkerConfig;
use tracing::level_filters::LevelFilter;

use crate::config::{Configuration, DEFAULT_ENVIRONMENT};
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::{logging, server};

/// A role and how it runs.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Server,
    Worker,
    Gateway,
    Connector,
    Spawner,
    Egress,
    Custody,
    Audit,
}

/// The role that the arguments ask for: one word, with a socket as standard input. A person at a terminal gets the
/// command of that name instead, or its help.
pub(crate) fn asked_for() -> Option<Role> {
    let mut arguments = std::env::args().skip(1);
    let (name, None) = (arguments.next()?, arguments.next()) else { return None };
    let role = match name.as_str() {
        "server" => Role::Server,
        "worker" => Role::Worker,
        "gateway" => Role::Gateway,
        "connector" => Role::Connector,
        "spawner" => Role::Spawner,
        "egress" => Role::Egress,
        "custody" => Role::Custody,
        "audit" => Role::Audit,
        _ => return None,
    };
    rustix::net::sockopt::socket_type(std::io::stdin().as_fd()).ok().map(|_| role)
}

impl Role {
    /// Runs it to its end.
    pub(crate) fn run(self) -> ExitCode {
        if matches!(self, Self::Spawner) {
            // Files of a sandbox have the modes that programs expect; the directories around them are closed.
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            // No runtime and no thread besides this one: it forks.
            return postern_sandbox::spawner_main();
        }
        keep_memory_private();
        if !matches!(self, Self::Server) {
            logging::start(LevelFilter::INFO, None);
        }
        let runtime =
            match tokio::runtime::Builder::new_multi_thread().worker_threads(self.threads()).enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "the runtime does not start");
                    return ExitCode::FAILURE;
                }
            };
        match self {
            Self::Server => runtime.block_on(server::main()),
            Self::Worker => runtime.block_on(worker()),
            Self::Gateway => runtime.block_on(postern_gateway::process_main(configured)),
            Self::Connector => runtime.block_on(postern_connector::process_main(configured)),
            Self::Egress => runtime.block_on(postern_egress::process_main()),
            Self::Custody => runtime.block_on(postern_custody::process_main()),
            Self::Audit => runtime.block_on(postern_audit::process_main()),
            Self::Spawner => ExitCode::FAILURE,
        }
    }

    /// Threads of the runtime: the many-connection roles use the machine, the others are a queue each.
    fn threads(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        match self {
            Self::Server | Self::Egress | Self::Worker | Self::Gateway | Self::Connector => cores.max(2),
            Self::Spawner | Self::Custody | Self::Audit => 1,
        }
    }
}

/// No core file and no other process of this user gets at this one's memory, environment or descriptors. Not for the
/// spawner: a child of an undumpable process cannot be given its user mapping, and the spawner holds nothing.
pub(crate) fn keep_memory_private() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let bounded = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    if let Err(error) = bounded.and(hidden) {
        tracing::warn!(%error, "this process could not close its memory to others of its user");
    }
}

async fn worker() -> ExitCode {
    let (configuration, _, channel): (WorkerConfig, _, Channel) = match postern_exec::role::first_message() {
        Ok(first) => first,
        Err(error) => {
            tracing::error!(%error, "the worker does not start");
            return ExitCode::from(2);
        }
    };
    let endpoint: Endpoint = match configuration.server_url.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::error!(%error, "the server's URL is not usable");
            return ExitCode::from(2);
        }
    };
    postern_runner::worker_main(configuration, configured(&endpoint), Some(channel)).await
}

/// Where a worker finds its server, and as whom.
pub(crate) struct Service {
    pub(crate) server_url: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) environment_id: String,
    pub(crate) environment_key_file: PathBuf,
    pub(crate) sessions: usize,
    pub(crate) drain: Duration,
}

/// What a worker is handed, by `up` or by its own command.
///
/// # Errors
/// The environment's key cannot be read, or the zones do not load.
pub(crate) fn worker_configuration(
    configuration: &Configuration,
    data: &Data,
    service: Service,
) -> Result<WorkerConfig, Failure> {
    let environments = BTreeMap::from([(DEFAULT_ENVIRONMENT.to_owned(), service.environment_id.clone())]);
    let key_file = &service.environment_key_file;
    let key = std::fs::read_to_string(key_file).or_misused(&format!("read {}", key_file.display()))?;
    Ok(WorkerConfig {
        exe: postern_exec::program::own_executable().or_misused("find this executable")?,
        server_url: service.server_url,
        ca_file: service.ca_file,
        environment_id: service.environment_id,
        environment_key: WireBytes::new(key.trim().as_bytes().to_vec()),
        document: configuration.document.text().clone(),
        variables: variables(configuration, &environments)?,
        environments,
        data_dir: data.root().to_owned(),
        audit_dir: configuration.audit.dir.clone(),
        custody_dir: configuration.custody.dir.clone(),
        sessions: service.sessions,
        drain_seconds: service.drain.as_secs(),
    })
}

/// The operator's variables that zones and routes name as sources, and no others.
pub(crate) fn variables(
    configuration: &Configuration,
    environments: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, WireBytes>, Failure> {
    let zones = Zones::load(&configuration.document, environments).map_err(crate::config::all_errors)?;
    // Worker and gateway hand over the same: whichever starts custody does it for both.
    let names = postern_custody::variables(&zones).into_iter();
    let names = names.chain(postern_custody::route_variables(&configuration.routes));
    #[expect(clippy::disallowed_methods, reason = "the operator names these variables as sources in a zone")]
    let values =
        names.filter_map(|name| std::env::var(&name).ok().map(|value| (name, WireBytes::new(value.into_bytes()))));
    Ok(values.collect())
}
