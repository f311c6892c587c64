//! `postern tunnel-rig`: an edge, one tunnel and the real gateway and connector on this machine, without API or worker.
//! For demo, journeys and benchmarks: foreign clients reach a route through a plain front, hostile callers choose every
//! header of theirs, and whoever holds the rig sends the gateway commands. Never part of a deployment.

mod control;
mod front;
mod measure;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use postern_edge::{Directory, Edge, TunnelEntry};
use postern_engine::control::CommandFailure;
use postern_exec::role::{Running, Starter, Supervisor};
use postern_gateway::GatewayConfig;
use postern_model::control::{CommandBody, Reply};
use postern_net::client::{Body, ClientError, Connect, Connecting, HttpClient};
use postern_secret::Secret;
use postern_secret::key::TunnelToken;
use postern_secret::seal::PerimeterPublicKey;
use postern_tunnel::carry::Carry;
use postern_tunnel::certificate::{self, Ca, accept_ca};
use postern_tunnel::identity::{Claims, Purpose, Signer, body_digest, new_jti, seconds};
use postern_tunnel::wire::Lane;
use rustls::ClientConfig;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::RigArguments;
use crate::config::{self, Configuration};
use crate::data::Data;
use crate::edge;
use crate::failure::{Failure, Or};
use crate::gateway::{self, Inner};
use crate::tunnel::Files;
use crate::up::Signals;
use control::Control;

/// The environment that zones call `default` here.
const ENVIRONMENT: &str = "env_rehearsal";
const TUNNEL: &str = "tnl_rehearsal";
const WORKSPACE: &str = "wrkspc_rehearsal";
const DOMAIN: &str = "rehearsal.tunnel.localhost";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the tunnel may take to stand. One dial may take 20 s: where it came to nothing, the next one has its time too.
const STANDS: Duration = Duration::from_secs(45);
/// How long one request through the rig may take until its head.
const REQUEST_PATIENCE: Duration = Duration::from_secs(180);
/// How long the gateway may take over one command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 512;
const IDLE: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or Ctrl-C; with `--measure` until that is done.
///
/// # Errors
/// Configuration, or a part that does not start.
#[expect(clippy::print_stdout, reason = "addresses and figures are the command's result")]
pub(crate) async fn run(arguments: &RigArguments) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let configuration = config::read(&arguments.place)?;
    let rig = Rig::start(&configuration, &Data::open(&arguments.place.data_dir)?).await?;
    if let Some(plan) = &arguments.measure {
        let measured = measure::all(&rig, plan).await?;
        println!("{measured}");
        return rig.end().await;
    }
    let mut fronts = serde_json::Map::new();
    for route in configuration.routes.iter() {
        let front = front::start(rig.caller("sesn_front"), rig.client(&route.name, Lane::Interactive)).await?;
        fronts.insert(route.name.clone(), json!(format!("http://{front}")));
    }
    println!("{}", json!({"fronts": fronts, "tunnel_id": rig.tunnel_id, "domain": rig.domain}));
    signals.next().await;
    rig.end().await
}

/// Everything that runs.
pub(crate) struct Rig {
    tunnel_id: String,
    domain: String,
    edge: Edge,
    signer: Arc<Signer>,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
    control: Control,
    gateway: Running,
}

impl Rig {
    /// Starts edge, gateway and connector over a data directory of its own.
    ///
    /// # Errors
    /// Names the part that did not start.
    pub(crate) async fn start(configuration: &Configuration, data: &Data) -> Result<Self, Failure> {
        let signer = Arc::new(Signer::generate().or_misused("make a key for identities")?);
        let files = match Files::find(&data.tunnel())? {
            Some(files) => files,
            None => Files::make(&data.tunnel(), TUNNEL, DOMAIN)?,
        };
        let ca = accept_ca(&files.ca_certificate()?, SystemTime::now()).or_misused("use the tunnel's CA")?;
        let token = TunnelToken::derive(&Secret::new(vec![7; 32]), files.id(), 1);
        write_token(&files, &token)?;
        let directory = Directory::new();
        directory.put(entry(&files, &token, ca.clone()));
        let settings =
            postern_edge::Settings { identity_keys: vec![signer.key()], ..postern_edge::Settings::default() };
        let edge = Edge::new(directory, settings);
        let stop = CancellationToken::new();
        let address = serve(&edge, data, stop.clone()).await?;
        let (control, dialled) = Control::start(files.id(), WORKSPACE, token.digest(), stop.clone()).await?;
        let inner = Inner {
            server_url: format!("http://{dialled}"),
            server_ca: None,
            edge_url: format!("https://{address}"),
            edge_ca: Some(data.edge().join("ca.pem")),
            proxy: gateway::configured_proxy(configuration),
            tunnel_id: files.id().to_owned(),
            token: files.token(),
            tls_dir: files.directory().to_owned(),
            identity_keys: vec![signer.key()],
            environment_id: Some(ENVIRONMENT.to_owned()),
            drain: Duration::from_secs(5),
        };
        let gateway = start_gateway(gateway::configuration(configuration, data, inner)?).await?;
        let tls = certificate::client_config(&[ca]).or_misused("prepare inner TLS")?;
        Ok(Self {
            tunnel_id: files.id().to_owned(),
            domain: files.domain().to_owned(),
            edge,
            signer,
            tls,
            stop,
            control,
            gateway,
        })
    }

    /// Sends the gateway a command, as a server does.
    ///
    /// # Errors
    /// [`CommandFailure`]: it did not obey, or nobody knows.
    pub(crate) async fn command(&self, body: CommandBody) -> Result<Reply, CommandFailure> {
        self.control.command(body, COMMAND_PATIENCE).await
    }

    /// The key that the gateway's perimeter opens sealed values with.
    ///
    /// # Errors
    /// The gateway did not open its control stream in time.
    pub(crate) async fn perimeter_public_key(&self) -> Result<PerimeterPublicKey, Failure> {
        self.control.perimeter_public_key(PATIENCE).await
    }

    /// An HTTP client of a route, over inner TLS.
    pub(crate) fn client(&self, route: &str, lane: Lane) -> HttpClient {
        let host = format!("{route}.{}", self.domain);
        let authority = HeaderValue::try_from(host.as_str()).unwrap_or(HeaderValue::from_static("unnamed"));
        let connect = Through { edge: self.edge.clone(), host: host.clone(), lane, tls: Arc::clone(&self.tls) };
        HttpClient::made_by(Arc::new(connect), host, authority, IDLE_CONNECTIONS, IDLE)
    }

    /// What the names of routes end in.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// Somebody who calls in the name of a session.
    pub(crate) fn caller(&self, session: &str) -> Caller {
        Caller { signer: Arc::clone(&self.signer), tunnel_id: self.tunnel_id.clone(), session: session.to_owned() }
    }

    /// The same in the name of a key that nobody knows.
    pub(crate) fn caller_with(&self, signer: Signer, session: &str) -> Caller {
        Caller { signer: Arc::new(signer), ..self.caller(session) }
    }

    /// Ends gateway and edge.
    ///
    /// # Errors
    /// The gateway did not end in time.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        self.gateway.stop(PATIENCE).await.or_unreachable("end the gateway")?;
        self.stop.cancel();
        Ok(())
    }
}

fn write_token(files: &Files, token: &TunnelToken) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "the connector reads its token from a private file")]
    let written = Data::write_private(&files.token(), token.secret().expose());
    written.or_misused("write the tunnel's token")
}

fn entry(files: &Files, token: &TunnelToken, ca: Ca) -> TunnelEntry {
    TunnelEntry {
        id: files.id().to_owned(),
        workspace: WORKSPACE.to_owned(),
        domain: files.domain().to_owned(),
        token_digest: Some(token.digest()),
        token_generation: 1,
        certificates: vec![ca],
        archived: false,
    }
}

async fn serve(edge: &Edge, data: &Data, stop: CancellationToken) -> Result<std::net::SocketAddr, Failure> {
    edge::own_certificate(&data.edge())?;
    let file = |name: &str| data.edge().join(name);
    let tls = edge::tls(&file("cert.pem"), &file("key.pem"), &[b"http/1.1"])?;
    let listener = TcpListener::bind("127.0.0.1:0").await.or_misused("listen for the connector")?;
    let address = listener.local_addr().or_misused("read the edge's address")?;
    let edge = edge.clone();
    tokio::spawn(async move { edge.serve(listener, tls, stop).await });
    Ok(address)
}

async fn start_gateway(configuration: GatewayConfig) -> Result<Running, Failure> {
    let exe = configuration.exe.clone();
    let mut supervisor = Supervisor::new("gateway", Starter::itself(exe), configuration, vec![]);
    let (mut running, report) = supervisor.start::<postern_gateway::Report>().await.or_misused("start the gateway")?;
    gateway::stands(report)?;
    if gateway::connected(&mut running, STANDS).await {
        Ok(running)
    } else {
        Err(Failure::Unreachable("the tunnel does not stand; with `--log info` its connector says why".into()))
    }
}

struct Through {
    edge: Edge,
    host: String,
    lane: Lane,
    tls: Arc<ClientConfig>,
}

impl Connect for Through {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let stream = self.edge.open(&self.host, self.lane).await?;
            let stream = postern_net::tls::connect(Arc::clone(&self.tls), &self.host, stream).await?;
            Ok(Box::new(stream) as Box<_>)
        })
    }
}

/// A session's identity, for as many calls as wanted.
#[derive(Clone)]
pub(crate) struct Caller {
    signer: Arc<Signer>,
    tunnel_id: String,
    session: String,
}

impl Caller {
    /// A fresh identity for one request with this body.
    ///
    /// # Errors
    /// The library refuses to sign.
    pub(crate) fn identity(&self, body: &[u8]) -> Result<String, Failure> {
        self.identity_claiming(body, |_| {})
    }

    /// The same with other claims than a session's own.
    ///
    /// # Errors
    /// The library refuses to sign.
    pub(crate) fn identity_claiming(&self, body: &[u8], change: impl FnOnce(&mut Claims)) -> Result<String, Failure> {
        let now = seconds(SystemTime::now());
        let mut claims = Claims {
            iss: postern_tunnel::identity::ISSUER.to_owned(),
            aud: self.tunnel_id.clone(),
            sub: self.session.clone(),
            agent: "agent_rehearsal".to_owned(),
            agent_version: 1,
            definition_digest: "sha256:rehearsal".to_owned(),
            environment: ENVIRONMENT.to_owned(),
            workspace: WORKSPACE.to_owned(),
            tool_use: None,
            purpose: Purpose::Call,
            iat: now,
            exp: now + 60,
            jti: new_jti(),
            body: body_digest(body),
        };
        change(&mut claims);
        self.signer.sign(&claims).or_misused("sign an identity")
    }
}

/// One JSON-RPC message as a request.
///
/// # Errors
/// A header that is none.
pub(crate) fn message(body: &serde_json::Value, identity: &str) -> Result<Request<Full<Bytes>>, Failure> {
    Request::post("/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("postern-identity", identity)
        .body(Full::new(Bytes::from(body.to_string())))
        .or_misused("make a request")
}

/// Sends a request through the tunnel.
///
/// # Errors
/// As the client's.
pub(crate) async fn send(client: &HttpClient, request: Request<Full<Bytes>>) -> Result<Response<Body>, ClientError> {
    client.request(request, REQUEST_PATIENCE).await
}
