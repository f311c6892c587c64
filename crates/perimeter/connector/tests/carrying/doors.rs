//! Who is let in: what strangers and hostile clients of the edge's listener get.

use std::sync::Arc;
use std::time::Duration;

use postern_edge::Limits;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::{Connector, World, echoes, soon, token};

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

pub async fn tls(world: &World) -> TlsStream<TcpStream> {
    try_tls(world, VERSIONS).await.unwrap()
}

async fn try_tls(
    world: &World,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.outer.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(world.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("edge.test").unwrap(), tcp).await
}

pub fn head(token: &str, extra: &str) -> String {
    format!(
        "GET /v1/tunnels/connect HTTP/1.1\r\nhost: edge.test\r\nconnection: upgrade\r\nupgrade: postern-tunnel/1\r\n\
         authorization: Bearer {token}\r\npostern-lane: interactive\r\npostern-connector: c0ffee00c0ffee00\r\n{extra}\r\n"
    )
}

/// Everything the edge says until it closes. An end without a farewell is one, too.
async fn says(world: &World, sent: &[u8]) -> String {
    let mut stream = tls(world).await;
    soon("an answer", async {
        let _ = stream.write_all(sent).await;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    })
    .await
}

#[tokio::test]
async fn without_a_live_token_nobody_is_let_in() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let none = head("x", "").replace("authorization: Bearer x\r\n", "");
    let cases = [
        (none, "401", "token_missing"),
        (head("", ""), "401", "token_missing"),
        (head("pst_tun_abc", ""), "401", "token_missing"),
        (head(&tunnel.token.replace("pst_tun_", "pst_env_"), ""), "401", "token_missing"),
        (head(&token(), ""), "401", "token_refused"),
    ];
    for (sent, status, reason) in cases {
        let answer = says(&world, sent.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{sent}: {answer}");
        assert!(answer.contains(&format!("postern-reason: {reason}\r\n")), "{sent}: {answer}");
        assert!(!answer.contains("postern-welcome"));
    }
    assert!(world.edge.status(&tunnel.id).connections.is_empty());
}

#[tokio::test]
async fn heads_that_two_parsers_could_read_differently_are_refused() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let extras = [
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding : chunked\r\n",
        "Transfer-Encoding: x\r\n",
        "authorization: Bearer pst_tun_other\r\n",
        "postern-lane: bulk\r\n",
        "host: other.test\r\n",
        "x: a\r\n b: folded\r\n",
        "x\0y: z\r\n",
        ": nameless\r\n",
    ];
    for extra in extras {
        let answer = says(&world, head(&tunnel.token, extra).as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{extra:?}: {answer}");
        assert!(!answer.contains("101"), "{extra:?}: {answer}");
    }
    let good = head(&tunnel.token, "");
    let lines = [
        good.replace("HTTP/1.1", "HTTP/1.0"),
        good.replace("GET /v1", "GET http://edge.test/v1"),
        good.replace("GET ", "POST "),
        good.replace("GET /v1/tunnels/connect", "CONNECT edge.test:443"),
        good.replace("/connect", "/connect?x=1"),
        good.replace("/v1/", "/v1/../v1/"),
        format!("GET / HTTP/1.1\r\nhost: edge.test\r\n\r\n{good}"),
        good.replace("\r\n", "\n").replace("upgrade: postern", "upgrade:  x\n postern"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(),
    ];
    for sent in lines {
        let answer = says(&world, sent.as_bytes()).await;
        assert!(!answer.contains(" 101 ") && !answer.contains("postern-welcome"), "{sent:?}: {answer}");
    }
    assert!(world.edge.status(&tunnel.id).connections.is_empty());
}

#[tokio::test]
async fn a_head_over_its_bounds_is_refused() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let long = format!("x: {}\r\n", "a".repeat(9 << 10));
    let many: String = (0..40).map(|number| format!("x{number}: 1\r\n")).collect();
    for extra in [long, many] {
        let answer = says(&world, head(&tunnel.token, &extra).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn a_second_request_behind_the_first_is_not_one() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let smuggled = format!("{}GET /v1/tunnels/connect HTTP/1.1\r\nhost: x\r\n\r\n", head(&tunnel.token, ""));
    let answer = says(&world, smuggled.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    soon("the end of what is no HTTP/2", async {
        while !world.edge.status(&tunnel.id).connections.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_or_stops_halfway_is_dropped_in_time() {
    let world = World::with(Limits { head: Duration::from_millis(300), ..Limits::default() }).await;
    let tunnel = world.tunnel("aaaa");
    let mut tcp = TcpStream::connect(world.address).await.unwrap();
    let mut silent = tls(&world).await;
    let mut halfway = tls(&world).await;
    halfway.write_all(&head(&tunnel.token, "").as_bytes()[..100]).await.unwrap();
    soon("three ends", async {
        let mut heard = Vec::new();
        let _ = tcp.read_to_end(&mut heard).await;
        let _ = silent.read_to_end(&mut heard).await;
        let _ = halfway.read_to_end(&mut heard).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 408"), "{heard}");
    })
    .await;
}

#[tokio::test]
async fn strangers_take_no_more_than_their_places_and_keep_no_connector_out() {
    let world = World::with(Limits { unauthenticated: 2, head: Duration::from_secs(600), ..Limits::default() }).await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(world.address).await.unwrap());
    }
    let mut heard = Vec::new();
    let _ = soon("the first one's end", strangers[0].read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"who is in stays in").await;
    let mut late = Connector::start("late", world.configuration(&tunnel.token)).await;
    late.connected().await;
    drop(connector);
}

#[tokio::test]
async fn a_tunnel_has_a_bounded_number_of_connections() {
    let world = World::with(Limits { connections_per_tunnel: 2, ..Limits::default() }).await;
    let (tunnel, other) = (world.tunnel("aaaa"), world.tunnel("bbbb"));
    let _connector = world.connector(&tunnel).await;
    let mut second = Connector::start("second", world.configuration(&tunnel.token)).await;
    assert_eq!(second.error().await, "connections_full");
    let _other_connector = world.connector(&other).await;
}

#[tokio::test]
async fn less_than_tls_13_is_not_spoken() {
    let world = World::new().await;
    assert!(try_tls(&world, &[&rustls::version::TLS12]).await.is_err());
}

#[tokio::test]
async fn a_listener_that_allows_more_than_tls_13_lets_only_tls_13_in() {
    let mut outer = crate::world::Outer::new();
    let both = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(outer.tls.cert_resolver.clone());
    outer.tls = Arc::new(both);
    let world = World::with_tls(Limits::default(), outer).await;
    let tunnel = world.tunnel("aaaa");
    let mut old = try_tls(&world, &[&rustls::version::TLS12]).await.unwrap();
    let _ = old.write_all(head(&tunnel.token, "").as_bytes()).await;
    let mut heard = Vec::new();
    let _ = soon("the end", old.read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    let _connector = world.connector(&tunnel).await;
}
