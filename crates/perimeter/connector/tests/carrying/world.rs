//! A listening edge with tunnels, connectors with gateways that do simple things, and waiting for what they report.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_edge::{Directory, Edge, Limits, Settings, TunnelEntry};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_policy::configured;
use postern_secret::Secret;
use postern_secret::key::{KeyDigest, TunnelToken};
use postern_tunnel::carry::{Carry, CarryError, Stream};
use postern_tunnel::handover::{Configuration, ConnectorStatus, FromConnector, MESSAGE_BYTES, Refusal, ToConnector};
use postern_tunnel::identity::IdentityKey;
use postern_tunnel::wire::{Lane, Welcome};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes; what must be faster says so itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took too long"),
    }
}

/// Certificate authority of the outer TLS and what the edge serves with.
pub struct Outer {
    pub ca_pem: String,
    pub tls: Arc<rustls::ServerConfig>,
}

impl Outer {
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "edge.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { ca_pem, tls: postern_edge::server_config(vec![leaf.der().clone()], key).unwrap() }
    }
}

pub struct World {
    pub edge: Edge,
    pub outer: Outer,
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

pub struct Tunnel {
    pub id: String,
    pub domain: String,
    pub token: String,
}

impl Tunnel {
    pub fn host(&self, route: &str) -> String {
        format!("{route}.{}", self.domain)
    }
}

/// A token that no other call gave.
pub fn token() -> String {
    static ISSUED: AtomicU64 = AtomicU64::new(0);
    let generation = ISSUED.fetch_add(1, Ordering::Relaxed);
    TunnelToken::derive(&Secret::new(vec![1; 32]), "tnl_test", generation).secret().expose().clone()
}

impl World {
    pub async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        Self::with_tls(limits, Outer::new()).await
    }

    pub async fn with_tls(limits: Limits, outer: Outer) -> Self {
        let identity_keys = vec![IdentityKey { kid: "one".to_owned(), public_key: "AAAA".to_owned() }];
        let edge = Edge::new(Directory::new(), Settings { identity_keys, limits });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, serving) = start(&edge, listener, &outer);
        Self { edge, outer, address, stop, serving }
    }

    /// Every connection ends and nothing listens, as when the process is killed.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        soon("the edge's end", &mut self.serving).await.unwrap();
    }

    /// Listens again where it did.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        (self.stop, self.serving) = start(&self.edge, listener, &self.outer);
    }

    pub fn tunnel(&self, label: &str) -> Tunnel {
        let tunnel = Tunnel { id: format!("tnl_{label}"), domain: format!("{label}.tunnel.localhost"), token: token() };
        self.put(&tunnel);
        tunnel
    }

    pub fn entry(tunnel: &Tunnel) -> TunnelEntry {
        TunnelEntry {
            id: tunnel.id.clone(),
            workspace: "wrkspc_default".to_owned(),
            domain: tunnel.domain.clone(),
            token_digest: Some(KeyDigest::of(&tunnel.token)),
            token_generation: 1,
            certificates: Vec::new(),
            archived: false,
        }
    }

    pub fn put(&self, tunnel: &Tunnel) {
        self.edge.directory().put(Self::entry(tunnel));
    }

    pub fn configuration(&self, token: &str) -> Configuration {
        let edge = format!("https://{}", self.address);
        Configuration::new(edge, Some(self.outer.ca_pem.clone()), WireBytes::new(token.as_bytes().to_vec()))
    }

    /// A connector of this tunnel, connected on both lanes.
    pub async fn connector(&self, tunnel: &Tunnel) -> Connector {
        let mut connector = Connector::start(&tunnel.id, self.configuration(&tunnel.token)).await;
        connector.connected().await;
        connector
    }

    pub async fn open(&self, tunnel: &Tunnel, route: &str) -> Stream {
        self.try_open(&tunnel.host(route), Lane::Interactive).await.unwrap()
    }

    pub async fn try_open(&self, host: &str, lane: Lane) -> Result<Stream, CarryError> {
        soon("opening a stream", self.edge.open(host, lane)).await
    }
}

fn start(edge: &Edge, listener: TcpListener, outer: &Outer) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (edge, tls, stopped) = (edge.clone(), outer.tls.clone(), stop.clone());
    (stop, tokio::spawn(async move { edge.serve(listener, tls, stopped).await }))
}

/// A connector with its gateway.
pub struct Connector {
    pub status: watch::Receiver<ConnectorStatus>,
    pub welcomes: Arc<Mutex<Vec<Welcome>>>,
    pub hosts: Arc<Mutex<Vec<(String, Lane)>>>,
    /// What it refused, and how often.
    pub refused: watch::Receiver<Vec<(Refusal, u64)>>,
    /// Why connections ever failed.
    pub failures: watch::Receiver<Vec<String>>,
    pub role: JoinHandle<std::process::ExitCode>,
    pub gateway: JoinHandle<()>,
    drain: tokio::sync::mpsc::Sender<()>,
}

impl Connector {
    pub async fn start(name: &str, configuration: Configuration) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let role = tokio::spawn(postern_connector::serve(configuration, Channel::new(theirs).unwrap(), configured));
        let (told, status) = watch::channel(ConnectorStatus::default());
        let (welcomes, hosts) = (Arc::default(), Arc::default());
        let (drain, drains) = tokio::sync::mpsc::channel(1);
        let ((heard, refused), (failed, failures)) = (watch::channel(Vec::new()), watch::channel(Vec::new()));
        let kept = (Arc::clone(&welcomes), Arc::clone(&hosts));
        let gateway = Gateway { name: name.to_owned(), told, welcomes: kept.0, hosts: kept.1, heard, failed };
        Self {
            status,
            welcomes,
            hosts,
            refused,
            failures,
            role,
            gateway: tokio::spawn(gateway.run(ours, drains)),
            drain,
        }
    }

    pub async fn connected(&mut self) {
        soon("connecting", self.status.wait_for(ConnectorStatus::is_connected)).await.unwrap();
    }

    /// Waits until a connection has failed for this.
    pub async fn failed(&mut self, code: &str) {
        let failed = |codes: &Vec<String>| codes.iter().any(|one| one == code);
        soon("a failure", self.failures.wait_for(failed)).await.unwrap();
    }

    /// The error that every connection reports, once each has one.
    pub async fn error(&mut self) -> String {
        let all = |status: &ConnectorStatus| {
            !status.connections.is_empty() && status.connections.iter().all(|one| one.last_error.is_some())
        };
        let status = soon("a failure", self.status.wait_for(all)).await.unwrap();
        status.connections[0].last_error.clone().unwrap().code
    }

    /// Waits until the gateway has heard of so many refusals, and says of which.
    pub async fn refused(&mut self, times: u64) -> Vec<(Refusal, u64)> {
        let all = |heard: &Vec<(Refusal, u64)>| heard.iter().map(|(_, times)| times).sum::<u64>() >= times;
        soon("what was refused", self.refused.wait_for(all)).await.unwrap().clone()
    }

    pub async fn drain(&self) {
        self.drain.send(()).await.unwrap();
    }

    /// As when the process is killed: sockets close, nothing is said.
    pub async fn kill(self) {
        self.role.abort();
        let _ = self.role.await;
    }
}

struct Gateway {
    name: String,
    told: watch::Sender<ConnectorStatus>,
    welcomes: Arc<Mutex<Vec<Welcome>>>,
    hosts: Arc<Mutex<Vec<(String, Lane)>>>,
    heard: watch::Sender<Vec<(Refusal, u64)>>,
    failed: watch::Sender<Vec<String>>,
}

impl Gateway {
    async fn run(self, channel: Channel, mut drains: tokio::sync::mpsc::Receiver<()>) {
        let (mut sender, mut receiver) = channel.split();
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                Some(()) = drains.recv() => sender.send(&ToConnector::Drain, &[]).await.unwrap(),
                received = receiver.receive::<FromConnector>(MESSAGE_BYTES) => match received.ok().flatten() {
                    None => return,
                    Some((FromConnector::Ready { problems }, _)) => assert_eq!(problems, Vec::<String>::new()),
                    Some((FromConnector::Welcome(welcome), _)) => self.welcomes.lock().unwrap().push(welcome),
                    Some((FromConnector::Status(status), _)) => {
                        let errors = status.connections.iter().filter_map(|one| one.last_error.as_ref());
                        self.failed.send_modify(|failed| failed.extend(errors.map(|error| error.code.clone())));
                        drop(self.told.send(status));
                    }
                    Some((FromConnector::Refused { refusal, times }, _)) => {
                        self.heard.send_modify(|heard| heard.push((refusal, times)));
                    }
                    Some((FromConnector::Stream { host, lane }, mut ends)) => {
                        assert_eq!(ends.len(), 1);
                        let end = std::os::unix::net::UnixStream::from(ends.remove(0));
                        let stream = UnixStream::from_std(end).unwrap();
                        self.hosts.lock().unwrap().push((host.clone(), lane));
                        match host.split('.').next().unwrap() {
                            "stuck" => kept.push(stream),
                            route => drop(tokio::spawn(behave(route.to_owned(), self.name.clone(), host, stream))),
                        }
                    }
                }
            }
        }
    }
}

/// What the gateway does with a stream, by its route.
async fn behave(route: String, name: String, host: String, mut stream: UnixStream) {
    match route.as_str() {
        "name" => {
            let _ = stream.write_all(format!("{name} {host}").as_bytes()).await;
        }
        "count" => {
            let mut counted = 0;
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                counted += count;
            }
            let _ = stream.write_all(counted.to_string().as_bytes()).await;
        }
        "close" => {}
        _ => {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    }
}

/// Sends a text and reads as much back.
pub async fn echoes(stream: &mut Stream, text: &[u8]) {
    let mut heard = vec![0; text.len()];
    soon("an echo", async {
        stream.write_all(text).await.unwrap();
        stream.read_exact(&mut heard).await.unwrap();
    })
    .await;
    assert_eq!(heard, text);
}

pub async fn rest(stream: &mut Stream) -> String {
    let mut text = String::new();
    soon("the rest of a stream", stream.read_to_string(&mut text)).await.unwrap();
    text
}
