//! What ends when: revocation, rotation, archive, restarts, drains, silence.

use std::time::{Duration, Instant};

use postern_edge::TunnelEntry;
use postern_secret::key::KeyDigest;
use postern_tunnel::carry::CarryError;
use postern_tunnel::handover::ConnectorStatus;
use postern_tunnel::wire::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::relay::Relay;
use crate::world::{Connector, World, echoes, soon, token};

#[tokio::test]
async fn a_revoked_token_ends_live_streams_within_a_second_and_opens_nothing_again() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let other = world.tunnel("bbbb");
    let mut connector = world.connector(&tunnel).await;
    let _other_connector = world.connector(&other).await;
    let mut idle = world.open(&tunnel, "echo").await;
    let mut stuck = world.open(&tunnel, "stuck").await;
    let mut elsewhere = world.open(&other, "echo").await;
    let writing = async {
        loop {
            if let Err(error) = stuck.write_all(&[0; 16 << 10]).await {
                return error;
            }
        }
    };
    let revoked = async {
        world.edge.directory().put(TunnelEntry { token_digest: None, ..World::entry(&tunnel) });
        world.edge.sever(&tunnel.id);
        Instant::now()
    };
    let mut byte = [0];
    let (read, _write_error, since) =
        soon("the end", async { tokio::join!(idle.read(&mut byte), writing, revoked) }).await;
    assert!(read.is_err());
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let closed = |status: &ConnectorStatus| status.connections.iter().all(|one| !one.connected);
    soon("the connector's notice", connector.status.wait_for(closed)).await.unwrap();
    let refused = |status: &ConnectorStatus| {
        status.connections.iter().all(|one| one.last_error.as_ref().is_some_and(|error| error.code == "token_refused"))
    };
    soon("a refusal", connector.status.wait_for(refused)).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(2));
    let offline = CarryError::Offline { tunnel: tunnel.id.clone() };
    assert_eq!(world.try_open(&tunnel.host("echo"), Lane::Interactive).await.err(), Some(offline));
    echoes(&mut elsewhere, b"the other tunnel lives").await;
    assert_eq!(world.edge.status(&tunnel.id).last_errors[0].code, "severed");
}

#[tokio::test]
async fn a_rotated_token_is_refused_for_new_connections_while_live_ones_stay() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "echo").await;
    let fresh = token();
    let rotated =
        TunnelEntry { token_digest: Some(KeyDigest::of(&fresh)), token_generation: 2, ..World::entry(&tunnel) };
    world.edge.directory().put(rotated);
    let mut late = Connector::start("late", world.configuration(&tunnel.token)).await;
    assert_eq!(late.error().await, "token_refused");
    echoes(&mut stream, b"an old stream").await;
    let mut opened = world.open(&tunnel, "echo").await;
    echoes(&mut opened, b"a new stream on an old connection").await;
    let mut current = Connector::start("current", world.configuration(&fresh)).await;
    current.connected().await;
    assert_eq!(world.edge.status(&tunnel.id).connections.len(), 4);
}

#[tokio::test]
async fn an_archived_tunnel_is_no_hosts_tunnel() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let _connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "echo").await;
    world.edge.directory().put(TunnelEntry { archived: true, ..World::entry(&tunnel) });
    world.edge.sever(&tunnel.id);
    assert!(soon("the end", stream.read_u8()).await.is_err());
    assert_eq!(world.try_open(&tunnel.host("echo"), Lane::Bulk).await.err(), Some(CarryError::UnknownHost));
}

#[tokio::test]
async fn after_a_restart_of_the_edge_the_connector_is_back_within_two_seconds() {
    let mut world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let mut connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "echo").await;
    world.stop().await;
    assert!(soon("the end", stream.read_u8()).await.is_err());
    let tried = |status: &ConnectorStatus| status.connections.iter().all(|one| one.failures >= 3);
    soon("attempts in vain", connector.status.wait_for(tried)).await.unwrap();
    let since = Instant::now();
    world.start().await;
    connector.connected().await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"again").await;
}

#[tokio::test]
async fn a_killed_connector_leaves_no_stream_and_no_place_behind() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "stuck").await;
    connector.kill().await;
    assert!(soon("the end", stream.read_u8()).await.is_err());
    let again = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"again").await;
    assert_eq!(again.hosts.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn when_the_gateway_is_gone_the_connector_ends_and_takes_no_stream() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "stuck").await;
    connector.gateway.abort();
    let code = soon("the connector's end", connector.role).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    let mut rest = Vec::new();
    let _ended = soon("the stream's end", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    let refused = world.try_open(&tunnel.host("echo"), Lane::Interactive).await.err();
    assert_eq!(refused, Some(CarryError::Offline { tunnel: tunnel.id.clone() }));
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_new_ones() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let connector = world.connector(&tunnel).await;
    let mut stream = world.open(&tunnel, "echo").await;
    echoes(&mut stream, b"before").await;
    connector.drain().await;
    soon("the edge's notice", async { while world.try_open(&tunnel.host("echo"), Lane::Interactive).await.is_ok() {} })
        .await;
    echoes(&mut stream, b"still").await;
    assert!(!connector.role.is_finished());
    drop(stream);
    soon("the connector's end", connector.role).await.unwrap();
}

#[tokio::test]
async fn a_half_open_connection_dies_on_both_sides_within_ten_seconds() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let relay = Relay::to(world.address).await;
    let mut configuration = world.configuration(&tunnel.token);
    configuration.edge = format!("https://{}", relay.address);
    let mut connector = Connector::start("a", configuration).await;
    connector.connected().await;
    let mut stream = world.open(&tunnel, "stuck").await;
    relay.fall_silent();
    let since = Instant::now();
    let lost = |status: &ConnectorStatus| status.connections.iter().all(|one| !one.connected);
    let (read, noticed) = tokio::join!(
        soon("the stream's end", stream.read_u8()),
        soon("the connector's notice", connector.status.wait_for(lost)),
    );
    assert!(read.is_err());
    drop(noticed.unwrap());
    assert!(since.elapsed() < Duration::from_secs(11), "{:?}", since.elapsed());
    assert!(world.edge.status(&tunnel.id).last_errors.iter().any(|note| note.code == "connection_silent"));
}

#[tokio::test]
async fn a_stream_waits_for_a_connector_that_is_just_dialling_again() {
    let world = World::new().await;
    let tunnel = world.tunnel("aaaa");
    let host = tunnel.host("echo");
    let (opened, _connector) = tokio::join!(world.try_open(&host, Lane::Interactive), world.connector(&tunnel));
    assert!(opened.is_ok(), "{:?}", opened.err());
}

#[tokio::test]
async fn a_stream_of_a_revoked_tunnel_waits_for_nobody() {
    let world = World::with(postern_edge::Limits { reconnect: Duration::from_secs(600), ..Default::default() }).await;
    let tunnel = world.tunnel("aaaa");
    world.edge.directory().put(TunnelEntry { token_digest: None, ..World::entry(&tunnel) });
    let opened = soon("the refusal", world.try_open(&tunnel.host("echo"), Lane::Interactive)).await;
    assert_eq!(opened.err(), Some(CarryError::Offline { tunnel: tunnel.id.clone() }));
}
