//! What is kept is bounded: sessions, upstream connections, leaves, former secrets, DNS connections.

use std::{sync::atomic::Ordering, time::Duration, time::Instant, time::SystemTime};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postern_policy::{Permit, Port, Request, Scheme};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::timeout,
};

use super::stand::{PATIENCE, SECRET, Stand, Way};
use crate::{
    limits,
    message::{Answer, OpenSession, Question},
    pool::{Pool, PoolKey},
    sender::Sender,
};

#[tokio::test]
async fn sessions_are_bounded_and_one_that_closes_makes_room() {
    let stand = Stand::start().await;
    let open = async |session: String| {
        let digest = stand.registry.zone_digest("t");
        let zone_name = "t".to_owned();
        let open =
            OpenSession { session, agent: None, zone_name, digest, placeholders: Vec::new(), repositories: Vec::new() };
        stand.ask(Question::Open(open)).await
    };
    for number in 1..limits::SESSIONS {
        assert!(matches!(open(format!("sesn_{number}")).await, Answer::Opened(_)), "{number}");
    }
    let refused = open("sesn_surplus".to_owned()).await;
    assert!(matches!(&refused, Answer::Failed { code, .. } if code == "limit_sessions"), "{refused:?}");
    stand.ask(Question::Close { session: "sesn_1".to_owned() }).await;
    assert!(matches!(open("sesn_surplus".to_owned()).await, Answer::Opened(_)));
}

pub(super) fn permit(stand: &Stand, host: &str, scheme: Scheme, port: u16, path: &str) -> Permit {
    let request = Request {
        host: host.parse().unwrap(),
        port: Port::new(port).unwrap(),
        scheme,
        method: "GET".parse().unwrap(),
        path: path.parse().unwrap(),
        query: None,
        upgrade: postern_policy::Upgrade::None,
        credentials_present: Vec::new(),
        foreign: Vec::new(),
        overrides: Vec::new(),
    };
    stand.session().zone.request(&request).unwrap()
}

/// A connection to nobody, open for as long as its other end is.
async fn connection() -> (Sender, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64);
    let (sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection);
    (Sender::Http1(sender), theirs)
}

#[tokio::test]
async fn idle_upstream_connections_are_bounded_in_number_and_time() {
    let stand = Stand::start().await;
    let permit = permit(&stand, "open.test", Scheme::Http, 80, "/");
    let (key, leads_to) = (PoolKey::from(&permit), permit.dial("127.0.0.1".parse().unwrap()).unwrap());
    let (pool, start) = (Pool::default(), Instant::now());
    let mut ends = Vec::new();
    for _ in 0..limits::POOL_PER_SESSION + 3 {
        let (sender, end) = connection().await;
        pool.put(key.clone(), sender, leads_to.clone(), start);
        ends.push(end);
    }
    let just_in_time = start + limits::POOL_IDLE - Duration::from_millis(1);
    let mut taken = 0;
    while taken < limits::POOL_PER_SESSION - 1 && pool.take(&key, &permit, just_in_time).is_some() {
        taken += 1;
    }
    assert_eq!(taken, limits::POOL_PER_SESSION - 1);
    assert!(pool.take(&key, &permit, start + limits::POOL_IDLE).is_none(), "the last one idled too long");
    let (sender, end) = connection().await;
    pool.put(key.clone(), sender, leads_to, start);
    pool.clear();
    assert!(pool.take(&key, &permit, start).is_none());
    drop((ends, end));
}

#[tokio::test]
async fn a_kept_connection_serves_only_what_it_was_opened_for() {
    let stand = Stand::start().await;
    let api = permit(&stand, "api.test", Scheme::Https, 443, "/v1/x");
    let address = "127.0.0.1".parse().unwrap();
    let others = [
        permit(&stand, "api.test", Scheme::Http, 80, "/v1/x"),
        permit(&stand, "api.test", Scheme::Https, 8443, "/v1/x"),
        permit(&stand, "other.test", Scheme::Https, 443, "/v1/x"),
    ];
    let (pool, now) = (Pool::default(), Instant::now());
    let (sender, _end) = connection().await;
    pool.put(PoolKey::from(&api), sender, api.dial(address).unwrap(), now);
    for other in &others {
        assert!(PoolKey::from(other) != PoolKey::from(&api), "{}", other.rule());
        assert!(pool.take(&PoolKey::from(other), other, now).is_none(), "{}", other.rule());
    }
    assert!(pool.take(&PoolKey::from(&api), &api, now).is_some());
    // Where it leads must be where the permit would dial.
    let (sender, _end) = connection().await;
    pool.put(PoolKey::from(&api), sender, others[2].dial(address).unwrap(), now);
    assert!(pool.take(&PoolKey::from(&api), &api, now).is_none());
}

#[tokio::test]
async fn connections_are_used_again_and_separate_by_what_is_injected() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    for _ in 0..3 {
        assert_eq!(stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await.status, 200);
        let with = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
        assert_eq!(with.status, 200);
    }
    assert_eq!(stand.upstream.received().len(), 6);
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 2);
    assert_eq!(stand.get(Way::Redirect, "https", "other.test", 443, "/", &[]).await.status, 200);
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn leaves_are_bounded_and_each_has_a_serial_of_its_own() {
    let stand = Stand::start().await;
    let mut serials = Vec::new();
    for host in ["api.test", "other.test", "open.test"] {
        let stream = stand.towards(Way::Redirect, host, 443).await;
        let stream = stand.tls(stream, host).await.unwrap();
        serials.push(serial(&stream.get_ref().1.peer_certificates().unwrap()[0]));
    }
    let distinct: std::collections::BTreeSet<_> = serials.iter().collect();
    assert_eq!(distinct.len(), 3, "{serials:?}");
    let session = stand.session();
    for number in 0..=limits::LEAVES_KEPT {
        session
            .authority
            .tls_for(&format!("h{number}.test"), crate::authority::Offer::Both, SystemTime::now())
            .unwrap();
        assert!(session.authority.kept() <= limits::LEAVES_KEPT, "{number}");
    }
}

/// The serial number of a certificate: the integer after the version (RFC 5280, section 4.1).
fn serial(der: &[u8]) -> Vec<u8> {
    let version = [0xa0, 3, 2, 1, 2];
    let at = super::upstream::find(der, &version).unwrap() + version.len();
    assert_eq!(der[at], 2, "an integer");
    der[at + 2..at + 2 + usize::from(der[at + 1])].to_vec()
}

#[tokio::test]
async fn a_credential_that_changes_without_end_is_refused_and_no_former_secret_forgotten() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    let get = async || stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
    let changed = |number: usize| format!("{number:04}{}", &SECRET[4..]);
    for number in 0..limits::FORMER_SECRETS {
        stand.custody.secrets.lock().unwrap().insert("key".to_owned(), changed(number));
        assert_eq!(get().await.status, 200, "{number}");
    }
    stand.custody.secrets.lock().unwrap().insert("key".to_owned(), changed(limits::FORMER_SECRETS));
    assert_eq!(get().await.reason().as_deref(), Some("custody_denied"));
    for former in [SECRET.to_owned(), changed(0), changed(limits::FORMER_SECRETS - 1)] {
        let found = stand.session().recogniser().find(former.as_bytes());
        assert!(found.iter().any(|one| one.value == postern_policy::FoundValue::Secret), "{former}");
    }
}

#[tokio::test]
async fn dns_connections_are_bounded_in_number() {
    let stand = Stand::start().await;
    let mut open = Vec::new();
    for _ in 0..limits::DNS_CONNECTIONS {
        open.push(asked(&stand).await.expect("answered"));
    }
    assert!(asked(&stand).await.is_none(), "closed unanswered");
    open.pop();
    let waiting = async {
        while asked(&stand).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("room again");
}

#[tokio::test]
async fn a_silent_dns_connection_is_closed_in_time() {
    let short = Duration::from_millis(200);
    let stand = Stand::with(limits::Bounds { dns_idle: short, ..limits::Bounds::default() }).await;
    for begun in [&b""[..], b"\x01", b"\x00\x20abc"] {
        let mut stream = TcpStream::connect(stand.dns_tcp).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut byte = [0];
        assert_eq!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap().unwrap_or(0), 0, "{begun:?}");
    }
}

/// A DNS connection that was answered once; nothing where it was closed.
async fn asked(stand: &Stand) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(stand.dns_tcp).await.unwrap();
    let question: &[u8] =
        b"\x00\x1a\x07\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x04test\x00\x00\x01\x00\x01";
    stream.write_all(question).await.ok()?;
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().ok()?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.ok()?;
    Some(stream)
}
