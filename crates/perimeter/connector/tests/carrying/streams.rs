//! What a carried stream does.

use std::time::Duration;

use postern_tunnel::carry::CarryError;
use postern_tunnel::identity::IdentityKey;
use postern_tunnel::wire::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::relay::Relay;
use crate::world::{Connector, World, echoes, rest, soon};

#[tokio::test]
async fn bytes_travel_both_ways_on_both_lanes() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    for lane in Lane::ALL {
        let mut stream = world.try_open(&tunnel.host("echo"), lane).await.unwrap();
        echoes(&mut stream, b"hello").await;
        echoes(&mut stream, &[7; 100_000]).await;
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
    }
    let hosts = connector.hosts.lock().unwrap().clone();
    assert_eq!(hosts, [(tunnel.host("echo"), Lane::Interactive), (tunnel.host("echo"), Lane::Bulk)]);
    let status = world.edge.status(&tunnel.id);
    let carried: Vec<_> = status.connections.iter().map(|one| (one.carried_bytes, one.open_streams)).collect();
    assert_eq!(carried, [(200_010, 0), (200_010, 0)]);
}

#[tokio::test]
async fn a_half_closed_stream_still_brings_its_answer() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "count").await;
    let block = vec![1; 1 << 20];
    soon("three megabytes", async {
        for _ in 0..3 {
            stream.write_all(&block).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    })
    .await;
    assert_eq!(rest(&mut stream).await, (3 << 20).to_string());
}

#[tokio::test]
async fn a_stream_that_the_gateway_closes_ends() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "close").await;
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_host_reaches_its_own_tunnels_connector_and_no_other() {
    let world = World::new().await;
    let (a, b) = (world.tunnel("aaaa"), world.tunnel("bbbb"));
    let (at_a, at_b) = (world.connector(&a).await, world.connector(&b).await);
    for tunnel in [&a, &b] {
        let mut stream = world.open(tunnel, "name").await;
        assert_eq!(rest(&mut stream).await, format!("{} {}", tunnel.id, tunnel.host("name")));
    }
    at_b.kill().await;
    soon("the edge's notice", async {
        while !world.edge.status(&b.id).connections.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let offline = CarryError::Offline { tunnel: b.id.clone() };
    assert_eq!(world.try_open(&b.host("name"), Lane::Interactive).await.err(), Some(offline));
    for host in [
        "name.cccc.tunnel.localhost",
        "aaaa.tunnel.localhost",
        "name.aaaa.tunnel.localhost:443",
        "Name.aaaa.tunnel.localhost",
        "a.b.aaaa.tunnel.localhost",
    ] {
        assert_eq!(world.try_open(host, Lane::Interactive).await.err(), Some(CarryError::UnknownHost), "{host}");
    }
    assert_eq!(at_a.hosts.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn streams_that_nobody_reads_take_nothing_from_another() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut stream = world.open(&tunnel, "stuck").await;
        // Written until nothing moves any more: its window, the buffers on the way and the socket's are full.
        while tokio::time::timeout(Duration::from_millis(20), stream.write_all(&[0; 16 << 10])).await.is_ok() {}
        stuck.push(stream);
    }
    let mut free = world.open(&tunnel, "echo").await;
    for _ in 0..100 {
        echoes(&mut free, &[9; 10_000]).await;
    }
}

#[tokio::test]
async fn answers_that_the_caller_does_not_read_take_nothing_from_another() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        let mut stream = world.open(&tunnel, "echo").await;
        while tokio::time::timeout(Duration::from_millis(20), stream.write_all(&[0; 16 << 10])).await.is_ok() {}
        unread.push(stream);
    }
    let mut free = world.open(&tunnel, "echo").await;
    for _ in 0..100 {
        echoes(&mut free, &[9; 10_000]).await;
    }
}

#[tokio::test]
async fn a_connection_carries_a_bounded_number_of_streams_and_then_borrows_from_the_other_lane() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut held = Vec::new();
    for _ in 0..Lane::Interactive.streams() + Lane::Bulk.streams() {
        held.push(world.open(&tunnel, "stuck").await);
    }
    assert_eq!(world.try_open(&tunnel.host("stuck"), Lane::Interactive).await.err(), Some(CarryError::TooMany));
    let open =
        world.edge.status(&tunnel.id).connections.iter().map(|one| (one.lane, one.open_streams)).collect::<Vec<_>>();
    assert!(open.contains(&(Lane::Interactive, 256)) && open.contains(&(Lane::Bulk, 64)), "{open:?}");
    held.pop();
    let mut again = world.open(&tunnel, "echo").await;
    echoes(&mut again, b"room").await;
}

#[tokio::test]
async fn nothing_of_the_outer_connection_is_in_the_clear() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let relay = Relay::to(world.address).await;
    let mut configuration = world.configuration(&tunnel.token);
    configuration.edge = format!("https://{}", relay.address);
    let mut connector = Connector::start("a", configuration).await;
    connector.connected().await;
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"CANARY-of-the-call").await;
    let bytes = relay.bytes.lock().unwrap().clone();
    assert!(bytes.len() > 1000);
    for canary in ["CANARY-of-the-call", &tunnel.token, &tunnel.domain, "postern-tunnel", "HTTP/"] {
        assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()), "{canary}");
    }
}

#[tokio::test]
async fn connectors_hear_of_changed_keys() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    world.edge.set_identity_keys(vec![IdentityKey { kid: "two".to_owned(), public_key: "BBBB".to_owned() }]).await;
    let kids: Vec<_> =
        connector.welcomes.lock().unwrap().iter().map(|welcome| welcome.identity_keys[0].kid.clone()).collect();
    assert_eq!(kids, ["one", "one", "two", "two"]);
    let welcome = connector.welcomes.lock().unwrap()[0].clone();
    assert_eq!((welcome.tunnel_id, welcome.domain), (tunnel.id.clone(), tunnel.domain.clone()));
    assert_eq!(world.edge.status(&tunnel.id).connections.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_keys_that_change_while_a_connector_is_let_in_it_hears_the_newest_last() {
    let world = World::new().await;
    for round in 0..200 {
        let tunnel = world.tunnel(&format!("round{round}"));
        let mut connector = Connector::start(&tunnel.id, world.configuration(&tunnel.token)).await;
        let mut changes = 0..;
        let newest = loop {
            let kid = format!("{round}-{}", changes.next().unwrap());
            let key = IdentityKey { kid: kid.clone(), public_key: "BBBB".to_owned() };
            world.edge.set_identity_keys(vec![key]).await;
            if world.edge.status(&tunnel.id).connections.len() == 2 {
                break kid;
            }
        };
        connector.connected().await;
        let last = || connector.welcomes.lock().unwrap().last().map(|welcome| welcome.identity_keys[0].kid.clone());
        let heard = async {
            while last().as_ref() != Some(&newest) {
                tokio::task::yield_now().await;
            }
        };
        soon("the newest key", heard).await;
        connector.role.abort();
        connector.gateway.abort();
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_its_place_back_and_the_gateway_hears_an_end() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    for _ in 0..1000 {
        drop(world.open(&tunnel, "echo").await);
    }
    let status = world.edge.status(&tunnel.id);
    assert_eq!(status.connections.iter().map(|one| one.open_streams).sum::<usize>(), 0);
    let mut alive = world.open(&tunnel, "echo").await;
    echoes(&mut alive, b"still").await;
    let mut one = [0];
    let silence = tokio::time::timeout(Duration::from_millis(1), alive.read(&mut one)).await;
    assert!(silence.is_err(), "an open stream neither ends nor brings what was not sent");
}
