//! Peers that were let in, or that let in, and then do not behave: a connector without a gateway's manners, an edge that asks for what it may not.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_edge::Limits;
use postern_exec::WireBytes;
use postern_tunnel::carry::CarryError;
use postern_tunnel::handover::{Configuration, Refusal};
use postern_tunnel::wire::{self, Lane, Welcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::doors;
use crate::world::{Connector, Outer, Tunnel, World, soon, token};

/// Enters as a connector does and then serves HTTP/2 with this answer to every CONNECT.
async fn hostile<F, R>(world: &World, tunnel: &Tunnel, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let welcomed = || Response::builder().status(204).body(Full::default()).unwrap();
    serving(world, tunnel, move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move { if request.method() == Method::POST { welcomed() } else { answer(request).await } }
    })
    .await;
}

/// The same with this answer to everything.
async fn serving<F, R>(world: &World, tunnel: &Tunnel, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut stream = doors::tls(world).await;
    stream.write_all(doors::head(&tunnel.token, "").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    soon("being listed", async {
        while world.edge.status(&tunnel.id).connections.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn answer(status: u16, reason: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("postern-reason", reason).body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_connectors_refusal_is_repeated_only_if_it_is_a_word() {
    for (reason, heard) in [("gateway_gone", "gateway_gone"), ("<b>call 555-0100</b>", "unnamed"), ("", "unnamed")] {
        let world = World::new().await;
        let tunnel = world.tunnel("aaaa");
        hostile(&world, &tunnel, move |_| async move { answer(503, reason) }).await;
        let refused = world.try_open(&tunnel.host("wiki"), Lane::Interactive).await.err();
        assert_eq!(refused, Some(CarryError::Refused { reason: heard.to_owned() }));
    }
}

#[tokio::test]
async fn an_answer_other_than_200_opens_nothing() {
    for status in [201, 204, 206, 301, 404, 500] {
        let world = World::new().await;
        let tunnel = world.tunnel("aaaa");
        hostile(&world, &tunnel, move |_| async move { answer(status, "odd") }).await;
        let refused = world.try_open(&tunnel.host("wiki"), Lane::Interactive).await.err();
        assert_eq!(refused, Some(CarryError::Refused { reason: "odd".to_owned() }), "{status}");
    }
}

#[tokio::test]
async fn a_connector_that_never_answers_costs_the_caller_its_patience_and_no_more() {
    let world = World::with(Limits { open: Duration::from_millis(200), ..Limits::default() }).await;
    let tunnel = world.tunnel("aaaa");
    hostile(&world, &tunnel, |_| std::future::pending()).await;
    for _ in 0..3 {
        let slow = world.try_open(&tunnel.host("wiki"), Lane::Interactive).await.err();
        assert_eq!(slow, Some(CarryError::Slow));
    }
    assert_eq!(world.edge.status(&tunnel.id).connections[0].open_streams, 0);
}

#[tokio::test]
async fn a_connector_that_does_not_take_changed_keys_in_five_seconds_is_dropped() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let welcomes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let first_alone = move |_| {
        let first = welcomes.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move {
            if !first {
                std::future::pending::<()>().await;
            }
            Response::builder().status(204).body(Full::default()).unwrap()
        }
    };
    serving(&world, &tunnel, first_alone).await;
    soon("telling it of changed keys", world.edge.set_identity_keys(Vec::new())).await;
    soon("being forgotten", async {
        while !world.edge.status(&tunnel.id).connections.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_oversized_answer_head_opens_nothing() {
    for (bytes, opens) in [(3 << 10, true), (5 << 10, false)] {
        let world = World::new().await;
        let tunnel = world.tunnel("aaaa");
        let long = move |_| async move {
            let mut response = answer(200, "fine");
            response.headers_mut().insert("x-long", "a".repeat(bytes).parse().unwrap());
            response
        };
        hostile(&world, &tunnel, long).await;
        let opened = world.try_open(&tunnel.host("wiki"), Lane::Interactive).await;
        assert_eq!(opened.is_ok(), opens, "{bytes}");
    }
}

#[tokio::test]
async fn a_connector_that_speaks_something_else_after_the_upgrade_is_dropped() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let mut stream = doors::tls(&world).await;
    stream.write_all(doors::head(&tunnel.token, "").as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 4096]).await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut heard)).await;
    soon("being forgotten", async {
        while !world.edge.status(&tunnel.id).connections.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An edge that lets one connector in and says what it likes on the connection.
async fn let_in() -> (Connector, TokioIo<Upgraded>) {
    let (connector, upgrade) = entered(wire::PROTOCOL).await;
    (connector, TokioIo::new(upgrade.await.unwrap()))
}

/// An edge that answers one connector that it switches to this protocol.
async fn entered(protocol: &str) -> (Connector, hyper::upgrade::OnUpgrade) {
    let outer = Outer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = format!("https://{}", listener.local_addr().unwrap());
    let configuration = Configuration::new(edge, Some(outer.ca_pem.clone()), WireBytes::new(token().into_bytes()));
    let connector = Connector::start("a", configuration).await;
    let (tcp, _) = soon("a connection", listener.accept()).await.unwrap();
    let stream = TlsAcceptor::from(Arc::clone(&outer.tls)).accept(tcp).await.unwrap();
    let upgrade = std::sync::Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        *upgrade.lock().unwrap() = Some(hyper::upgrade::on(&mut request));
        let welcome = Welcome {
            tunnel_id: "tnl_a".to_owned(),
            domain: "aaaa.tunnel.localhost".to_owned(),
            identity_keys: vec![],
        };
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", protocol);
        let response = response.header(wire::WELCOME, welcome.to_header()).body(Empty::<Bytes>::new()).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
    (connector, upgrade.into_inner().unwrap().unwrap())
}

/// What a connector answers to these requests, as status and reason, and what its gateway heard of them.
async fn asks(requests: Vec<Request<Full<Bytes>>>) -> (Vec<(StatusCode, String)>, Vec<(Refusal, u64)>) {
    let (mut connector, io) = let_in().await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io.into_inner()).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for request in requests {
        let response = soon("an answer", sender.send_request(request)).await.unwrap();
        let reason = response.headers().get(wire::REASON).map(|reason| reason.to_str().unwrap().to_owned());
        answers.push((response.status(), reason.unwrap_or_default()));
    }
    let refused = answers.iter().filter(|(status, _)| !status.is_success()).count();
    let heard = connector.refused(u64::try_from(refused).unwrap()).await;
    (answers, heard)
}

fn connect(authority: &str) -> http::request::Builder {
    Request::connect(authority)
}

#[tokio::test]
async fn a_connector_takes_streams_for_its_own_tunnels_hosts_in_their_one_spelling() {
    let cases = [
        ("echo.aaaa.tunnel.localhost:443", 200, ""),
        ("echo.bbbb.tunnel.localhost:443", 421, "host_foreign"),
        ("aaaa.tunnel.localhost:443", 421, "host_foreign"),
        ("a.b.aaaa.tunnel.localhost:443", 421, "host_foreign"),
        ("echo.aaaa.tunnel.localhost", 400, "request_malformed"),
        ("echo.aaaa.tunnel.localhost:80", 400, "request_malformed"),
        ("ECHO.aaaa.tunnel.localhost:443", 400, "request_malformed"),
        ("user@echo.aaaa.tunnel.localhost:443", 400, "request_malformed"),
        ("127.0.0.1:443", 421, "host_foreign"),
        ("[::1]:443", 400, "request_malformed"),
    ];
    let requests = cases.iter().map(|(authority, ..)| connect(authority).body(Full::default()).unwrap()).collect();
    let (answers, told) = asks(requests).await;
    for ((authority, status, reason), heard) in cases.iter().zip(answers) {
        assert_eq!((heard.0.as_u16(), heard.1.as_str()), (*status, *reason), "{authority}");
    }
    let expected = cases.iter().filter(|(_, status, _)| *status != 200).map(|(_, status, _)| match status {
        421 => (Refusal::HostForeign, 1),
        _ => (Refusal::Malformed, 1),
    });
    assert_eq!(told, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_connect_that_says_more_than_its_host_is_refused_and_so_is_everything_else() {
    let host = "echo.aaaa.tunnel.localhost:443";
    let with = |name: &str, value: &str| connect(host).header(name, value).body(Full::default()).unwrap();
    let other = |method: &str, uri: &str| Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
    let requests = vec![
        with("host", "echo.bbbb.tunnel.localhost"),
        with("x-forwarded-host", "echo.bbbb.tunnel.localhost"),
        with("postern-identity", "x"),
        other("GET", "https://connector/welcome"),
        other("POST", "https://connector/anything"),
        other("POST", "https://connector/welcome"),
    ];
    let asked = requests.len();
    let (answers, told) = asks(requests).await;
    for (status, reason) in answers {
        assert_eq!((status, reason.as_str()), (StatusCode::BAD_REQUEST, "request_malformed"));
    }
    assert_eq!(told, vec![(Refusal::Malformed, 1); asked]);
}

#[tokio::test]
async fn a_welcome_on_the_connection_is_for_its_own_tunnel_and_of_a_bounded_length() {
    let welcome = |id: &str, domain: &str| {
        let (tunnel_id, domain) = (id.to_owned(), domain.to_owned());
        Welcome { tunnel_id, domain, identity_keys: vec![] }.to_json()
    };
    let own = welcome("tnl_a", "aaaa.tunnel.localhost");
    // White space behind it is JSON as well: only its length is wrong.
    let long = format!("{own}{}", " ".repeat(wire::WELCOME_BYTES));
    let cases = [
        ("POST", own.clone(), 204, ""),
        ("POST", welcome("tnl_b", "aaaa.tunnel.localhost"), 421, "host_foreign"),
        ("POST", welcome("tnl_a", "bbbb.tunnel.localhost"), 421, "host_foreign"),
        ("POST", long, 400, "request_malformed"),
        ("PUT", own, 400, "request_malformed"),
    ];
    let request = |method: &str, body: &str| {
        let uri = format!("https://connector{}", wire::WELCOME_PATH);
        Request::builder().method(method).uri(uri).body(Full::new(Bytes::from(body.to_owned()))).unwrap()
    };
    let (answers, told) = asks(cases.iter().map(|(method, body, ..)| request(method, body)).collect()).await;
    for ((method, body, status, reason), heard) in cases.iter().zip(answers) {
        assert_eq!((heard.0.as_u16(), heard.1.as_str()), (*status, *reason), "{method} {body:.60}");
    }
    let (foreign, malformed) = ((Refusal::HostForeign, 1), (Refusal::Malformed, 1));
    assert_eq!(told, [foreign, foreign, malformed, malformed]);
}

#[tokio::test]
async fn an_edge_that_switches_to_another_protocol_is_not_carried_for() {
    let (mut connector, _upgrade) = entered("websocket").await;
    connector.failed("edge_protocol").await;
}

/// A frame of HTTP/2, as an edge could write it by hand.
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// The head of a CONNECT with a field of so many bytes, literally (RFC 7541, section 6.2.2).
fn head(id: u32, name: &str, value: usize) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    let field = |name: &str, value: &str| [&[0][..], &text(name), &text(value)].concat();
    let piece = "x".repeat(100);
    let long: Vec<u8> = (0..value / piece.len()).flat_map(|_| field(name, &piece)).collect();
    let authority = "echo.aaaa.tunnel.localhost:443";
    let fields = [field(":method", "CONNECT"), field(":authority", authority), long].concat();
    frame(1, 4 | 1, id, &fields)
}

/// An edge that lets a connector in and begins with these frames. The connection stays as long as its stream.
async fn begins(frames: &[Vec<u8>]) -> (Connector, TokioIo<Upgraded>) {
    let (connector, mut io) = let_in().await;
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat();
    soon("a beginning", io.write_all(&begin)).await.unwrap();
    soon("flushing it", io.flush()).await.unwrap();
    (connector, io)
}

#[tokio::test]
async fn a_head_that_is_too_long_is_told_and_the_last_of_its_connection() {
    let (mut connector, mut io) = begins(&[head(1, "x-long", 6000)]).await;
    let mut answered = Vec::new();
    let _ended = soon("the end of the connection", io.read_to_end(&mut answered)).await;
    assert!(answered.windows(4).any(|bytes| bytes == [0x83, 0x69, 0x90, 0xff]), "it is answered 431");
    assert_eq!(connector.refused(1).await, [(Refusal::HeadTooLong, 1)]);
    connector.failed("edge_protocol").await;
}

#[tokio::test]
async fn what_the_library_refuses_without_a_word_is_told_by_its_number() {
    let malformed: Vec<Vec<u8>> = (0..5).map(|count| head(2 * count + 1, "connection", 100)).collect();
    let (mut connector, _io) = begins(&malformed).await;
    let heard = connector.refused(5).await;
    assert!(heard.iter().all(|(refusal, _)| *refusal == Refusal::Malformed), "{heard:?}");
    assert_eq!(heard.iter().map(|(_, times)| times).sum::<u64>(), 5);
}

/// The next frame of the connector: its kind, its stream and what it holds.
async fn next_frame(io: &mut TokioIo<Upgraded>) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    soon("a frame", io.read_exact(&mut head)).await.unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    soon("what the frame holds", io.read_exact(&mut payload)).await.unwrap();
    (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
}

const RESET: u8 = 3;
const SETTINGS: u8 = 4;

#[tokio::test]
async fn a_connection_takes_as_many_streams_as_its_lane_has_and_refuses_the_next() {
    let (connector, mut io) = begins(&[]).await;
    let (kind, _, settings) = next_frame(&mut io).await;
    let streams = settings
        .chunks(6)
        .find(|setting| setting[..2] == [0, 3])
        .map(|setting| setting[5] as usize + (setting[4] as usize) * 256);
    let lanes: Vec<usize> = Lane::ALL.iter().map(|lane| lane.streams()).collect();
    let streams = streams.filter(|streams| kind == SETTINGS && lanes.contains(streams)).expect("a bound is announced");
    let one = |number: usize| head(u32::try_from(2 * number + 1).unwrap(), "x", 0);
    soon("asking", io.write_all(&(0..=streams).map(one).collect::<Vec<_>>().concat())).await.unwrap();
    soon("asking", io.flush()).await.unwrap();
    let (stream, why) = loop {
        let (kind, stream, payload) = next_frame(&mut io).await;
        if kind == RESET {
            break (stream, payload);
        }
    };
    // REFUSED_STREAM, and so nothing was done.
    assert_eq!((stream as usize, &why[..]), (2 * streams + 1, &[0, 0, 0, 7][..]));
    assert!(connector.hosts.lock().unwrap().len() <= streams);
}

#[tokio::test]
async fn streams_that_are_reset_one_after_the_other_end_the_connection_and_are_told() {
    let (mut connector, mut io) = begins(&[]).await;
    let mut number = 0;
    let asked = async {
        // Until the connector takes no more; far beyond its bound if it has none.
        while number < 50_000 {
            let some: Vec<u8> = (number..number + 500)
                .flat_map(|number| {
                    [head(2 * number + 1, "x", 0), frame(RESET, 0, 2 * number + 1, &[0, 0, 0, 8])].concat()
                })
                .collect();
            number += 500;
            if io.write_all(&some).await.is_err() || io.flush().await.is_err() {
                break;
            }
        }
    };
    soon("asking", asked).await;
    assert_eq!(connector.refused(1).await, [(Refusal::TooMuch, 1)]);
    connector.failed("connection_lost").await;
}

#[tokio::test]
async fn what_ends_the_connection_is_told_before_it_is_made_again() {
    let data_on_no_stream = frame(0, 0, 0, b"x");
    let continued = (0..100).map(|_| frame(9, 0, 1, &[]));
    let endless = std::iter::once(frame(1, 0, 1, &[0x82])).chain(continued).collect::<Vec<_>>().concat();
    let table =
        [(data_on_no_stream, Refusal::Malformed, "edge_protocol"), (endless, Refusal::TooMuch, "connection_lost")];
    for (frames, refusal, failure) in table {
        let (mut connector, _io) = begins(&[frames]).await;
        assert_eq!(connector.refused(1).await, [(refusal, 1)]);
        connector.failed(failure).await;
    }
}
