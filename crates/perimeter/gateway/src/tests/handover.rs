//! The connector's end of the handover: streams come as descriptors, keys, domain and refusals by its word, and a drain is said.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_audit::{AuditError, Decision, Kind};
use postern_exec::asynchronous::Channel;
use postern_tunnel::{
    Lane, Welcome, certificate,
    handover::{ConnectionStatus, ConnectorStatus, FromConnector, MESSAGE_BYTES, Refusal, ToConnector},
    identity::Signer,
};
use serde_json::json;
use tokio::{net::UnixStream, sync::watch};
use tokio_rustls::TlsConnector;

use super::{
    stand::{Call, DOMAIN, Stand, TUNNEL},
    streams::until,
};
use crate::{
    connector::{self, Ran},
    door, limits,
    phases::record,
};

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

#[tokio::test]
async fn what_the_connector_refuses_at_its_door_is_on_record() {
    let stand = Stand::answering().await;
    let (ours, theirs) = Channel::pair().unwrap();
    let mut connector = Channel::new(theirs).unwrap();
    let (connected, _standing) = watch::channel(true);
    let table = [
        (Refusal::HeadTooLong, "limit_headers"),
        (Refusal::Malformed, "request_malformed"),
        (Refusal::HostForeign, "route_mismatch"),
        (Refusal::TooMuch, "limit_rate"),
    ];
    let telling = async {
        for (before, (refusal, _)) in table.iter().enumerate() {
            connector.send(&FromConnector::Refused { refusal: *refusal, times: 1 }, &[]).await.unwrap();
            until(|| stand.records(Kind::McpCall).len() > before).await;
        }
    };
    tokio::select! {
        () = telling => {}
        _ = connector::converse(&stand.gateway, ours, &connected, Duration::from_secs(5)) => panic!("it is there"),
    }
    let records = stand.records(Kind::McpCall);
    assert_eq!(records.len(), table.len());
    for (record, (_, reason)) in records.iter().zip(table) {
        let destination = record.destination.as_ref().unwrap();
        assert_eq!((record.decision, record.reason.as_deref()), (Decision::Deny, Some(reason)));
        assert_eq!((destination.scheme.as_deref(), destination.host.as_deref()), (Some("tunnel"), Some(DOMAIN)));
        assert!(record.session.is_none() && record.next_step.as_deref().unwrap().contains("[gateway] edge"));
    }
}

#[tokio::test]
async fn an_edge_that_is_refused_without_end_does_not_fill_the_log_and_nothing_is_passed_over() {
    let stand = Stand::answering().await;
    for _ in 0..limits::REFUSALS_RECORDED {
        door::refused(&stand.gateway, Refusal::HeadTooLong, 1).await;
    }
    door::refused(&stand.gateway, Refusal::HeadTooLong, 1000).await;
    let alone = stand.records(Kind::McpCall).len();
    record::counted(&stand.gateway).await;
    let counted = stand.records(Kind::McpCall).pop().expect("a count").counts["refusals"];
    assert_eq!(alone as u64 + counted, u64::from(limits::REFUSALS_RECORDED) + 1000);
    assert!(counted >= 999, "{counted}");
}

#[tokio::test]
async fn a_refusal_at_the_door_that_the_log_does_not_take_is_told_in_the_status() {
    let stand = Stand::answering().await;
    stand.audit.fail_with(Some(AuditError::Gone));
    door::refused(&stand.gateway, Refusal::HeadTooLong, 1).await;
    let told: Vec<_> = stand.gateway.troubles.list().into_iter().map(|trouble| trouble.code).collect();
    assert_eq!(told, ["limit_headers", "audit_unavailable"]);
}
