//! Public servers: https only, public addresses only, nothing of ours in the request.

use std::sync::Arc;

use postern_net::TlsRoots;
use postern_tunnel::Lane;
use postern_tunnel::certificate::new_leaf;
use postern_upstream::mcp::PublicPolicy;
use tokio::net::TcpListener;

use crate::harness::*;

/// A server on loopback that proves to be `mcp.public.localhost`.
async fn listening(world: &Arc<World>) -> String {
    *world.leaf.lock().unwrap() = new_leaf(&world.ca, "public.localhost", std::time::SystemTime::now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Arc::clone(world);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&world).serve(stream, Lane::Interactive));
        }
    });
    format!("https://mcp.public.localhost:{port}/mcp")
}

fn allowing(world: &World, allowed: &[&str]) -> PublicPolicy {
    let allowed = allowed.iter().map(|range| range.parse().unwrap()).collect();
    let roots = TlsRoots::only_pem(world.ca.certificate_pem.as_bytes()).unwrap();
    PublicPolicy { allowed, roots, dialer: postern_net::Dialer::with_resolver(Arc::new(Loopback)) }
}

#[derive(Debug)]
struct Loopback;

impl postern_net::Resolver for Loopback {
    fn look_up<'a>(&'a self, _host: &'a str, _port: u16) -> postern_net::LookingUp<'a> {
        Box::pin(async { Ok(vec!["127.0.0.1".parse().unwrap()]) })
    }
}

#[tokio::test]
async fn a_public_server_gets_nothing_of_ours() {
    let world = World::new(good_server());
    let url = listening(&world).await;
    let client = world.client_with(limits(), allowing(&world, &["127.0.0.0/8"]));
    let connection = connect(&client, &url).await.unwrap();
    assert_eq!(texts(&call(&connection, "x").await.unwrap()), ["x"]);
    assert_eq!(world.calls(), 1);
    for seen in world.seen() {
        let names: Vec<&str> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        assert!(!names.iter().any(|name| name.starts_with("postern") || *name == "authorization"), "{names:?}");
    }
}

#[tokio::test]
async fn a_public_server_is_reached_at_public_addresses_only() {
    let world = World::new(good_server());
    let url = listening(&world).await;
    let client = world.client_with(limits(), allowing(&world, &[]));
    assert_eq!(connect(&client, &url).await.err().unwrap().code, "address_not_allowed");
    assert_eq!(connect(&client, &url.replace("https", "http")).await.err().unwrap().code, "url_invalid");
    let client =
        world.client_with(limits(), PublicPolicy { roots: TlsRoots::Platform, ..allowing(&world, &["127.0.0.0/8"]) });
    assert_eq!(connect(&client, &url).await.err().unwrap().code, "upstream_untrusted");
    assert!(world.seen().is_empty());
}
