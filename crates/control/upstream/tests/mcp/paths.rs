//! The way to a server: tunnels that are offline, certificates that do not count, and the probe that names the hop.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_tunnel::CarryError;
use postern_tunnel::certificate::{new_ca, new_leaf};
use postern_upstream::mcp::HopResult;

use crate::harness::*;

#[tokio::test]
async fn without_a_stream_nothing_is_sent_and_the_reason_is_named() {
    for (refusal, code) in [
        (CarryError::Offline { tunnel: TUNNEL.to_owned() }, "tunnel_offline"),
        (CarryError::UnknownHost, "tunnel_unknown"),
        (CarryError::Slow, "tunnel_slow"),
        (CarryError::TooMany, "tunnel_busy"),
        (CarryError::Refused { reason: "gateway_draining".to_owned() }, "gateway_draining"),
    ] {
        let world = World::new(good_server());
        *world.refusal.lock().unwrap() = Some(refusal);
        let failure = connect(&world.client(), URL).await.err().unwrap();
        assert_eq!((failure.code.as_str(), failure.started), (code, false));
        assert!(world.seen().is_empty());
    }
}

#[tokio::test]
async fn a_tunnel_that_goes_offline_fails_a_call_before_it_starts() {
    let world = World::new(good_server());
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    client.forget(TUNNEL);
    *world.refusal.lock().unwrap() = Some(CarryError::Offline { tunnel: TUNNEL.to_owned() });
    let failure = call(&connection, "x").await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.started), ("tunnel_offline", false));
    *world.refusal.lock().unwrap() = None;
    assert_eq!(texts(&call(&connection, "y").await.unwrap()), ["y"]);
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn certificates_that_do_not_count_stop_everything() {
    let now = SystemTime::now();
    let other = new_ca(DOMAIN, now).unwrap();
    let long_ago = now - Duration::from_secs(200 * 86_400);
    type Spoil = Box<dyn Fn(&World)>;
    let table: Vec<(&str, Spoil)> = vec![
        ("certificate_none", Box::new(|world| world.tunnel.lock().unwrap().as_mut().unwrap().cas.clear())),
        ("tunnel_unknown", Box::new(|world| *world.tunnel.lock().unwrap() = None)),
        (
            "tunnel_unknown",
            Box::new(|world| world.tunnel.lock().unwrap().as_mut().unwrap().workspace = "wrkspc_2".to_owned()),
        ),
        (
            "certificate_expired",
            Box::new(move |world| *world.leaf.lock().unwrap() = new_leaf(&world.ca, DOMAIN, long_ago).unwrap()),
        ),
        (
            "certificate_unknown_authority",
            Box::new(move |world| *world.leaf.lock().unwrap() = new_leaf(&other, DOMAIN, now).unwrap()),
        ),
        (
            "certificate_wrong_name",
            Box::new(move |world| {
                *world.leaf.lock().unwrap() = new_leaf(&world.ca, "other.tunnel.localhost", now).unwrap()
            }),
        ),
    ];
    for (code, spoil) in table {
        // From the start.
        let world = World::new(good_server());
        spoil(&world);
        let failure = connect(&world.client(), URL).await.err().unwrap();
        assert_eq!((failure.code.as_str(), failure.started), (code, false), "{failure:?}");
        assert!(world.seen().is_empty(), "{code}");
        // In the middle of a session, on a new connection.
        let world = World::new(good_server());
        let client = world.client();
        let connection = connect(&client, URL).await.unwrap();
        spoil(&world);
        client.forget(TUNNEL);
        let failure = call(&connection, "x").await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.started), (code, false), "{failure:?}");
        assert_eq!(world.calls(), 0, "{code}");
    }
}

#[tokio::test]
async fn a_pooled_connection_is_not_used_once_its_certificate_left_the_set() {
    let now = SystemTime::now();
    let world = World::new(good_server());
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    // Rotation: a second certificate, the leaf changes, the first leaves. Calls go on.
    let second = new_ca(DOMAIN, now).unwrap();
    world.tunnel.lock().unwrap().as_mut().unwrap().cas.push(ca(&second));
    call(&connection, "both").await.unwrap();
    *world.leaf.lock().unwrap() = new_leaf(&second, DOMAIN, now).unwrap();
    world.tunnel.lock().unwrap().as_mut().unwrap().cas.remove(0);
    call(&connection, "second").await.unwrap();
    let connections: Vec<usize> =
        world.seen().iter().filter(|seen| seen.rpc() == "tools/call").map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2], "each set of certificates has connections of its own");
    // The last one leaves: the connection is open, and not used.
    world.tunnel.lock().unwrap().as_mut().unwrap().cas.clear();
    assert_eq!(call(&connection, "none").await.unwrap_err().code, "certificate_none");
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_probe_names_every_hop() {
    let world = World::new(Arc::new(|seen: Seen| {
        let mut answer = good(&seen);
        answer
            .headers_mut()
            .insert("server-timing", http::HeaderValue::from_static("policy;dur=0.2, upstream;dur=1.5"));
        Box::pin(async move { Ok(answer) })
    }));
    let report = world.client().probe(facts(), URL).await;
    let names: Vec<&str> = report.hops.iter().map(|hop| hop.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "edge",
            "inner_tls",
            "initialize",
            "initialize: policy",
            "initialize: upstream",
            "tools/list",
            "tools/list: policy",
            "tools/list: upstream",
        ]
    );
    assert!(report.is_ok() && report.hops.iter().all(|hop| matches!(hop.result, HopResult::Millis(_))), "{report:?}");
    assert_eq!(report.tools, ["echo"]);
    for seen in world.seen() {
        assert_eq!(world.claims(&seen).purpose, postern_tunnel::identity::Purpose::Probe);
    }
    assert_eq!(world.calls(), 0);
    let shown = serde_json::to_value(&report).unwrap();
    assert!(shown["hops"][0]["millis"].is_number(), "{shown}");
}

#[tokio::test]
async fn a_probe_names_the_hop_that_failed() {
    type Spoil = fn(&World);
    let table: [(&str, &str, &str, Spoil); 5] = [
        (URL, "edge", "tunnel_offline", |world| {
            *world.refusal.lock().unwrap() = Some(CarryError::Offline { tunnel: TUNNEL.to_owned() });
        }),
        (URL, "inner_tls", "certificate_unknown_authority", |world| {
            let now = SystemTime::now();
            *world.leaf.lock().unwrap() = new_leaf(&new_ca(DOMAIN, now).unwrap(), DOMAIN, now).unwrap();
        }),
        (URL, "tunnel", "certificate_none", |world| world.tunnel.lock().unwrap().as_mut().unwrap().cas.clear()),
        ("https://wiki.gone.tunnel.localhost/mcp", "tunnel", "tunnel_unknown", |_| {}),
        ("nonsense", "url", "url_invalid", |_| {}),
    ];
    for (url, hop, code, spoil) in table {
        let world = World::new(good_server());
        spoil(&world);
        let report = world.client().probe(facts(), url).await;
        assert_eq!(report.hops.last().unwrap().name, hop, "{report:?}");
        assert_eq!(report.failure().unwrap().code, code);
    }
    let world = World::new(Arc::new(|_| Box::pin(async { Ok(full(404, &[("postern-reason", "route_unknown")], "")) })));
    let report = world.client().probe(facts(), URL).await;
    assert_eq!(report.hops.last().unwrap().name, "initialize", "{report:?}");
    assert_eq!(report.failure().unwrap().code, "route_unknown");
}
