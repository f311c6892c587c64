//! Bounds of dialling, in a time that passes only while nobody does anything: no test waits for real.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests play the peers")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_net::tls::{self, TlsRoots};
use postern_net::{DialError, Dialer, LookingUp, Resolver, TlsError, limits};
use postern_policy::{ConfiguredPermit, Endpoint, configured};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

fn permit(url: &str) -> ConfiguredPermit {
    configured(&url.parse::<Endpoint>().unwrap())
}

#[derive(Debug)]
struct Silent;

impl Resolver for Silent {
    fn look_up<'a>(&'a self, _: &'a str, _: u16) -> LookingUp<'a> {
        Box::pin(std::future::pending())
    }
}

#[derive(Debug)]
struct Many;

impl Resolver for Many {
    fn look_up<'a>(&'a self, _: &'a str, _: u16) -> LookingUp<'a> {
        let addresses = (0..200).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 1, last))).collect();
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_is_given_up_in_time() {
    let begun = Instant::now();
    let resolved = Dialer::with_resolver(Arc::new(Silent)).resolve(&permit("http://slow.test")).await;
    assert!(matches!(resolved, Err(DialError::ResolveSlow(_))), "{resolved:?}");
    assert_eq!(begun.elapsed(), limits::RESOLVE);
}

#[tokio::test]
async fn of_many_addresses_a_bounded_number_is_considered() {
    let resolved = Dialer::with_resolver(Arc::new(Many)).resolve(&permit("http://many.test")).await.unwrap();
    assert_eq!(resolved.len(), limits::ADDRESSES);
}

/// A listener whose queue is full leaves further connections unanswered.
async fn unanswering(at: &str) -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at.parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut queued = Vec::new();
    for _ in 0..8 {
        queued.push(tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await);
    }
    (address, (listener, queued))
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_accept_is_given_up_in_time() {
    let (address, _full) = unanswering("127.0.0.1:0").await;
    let begun = Instant::now();
    let reached = Dialer::new().reach(&permit(&format!("http://{address}"))).await;
    assert!(matches!(reached, Err(DialError::ConnectSlow(_))), "{reached:?}");
    assert_eq!(begun.elapsed(), limits::CONNECT);
}

#[tokio::test(start_paused = true)]
async fn the_next_address_is_tried_a_moment_after_the_one_before() {
    let (address, _full) = unanswering("0.0.0.0:0").await;
    let dialer = Dialer::with_resolver(Arc::new(Many));
    let begun = Instant::now();
    let reached = dialer.reach(&permit(&format!("http://many.test:{}", address.port()))).await;
    assert!(matches!(reached, Err(DialError::ConnectSlow(_))), "{reached:?}");
    let others = u32::try_from(limits::ADDRESSES - 1).unwrap();
    assert_eq!(begun.elapsed(), limits::CONNECT_STAGGER * others + limits::CONNECT);
}

#[tokio::test(start_paused = true)]
async fn all_addresses_of_a_host_together_are_given_up_in_time() {
    let (address, _full) = unanswering("0.0.0.0:0").await;
    let dialer = Dialer::with_resolver(Arc::new(Many));
    let (permit, mut permits) = (permit(&format!("http://many.test:{}", address.port())), Vec::new());
    // More than a name can have: those would be given up one by one before.
    for _ in 0..30 {
        permits.extend(dialer.permitted(&permit).await.unwrap());
    }
    let begun = Instant::now();
    let reached = dialer.dial_any(&permits).await;
    assert!(matches!(reached, Err(DialError::ConnectSlow(_))), "{reached:?}");
    assert_eq!(begun.elapsed(), limits::CONNECT_TOTAL);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_finish_its_handshake_is_given_up_in_time() {
    let (ours, _theirs) = tokio::io::duplex(1 << 16);
    let settings = tls::client_config(&TlsRoots::Only(Vec::new()), &[b"http/1.1"]).unwrap();
    let begun = Instant::now();
    let connected = tls::connect(settings, "slow.test", ours).await;
    assert!(matches!(connected, Err(TlsError::Slow(_))));
    assert_eq!(begun.elapsed(), limits::HANDSHAKE);
}
