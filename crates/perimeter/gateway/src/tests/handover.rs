//! The connector's end of the handover: streams come as descriptors, keys and domain by its word, and a drain is said.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_exec::asynchronous::Channel;
use postern_tunnel::{
    Lane, Welcome, certificate,
    handover::{ConnectionStatus, ConnectorStatus, FromConnector, MESSAGE_BYTES, ToConnector},
    identity::Signer,
};
use serde_json::json;
use tokio::{net::UnixStream, sync::watch};
use tokio_rustls::TlsConnector;

use super::{
    stand::{Call, DOMAIN, Stand, TUNNEL},
    streams::until,
};
use crate::connector::{self, Ran};

/// A call over a socket pair, one end of which the gateway gets by descriptor.
async fn call(stand: &Stand, channel: &mut Channel, host: &str) -> Result<u16, String> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let message = FromConnector::Stream { host: host.to_owned(), lane: Lane::Interactive };
    channel.send(&message, &[theirs.as_fd()]).await.unwrap();
    drop(theirs);
    let ca = certificate::accept_ca(&stand.ca.certificate_pem, std::time::SystemTime::now()).unwrap();
    let connector = TlsConnector::from(certificate::client_config(&[ca]).unwrap());
    let name = host.to_owned().try_into().unwrap();
    let stream =
        connector.connect(name, UnixStream::from_std(ours).unwrap()).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let answer = sender.send_request(stand.request(&Call::tool("search", &json!({})))).await;
    answer.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn streams_welcomes_and_the_drain_pass_over_the_handover() {
    let stand = Stand::answering().await;
    let (ours, theirs) = Channel::pair().unwrap();
    let mut connector = Channel::new(theirs).unwrap();
    let (connected, standing) = watch::channel(false);
    let gateway = Arc::clone(&stand.gateway);
    let conversing =
        tokio::spawn(async move { connector::converse(&gateway, ours, &connected, Duration::from_secs(5)).await });

    let host = format!("wiki.{DOMAIN}");
    assert_eq!(call(&stand, &mut connector, &host).await, Ok(200));
    assert!(call(&stand, &mut connector, "wiki.another.localhost").await.is_err());

    // A lying edge: another tunnel's welcome changes nothing.
    let strange = Signer::generate().unwrap().key();
    let welcome =
        |tunnel: &str, keys| Welcome { tunnel_id: tunnel.to_owned(), domain: DOMAIN.to_owned(), identity_keys: keys };
    connector.send(&FromConnector::Welcome(welcome("tnl_2", vec![strange.clone()])), &[]).await.unwrap();
    assert_eq!(call(&stand, &mut connector, &host).await, Ok(200));
    connector.send(&FromConnector::Welcome(welcome(TUNNEL, vec![strange])), &[]).await.unwrap();
    assert_eq!(call(&stand, &mut connector, &host).await, Ok(401), "the keys are others now");
    connector.send(&FromConnector::Welcome(welcome(TUNNEL, vec![stand.signer.key()])), &[]).await.unwrap();

    let connection = |lane| ConnectionStatus { lane, connected: true, failures: 0, last_error: None };
    let status = ConnectorStatus { connections: Lane::ALL.map(connection).to_vec() };
    connector.send(&FromConnector::Status(status), &[]).await.unwrap();
    until(|| *standing.borrow()).await;

    stand.gateway.drain.start();
    let told = connector.receive::<ToConnector>(MESSAGE_BYTES).await.unwrap().unwrap().0;
    assert_eq!(told, ToConnector::Drain);
    drop(connector);
    assert!(matches!(conversing.await.unwrap(), Ran::Drained));
}

#[tokio::test]
async fn a_connector_that_goes_away_has_died() {
    let stand = Stand::answering().await;
    let (ours, theirs) = Channel::pair().unwrap();
    drop(theirs);
    let (connected, _standing) = watch::channel(true);
    let ran = connector::converse(&stand.gateway, ours, &connected, Duration::from_secs(5)).await;
    assert!(matches!(ran, Ran::Died));
}

#[tokio::test]
async fn pinned_keys_are_not_the_edges_to_change() {
    let mut stand = Stand::answering().await;
    let gateway = Arc::get_mut(&mut stand.gateway).expect("nobody else has it yet");
    gateway.pinned = true;
    let strange = Signer::generate().unwrap().key();
    gateway.welcome(Welcome { tunnel_id: TUNNEL.to_owned(), domain: DOMAIN.to_owned(), identity_keys: vec![strange] });
    assert_eq!(stand.send(Call::tool("search", &json!({}))).await.status, 200);
}
