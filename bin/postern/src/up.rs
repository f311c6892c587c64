//! `postern up`: supervises a server and its edge, a worker and a gateway, each a process of its own, over one data directory.
//!
//! The sockets are bound here and handed to server and edge, so one that dies is replaced without refusing anyone a
//! connection. The worker gets the environment's key from a private file and the server's address, and nothing else; the
//! gateway gets its tunnel's files, made at the first start.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_exec::WireBytes;
use postern_exec::role::{Running, Starter, Supervisor};
use postern_gateway::GatewayConfig;
use postern_runner::{Order, Report};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::UpArguments;
use crate::client::Client;
use crate::config::{self, Configuration, DEFAULT_ENVIRONMENT};
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::roles::{Service, keep_memory_private, worker_configuration};
use crate::server::{
    DEFAULT_TUNNEL_DOMAIN, EdgeFacts, EdgePart, Plane, ServerConfiguration, ServerReady, WebConfiguration,
};
use crate::tunnel::Files;
use crate::{edge, gateway, listening, perimeter, reload, secret_file};

/// Runs until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// Configuration, data directory or a role that does not start.
pub(crate) async fn run(arguments: &UpArguments) -> Result<(), Failure> {
    keep_memory_private();
    let configuration = config::read(&arguments.place)?;
    let data = Data::open(&arguments.place.data_dir)?;
    let _held = data.hold()?;
    let mut signals = Signals::listen()?;
    let mut up = Up::start(arguments, &configuration, &data).await?;
    up.announce(arguments, &configuration, &data);
    up.supervise(arguments, &mut signals).await;
    up.drain(arguments.drain, &mut signals).await
}

struct Up {
    control: Plane,
    worker: Option<Part<postern_runner::WorkerConfig>>,
    gateway: Option<Part<GatewayConfig>>,
    tunnel: Option<Files>,
    ready: ServerReady,
    controls: Vec<postern_sandbox::ControlStatus>,
    degraded: Vec<String>,
}

/// A supervised role and its running process.
struct Part<C> {
    supervisor: Supervisor<C>,
    running: Running,
}

impl Up {
    async fn start(arguments: &UpArguments, configuration: &Configuration, data: &Data) -> Result<Self, Failure> {
        let exe = postern_exec::program::own_executable().or_misused("find this executable")?;
        let (tcp, operator) = listen(arguments, data)?;
        let address = tcp.local_addr().or_misused("read the listening address")?;
        let (facts, edge) = listen_edge(arguments, data)?;
        let server = ServerConfiguration {
            listen: address,
            directory: data.control(),
            model_url: configuration.model.endpoint.to_string(),
            model_ca_file: configuration.model.ca_file.clone(),
            model_default: configuration.model.default.clone(),
            judge: configuration.model.judge.clone(),
            grader: configuration.model.grader.clone(),
            system_messages: configuration.model.system_messages.clone(),
            prices: configuration.model.prices.clone(),
            context: configuration.model.context,
            model_key: model_key(arguments.model_key_file.as_deref())?.map(|key| WireBytes::new(key.into_bytes())),
            new_keys: arguments.new_keys,
            new_environment_key: !data.environment_key().exists(),
            tls: None,
            edge: Some(facts),
            mcp_addresses: configuration.server.mcp_addresses.clone(),
            webhook_addresses: configuration.server.webhook_addresses.clone(),
            web: WebConfiguration::read(&configuration.web)?,
            ca_file: configuration.server.ca_file.clone(),
            event_key_file: configuration.server.event_key_file.clone(),
        };
        let sockets = vec![OwnedFd::from(tcp), OwnedFd::from(operator)];
        let (control, ready) = Plane::start(exe.clone(), server, sockets, Some(edge)).await?;
        if let Some(key) = &ready.environment_key {
            Data::write_private(&data.environment_key(), key)
                .or_misused("keep the environment's key for the worker")?;
        }
        let mut up =
            Self { control, worker: None, gateway: None, tunnel: None, ready, controls: vec![], degraded: vec![] };
        let client = Client::operator(&data.operator_socket());
        if !arguments.no_worker {
            let key = up.start_worker(arguments, configuration, data, exe.clone()).await?;
            up.register(&client, &key).await?;
        }
        if !arguments.no_gateway {
            let key = up.start_gateway(arguments, configuration, data, exe, &client).await?;
            up.register(&client, &key).await?;
        }
        Ok(up)
    }

    /// Credentials that the API takes are sealed to this machine's perimeter.
    async fn register(&self, client: &Client, public_key: &str) -> Result<(), Failure> {
        perimeter::register(client, "up", public_key, Some(&self.ready.environment_id), None).await.map(drop)
    }

    async fn start_gateway(
        &mut self,
        arguments: &UpArguments,
        configuration: &Configuration,
        data: &Data,
        exe: PathBuf,
        client: &Client,
    ) -> Result<String, Failure> {
        let files = crate::tunnel::ensure(client, &data.tunnel(), "up").await?;
        let edge_ca = data.edge().join("ca.pem");
        let inner = gateway::Inner {
            server_url: self.ready.base_url.clone(),
            server_ca: None,
            edge_url: self.ready.edge_url.clone().unwrap_or_default(),
            edge_ca: Some(edge_ca),
            proxy: gateway::configured_proxy(configuration),
            tunnel_id: files.id().to_owned(),
            token: files.token(),
            tls_dir: files.directory().to_owned(),
            identity_keys: vec![self.ready.identity_key.clone()],
            environment_id: Some(self.ready.environment_id.clone()),
            drain: arguments.drain,
        };
        let mut supervisor = Supervisor::new(
            "gateway",
            Starter::itself(exe),
            gateway::configuration(configuration, data, inner)?,
            vec![],
        );
        let (mut running, report) =
            supervisor.start::<postern_gateway::Report>().await.or_misused("start the gateway")?;
        let key = gateway::stands(report)?;
        if !gateway::connected(&mut running, TUNNEL_PATIENCE).await {
            tracing::warn!("the tunnel does not stand yet; `postern tunnel status` says why");
        }
        tokio::spawn(gateway::keep_certificate(files.clone()));
        self.gateway = Some(Part { supervisor, running });
        self.tunnel = Some(files);
        Ok(key)
    }

    async fn start_worker(
        &mut self,
        arguments: &UpArguments,
        configuration: &Configuration,
        data: &Data,
        exe: PathBuf,
    ) -> Result<String, Failure> {
        let service = Service {
            server_url: self.ready.base_url.clone(),
            ca_file: None,
            environment_id: self.ready.environment_id.clone(),
            environment_key_file: data.environment_key(),
            sessions: configuration.worker.sessions.into(),
            drain: arguments.drain,
        };
        let worker = worker_configuration(configuration, data, service)?;
        let mut supervisor = Supervisor::new("worker", Starter::itself(exe), worker, vec![]);
        let (running, report) = supervisor.start::<Report>().await.or_misused("start the worker")?;
        let key = match report {
            Report::Ready { controls, degraded, perimeter_public_key, .. } => {
                self.controls = controls;
                self.degraded = degraded;
                perimeter_public_key
            }
            Report::Refused { problems } => {
                return Err(Failure::Misused(format!("the worker does not start:\n{}", problems.join("\n"))));
            }
            Report::Reloaded { .. } => {
                return Err(Failure::Misused("the worker answered before it was asked".to_owned()));
            }
        };
        self.worker = Some(Part { supervisor, running });
        Ok(key)
    }

    #[expect(clippy::print_stdout, reason = "the address and the keys are the command's result")]
    fn announce(&self, arguments: &UpArguments, configuration: &Configuration, data: &Data) {
        if arguments.json {
            let line = json!({"base_url": self.ready.base_url, "api_key": self.ready.api_key, "environment_id": self.ready.environment_id,
                "environment_key": self.ready.environment_key, "tunnel_id": self.tunnel.as_ref().map(Files::id),
                "tunnel_domain": self.tunnel.as_ref().map(Files::domain), "data_dir": data.root()});
            println!("{line}");
            return;
        }
        println!(
            "{}",
            crate::greeting::text(
                &self.ready,
                (&self.controls, &self.degraded),
                self.tunnel.as_ref(),
                configuration,
                arguments,
                data
            )
        );
    }

    /// Starts again what ends by itself, until a signal asks for the end.
    async fn supervise(&mut self, arguments: &UpArguments, signals: &mut Signals) {
        loop {
            // Each by itself: the worker takes the gateway with it, and one that does not start holds up no other.
            let kept = async {
                let (control, worker, gateway) = (&mut self.control, self.worker.as_mut(), self.gateway.as_mut());
                let worker = async {
                    if let Some(worker) = worker {
                        worker.keep::<Report>().await
                    }
                };
                let gateway = async {
                    if let Some(gateway) = gateway {
                        gateway.keep::<postern_gateway::Report>().await
                    }
                };
                tokio::join!(control.keep(), worker, gateway);
            };
            tokio::select! {
                () = stopping(&mut signals.terminate, &mut signals.interrupt) => return,
                // A start that this cuts short is made again: the role ends with its channel.
                () = signals.reload.wait() => (),
                () = kept => (),
            }
            self.reload(arguments).await;
        }
    }

    /// Takes up zones and routes as the file says now, whole or not at all: the gateway, then the worker.
    async fn reload(&mut self, arguments: &UpArguments) {
        let configuration = match config::read(&arguments.place) {
            Ok(configuration) => configuration,
            Err(failure) => return tracing::error!(%failure, "the former configuration stays in force"),
        };
        let ids = BTreeMap::from([(DEFAULT_ENVIRONMENT.to_owned(), self.ready.environment_id.clone())]);
        // Before the gateway is told: where one cannot take it up, neither does.
        let Some(order) = reload::order(&configuration, &ids) else { return };
        if let Some(gateway) = &mut self.gateway
            && !gateway::reload(&mut gateway.running, &configuration, gateway.supervisor.configuration()).await
        {
            return;
        }
        if let Some(worker) = &mut self.worker {
            let kept = worker.supervisor.configuration();
            let taken_up = reload::worker(&mut worker.running.channel, &order).await;
            match order {
                Order::Reload { document, variables, .. } if taken_up => {
                    (kept.document, kept.variables) = (document, variables);
                }
                _ if self.gateway.is_some() => tracing::error!(
                    "the gateway goes by the changed configuration and the worker by the former: mend it and reload again"
                ),
                _ => {}
            }
        }
    }

    async fn drain(self, patience: Duration, signals: &mut Signals) -> Result<(), Failure> {
        tracing::info!(
            seconds = patience.as_secs(),
            "draining: no new work, running tools end; once more to stop at once"
        );
        let Self { control, worker, gateway, .. } = self;
        let ends = async {
            // The gateway first: it may share the worker's custody. Then the worker: its results still find a server.
            if let Some(Part { running: Running { mut child, mut channel }, .. }) = gateway {
                // One that is gone already has nothing to drain.
                let _ = channel.send(&postern_gateway::Order::Drain, &[]).await;
                child.end(patience + WORKER_MARGIN).await.or_unreachable("end the gateway")?;
            }
            if let Some(Part { running: Running { mut child, mut channel }, .. }) = worker {
                // A worker that is gone already has nothing to drain.
                let _ = channel.send(&Order::Drain, &[]).await;
                child.end(patience + WORKER_MARGIN).await.or_unreachable("end the worker")?;
            }
            control.stop().await.or_unreachable("end the server")
        };
        tokio::select! {
            ended = ends => ended,
            () = signals.next() => std::process::exit(130),
        }
    }
}

impl<C: serde::Serialize> Part<C> {
    /// Starts the role again whenever it ends, until it stands. Does not return.
    async fn keep<R: serde::de::DeserializeOwned>(&mut self) {
        loop {
            let Running { child, channel } = &mut self.running;
            let role = child.role();
            let status = tokio::select! {
                status = child.wait() => status,
                never = gateway::hear_out::<R>(channel) => match never {},
            };
            tracing::error!(role, ?status, "a role ended and is started again");
            self.running = self.started::<R>().await;
        }
    }

    async fn started<R: serde::de::DeserializeOwned>(&mut self) -> Running {
        loop {
            match self.supervisor.start::<R>().await {
                Ok((running, _)) => return running,
                Err(cause) => {
                    tracing::error!(cause = crate::failure::chain("start", &cause), "a role does not start");
                }
            }
        }
    }
}

/// How long the start waits for the tunnel to stand before it says so and goes on.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(10);
/// What the worker needs to end after its tools have: syncing the audit log, closing sandboxes.
const WORKER_MARGIN: Duration = Duration::from_secs(5);

fn listen(arguments: &UpArguments, data: &Data) -> Result<(TcpListener, UnixListener), Failure> {
    if !arguments.listen.ip().is_loopback() {
        return Err(Failure::Misused("`up` speaks plain HTTP and listens on loopback alone; put TLS before it".into()));
    }
    Ok((listening::tcp(arguments.listen)?, listen_operator(data)?))
}

/// The operator's socket, for its owner alone.
pub(crate) fn listen_operator(data: &Data) -> Result<UnixListener, Failure> {
    let path = data.operator_socket();
    // Left over from a process that was killed; the lock says that no other one uses it.
    let _ = std::fs::remove_file(&path);
    let operator = UnixListener::bind(&path).or_misused(&format!("listen on {}", path.display()))?;
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))
        .or_misused("close the operator's socket to others")?;
    Ok(operator)
}

/// The model endpoint's key, from the file or the documented variable.
pub(crate) fn model_key(file: Option<&Path>) -> Result<Option<String>, Failure> {
    if let Some(file) = file {
        return secret_file::key(file).map(Some);
    }
    #[expect(clippy::disallowed_methods, reason = "the documented variable for the model endpoint's key")]
    let text = std::env::var("ANTHROPIC_API_KEY").ok();
    Ok(text.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()))
}

/// What the server knows of the edge, and what that is started with.
fn listen_edge(arguments: &UpArguments, data: &Data) -> Result<(EdgeFacts, EdgePart), Failure> {
    if !arguments.edge_listen.ip().is_loopback() {
        return Err(Failure::Misused(
            "the edge of `up` has a certificate for loopback alone; run `postern server` with [edge] for connectors elsewhere".into(),
        ));
    }
    let socket = listening::tcp(arguments.edge_listen)?;
    let address = socket.local_addr().or_misused("read the edge's address")?;
    data.part_edge_from_control();
    edge::own_certificate(&data.edge())?;
    let file = |name: &str| data.edge().join(name);
    let domain = DEFAULT_TUNNEL_DOMAIN.to_owned();
    let configuration = edge::Configuration { certificate: file("cert.pem"), key: file("key.pem") };
    Ok((EdgeFacts { address, domain }, (configuration, socket.into())))
}

/// SIGTERM and SIGINT, which end; SIGHUP, which reads the configuration again.
pub(crate) struct Signals {
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
    pub(crate) reload: Hangup,
}

/// SIGHUP: read the configuration again.
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Waits for the next.
    pub(crate) async fn wait(&mut self) {
        self.0.recv().await;
    }
}

impl Signals {
    /// Listens for both from now on.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let terminate = signal(SignalKind::terminate()).or_misused("listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).or_misused("listen for Ctrl-C")?;
        let reload = Hangup(signal(SignalKind::hangup()).or_misused("listen for SIGHUP")?);
        Ok(Self { terminate, interrupt, reload })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        stopping(&mut self.terminate, &mut self.interrupt).await;
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn stopping(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
}
