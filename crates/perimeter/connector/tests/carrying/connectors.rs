//! The connector against edges and proxies that are not what they should be.

use std::io::Write as _;
use std::sync::Arc;

use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_policy::configured;
use postern_tunnel::handover::{Configuration, FromConnector, MESSAGE_BYTES, Proxy as ProxyPlan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::relay::Proxy;
use crate::world::{Connector, Outer, World, echoes, soon, token};

fn plan(proxy: &Proxy, credentials: Option<&str>) -> Option<ProxyPlan> {
    let credentials = credentials.map(|text| WireBytes::new(text.as_bytes().to_vec()));
    Some(ProxyPlan { url: format!("http://{}", proxy.address), credentials })
}

#[tokio::test]
async fn the_way_out_may_lead_through_a_proxy_that_asks_who_is_calling() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let proxy = Proxy::new(Some("Basic dXNlcjpwYXNz"), "").await;
    let mut configuration = world.configuration(&tunnel.token);
    configuration.proxy = plan(&proxy, Some("user:pass\n"));
    let mut connector = Connector::start("a", configuration).await;
    connector.connected().await;
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"through the proxy").await;
    let heads = proxy.heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 2);
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", world.address)), "{head}");
        assert!(!head.contains(&tunnel.token));
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_as_the_cause() {
    let world = World::new().await;
    let proxy = Proxy::new(Some("Basic dXNlcjpwYXNz"), "").await;
    let mut configuration = world.configuration(&token());
    configuration.proxy = plan(&proxy, Some("user:wrong"));
    let mut connector = Connector::start("a", configuration).await;
    assert_eq!(connector.error().await, "proxy_refused");
}

#[tokio::test]
async fn a_proxy_that_speaks_for_the_edge_is_not_believed() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let proxy = Proxy::new(None, "HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
    let mut configuration = world.configuration(&tunnel.token);
    configuration.proxy = plan(&proxy, None);
    let mut connector = Connector::start("a", configuration).await;
    let code = connector.error().await;
    assert!(["proxy_protocol", "edge_untrusted"].contains(&code.as_str()), "{code}");
    assert!(world.edge.status(&tunnel.id).connections.is_empty());
}

/// A connector of an edge that proves who it is, reads a request and says this.
async fn told(answer: String) -> Connector {
    let outer = Outer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::clone(&outer.tls));
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(tcp).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let _refused = stream.write_all(answer.as_bytes()).await;
            let _refused = stream.flush().await;
            held.push(stream);
        }
    });
    let configuration = Configuration::new(edge, Some(outer.ca_pem), WireBytes::new(token().into_bytes()));
    Connector::start("a", configuration).await
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_says_nothing_is_given_up_after_twenty_seconds() {
    let began = tokio::time::Instant::now();
    let mut connector = told(String::new()).await;
    assert_eq!(connector.error().await, "edge_slow");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn an_answer_of_the_edge_has_a_bounded_head() {
    let refusing = |extra: String| {
        format!("HTTP/1.1 403 Forbidden\r\npostern-reason: token_refused\r\ncontent-length: 0\r\n{extra}\r\n")
    };
    let headers = |count: usize| (0..count).map(|number| format!("x{number}: 1\r\n")).collect::<String>();
    let long = |bytes: usize| format!("x: {}\r\n", "a".repeat(bytes));
    let table = [
        (headers(50), "token_refused"),
        (headers(70), "edge_protocol"),
        (long(8 << 10), "token_refused"),
        (long(20 << 10), "edge_protocol"),
    ];
    for (extra, code) in table {
        assert_eq!(told(refusing(extra)).await.error().await, code);
    }
}

#[tokio::test]
async fn a_message_of_the_gateway_beyond_its_bound_ends_the_connector() {
    let world = World::new().await;
    // White space is JSON as well: only the length of the second is wrong.
    for (bytes, code) in [(1000, std::process::ExitCode::SUCCESS), (MESSAGE_BYTES + 1, std::process::ExitCode::from(3))]
    {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let role =
            postern_connector::serve(world.configuration(&token()), Channel::new(theirs.into()).unwrap(), configured);
        let role = tokio::spawn(role);
        let message = format!("\"drain\"{}", " ".repeat(bytes - 7));
        ours.write_all(&u32::try_from(bytes).unwrap().to_le_bytes()).unwrap();
        ours.write_all(message.as_bytes()).unwrap();
        let mut heard = Channel::new(ours.into()).unwrap();
        assert!(matches!(
            heard.receive::<FromConnector>(MESSAGE_BYTES).await,
            Ok(Some((FromConnector::Ready { .. }, _)))
        ));
        let ended = soon("the connector's end", role).await.unwrap();
        assert_eq!(format!("{ended:?}"), format!("{code:?}"), "{bytes}");
    }
}

#[tokio::test]
async fn an_edge_of_another_authority_gets_no_token() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let mut configuration = world.configuration(&tunnel.token);
    configuration.edge_ca_pem = Some(Outer::new().ca_pem);
    let mut connector = Connector::start("a", configuration).await;
    assert_eq!(connector.error().await, "edge_untrusted");
    assert!(world.edge.status(&tunnel.id).connections.is_empty());
}

#[tokio::test]
async fn a_refused_token_and_an_unreachable_edge_are_named() {
    let world = World::new().await;
    let mut refused = Connector::start("a", world.configuration(&token())).await;
    assert_eq!(refused.error().await, "token_refused");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut configuration = world.configuration(&token());
    configuration.edge = format!("https://{closed}");
    let mut unreachable = Connector::start("a", configuration).await;
    assert_eq!(unreachable.error().await, "edge_unreachable");
}
