//! Starts the perimeter's processes in the order that keeps secrets where they belong: the spawner before anything secret is opened, then audit and
//! custody (or the door to those that a gateway of this directory keeps), then egress, joined to the ones before it by sockets of its own. Any of them
//! ending ends the worker.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_audit::{Decision, Kind, Record};
use postern_custody::CallerKind;
use postern_custody::keeper::{self, Keeper, KeeperError};
use postern_exec::asynchronous::Channel;
use postern_exec::role::{Child, Starter};
use postern_policy::Zones;
use postern_sandbox::{ControlStatus, Settings, Spawner, State};

use crate::boundary::{Boundary, Defaults, InForce, load};
use crate::config::{Report, WorkerConfig};
use crate::place::Places;
use crate::remote::Bearer;
use crate::session::chain;

/// A perimeter that stands.
pub(crate) struct Started {
    pub(crate) perimeter: Boundary,
    pub(crate) key: Bearer,
    pub(crate) children: Children,
    pub(crate) report: Report,
}

/// The processes, to be awaited at the end. The spawner's is kept by its own client.
pub(crate) struct Children {
    keeper: Keeper,
    egress: Child,
    log: postern_audit::Client,
}

/// What the processes said at their start.
struct Said {
    controls: Vec<ControlStatus>,
    degraded: Vec<String>,
    audit_key: String,
    perimeter_public_key: String,
}

/// Starts everything.
///
/// # Errors
/// Every reason found, in words for the operator. Children that stand already end with their sockets.
pub(crate) async fn start(
    config: WorkerConfig,
    starter: &Starter,
    places: Arc<Places>,
) -> Result<Started, Vec<String>> {
    let (zones, sources) = zones(&config)?;
    let one = |problem: String| vec![problem];
    let perimeter_dir = config.data_dir.join("perimeter");
    let ours = [&config.data_dir, &config.audit_dir, &config.custody_dir];
    let forbidden_mounts = ours.into_iter().chain(&config.kept).cloned().collect();
    let settings = Settings { forbidden_mounts, shared: perimeter_dir.join("shared") };
    let spawner = Spawner::start(starter, &settings).await.map_err(|error| one(chain(&error)))?;
    let controls = spawner.controls().await.map_err(|error| one(chain(&error)))?;

    let settings = keeper::Settings {
        starter: starter.clone(),
        audit: config.audit_dir,
        custody: postern_custody::Configuration {
            document: config.document.clone(),
            environments: config.environments.clone(),
            directory: config.custody_dir,
            snapshot: config.variables,
        },
        perimeter: perimeter_dir.join("keeper"),
    };
    let problems = |error: KeeperError| error.problems();
    let keeper = keeper::join_or_start(settings, CallerKind::Worker).await.map_err(problems)?;
    let audit = postern_audit::Client::new(channel(keeper.audit(CallerKind::Worker).await)?);
    let custody = postern_custody::Client::new(channel(keeper.custody(CallerKind::Worker).await)?);

    let egress_configuration = postern_egress::client::Configuration {
        document: config.document,
        environments: config.environments,
        names: config.names,
    };
    let audit_for_egress = keeper.audit(CallerKind::Egress).await.map_err(problems)?;
    let custody_for_egress = keeper.custody(CallerKind::Egress).await.map_err(problems)?;
    let started =
        postern_egress::client::start(starter, &egress_configuration, &audit_for_egress, &custody_for_egress).await;
    let (egress_child, egress) = started.map_err(|error| one(chain(&error)))?;

    // Everything that it may start has been started, or is kept by another.
    starter.enough().map_err(|error| one(format!("the starter does not settle: {error}")))?;
    record_start(&audit, &config.environment_id, &controls).await.map_err(one)?;
    let defaults = Defaults { require: everything_active(&controls) };
    let key = String::from_utf8(config.environment_key.into_bytes())
        .map_err(|_| one("the environment key is not text; issue a new one".to_owned()))?;
    let standing = keeper.standing().clone();
    let said = Said {
        controls,
        degraded: config.degraded.into_iter().chain(standing.degraded).collect(),
        audit_key: standing.audit_key,
        perimeter_public_key: standing.perimeter_public_key,
    };
    Ok(Started {
        perimeter: Boundary::new(
            spawner,
            audit.clone(),
            custody,
            egress,
            InForce::new(zones, sources),
            places,
            defaults,
        ),
        key: Bearer::new(key.trim().to_owned()),
        children: Children { keeper, egress: egress_child, log: audit },
        report: said.announce(),
    })
}

fn zones(config: &WorkerConfig) -> Result<(Zones, Vec<PathBuf>), Vec<String>> {
    let (zones, sources) = load(&config.document, &config.environments)?;
    for warning in zones.warnings() {
        tracing::warn!(%warning, "zone");
    }
    if zones.iter().next().is_none() {
        tracing::info!(
            "no zone is configured: the built-in zone deny-all applies (no egress, no credentials, no mounts)"
        );
    }
    Ok((zones, sources))
}

fn channel(connection: Result<OwnedFd, KeeperError>) -> Result<Channel, Vec<String>> {
    let socket = connection.map_err(|error| error.problems())?;
    Channel::new(socket).map_err(|error| vec![format!("speak over a socket: {error}")])
}

async fn record_start(
    audit: &postern_audit::Client,
    environment: &str,
    controls: &[ControlStatus],
) -> Result<(), String> {
    let mut record = Record::new(Kind::WorkerStarted, Decision::Info);
    let missing: Vec<&str> =
        controls.iter().filter(|status| status.state != State::Active).map(|status| status.control.name()).collect();
    record.outcome = Some(format!(
        "serves {environment}; not active: {}",
        if missing.is_empty() { "none".to_owned() } else { missing.join(" ") }
    ));
    audit.append(&record).await.map(drop).map_err(|error| chain(&error))
}

/// The default of `require`: all that this kernel and this user can do.
fn everything_active(controls: &[ControlStatus]) -> Vec<postern_sandbox::Control> {
    controls.iter().filter(|status| status.state == State::Active).map(|status| status.control).collect()
}

impl Said {
    /// Shows every control at the start: a control that is not active is said to be not active.
    fn announce(self) -> Report {
        for ControlStatus { control, state, cause, fix } in &self.controls {
            let control = control.name();
            match state {
                State::Active => tracing::info!(control, "control active"),
                State::Degraded => tracing::warn!(control, cause, fix, "control degraded"),
                State::Missing => tracing::warn!(control, cause, fix, "control missing"),
            }
        }
        for what in &self.degraded {
            tracing::warn!(what, "degraded");
        }
        Report::Ready {
            controls: self.controls,
            degraded: self.degraded,
            audit_key: self.audit_key,
            perimeter_public_key: self.perimeter_public_key,
        }
    }
}

impl Children {
    /// Ends the processes in good order, each awaited; the last words go on record, and are signed where this worker keeps the log, which closes then.
    pub(crate) async fn end(self) {
        let Self { keeper, egress, log } = self;
        // Egress first, for it still speaks to custody; both still speak to audit.
        await_end(egress).await;
        last_words(&log).await;
        drop(log);
        keeper.end().await;
    }

    /// The last words alone: a worker that ends in the middle of its work is soon to be replaced, and its processes end with it.
    pub(crate) async fn leave(self) {
        if tokio::time::timeout(LAST_WORDS_PATIENCE, last_words(&self.log)).await.is_err() {
            tracing::warn!("the audit log does not answer; the worker's end is not on record");
        }
    }
}

async fn last_words(log: &postern_audit::Client) {
    if let Err(error) = log.append(&Record::new(Kind::WorkerStopped, Decision::Info)).await {
        tracing::warn!(%error, "the worker's end is not on record");
    }
}

async fn await_end(mut child: Child) {
    let role = child.role();
    if let Err(error) = child.end(PATIENCE).await {
        tracing::warn!(role, %error, "a process could not be awaited");
    }
}

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
