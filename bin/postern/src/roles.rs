//! The roles this binary can be started as by its own kind, and what each is handed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum as _;
use postern_confine::{Confinement, Reach, Role};
use postern_exec::WireBytes;
use postern_exec::role::{First, Roles, STARTER, Starter};
use postern_gateway::GatewayConfig;
use postern_policy::{Endpoint, Zones, configured};
use postern_runner::{KernelUsers, WorkerConfig};
use serde::de::DeserializeOwned;
use tracing::level_filters::LevelFilter;

use crate::cli::LogFormat;
use crate::config::{Configuration, DEFAULT_ENVIRONMENT};
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::{edge, logging, ours, reach, secret_file, server};

/// A role that this process was started as.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    part: Part,
    log: Log,
}

/// How whoever executed it logs.
#[derive(Clone, Copy)]
struct Log {
    level: LevelFilter,
    /// Where one was chosen.
    format: Option<LogFormat>,
}

impl Log {
    /// As the arguments have it; nothing where they say something else.
    fn of(level: Option<&str>, format: Option<&str>) -> Option<Self> {
        let level = level.map_or(Ok(LevelFilter::INFO), str::parse).ok()?;
        let format = format.map(|name| LogFormat::from_str(name, false)).transpose().ok()?;
        Some(Self { level, format })
    }

    fn start(self) {
        logging::start(self.level, self.format);
    }
}

#[derive(Clone, Copy)]
enum Part {
    /// One that confines itself before it has a runtime.
    Confined(Role),
    /// Builds sandboxes.
    Spawner,
    /// Executes the other roles for worker and gateway, which cannot once they are confined.
    Starter,
}

/// The role that the arguments ask for: one word, and level and format of the log at most, with a socket as standard input. A person at a terminal gets the
/// command of that name instead, or its help.
pub(crate) fn asked_for() -> Option<Asked> {
    let mut arguments = std::env::args().skip(1);
    let (name, level, format) = (arguments.next()?, arguments.next(), arguments.next());
    if arguments.next().is_some() {
        return None;
    }
    let part = match name.as_str() {
        "spawner" => Part::Spawner,
        STARTER => Part::Starter,
        name => Part::Confined(Role::named(name)?),
    };
    let log = Log::of(level.as_deref(), format.as_deref())?;
    rustix::net::sockopt::socket_type(std::io::stdin().as_fd()).ok().map(|_| Asked { part, log })
}

impl Asked {
    /// Runs it to its end.
    pub(crate) fn run(self) -> ExitCode {
        match self.part {
            Part::Spawner => {
                // Files of a sandbox have the modes that programs expect; the directories around them are closed.
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                // No runtime and no thread besides this one: it forks.
                postern_sandbox::spawner_main()
            }
            Part::Starter => starter(self.log),
            Part::Confined(role) => confined_role(role, self.log),
        }
    }
}

/// What the spawner inherits: it is executed by this one, and so has the same filter and the same domain.
fn starter(log: Log) -> ExitCode {
    keep_memory_private();
    log.start();
    match postern_confine::enter_calls_alone(postern_sandbox::spawner_calls()) {
        Ok(confinement) => tell(STARTER, &confinement),
        Err(error) => return defect(STARTER, &error),
    }
    postern_exec::role::starter_main(Roles {
        once: &["spawner", "audit", "custody", "egress"],
        again: &["connector"],
        settle: postern_confine::leave_files,
    })
}

fn confined_role(role: Role, log: Log) -> ExitCode {
    keep_memory_private();
    // A build with switches reads which one is off at the first question: here, while its file can still be opened.
    let _in_no_build_that_ships = postern_danger::off!("none");
    log.start();
    let ended = match role {
        Role::Server => server_role(),
        Role::Edge => alone(role, reach::edge, edge::main),
        Role::Worker => worker(),
        Role::Gateway => gateway(),
        Role::Connector => alone(role, |_| Reach::new(), |first| postern_connector::process_main(first, configured)),
        Role::Egress => alone(role, |_| Reach::new(), postern_egress::process_main),
        Role::Custody => alone(role, reach::custody, postern_custody::process_main),
        Role::Audit => alone(role, reach::audit, postern_audit::process_main),
    };
    ended.unwrap_or_else(|code| code)
}

/// A role that starts no other.
fn alone<C: DeserializeOwned, M: Future<Output = ExitCode>>(
    role: Role,
    reach: impl FnOnce(&C) -> Reach,
    main: impl FnOnce(First<C>) -> M,
) -> Result<ExitCode, ExitCode> {
    let first = received(role)?;
    let threads = threads(role);
    confine(role, &reach(&first.configuration))?;
    Ok(serve(threads, main(first)))
}

fn server_role() -> Result<ExitCode, ExitCode> {
    let first = received::<server::ServerConfiguration>(Role::Server)?;
    let threads = threads(Role::Server);
    confine(Role::Server, &reach::server(&first.configuration))?;
    Ok(serve(threads, server::main(first)))
}

fn worker() -> Result<ExitCode, ExitCode> {
    let mut first = received::<WorkerConfig>(Role::Worker)?;
    let threads = threads(Role::Worker);
    let starter = beside(&first.configuration.exe)?;
    // While it still reads the host's files.
    first.configuration.kernel_users = KernelUsers::of_this_host().map_err(|error| {
        tracing::error!(%error, "nobody knows which kernel users sandboxes may be given");
        ExitCode::from(2)
    })?;
    let confinement = confine(Role::Worker, &reach::worker(&first.configuration))?;
    first.configuration.degraded.extend(lacking(&confinement));
    let endpoint: Endpoint = first.configuration.server_url.parse().map_err(|error| {
        tracing::error!(%error, "the server's URL is not usable");
        ExitCode::from(2)
    })?;
    Ok(serve(threads, async {
        match first.into_parts() {
            Ok((configuration, _, channel)) => {
                postern_runner::worker_main(configuration, starter, configured(&endpoint), Some(channel)).await
            }
            Err(error) => {
                tracing::error!(%error, "the worker does not start");
                ExitCode::from(2)
            }
        }
    }))
}

fn gateway() -> Result<ExitCode, ExitCode> {
    let mut first = received::<GatewayConfig>(Role::Gateway)?;
    let threads = threads(Role::Gateway);
    let starter = beside(&first.configuration.exe)?;
    let confinement = confine(Role::Gateway, &reach::gateway(&first.configuration))?;
    first.configuration.degraded.extend(lacking(&confinement));
    Ok(serve(threads, postern_gateway::process_main(first, starter, configured)))
}

fn received<C: DeserializeOwned>(role: Role) -> Result<First<C>, ExitCode> {
    First::receive().map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::error!(role = role.name(), error, "the role has no configuration");
        ExitCode::from(2)
    })
}

/// Before this process confines itself: what executes its children afterwards.
fn beside(exe: &Path) -> Result<Starter, ExitCode> {
    Starter::beside(exe.to_owned()).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "no starter");
        ExitCode::FAILURE
    })
}

/// Confines this process, which must have one thread. What the kernel cannot give is told and stops nothing.
pub(crate) fn confine(role: Role, reach: &Reach) -> Result<Confinement, ExitCode> {
    let confinement = postern_confine::enter(role, reach).map_err(|error| defect(role.name(), &error))?;
    tell(role.name(), &confinement);
    Ok(confinement)
}

/// A line for the operator where a process is confined less than it could be.
pub(crate) fn lacking(confinement: &Confinement) -> Option<String> {
    (*confinement != Confinement::Active).then(|| format!("own processes are confined less: {}", confinement.line()))
}

fn tell(role: &str, confinement: &Confinement) {
    match confinement {
        Confinement::Active => tracing::debug!(role, "confined"),
        Confinement::Degraded { cause, fix } => tracing::warn!(role, cause, fix, "confinement degraded"),
        Confinement::Missing { cause, fix } => tracing::warn!(role, cause, fix, "confinement missing"),
    }
}

fn defect(role: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(role, %error, "the role's list of system calls is broken; report this as a defect");
    ExitCode::FAILURE
}

fn serve(threads: usize, main: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime.block_on(main),
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            ExitCode::FAILURE
        }
    }
}

/// Threads of the runtime: the many-connection roles use the machine, the others are a queue each. Asked before the role confines itself: the answer stands in
/// files that it cannot open afterwards.
fn threads(role: Role) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    match role {
        Role::Server | Role::Edge | Role::Egress | Role::Worker | Role::Gateway | Role::Connector => cores.max(2),
        Role::Custody | Role::Audit => 1,
    }
}

/// No core file and no other process of this user gets at this one's memory, environment or descriptors. Not for the
/// spawner: a child of an undumpable process cannot be given its user mapping, and the spawner holds nothing.
pub(crate) fn keep_memory_private() {
    if postern_danger::off!("private-memory") {
        return;
    }
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let bounded = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    if let Err(error) = bounded.and(hidden) {
        tracing::warn!(%error, "this process could not close its memory to others of its user");
    }
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
    let key = secret_file::key(key_file)?;
    let kept = configuration.ours.all().into_iter().chain(ours::names_of(key_file)).collect();
    Ok(WorkerConfig {
        exe: postern_exec::program::own_executable().or_misused("find this executable")?,
        server_url: service.server_url,
        ca_file: service.ca_file,
        environment_id: service.environment_id,
        environment_key: WireBytes::new(key.into_bytes()),
        document: configuration.document.text().clone(),
        names: None,
        degraded: Vec::new(),
        kernel_users: KernelUsers::default(),
        variables: variables(configuration, &environments)?,
        environments,
        data_dir: data.root().to_owned(),
        audit_dir: configuration.audit_dir(data.root()),
        custody_dir: configuration.custody_dir(data.root()),
        kept,
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
