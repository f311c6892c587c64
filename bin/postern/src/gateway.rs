//! `postern gateway`: the inner end of a tunnel on this machine, for a server elsewhere. Started, watched and started
//! again like `up`'s; its certificate is renewed here, where the tunnel's CA lies.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_exec::role::{Running, Starter, Supervisor};
use postern_gateway::{EdgeConfig, GatewayConfig, Order, Report};
use postern_policy::Endpoint;
use postern_tunnel::handover::Proxy;
use postern_tunnel::identity::IdentityKey;
use serde::de::DeserializeOwned;

use crate::cli::GatewayArguments;
use crate::config::{self, Configuration, DEFAULT_ENVIRONMENT};
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::roles::{keep_memory_private, variables};
use crate::secret_file;
use crate::tunnel::{Files, Leaf};
use crate::up::{Signals, stopping};

/// What a gateway is told besides zones and routes.
pub(crate) struct Inner {
    pub(crate) server_url: String,
    pub(crate) server_ca: Option<PathBuf>,
    pub(crate) edge_url: String,
    pub(crate) edge_ca: Option<PathBuf>,
    pub(crate) proxy: Option<(Endpoint, Option<PathBuf>)>,
    pub(crate) tunnel_id: String,
    pub(crate) token: PathBuf,
    pub(crate) tls_dir: PathBuf,
    /// The keys that sign identities, where they are known here.
    pub(crate) identity_keys: Vec<IdentityKey>,
    /// The environment that zones call `default`.
    pub(crate) environment_id: Option<String>,
    pub(crate) drain: Duration,
}

/// What a gateway is handed, by `up` or by its own command.
///
/// # Errors
/// A file cannot be read, or the zones do not load.
pub(crate) fn configuration(
    configuration: &Configuration,
    data: &Data,
    inner: Inner,
) -> Result<GatewayConfig, Failure> {
    let environments: BTreeMap<_, _> =
        inner.environment_id.into_iter().map(|id| (DEFAULT_ENVIRONMENT.to_owned(), id)).collect();
    let token = secret_file::key(&inner.token)?;
    Ok(GatewayConfig {
        exe: postern_exec::program::own_executable().or_misused("find this executable")?,
        server_url: inner.server_url,
        ca_file: inner.server_ca,
        edge: EdgeConfig {
            url: inner.edge_url,
            ca_pem: inner.edge_ca.as_deref().map(read).transpose()?,
            proxy: inner.proxy.map(proxy).transpose()?,
            interactive: 0,
            bulk: 0,
        },
        tunnel_id: inner.tunnel_id,
        tunnel_token: WireBytes::new(token.into_bytes()),
        tls_dir: inner.tls_dir,
        document: configuration.document.text().clone(),
        variables: variables(configuration, &environments)?,
        environments,
        data_dir: data.root().to_owned(),
        audit_dir: configuration.audit_dir(data.root()),
        custody_dir: configuration.custody_dir(data.root()),
        identity_keys: inner.identity_keys,
        drain_seconds: inner.drain.as_secs(),
        degraded: Vec::new(),
    })
}

fn proxy((endpoint, credentials): (Endpoint, Option<PathBuf>)) -> Result<Proxy, Failure> {
    let credentials = credentials.as_deref().map(secret_file::key).transpose()?;
    let credentials = credentials.map(|text| WireBytes::new(text.into_bytes()));
    Ok(Proxy { url: endpoint.to_string(), credentials })
}

/// The proxy that the configuration names, with the file of its credentials.
pub(crate) fn configured_proxy(configuration: &Configuration) -> Option<(Endpoint, Option<PathBuf>)> {
    let section = &configuration.gateway;
    section.proxy.clone().map(|proxy| (proxy, section.proxy_credentials_file.clone()))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).or_misused(&format!("read {}", path.display()))
}

/// A gateway's first word: the public key of its perimeter, or why there is none.
///
/// # Errors
/// It refused to start.
pub(crate) fn stands(report: Report) -> Result<String, Failure> {
    match report {
        Report::Ready { perimeter_public_key, degraded, .. } => {
            for what in degraded {
                tracing::warn!(what, "degraded");
            }
            Ok(perimeter_public_key)
        }
        Report::Refused { problems } => {
            Err(Failure::Misused(format!("the gateway does not start:\n{}", problems.join("\n"))))
        }
        Report::Connected { .. } | Report::Reloaded { .. } => {
            Err(Failure::Misused("the gateway spoke out of turn".into()))
        }
    }
}

/// Waits until the gateway's connector stands at the edge, or the time is over.
pub(crate) async fn connected(running: &mut Running, patience: Duration) -> bool {
    let heard = async {
        loop {
            match running.channel.receive::<Report>(REPORT_BYTES).await {
                Ok(Some((Report::Connected { connected: true }, _))) => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(patience, heard).await.unwrap_or(false)
}

/// Has a running gateway take up a changed configuration, and its successors too. Returns whether it did; why not is
/// logged.
pub(crate) async fn reload(running: &mut Running, configuration: &Configuration, kept: &mut GatewayConfig) -> bool {
    let sources = || variables(configuration, &kept.environments);
    let (for_now, for_later) = match sources().and_then(|now| Ok((now, sources()?))) {
        Ok(both) => both,
        Err(failure) => {
            tracing::error!(%failure, "the former configuration stays in force");
            return false;
        }
    };
    let document = configuration.document.text();
    let order =
        Order::Reload { document: document.clone(), environments: kept.environments.clone(), variables: for_now };
    if running.channel.send(&order, &[]).await.is_err() {
        tracing::error!("the gateway is gone; the former configuration stays in force");
        return false;
    }
    match tokio::time::timeout(RELOAD_PATIENCE, reloaded(running)).await {
        Ok(Some(problems)) if problems.is_empty() => {
            (kept.document, kept.variables) = (document.clone(), for_later);
            tracing::info!("the gateway took up its routes and zones again");
            true
        }
        Ok(Some(problems)) => {
            tracing::error!(?problems, "the gateway keeps the former configuration");
            false
        }
        Ok(None) | Err(_) => {
            tracing::error!("the gateway did not answer; the former configuration stays in force");
            false
        }
    }
}

/// Reads what a role says without having been asked, so that its words never fill the socket. Does not return.
pub(crate) async fn hear_out<R: DeserializeOwned>(channel: &mut Channel) -> Infallible {
    while let Ok(Some(_)) = channel.receive::<R>(REPORT_BYTES).await {}
    // Whether the role ended is seen where its process is.
    std::future::pending().await
}

async fn reloaded(running: &mut Running) -> Option<Vec<String>> {
    loop {
        match running.channel.receive::<Report>(REPORT_BYTES).await {
            Ok(Some((Report::Reloaded { problems }, _))) => return Some(problems),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Renews a tunnel's certificate when it is due, for as long as the process lives.
pub(crate) async fn keep_certificate(files: Files) {
    loop {
        match files.renew_if_due() {
            Ok(Leaf::Good(_)) => {}
            Ok(Leaf::Renewed) => tracing::info!("the tunnel's certificate is renewed"),
            Ok(Leaf::Ends(days)) => tracing::warn!(
                days,
                "the tunnel's certificate ends soon and its CA's key is not here; put a new leaf.pem and leaf.key into the directory"
            ),
            Err(failure) => tracing::error!(%failure, "the tunnel's certificate cannot be renewed"),
        }
        tokio::time::sleep(RENEWAL_INTERVAL).await;
    }
}

/// Serves until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// Configuration, data directory, tunnel files, or a gateway that does not start.
pub(crate) async fn run(arguments: &GatewayArguments) -> Result<ExitCode, Failure> {
    keep_memory_private();
    let read = config::read(&arguments.place)?;
    let data = Data::open(&arguments.place.data_dir)?;
    let _held = data.hold_for_gateway()?;
    let mut signals = Signals::listen()?;
    let inner = inner(&read, arguments)?;
    let files = Files::find(&inner.tls_dir)?;
    let exe = postern_exec::program::own_executable().or_misused("find this executable")?;
    let mut supervisor = Supervisor::new("gateway", Starter::itself(exe), configuration(&read, &data, inner)?, vec![]);
    let (mut running, report) = supervisor.start::<Report>().await.or_misused("start the gateway")?;
    stands(report)?;
    let renewal = tokio::spawn(async move {
        match files {
            Some(files) => keep_certificate(files).await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            () = stopping(&mut signals.terminate, &mut signals.interrupt) => break,
            () = signals.reload.wait() => match config::read(&arguments.place) {
                Ok(read) => {
                    reload(&mut running, &read, supervisor.configuration()).await;
                }
                Err(failure) => tracing::error!(%failure, "the former configuration stays in force"),
            },
            status = running.child.wait() => {
                tracing::error!(?status, "the gateway ended and is started again");
                running = again(&mut supervisor, &mut signals).await?;
            }
            never = hear_out::<Report>(&mut running.channel) => match never {},
        }
    }
    renewal.abort();
    let Running { mut child, mut channel } = running;
    // One that is gone already has nothing to drain.
    let _ = channel.send(&Order::Drain, &[]).await;
    tokio::select! {
        ended = child.end(arguments.drain + DRAIN_MARGIN) => ended.map(drop).or_unreachable("end the gateway")?,
        () = signals.next() => return Ok(ExitCode::from(130)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn again(supervisor: &mut Supervisor<GatewayConfig>, signals: &mut Signals) -> Result<Running, Failure> {
    loop {
        tokio::select! {
            started = supervisor.start::<Report>() => match started {
                Ok((running, Report::Ready { .. })) => return Ok(running),
                Ok((_, report)) => tracing::error!(?report, "the gateway does not start"),
                Err(cause) => tracing::error!(cause = crate::failure::chain("start", &cause), "the gateway does not start"),
            },
            () = signals.next() => return Err(Failure::Unreachable("stopped while the gateway was being started again".into())),
        }
    }
}

fn inner(configuration: &Configuration, arguments: &GatewayArguments) -> Result<Inner, Failure> {
    let section = &configuration.gateway;
    let needed = || {
        Failure::Misused("`[gateway]` must name server, edge, tunnel, tunnel_token_file and tls_dir; `postern tunnel create` makes the files".into())
    };
    let identity_keys = match &section.identity_key_file {
        Some(path) => {
            let key: IdentityKey =
                serde_json::from_str(&read(path)?).or_misused(&format!("read {}", path.display()))?;
            vec![key]
        }
        None => vec![],
    };
    Ok(Inner {
        server_url: section.server.as_ref().ok_or_else(needed)?.to_string(),
        server_ca: section.ca_file.clone(),
        edge_url: section.edge.as_ref().ok_or_else(needed)?.to_string(),
        edge_ca: section.edge_ca_file.clone(),
        proxy: configured_proxy(configuration),
        tunnel_id: section.tunnel.clone().ok_or_else(needed)?,
        token: section.tunnel_token_file.clone().ok_or_else(needed)?,
        tls_dir: section.tls_dir.clone().ok_or_else(needed)?,
        identity_keys,
        environment_id: configuration.worker.environment.clone(),
        drain: arguments.drain,
    })
}

const RELOAD_PATIENCE: Duration = Duration::from_secs(20);
const REPORT_BYTES: usize = 1 << 20;
const RENEWAL_INTERVAL: Duration = Duration::from_secs(3600);
/// What the gateway needs to end after its calls have: syncing the audit log, closing children.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
