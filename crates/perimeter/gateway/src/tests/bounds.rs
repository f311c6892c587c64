//! What a caller, an edge or an upstream may take of the gateway at one time, and for how long. Times are the real ones, on a clock that jumps to the
//! next thing that happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_audit::Memory;
use postern_net::{Dialer, LookingUp, Resolver};
use postern_policy::RoutePermit;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpSocket, TcpStream},
    time,
};
use tokio_rustls::client::TlsStream;

use super::{
    peers::{chunked, good},
    stand::{Call, DOMAIN, Stand, call_body, claims},
};
use crate::{
    body::Body,
    limits::{self, Bounds},
    phases::{message::Asked, zone},
    pool::{Connection, Pool, PoolKey},
    serve,
};

fn wiki() -> String {
    format!("wiki.{DOMAIN}")
}

async fn connected(stand: &Stand) -> TlsStream<DuplexStream> {
    stand.connect(&wiki(), &wiki()).await.unwrap()
}

/// Everything until the gateway closes, and after how many whole seconds that was.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> (String, u64) {
    let (began, mut all) = (time::Instant::now(), Vec::new());
    let closed = time::timeout(Duration::from_secs(3_600), stream.read_to_end(&mut all)).await;
    let _however = closed.expect("it is closed within the hour");
    (String::from_utf8_lossy(&all).into_owned(), began.elapsed().as_secs())
}

#[tokio::test]
async fn a_connection_beyond_those_that_are_taken_is_closed_unserved() {
    let stand = Stand::answering().await;
    let places = Arc::clone(&stand.gateway.connections);
    let stream = connected(&stand).await;
    assert_eq!(places.available_permits(), limits::CONNECTIONS - 1, "each keeps its place");
    let others = places.try_acquire_many_owned(u32::try_from(limits::CONNECTIONS - 1).unwrap()).unwrap();
    assert!(stand.connect(&wiki(), &wiki()).await.is_err());
    assert!(stand.gateway.troubles.list().iter().any(|trouble| trouble.code == "gateway_busy"));
    drop((others, stream));
    assert_eq!(stand.send(good()).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_go_on_with_the_handshake_is_closed_in_time() {
    let stand = Stand::answering().await;
    let (mut ours, theirs) = tokio::io::duplex(1024);
    tokio::spawn(serve::stream(Arc::clone(&stand.gateway), wiki(), theirs));
    // A handshake record begins so.
    ours.write_all(&[0x16, 3, 1]).await.unwrap();
    assert_eq!(until_closed(&mut ours).await, (String::new(), 10));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_or_not_to_its_end_is_closed_in_time() {
    let stand = Stand::answering().await;
    for head in ["", "POST /mcp HTTP/1.1\r\nhost: "] {
        let mut stream = connected(&stand).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, (String::new(), 60), "{head:?}");
    }
}

#[tokio::test]
async fn a_head_has_so_many_bytes_and_lines() {
    let stand = Stand::answering().await;
    let named = format!("host: {}\r\nconnection: close\r\n", wiki());
    let long = |bytes: usize| format!("{named}x: {}\r\n", "x".repeat(bytes));
    let lines = |lines: usize| format!("{named}{}", "x: y\r\n".repeat(lines - 2));
    let table = [
        ("within its bytes", long(limits::HEAD_BYTES - 1024), false),
        ("too many bytes", long(limits::HEAD_BYTES), true),
        ("within its lines", lines(limits::HEADER_LINES), false),
        ("too many lines", lines(limits::HEADER_LINES + 1), true),
    ];
    for (what, head, is_refused) in table {
        let got = stand.raw("wiki", format!("POST /mcp HTTP/1.1\r\n{head}\r\n").as_bytes()).await;
        // Nobody's, which is found out once the head was read.
        assert_eq!(got.starts_with("HTTP/1.1 401"), !is_refused, "{what}: {got}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_or_trickles_is_given_up_in_time() {
    let stand = Stand::answering().await.bounded(|bounds| *bounds = Bounds::default());
    for (what, pause, seconds) in [("stops", 3_600, 30), ("trickles", 29, 300)] {
        let (mut reading, mut writing) = tokio::io::split(connected(&stand).await);
        writing.write_all(&chunked(&stand)).await.unwrap();
        let began = time::Instant::now();
        let sending = async {
            loop {
                writing.write_all(b"1\r\n \r\n").await.unwrap();
                writing.flush().await.unwrap();
                time::sleep(Duration::from_secs(pause)).await;
            }
        };
        let mut answer = vec![0; 4096];
        let taken = tokio::select! {
            taken = reading.read(&mut answer) => taken.unwrap(),
            () = sending => unreachable!("it never ends"),
        };
        let answer = String::from_utf8_lossy(&answer[..taken]);
        assert!(answer.contains("postern-reason: limit_time"), "{what}: {answer}");
        assert_eq!(began.elapsed().as_secs(), seconds, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_refused_body_so_much_is_read_and_for_so_long() {
    let stand = Stand::answering().await;
    let head = format!("POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", wiki(), 64 << 20);

    let mut silent = connected(&stand).await;
    silent.write_all(head.as_bytes()).await.unwrap();
    let (answer, seconds) = until_closed(&mut silent).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(seconds, 5);

    let (_reading, mut writing) = tokio::io::split(connected(&stand).await);
    writing.write_all(head.as_bytes()).await.unwrap();
    let (piece, mut taken) = (vec![b' '; 16 << 10], 0);
    while taken < 32 << 20 && writing.write_all(&piece).await.is_ok() && writing.flush().await.is_ok() {
        taken += piece.len();
    }
    let (least, under_way) = (limits::REFUSED_BODY_BYTES, 1 << 20);
    assert!((least..least + under_way).contains(&taken), "{taken}");
}

#[derive(Debug)]
struct Silent;

impl Resolver for Silent {
    fn look_up<'a>(&'a self, _: &'a str, _: u16) -> LookingUp<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the test fills the queue of a listener")]
async fn an_upstream_whose_name_or_address_does_not_answer_is_given_up_in_time() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    for _ in 0..8 {
        queued.push(time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await);
    }
    for route in ["inner", "plain"] {
        let stand = Stand::before(address.port(), Memory::new(), Arc::default()).bounded(|bounds| {
            // Shorter than what is below it waits by itself.
            bounds.dial = Duration::from_secs(2);
        });
        let stand = stand.resolving(Dialer::with_resolver(Arc::new(Silent)));
        let began = time::Instant::now();
        let got = stand.send(Call::on(route, call_body("x", &json!({})))).await;
        assert_eq!((got.reason().as_deref(), began.elapsed().as_secs()), (Some("upstream_unreachable"), 2), "{route}");
    }
}

/// The right to go to a route's upstream.
fn permit(stand: &Stand) -> RoutePermit {
    let rules = stand.gateway.rules();
    let route = rules.routes.iter().find(|route| route.name == "plain").unwrap();
    let permit = zone::decide(&rules, &claims("sesn_a", ""), route, &Asked::Listen).unwrap();
    route.permit(&permit).unwrap()
}

#[tokio::test]
async fn a_session_keeps_so_many_idle_connections_to_upstreams_and_for_so_long() {
    let stand = Stand::answering().await;
    let (permit, pool, now) = (permit(&stand), Pool::default(), Instant::now());
    let leads_to = permit.dial("127.0.0.1".parse().unwrap()).unwrap();
    let mut upstreams = Vec::new();
    for _ in 0..=limits::POOL_PER_SESSION {
        let (ours, theirs) = tokio::io::duplex(64);
        let (sender, connection) = http1::handshake::<_, Body>(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        upstreams.push(theirs);
        pool.put(PoolKey::from(&permit), Connection { sender, leads_to: leads_to.clone() }, now);
    }
    let almost = now + limits::POOL_IDLE - Duration::from_millis(1);
    let kept: Vec<_> = std::iter::from_fn(|| pool.take(&permit, almost)).collect();
    assert_eq!(kept.len(), limits::POOL_PER_SESSION);
    for connection in kept {
        pool.put(PoolKey::from(&permit), connection, now);
    }
    assert!(pool.take(&permit, now + limits::POOL_IDLE).is_none());
}
