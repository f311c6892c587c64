//! The server role: the control plane over sockets that were bound for it, with the keys and the environment it makes
//! at first. The tunnel's edge is another process, handed to it.

mod alone;
mod first;
mod keys;
mod mcp;
mod plane;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use postern_api::{App, Tunnels, router, serve, serve_operator, serve_tls};
use postern_edge::{Carrier, Remote};
use postern_engine::control::{ControlHub, ControlSettings};
use postern_engine::{ContextLimits, Engine, Surroundings};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_exec::role::First;
use postern_model::agent::ContextSettings;
use postern_model::money::Price;
use postern_net::client::HttpClient;
use postern_net::tls::TlsRoots;
use postern_policy::{Endpoint, configured};
use postern_secret::{Secret, SecretBytes};
use postern_store::Store;
use postern_tunnel::identity::IdentityKey;
use postern_upstream::webhook::{Postman, Public};
use postern_upstream::{Client, Settings};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Or};
use crate::{edge, listening};
pub(crate) use alone::run;
pub(crate) use plane::{EdgePart, Plane};
pub(crate) use web::WebConfiguration;

/// What domains of tunnels end in, unless `[edge] domain` says.
pub(crate) const DEFAULT_TUNNEL_DOMAIN: &str = "tunnel.localhost";

/// The first frame to the role; listening sockets come with it: TCP and the operator's.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServerConfiguration {
    pub(crate) listen: SocketAddr,
    pub(crate) directory: PathBuf,
    pub(crate) model_url: String,
    pub(crate) model_ca_file: Option<PathBuf>,
    pub(crate) model_default: Option<String>,
    /// The model that judges calls whose policy is `auto`.
    pub(crate) judge: Option<String>,
    /// The model that grades outcomes, unless it is the agent's own.
    pub(crate) grader: Option<String>,
    /// What the tokens of models cost, by their names.
    pub(crate) prices: BTreeMap<String, Price>,
    /// The models that take system text in mid-conversation.
    pub(crate) system_messages: BTreeSet<String>,
    /// When conversations are shortened, unless an agent says otherwise.
    pub(crate) context: ContextSettings,
    pub(crate) model_key: Option<WireBytes>,
    /// Issue an API key and an environment key although there are some.
    pub(crate) new_keys: bool,
    /// Issue an environment key: the worker has none.
    pub(crate) new_environment_key: bool,
    /// Certificate and key of the API's listener; plain HTTP without.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// The edge that will be handed over, where there is one.
    pub(crate) edge: Option<EdgeFacts>,
    /// Special ranges in which public MCP URLs may lie all the same.
    pub(crate) mcp_addresses: Vec<IpNet>,
    /// The same for webhooks.
    pub(crate) webhook_addresses: Vec<IpNet>,
    /// The web tools.
    pub(crate) web: WebConfiguration,
    /// Trusted besides the system's list, for all of these.
    pub(crate) ca_file: Option<PathBuf>,
    /// The keys that what sessions say is encrypted under where it is stored.
    pub(crate) event_key_file: Option<PathBuf>,
}

/// What a server knows of its edge.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct EdgeFacts {
    /// Where it listens, as bound.
    pub(crate) address: SocketAddr,
    /// What tunnels' domains end in.
    pub(crate) domain: String,
}

/// The role's first message back. Keys are there when this start issued them.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServerReady {
    pub(crate) base_url: String,
    pub(crate) environment_id: String,
    pub(crate) api_key: Option<String>,
    pub(crate) environment_key: Option<String>,
    pub(crate) model_key: bool,
    pub(crate) model_default: Option<String>,
    /// Where connectors of this machine dial.
    pub(crate) edge_url: Option<String>,
    /// The key that signs callers' identities.
    pub(crate) identity_key: IdentityKey,
}

/// What the role is told later.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToServer {
    /// An edge in place of any before, by its number; its channel comes along.
    Edge(u64),
}

/// What the role says later.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromServer {
    /// The edge of this number is gone for it, whether its process runs or not.
    EdgeGone(u64),
}

const DRAIN: Duration = Duration::from_secs(5);
const MESSAGE_BYTES: usize = 1024;

/// The role.
pub(crate) async fn main(first: First<ServerConfiguration>) -> ExitCode {
    let (configuration, descriptors, mut channel) = match first.into_parts() {
        Ok(parts) => parts,
        Err(error) => return refuse(&error.to_string()),
    };
    match Server::build(configuration, descriptors).await {
        Ok((server, ready)) => {
            if channel.send(&Ok::<_, String>(ready), &[]).await.is_err() {
                return ExitCode::FAILURE;
            }
            server.run(channel).await;
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // A supervisor that is gone has nobody left to tell.
            let _ = channel.send(&Err::<ServerReady, _>(failure.to_string()), &[]).await;
            refuse(&failure.to_string())
        }
    }
}

fn refuse(why: &str) -> ExitCode {
    tracing::error!(why, "the server does not start");
    ExitCode::from(2)
}

struct Server {
    engine: Engine,
    store: Store,
    app: App,
    hub: ControlHub,
    tcp: (TcpListener, Option<Arc<rustls::ServerConfig>>),
    operator: UnixListener,
    edge: Remote,
}

impl Server {
    async fn build(
        mut configuration: ServerConfiguration,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Self, ServerReady), Failure> {
        let mut sockets = descriptors.into_iter();
        let (Some(tcp), Some(operator)) = (sockets.next(), sockets.next()) else {
            return Err(Failure::Misused("the server expects its listening sockets".into()));
        };
        let event_keys = configuration.event_key_file.as_deref().map(keys::event_keys).transpose()?;
        let database = configuration.directory.join("postern.sqlite");
        let store = Store::open_with(&database, event_keys).await.or_misused("open the database")?;
        let (environment, issued) =
            first::first_things(&store, &configuration).await.or_misused("make keys and environment")?;
        let server_key = keys::server_key(&configuration.directory)?;
        let signer = keys::identity(&configuration.directory)?;
        let identity_key = signer.key();
        let settings =
            postern_edge::Settings { identity_keys: vec![identity_key.clone()], ..postern_edge::Settings::default() };
        let edge = Remote::new(settings);
        let carrier: Arc<dyn Carrier> = Arc::new(edge.clone());
        let hub = ControlHub::new(ControlSettings::default());
        let domain = configuration.edge.as_ref().map_or(DEFAULT_TUNNEL_DOMAIN, |edge| &edge.domain).to_owned();
        let roots =
            TlsRoots::platform_and_file(configuration.ca_file.as_deref()).or_misused("load trusted certificates")?;
        let mcp = mcp::client(&carrier, signer, &domain, &configuration.mcp_addresses, roots.clone());
        let public = Public::new(configuration.webhook_addresses.clone(), roots.clone());
        let web = Some(configuration.web.browser(&roots)?);
        let messenger = Arc::new(Postman::new(keys::server_key(&configuration.directory)?, public));

        let has_model_key = configuration.model_key.is_some();
        let key = configuration.model_key.take().map(secret);
        let model = Arc::new(model(&configuration, key)?);
        let surroundings =
            Surroundings { mcp: Some(mcp.clone()), hub: Some(hub.clone()), messenger: Some(messenger), web };
        let tunnels = Tunnels { server_key, domain, edge: carrier, prober: Some(mcp::prober(mcp)) };
        // Before the engine: sessions that go on after a restart call through tunnels at once.
        tunnels.fill_directory(&store).await.or_misused("read the tunnels")?;
        let engine = Engine::start_with(store.clone(), model, surroundings, settings_of_engine(&configuration))
            .await
            .or_misused("start the engine")?;
        let scheme = if configuration.tls.is_some() { "https" } else { "http" };
        let ready = ServerReady {
            base_url: format!("{scheme}://{}", configuration.listen),
            environment_id: environment.id.to_string(),
            api_key: issued.api_key,
            environment_key: issued.environment_key,
            model_key: has_model_key,
            model_default: configuration.model_default,
            edge_url: configuration.edge.as_ref().map(|edge| format!("https://{}", edge.address)),
            identity_key,
        };
        let app = App::new(engine.clone(), store.clone(), postern_api::Limits::default())
            .with_control(hub.clone())
            .with_tunnels(tunnels);
        let tls = match &configuration.tls {
            Some((certificate, key)) => Some(edge::tls(certificate, key, &[b"http/1.1"])?),
            None => None,
        };
        let (tcp, operator) = ((listening::taken(tcp)?, tls), operator_listener(operator)?);
        Ok((Self { engine, store, app, hub, tcp, operator, edge }, ready))
    }

    /// Serves until the supervisor's side closes, then drains.
    async fn run(self, mut channel: Channel) {
        let drain = CancellationToken::new();
        let router = router(self.app);
        let (tcp, tls) = self.tcp;
        let api = async {
            match tls {
                Some(tls) => serve_tls(tcp, tls, router.clone(), drain.clone()).await,
                None => serve(tcp, router.clone(), drain.clone()).await,
            }
        };
        // Tunnels stay up while sessions drain: running calls end over them.
        let carried = CancellationToken::new();
        let serving = async {
            tokio::join!(api, serve_operator(self.operator, router.clone(), drain.clone()), carried.cancelled())
        };
        let ending = async {
            let mut edges = JoinSet::new();
            follow(&mut channel, &self.edge, &mut edges).await;
            drain.cancel();
            if !self.engine.drain(DRAIN).await {
                tracing::warn!("sessions were still at work when the server drained; the next start goes on with them");
            }
            self.hub.drain(DRAIN).await;
            self.edge.let_go();
            // Also one that is told of its tunnels just now and is no current one yet.
            edges.shutdown().await;
            carried.cancel();
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            _ = serving => (),
            () = ending => tracing::warn!("connections were still open when the server ended"),
        }
        self.engine.drain(DRAIN).await;
        self.store.close().await;
    }
}

/// Works with each edge that is handed over, and says when one is gone, until the supervisor's side closes or says what is none of this.
async fn follow(channel: &mut Channel, edge: &Remote, edges: &mut JoinSet<u64>) {
    loop {
        tokio::select! {
            told = channel.receive::<ToServer>(MESSAGE_BYTES) => {
                let Ok(Some((ToServer::Edge(number), sockets))) = told else { return };
                for socket in sockets {
                    match Channel::new(socket) {
                        Ok(channel) => {
                            let edge = edge.clone();
                            edges.spawn(async move {
                                edge.attend(channel).await;
                                number
                            });
                        }
                        Err(error) => tracing::error!(%error, "the edge cannot be worked with"),
                    }
                }
            }
            Some(Ok(number)) = edges.join_next() => {
                // A supervisor that is gone is noticed by the other branch.
                let _ = channel.send(&FromServer::EdgeGone(number), &[]).await;
            }
        }
    }
}

fn operator_listener(socket: OwnedFd) -> Result<UnixListener, Failure> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true).or_misused("take the operator's socket")?;
    UnixListener::from_std(socket).or_misused("take the operator's socket")
}

fn model(configuration: &ServerConfiguration, key: Option<SecretBytes>) -> Result<Client, Failure> {
    let endpoint: Endpoint = configuration.model_url.parse().or_misused("read the model's URL")?;
    let roots =
        TlsRoots::platform_and_file(configuration.model_ca_file.as_deref()).or_misused("load trusted certificates")?;
    let http = HttpClient::new(configured(&endpoint), &roots).or_misused("prepare the model client")?;
    let settings = Settings { default_model: configuration.model_default.clone(), ..Settings::default() };
    Ok(Client::new(http, key, settings))
}

fn settings_of_engine(configuration: &ServerConfiguration) -> postern_engine::Settings {
    let context = ContextLimits::default().with(Some(configuration.context));
    let web = configuration.web.tools();
    let limits = postern_engine::Limits { context, web, ..postern_engine::Limits::default() };
    postern_engine::Settings {
        judge: configuration.judge.clone(),
        grader: configuration.grader.clone(),
        system_messages: configuration.system_messages.clone(),
        prices: configuration.prices.clone(),
        limits,
        ..postern_engine::Settings::default()
    }
}

fn secret(bytes: WireBytes) -> SecretBytes {
    Secret::new(bytes.into_bytes())
}
