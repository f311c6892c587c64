//! The connector against edges and proxies that are not what they should be.

use postern_exec::WireBytes;
use postern_tunnel::handover::Proxy as ProxyPlan;
use tokio::net::TcpListener;

use crate::relay::Proxy;
use crate::world::{Connector, Outer, World, echoes, token};

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
