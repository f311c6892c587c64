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
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_edge::Limits;
use postern_exec::WireBytes;
use postern_tunnel::carry::CarryError;
use postern_tunnel::handover::Configuration;
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
    let mut stream = doors::tls(world).await;
    stream.write_all(doors::head(&tunnel.token, "").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            if request.method() == Method::POST {
                return Ok::<_, Infallible>(Response::builder().status(204).body(Full::default()).unwrap());
            }
            Ok(answer(request).await)
        }
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
async fn an_oversized_answer_head_opens_nothing() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let oversized = |_| async {
        let mut response = answer(200, "fine");
        response.headers_mut().insert("x-long", "a".repeat(12 << 10).parse().unwrap());
        response
    };
    hostile(&world, &tunnel, oversized).await;
    assert!(world.try_open(&tunnel.host("wiki"), Lane::Interactive).await.is_err());
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

/// An edge that lets one connector in and asks it what `requests` say, answering with the statuses and reasons it got.
async fn asks(requests: Vec<Request<Empty<Bytes>>>) -> Vec<(StatusCode, String)> {
    let outer = Outer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = format!("https://{}", listener.local_addr().unwrap());
    let configuration = Configuration::new(edge, Some(outer.ca_pem.clone()), WireBytes::new(token().into_bytes()));
    let _connector = Connector::start("a", configuration).await;
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
        let response =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", wire::PROTOCOL);
        let response = response.header(wire::WELCOME, welcome.to_header()).body(Empty::<Bytes>::new()).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
    let upgrade = upgrade.into_inner().unwrap().unwrap();
    let upgraded = upgrade.await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), upgraded).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for request in requests {
        let response = soon("an answer", sender.send_request(request)).await.unwrap();
        let reason = response.headers().get(wire::REASON).map(|reason| reason.to_str().unwrap().to_owned());
        answers.push((response.status(), reason.unwrap_or_default()));
    }
    answers
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
    let requests = cases.iter().map(|(authority, ..)| connect(authority).body(Empty::new()).unwrap()).collect();
    for ((authority, status, reason), heard) in cases.iter().zip(asks(requests).await) {
        assert_eq!((heard.0.as_u16(), heard.1.as_str()), (*status, *reason), "{authority}");
    }
}

#[tokio::test]
async fn a_connect_that_says_more_than_its_host_is_refused_and_so_is_everything_else() {
    let host = "echo.aaaa.tunnel.localhost:443";
    let with = |name: &str, value: &str| connect(host).header(name, value).body(Empty::new()).unwrap();
    let other = |method: &str, uri: &str| Request::builder().method(method).uri(uri).body(Empty::new()).unwrap();
    let requests = vec![
        with("host", "echo.bbbb.tunnel.localhost"),
        with("x-forwarded-host", "echo.bbbb.tunnel.localhost"),
        with("postern-identity", "x"),
        other("GET", "https://connector/welcome"),
        other("POST", "https://connector/anything"),
        other("POST", "https://connector/welcome"),
    ];
    for (status, reason) in asks(requests).await {
        assert_eq!((status, reason.as_str()), (StatusCode::BAD_REQUEST, "request_malformed"));
    }
}
