//! The gateway process from start to end: reads its configuration, joins or starts audit and custody, starts the
//! connector, serves until it is told to drain, and ends when audit or custody is gone.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use postern_audit::{Decision, Kind, Record, Recorder};
use postern_custody::{
    CallerKind, GatewayClient, Reload,
    keeper::{self, Keeper},
};
use postern_exec::{
    asynchronous::Channel,
    role::{First, Starter},
};
use postern_net::{HttpClient, TlsRoots, control};
use postern_policy::{ConfiguredPermit, Document, Endpoint, Zones, document::DocumentText, gateway::Routes};
use postern_secret::SecretBytes;
use postern_tunnel::identity;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use zeroize::Zeroizing;

use crate::{
    binding::Binding,
    config::{GatewayConfig, Order, Report},
    connector,
    control::Handler,
    gateway::{Gateway, Parts, Rules},
    leaf::Leaf,
    limits::Bounds,
    mark::Mark,
    oauth::Journal,
    orders,
};

/// Makes permits for endpoints of the configuration: `postern_policy::configured`, which `bin` alone may name.
pub type Configured = fn(&Endpoint) -> ConfiguredPermit;

/// Runs the gateway role with the configuration that its starter sends. Ends with 0 after a drain.
/// Its children are executed by `starter`: a gateway that has confined itself starts nothing.
pub async fn process_main(first: First<GatewayConfig>, starter: Starter, configured: Configured) -> ExitCode {
    match first.into_parts() {
        Ok((config, _, channel)) => gateway_main(config, starter, configured, Some(channel)).await,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the gateway has no configuration");
            ExitCode::from(USAGE)
        }
    }
}

/// The gateway with its configuration in hand. With a starter, it ends at once when the starter is gone.
pub async fn gateway_main(
    config: GatewayConfig,
    executing: Starter,
    configured: Configured,
    mut starter: Option<Channel>,
) -> ExitCode {
    let patience = Duration::from_secs(config.drain_seconds);
    let Standing { gateway, keeper, connected, report } = match start(config, executing, configured).await {
        Ok(standing) => standing,
        Err(problems) => return refuse(problems, starter).await,
    };
    if let Some(channel) = &mut starter
        && channel.send(&report, &[]).await.is_err()
    {
        return ExitCode::FAILURE;
    }
    let gone = tokio::select! {
        code = orders(&gateway, &keeper, starter, connected) => return code,
        () = keeper.gone() => true,
        () = gateway.drain.started() => false,
    };
    if gone {
        tracing::error!("audit or custody is gone; the gateway ends with it");
        return ExitCode::FAILURE;
    }
    ExitCode::from(end(&gateway, keeper, patience).await)
}

/// A gateway that serves.
struct Standing {
    gateway: Arc<Gateway>,
    keeper: Keeper,
    connected: watch::Receiver<bool>,
    report: Report,
}

async fn start(config: GatewayConfig, executing: Starter, configured: Configured) -> Result<Standing, Vec<String>> {
    let one = |problem: String| vec![problem];
    let (rules, server) = check(&config, configured)?;
    let leaf = Leaf::open(&config.tls_dir).map_err(|error| one(chain(&error)))?;
    let perimeter = config.data_dir.join("perimeter");
    let own = perimeter.join(DIRECTORY);
    let settings = keeper::Settings {
        starter: executing.clone(),
        perimeter: perimeter.join("keeper"),
        audit: config.audit_dir,
        custody: postern_custody::Configuration {
            document: config.document,
            environments: config.environments,
            directory: config.custody_dir,
            snapshot: config.variables,
        },
    };
    let keeper = keeper::join_or_start(settings, CallerKind::Gateway).await.map_err(|error| error.problems())?;
    let audit = connection(keeper.audit(CallerKind::Gateway).await)?;
    let custody = connection(keeper.custody(CallerKind::Gateway).await)?;
    let gateway = Arc::new(Gateway::new(Parts {
        tunnel_id: config.tunnel_id,
        identity_keys: config.identity_keys,
        rules,
        audit: Arc::new(postern_audit::Client::new(audit)),
        custody: Arc::new(GatewayClient::new(custody)),
        binding: binding(&own).map_err(one)?,
        mark: mark(&own).map_err(one)?,
        answers: answers(&own, keeper.standing()).map_err(one)?,
        leaf,
        bounds: Bounds::default(),
    }));
    gateway.catalogue.refresh(&*gateway.custody).await.map_err(|denial| one(denial.to_string()))?;
    record(&gateway, Kind::GatewayStarted, gateway.rules().routes.digest()).await.map_err(one)?;

    let settings = connector::Settings::new(config.edge, config.tunnel_token, config.drain_seconds);
    let handler = Handler::new(Arc::clone(&gateway), host_name(), keeper.standing());
    spawn_control(&gateway, server, bearer(&settings.token()), handler);
    tokio::time::sleep(gateway.mark.wait(gateway.clock())).await;
    let (sender, connected) = watch::channel(false);
    gateway.drain.spawn(connector::keep(Arc::clone(&gateway), executing, settings, sender));
    gateway.drain.spawn_until_drain(Arc::clone(&gateway).look_after());
    let report = ready(&gateway, keeper.standing(), config.degraded);
    Ok(Standing { gateway, keeper, connected, report })
}

fn ready(gateway: &Gateway, standing: &keeper::Standing, degraded: Vec<String>) -> Report {
    Report::Ready {
        routes: gateway.rules().routes.iter().map(|route| route.name.clone()).collect(),
        leaf_days_left: gateway.leaf.days_left(),
        degraded: degraded.into_iter().chain(standing.degraded.iter().cloned()).collect(),
        audit_key: standing.audit_key.clone(),
        perimeter_public_key: standing.perimeter_public_key.clone(),
    }
}

/// Everything about the configuration that can be said before anything is started.
fn check(config: &GatewayConfig, configured: Configured) -> Result<(Rules, HttpClient), Vec<String>> {
    let rules = rules(config.document.clone(), &config.environments);
    let server = client(config, configured);
    match (rules, server) {
        (Ok(rules), Ok(server)) => Ok((rules, server)),
        (rules, server) => Err(rules.err().into_iter().flatten().chain(server.err()).collect()),
    }
}

/// Zones and routes of one document, with everything that is wrong in either.
pub(crate) fn rules(
    document: DocumentText,
    environments: &std::collections::BTreeMap<String, String>,
) -> Result<Rules, Vec<String>> {
    let lines = |errors: Vec<postern_policy::ConfigError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let document = Document::from_text(document).map_err(lines)?;
    match (Zones::load(&document, environments), Routes::load(&document)) {
        (Ok(zones), Ok(routes)) => {
            for warning in zones.warnings().iter().chain(routes.warnings()) {
                tracing::warn!(%warning, "configuration");
            }
            Ok(Rules { zones, routes })
        }
        (zones, routes) => {
            let mut problems = zones.err().map(lines).unwrap_or_default();
            problems.extend(routes.err().map(lines).unwrap_or_default());
            problems.dedup();
            Err(problems)
        }
    }
}

fn client(config: &GatewayConfig, configured: Configured) -> Result<HttpClient, String> {
    let url = &config.server_url;
    let endpoint: Endpoint = url.parse().map_err(|error| format!("the server's URL {url}: {error}"))?;
    let roots = TlsRoots::platform_and_file(config.ca_file.as_deref());
    let client = roots.and_then(|roots| HttpClient::new(configured(&endpoint), &roots));
    client.map_err(|error| format!("reach the server {url}: {}", chain(&error)))
}

fn connection(descriptor: Result<std::os::fd::OwnedFd, keeper::KeeperError>) -> Result<Channel, Vec<String>> {
    let descriptor = descriptor.map_err(|error| error.problems())?;
    Channel::new(descriptor).map_err(|error| vec![chain(&error)])
}

fn binding(own: &Path) -> Result<Binding, String> {
    let file = own.join("key");
    Binding::at(&file).map_err(|error| format!("use {}: {error}", file.display()))
}

fn mark(own: &Path) -> Result<Mark, String> {
    let file = own.join("mark");
    let now = identity::seconds(SystemTime::now());
    Mark::at(&file, now).map_err(|error| format!("use {}: {error}", file.display()))
}

fn answers(own: &Path, standing: &keeper::Standing) -> Result<Arc<Journal>, String> {
    let file = own.join("answers.json");
    let perimeter = standing.perimeter_public_key.parse();
    let perimeter = perimeter.map_err(|_| "custody's public key is none; restart the gateway".to_owned())?;
    let journal = Journal::at(file.clone(), perimeter);
    journal.map(Arc::new).map_err(|error| format!("use {}: {error}", file.display()))
}

fn spawn_control(gateway: &Arc<Gateway>, server: HttpClient, bearer: Option<HeaderValue>, handler: Handler) {
    let (link, _) = watch::channel(control::Link::Connecting);
    let credential: control::Credential = Arc::new(move || bearer.clone());
    let stream = control::run(server, credential, Arc::new(handler), link, gateway.drain.token());
    gateway.drain.spawn(stream);
}

#[expect(clippy::disallowed_methods, reason = "the tunnel token authenticates the control stream")]
fn bearer(token: &SecretBytes) -> Option<HeaderValue> {
    let text = Zeroizing::new([b"Bearer ".as_slice(), token.expose().trim_ascii()].concat());
    let mut value = HeaderValue::from_bytes(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Does what the starter says, and tells it whether the connector stands. Returns at the second signal, or when the starter
/// is gone.
async fn orders(
    gateway: &Arc<Gateway>,
    keeper: &Keeper,
    starter: Option<Channel>,
    connected: watch::Receiver<bool>,
) -> ExitCode {
    let obey = async |order| match order {
        Order::Drain => {
            gateway.drain.start();
            None
        }
        Order::Reload { document, environments, variables } => {
            let taken = document.clone();
            let problems = reload(gateway, Reload { document, environments, snapshot: variables }).await;
            if problems.is_empty() {
                keeper.reads(&taken);
            }
            Some(Report::Reloaded { problems })
        }
    };
    orders::take(starter, connected, obey).await
}

/// Puts other rules in force: first in custody and then, when that is on record, here, so that no call is decided by rules
/// whose credentials custody does not know.
pub(crate) async fn reload(gateway: &Gateway, reload: Reload) -> Vec<String> {
    let (document, environments) = (reload.document.clone(), reload.environments.clone());
    let read = tokio::task::spawn_blocking(move || rules(document, &environments)).await;
    let rules = match read {
        Ok(Ok(rules)) => rules,
        Ok(Err(problems)) => return problems,
        Err(_) => return vec!["the configuration could not be read".to_owned()],
    };
    if let Err(problems) = gateway.custody.reload(reload).await {
        return problems;
    }
    if let Err(problem) = record(gateway, Kind::ConfigurationLoaded, rules.routes.digest()).await {
        return vec![problem];
    }
    gateway.replace_rules(rules);
    Vec::new()
}

/// Lets running calls end, then audit and custody.
async fn end(gateway: &Arc<Gateway>, keeper: Keeper, patience: Duration) -> u8 {
    let mut signals = (signal(SignalKind::terminate()).ok(), signal(SignalKind::interrupt()).ok());
    let second = async {
        match &mut signals {
            (Some(terminate), Some(interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        drained = gateway.drain.finish(patience) => tracing::info!(?drained, "the gateway is drained"),
        () = second => return SECOND_SIGNAL,
    }
    crate::phases::record::counted(gateway).await;
    if let Err(problem) = record(gateway, Kind::GatewayStopped, gateway.rules().routes.digest()).await {
        tracing::warn!(problem, "the gateway's end is not on record");
    }
    keeper.end().await;
    0
}

async fn record(gateway: &Gateway, kind: Kind, routes: &str) -> Result<(), String> {
    let mut record = Record::new(kind, Decision::Info);
    record.outcome = Some(format!("tunnel {}", gateway.tunnel_id));
    record.digests.insert("routes".to_owned(), routes.to_owned());
    Recorder::record(&*gateway.audit, record).await.map(drop).map_err(|error| chain(&error))
}

async fn refuse(problems: Vec<String>, starter: Option<Channel>) -> ExitCode {
    for problem in &problems {
        tracing::error!(%problem, "the gateway does not start");
    }
    if let Some(mut channel) = starter {
        // A starter that is gone needs no word.
        let _gone = channel.send(&Report::Refused { problems }, &[]).await;
    }
    ExitCode::from(USAGE)
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.chars().filter(|one| one.is_ascii_alphanumeric() || "-._".contains(*one)).take(64).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Makes the gateway's own directory, and puts there what earlier builds kept beside it. Before the gateway confines itself to it.
///
/// # Errors
/// The system's.
pub fn prepare(data_dir: &Path) -> std::io::Result<PathBuf> {
    let perimeter = data_dir.join("perimeter");
    let own = perimeter.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
    for (former, name) in [("gateway.key", "key"), ("gateway.mark", "mark")] {
        match std::fs::rename(perimeter.join(former), own.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(own)
}

/// Where the gateway keeps its key and its mark, below the perimeter's directory.
const DIRECTORY: &str = "gateway";
const USAGE: u8 = 2;
const SECOND_SIGNAL: u8 = 130;
