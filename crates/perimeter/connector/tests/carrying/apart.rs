//! The same with the edge at the other end of a channel, as where it is a process of its own: streams, revocation, and an edge that dies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_edge::{Carrier, Connections, Remote, Settings, TunnelEntry, TunnelStatus};
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_exec::rpc::{CallError, Caller, ServeError};
use postern_secret::key::KeyDigest;
use postern_tunnel::carry::{Carry, CarryError, Stream};
use postern_tunnel::handover::Configuration;
use postern_tunnel::identity::IdentityKey;
use postern_tunnel::wire::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::world::{Connector, Outer, Tunnel, World, echoes, rest, soon, token};

struct Apart {
    remote: Remote,
    outer: Outer,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// An edge and who works with it.
struct Edge {
    process: JoinHandle<Result<(), ServeError>>,
    attended: JoinHandle<()>,
}

impl Apart {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let identity_keys = vec![IdentityKey { kid: "one".to_owned(), public_key: "AAAA".to_owned() }];
        let remote = Remote::new(Settings { identity_keys, ..Settings::default() });
        Self { remote, outer: Outer::new(), address: listener.local_addr().unwrap(), listener }
    }

    /// An edge on the listening socket, which outlives it.
    fn edge(&self) -> Edge {
        let (ours, theirs) = Channel::pair().unwrap();
        let process = self.silent_edge(theirs);
        let remote = self.remote.clone();
        Edge { process, attended: tokio::spawn(async move { remote.attend(ours).await }) }
    }

    fn silent_edge(&self, channel: std::os::fd::OwnedFd) -> JoinHandle<Result<(), ServeError>> {
        let listener = TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        let (channel, tls) = (Channel::new(channel).unwrap(), self.outer.tls.clone());
        tokio::spawn(postern_edge::serve_process(channel, listener, tls))
    }

    async fn tunnel(&self, label: &str) -> Tunnel {
        let tunnel = Tunnel { id: format!("tnl_{label}"), domain: format!("{label}.tunnel.localhost"), token: token() };
        self.remote.put(World::entry(&tunnel), Connections::Stay).await;
        tunnel
    }

    async fn connector(&self, tunnel: &Tunnel) -> Connector {
        let edge = format!("https://{}", self.address);
        let token = WireBytes::new(tunnel.token.as_bytes().to_vec());
        let configuration = Configuration::new(edge, Some(self.outer.ca_pem.clone()), token);
        Connector::start(&tunnel.id, configuration).await
    }

    async fn try_open(&self, host: &str) -> Result<Stream, CarryError> {
        soon("opening a stream", self.remote.open(host, Lane::Interactive)).await
    }

    async fn open(&self, tunnel: &Tunnel, route: &str) -> Stream {
        self.try_open(&tunnel.host(route)).await.unwrap()
    }

    async fn status(&self, tunnel: &Tunnel) -> TunnelStatus {
        soon("the status", self.remote.status(&tunnel.id)).await
    }

    /// Waits until the tunnel's connections carry so many streams.
    async fn carries(&self, tunnel: &Tunnel, streams: usize) {
        let carried = async {
            while self.status(tunnel).await.connections.iter().map(|one| one.open_streams).sum::<usize>() != streams {
                tokio::task::yield_now().await;
            }
        };
        soon("the streams", carried).await;
    }
}

impl Edge {
    /// As when its process is killed.
    async fn kill(self) {
        self.process.abort();
        let _ = self.process.await;
        soon("the notice", self.attended).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_is_carried_both_ways_and_each_direction_ends_by_itself() {
    let apart = Apart::new();
    let tunnel = apart.tunnel("aaaa").await;
    let _edge = apart.edge();
    let mut connector = apart.connector(&tunnel).await;
    connector.connected().await;
    let mut stream = apart.open(&tunnel, "echo").await;
    echoes(&mut stream, &[7; 100_000]).await;
    let mut counting = apart.open(&tunnel, "count").await;
    counting.write_all(&vec![0; 3 << 20]).await.unwrap();
    counting.shutdown().await.unwrap();
    assert_eq!(rest(&mut counting).await, (3 << 20).to_string());
    let mut closed = apart.open(&tunnel, "close").await;
    assert_eq!(rest(&mut closed).await, "");
    let carried: u64 = apart.status(&tunnel).await.connections.iter().map(|one| one.carried_bytes).sum();
    assert!(carried >= (3 << 20) + 200_000, "{carried}");
}

#[tokio::test]
async fn what_nobody_reads_is_not_taken_and_holds_up_no_other_stream() {
    let apart = Apart::new();
    let tunnel = apart.tunnel("aaaa").await;
    let _edge = apart.edge();
    let _connector = apart.connector(&tunnel).await;
    let mut unread = apart.open(&tunnel, "stuck").await;
    let mut sent = tokio::spawn(async move { unread.write_all(&vec![0; 64 << 20]).await });
    let mut free = apart.open(&tunnel, "echo").await;
    for _ in 0..100 {
        echoes(&mut free, &[9; 10_000]).await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut sent).await.is_err(), "64 MiB went nowhere");
    sent.abort();
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_its_place_back_and_so_does_one_that_nobody_waits_for() {
    let apart = Apart::new();
    let tunnel = apart.tunnel("aaaa").await;
    let _edge = apart.edge();
    let mut connector = apart.connector(&tunnel).await;
    connector.connected().await;
    let (kept, mut half) = (apart.open(&tunnel, "stuck").await, apart.open(&tunnel, "stuck").await);
    half.shutdown().await.unwrap();
    apart.carries(&tunnel, 2).await;
    let mut awaited = Box::pin(apart.try_open("echo.aaaa.tunnel.localhost"));
    // It may be open by now: that one is dropped as well.
    drop(tokio::time::timeout(Duration::ZERO, &mut awaited).await);
    drop((kept, half, awaited));
    apart.carries(&tunnel, 0).await;
}

#[tokio::test]
async fn a_stream_that_does_not_come_about_says_why_as_without_a_line_between() {
    let apart = Apart::new();
    let (tunnel, other) = (apart.tunnel("aaaa").await, apart.tunnel("bbbb").await);
    let _edge = apart.edge();
    let mut connector = apart.connector(&tunnel).await;
    connector.connected().await;
    for host in ["echo.cccc.tunnel.localhost", "aaaa.tunnel.localhost", "ECHO.aaaa.tunnel.localhost"] {
        assert_eq!(apart.try_open(host).await.err(), Some(CarryError::UnknownHost), "{host}");
    }
    let offline = CarryError::Offline { tunnel: other.id.clone() };
    assert_eq!(apart.try_open(&other.host("echo")).await.err(), Some(offline));
    assert_eq!(apart.status(&other).await.last_errors.last().unwrap().code, "tunnel_offline");
    let mut held = Vec::new();
    for _ in 0..Lane::Interactive.streams() + Lane::Bulk.streams() {
        held.push(apart.open(&tunnel, "stuck").await);
    }
    assert_eq!(apart.try_open(&tunnel.host("stuck")).await.err(), Some(CarryError::TooMany));
}

#[tokio::test]
async fn a_revoked_token_ends_the_streams_that_a_server_holds_within_a_second_and_opens_nothing_again() {
    let apart = Apart::new();
    let (tunnel, other) = (apart.tunnel("aaaa").await, apart.tunnel("bbbb").await);
    let _edge = apart.edge();
    let (_connector, _other) = (apart.connector(&tunnel).await, apart.connector(&other).await);
    let (mut idle, mut elsewhere) = (apart.open(&tunnel, "echo").await, apart.open(&other, "echo").await);
    let since = Instant::now();
    // Whoever asked for it gives up at once.
    drop(apart.remote.put(TunnelEntry { token_digest: None, ..World::entry(&tunnel) }, Connections::End));
    assert!(soon("the end", idle.read_u8()).await.is_err());
    soon("the edge", async { while !apart.status(&tunnel).await.connections.is_empty() {} }).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let offline = CarryError::Offline { tunnel: tunnel.id.clone() };
    assert_eq!(apart.try_open(&tunnel.host("echo")).await.err(), Some(offline));
    echoes(&mut elsewhere, b"the other tunnel lives").await;
    assert!(apart.status(&tunnel).await.last_errors.iter().any(|note| note.code == "severed"));
}

#[tokio::test]
async fn when_an_edge_dies_its_streams_end_and_its_successor_knows_all_that_stands() {
    let apart = Apart::new();
    let (tunnel, gone) = (apart.tunnel("aaaa").await, apart.tunnel("bbbb").await);
    let edge = apart.edge();
    let mut connector = apart.connector(&tunnel).await;
    connector.connected().await;
    let mut stream = apart.open(&tunnel, "stuck").await;
    edge.kill().await;
    assert!(soon("the stream's end", stream.read_u8()).await.is_err());
    assert!(apart.status(&tunnel).await.connections.is_empty());
    // Changed while there is no edge.
    let fresh = token();
    let rotated = TunnelEntry { token_digest: Some(KeyDigest::of(&fresh)), ..World::entry(&gone) };
    apart.remote.put(rotated, Connections::Stay).await;
    let host = tunnel.host("echo");
    let (opened, _edge) = tokio::join!(apart.try_open(&host), async { apart.edge() });
    echoes(&mut opened.unwrap(), b"again").await;
    let mut refused = apart.connector(&gone).await;
    assert_eq!(refused.error().await, "token_refused");
    let mut current = apart.connector(&Tunnel { token: fresh, ..gone }).await;
    current.connected().await;
    let errors = apart.status(&tunnel).await.last_errors;
    assert!(errors.iter().any(|note| note.code == "edge_lost"), "{errors:?}");
}

#[tokio::test]
async fn an_edge_that_was_told_nothing_yet_turns_no_connector_away() {
    let apart = Apart::new();
    let tunnel = apart.tunnel("aaaa").await;
    let (ours, theirs) = Channel::pair().unwrap();
    let _process = apart.silent_edge(theirs);
    let mut connector = apart.connector(&tunnel).await;
    let early = tokio::time::timeout(Duration::from_millis(200), connector.connected()).await;
    assert!(early.is_err(), "it was let in by an edge that knows no tunnel");
    let remote = apart.remote.clone();
    let _attended = tokio::spawn(async move { remote.attend(ours).await });
    connector.connected().await;
    assert!(!connector.failures.borrow().contains(&"token_refused".to_owned()));
}

#[tokio::test]
async fn an_edge_that_is_told_too_much_at_once_ends() {
    let apart = Apart::new();
    // A question that no edge knows is answered all the same where it was read.
    for (bytes, is_read) in [((1 << 20) - 100, true), (1 << 20, false)] {
        let (ours, theirs) = Channel::pair().unwrap();
        let process = apart.silent_edge(theirs);
        let caller: Caller<String, ()> = Caller::new(ours, 1000);
        let answer = soon("the answer", caller.call("x".repeat(bytes))).await.unwrap_err();
        assert_eq!(matches!(answer, CallError::Misread(_)), is_read, "{answer}");
        drop(caller);
        assert_eq!(soon("the process", process).await.unwrap().is_ok(), is_read);
    }
}

#[tokio::test]
async fn an_edge_ends_with_the_server_and_is_let_go_by_it() {
    let apart = Apart::new();
    let edge = apart.edge();
    let tunnel = apart.tunnel("bbbb").await;
    let mut connector = apart.connector(&tunnel).await;
    connector.connected().await;
    apart.remote.let_go();
    soon("its end", edge.attended).await.unwrap();
    assert!(soon("the process", edge.process).await.unwrap().is_ok());
}

#[tokio::test]
async fn an_edge_that_does_not_take_a_change_is_given_up() {
    let apart = Apart::new();
    let (ours, theirs) = Channel::pair().unwrap();
    let remote = apart.remote.clone();
    let attended = tokio::spawn(async move { remote.attend(ours).await });
    // It hears everything and answers nothing.
    soon("the end of patience", attended).await.unwrap();
    drop(theirs);
}
