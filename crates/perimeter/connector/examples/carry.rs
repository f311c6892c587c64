//! Measures the carrying layer on one machine: edge, connector and an echoing gateway in one process over loopback TLS.
//! `cargo run -p postern-connector --example carry`. Prints a table; small messages are 200 bytes each way on kept streams.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement says what it expects by failing, and prints its result"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_edge::{Directory, Edge, Settings, TunnelEntry};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_policy::configured;
use postern_secret::Secret;
use postern_secret::key::TunnelToken;
use postern_tunnel::carry::{Carry, Stream};
use postern_tunnel::handover::{Configuration, ConnectorStatus, FromConnector, MESSAGE_BYTES};
use postern_tunnel::wire::Lane;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const HOST: &str = "echo.aaaa.tunnel.localhost";
const SMALL: usize = 200;
const BULK: usize = 100 << 20;

#[tokio::main]
async fn main() {
    let edge = connected().await;
    println!("streams | requests/s | p50 ms | p99 ms   (small, kept streams, interactive lane)");
    for streams in [1, 4, 32, 128] {
        let (rate, p50, p99) = small(&edge, streams, Duration::from_secs(3)).await;
        println!("{streams:7} | {rate:10.0} | {p50:6.3} | {p99:6.3}");
    }
    let (rate, p50, p99) = fresh(&edge, 2000).await;
    println!("1, a fresh stream each: {rate:.0} requests/s, p50 {p50:.3} ms, p99 {p99:.3} ms");
    let since = Instant::now();
    bulk(&edge, Lane::Bulk).await;
    println!("100 MiB in, nothing beside it: {:.0} MiB/s", 100.0 / since.elapsed().as_secs_f64());
    for lane in [Lane::Bulk, Lane::Interactive] {
        let beside = tokio::spawn({
            let edge = edge.clone();
            async move {
                loop {
                    bulk(&edge, lane).await;
                }
            }
        });
        let (rate, p50, p99) = small(&edge, 4, Duration::from_secs(3)).await;
        beside.abort();
        let _ = beside.await;
        println!(
            "4 small while 100 MiB runs on the {lane} lane: {rate:.0} requests/s, p50 {p50:.3} ms, p99 {p99:.3} ms"
        );
    }
}

async fn small(edge: &Edge, streams: usize, time: Duration) -> (f64, f64, f64) {
    let until = Instant::now() + time;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let mut stream = edge.open(HOST, Lane::Interactive).await.unwrap();
        running.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                took.push(call(&mut stream).await);
            }
            took
        });
    }
    figures(running.join_all().await.concat(), time)
}

async fn fresh(edge: &Edge, calls: usize) -> (f64, f64, f64) {
    let since = Instant::now();
    let mut took = Vec::new();
    for _ in 0..calls {
        let began = Instant::now();
        let mut stream = edge.open(HOST, Lane::Interactive).await.unwrap();
        call(&mut stream).await;
        took.push(began.elapsed());
    }
    figures(took, since.elapsed())
}

async fn call(stream: &mut Stream) -> Duration {
    let began = Instant::now();
    let mut buffer = [7; SMALL];
    stream.write_all(&buffer).await.unwrap();
    stream.read_exact(&mut buffer).await.unwrap();
    began.elapsed()
}

/// 100 MiB to the gateway, which only counts it.
async fn bulk(edge: &Edge, lane: Lane) {
    let mut stream = edge.open("count.aaaa.tunnel.localhost", lane).await.unwrap();
    let block = vec![1; 64 << 10];
    for _ in 0..BULK / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, BULK.to_string());
}

fn figures(mut took: Vec<Duration>, time: Duration) -> (f64, f64, f64) {
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    (took.len() as f64 / time.as_secs_f64(), at(0.5), at(0.99))
}

async fn connected() -> Edge {
    let token = TunnelToken::derive(&Secret::new(vec![1; 32]), "tnl_a", 1);
    let directory = Directory::new();
    directory.put(TunnelEntry {
        id: "tnl_a".to_owned(),
        workspace: "wrkspc_default".to_owned(),
        domain: "aaaa.tunnel.localhost".to_owned(),
        token_digest: Some(token.digest()),
        token_generation: 1,
        certificates: Vec::new(),
        archived: false,
    });
    let edge = Edge::new(directory, Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ca_pem, tls) = outer();
    tokio::spawn({
        let edge = edge.clone();
        async move { edge.serve(listener, tls, CancellationToken::new()).await }
    });
    let text = WireBytes::new(token.secret().expose().clone().into_bytes());
    let configuration = Configuration::new(format!("https://{address}"), Some(ca_pem), text);
    let (gateway, connector) = Channel::pair().unwrap();
    tokio::spawn(postern_connector::serve(configuration, Channel::new(connector).unwrap(), configured));
    let (ready, stands) = oneshot::channel();
    tokio::spawn(run(gateway, ready));
    stands.await.unwrap();
    edge
}

fn outer() -> (String, Arc<rustls::ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (ca_pem, postern_edge::server_config(vec![leaf.der().clone()], key).unwrap())
}

/// A gateway that echoes, or counts and says how much it was.
async fn run(mut channel: Channel, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    while let Ok(Some((message, mut ends))) = channel.receive::<FromConnector>(MESSAGE_BYTES).await {
        match message {
            FromConnector::Status(status) if ConnectorStatus::is_connected(&status) => {
                if let Some(ready) = ready.take() {
                    ready.send(()).unwrap();
                }
            }
            FromConnector::Stream { host, .. } => {
                let end = std::os::unix::net::UnixStream::from(ends.remove(0));
                tokio::spawn(behave(host.starts_with("count"), UnixStream::from_std(end).unwrap()));
            }
            _ => {}
        }
    }
}

async fn behave(count: bool, mut stream: UnixStream) {
    let mut buffer = vec![0; 32 << 10];
    let mut counted = 0;
    while let Ok(some @ 1..) = stream.read(&mut buffer).await {
        counted += some;
        if !count && stream.write_all(&buffer[..some]).await.is_err() {
            return;
        }
    }
    if count {
        let _ = stream.write_all(counted.to_string().as_bytes()).await;
    }
}
