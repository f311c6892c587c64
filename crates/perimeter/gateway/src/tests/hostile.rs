//! What a hostile edge or caller may try with the connection itself.

use postern_audit::{Decision, Kind};
use serde_json::json;

use super::stand::{Call, DOMAIN, Stand};

fn head(stand: &Stand, route: &str) -> String {
    let call = Call::on(route, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let token = stand.signer.sign(&call.claims).unwrap();
    format!("postern-identity: {token}\r\ncontent-type: application/json\r\n")
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn a_server_name_that_is_no_route_of_this_tunnel_gets_no_certificate() {
    let stand = Stand::answering().await;
    let wiki = format!("wiki.{DOMAIN}");
    let table = [
        (wiki.as_str(), "tickets.t1.tunnel.localhost"),
        (wiki.as_str(), "wiki.t2.tunnel.localhost"),
        ("wiki.t2.tunnel.localhost", "wiki.t2.tunnel.localhost"),
        (DOMAIN, DOMAIN),
        ("a.b.t1.tunnel.localhost", "a.b.t1.tunnel.localhost"),
    ];
    for (host, sni) in table {
        assert!(stand.connect(host, sni).await.is_err(), "{host} {sni}");
    }
    assert!(stand.connect(&wiki, &wiki).await.is_ok());
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken() {
    let stand = Stand::answering().await;
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let host = format!("wiki.{DOMAIN}");
    tokio::spawn(crate::serve::stream(std::sync::Arc::clone(&stand.gateway), host.clone(), theirs));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let error = connector.connect(host.try_into().unwrap(), ours).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn smuggled_and_doubled_heads_reach_no_server() {
    let stand = Stand::answering().await;
    let host = format!("host: wiki.{DOMAIN}\r\n");
    let length = format!("content-length: {}\r\n", PING.len());
    let table: Vec<(&str, String)> = vec![
        (
            "two hosts",
            format!("POST /mcp HTTP/1.1\r\n{host}host: secret.{DOMAIN}\r\n{length}{}\r\n{PING}", head(&stand, "wiki")),
        ),
        ("no host", format!("POST /mcp HTTP/1.1\r\n{length}{}\r\n{PING}", head(&stand, "wiki"))),
        (
            "two lengths",
            format!("POST /mcp HTTP/1.1\r\n{host}{length}content-length: 3\r\n{}\r\n{PING}", head(&stand, "wiki")),
        ),
        (
            "another coding",
            format!("POST /mcp HTTP/1.1\r\n{host}transfer-encoding: gzip\r\n{}\r\n{PING}", head(&stand, "wiki")),
        ),
        (
            "an absolute target",
            format!("POST http://wiki.{DOMAIN}/mcp HTTP/1.1\r\n{host}{length}{}\r\n{PING}", head(&stand, "wiki")),
        ),
        (
            "another's absolute target",
            format!("POST http://secret.{DOMAIN}/mcp HTTP/1.1\r\n{host}{length}{}\r\n{PING}", head(&stand, "wiki")),
        ),
        ("a target in asterisk form", format!("OPTIONS * HTTP/1.1\r\n{host}{}\r\n", head(&stand, "wiki"))),
        ("a connect", format!("CONNECT 127.0.0.1:80 HTTP/1.1\r\n{host}{}\r\n", head(&stand, "wiki"))),
        ("an older version", format!("POST /mcp HTTP/1.0\r\n{host}{length}{}\r\n{PING}", head(&stand, "wiki"))),
        (
            "a folded header",
            format!("POST /mcp HTTP/1.1\r\n{host}x: a\r\n b: c\r\n{length}{}\r\n{PING}", head(&stand, "wiki")),
        ),
        (
            "a blank before the colon",
            format!("POST /mcp HTTP/1.1\r\n{host}content-length : 3\r\n{}\r\n{PING}", head(&stand, "wiki")),
        ),
        (
            "a bare line feed in a value",
            format!(
                "POST /mcp HTTP/1.1\r\n{host}{length}x: a\nmcp-session-id: b\r\n{}\r\n{PING}",
                head(&stand, "wiki")
            ),
        ),
        (
            "a head too large",
            format!("POST /mcp HTTP/1.1\r\n{host}x: {}\r\n{}\r\n", "x".repeat(40_000), head(&stand, "wiki")),
        ),
        (
            "too many headers",
            format!("POST /mcp HTTP/1.1\r\n{host}{}{}\r\n", "x: y\r\n".repeat(200), head(&stand, "wiki")),
        ),
        ("another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (
            "an upgrade",
            format!(
                "GET /mcp HTTP/1.1\r\n{host}connection: upgrade\r\nupgrade: websocket\r\n{}\r\n",
                head(&stand, "wiki")
            ),
        ),
    ];
    for (what, text) in table {
        let text = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        let answer = stand.raw("wiki", text.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 2") || answer.contains("postern-reason"), "{what}: {answer}");
        let smuggled = stand.seen().iter().any(|seen| seen.head.contains("mcp-session-id"));
        assert!(!smuggled, "{what}");
    }
    assert!(stand.seen().len() <= 1, "{:?}", stand.seen());
    // The gateway still serves.
    assert_eq!(stand.send(Call::tool("search", &json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_body_is_not_read_for_a_caller_without_identity() {
    let stand = Stand::answering().await;
    // Far more is announced than is sent: an answer comes all the same.
    let text = format!("POST /mcp HTTP/1.1\r\nhost: wiki.{DOMAIN}\r\ncontent-length: 1000000\r\n\r\n{{");
    let host = format!("wiki.{DOMAIN}");
    let mut stream = stand.connect(&host, &host).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning).await.unwrap();
    assert_eq!(&beginning, b"HTTP/1.1 401");
}

#[tokio::test]
async fn a_body_that_is_framed_in_two_ways_is_read_in_one_and_framed_anew() {
    let stand = Stand::answering().await;
    let second = "POST /mcp HTTP/1.1\r\nhost: x\r\n\r\n";
    let text = format!(
        "POST /mcp HTTP/1.1\r\nhost: wiki.{DOMAIN}\r\nconnection: close\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n{}\r\n{:x}\r\n{PING}\r\n0\r\n\r\n{second}",
        head(&stand, "wiki"),
        PING.len()
    );
    stand.raw("wiki", text.as_bytes()).await;
    let seen = stand.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].body, PING.as_bytes());
    assert!(!seen[0].head.contains("transfer-encoding"));
}

#[tokio::test]
async fn what_is_refused_before_there_is_a_request_is_on_record() {
    let stand = Stand::answering().await;
    for (head, reason) in [("x: y\r\n".repeat(200), "limit_headers"), ("x\r\n".to_owned(), "request_malformed")] {
        stand.raw("wiki", format!("POST /mcp HTTP/1.1\r\nhost: wiki.{DOMAIN}\r\n{head}\r\n").as_bytes()).await;
        let record = stand.records(Kind::McpCall).pop().expect("a record");
        assert_eq!((record.decision, record.reason.as_deref()), (Decision::Deny, Some(reason)));
        assert_eq!(record.destination.and_then(|destination| destination.host), Some(format!("wiki.{DOMAIN}")));
    }
}
