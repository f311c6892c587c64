//! `inspect = false`: TLS goes through untouched to the one name and address, is recorded with what went each way, and
//! everything else is closed, recorded and told.

use std::{sync::Arc, time::Duration};

use postern_audit::{Decision, Kind, Record};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    stand::{More, PATIENCE, Stand, WAYS, Way, get, talk},
    upstream::Upstream,
};
use crate::limits::Bounds;

const PINNED: More = More { zone: pinned, secrets: &[] };

fn pinned(upstream: &Upstream) -> String {
    let rule = |host: &str, more: &str| format!("[[zone.t.egress]]\nhost = \"{host}\"\ninspect = false\n{more}\n");
    let local = |at: std::net::SocketAddr| format!("connect = \"{at}\"\naddresses = [\"127.0.0.0/8\"]\n");
    rule("pinned.test", &local(upstream.https))
        + &rule("nobody.test", "connect = \"127.0.0.1:1\"\naddresses = [\"127.0.0.0/8\"]\n")
        + &rule("inside.test", "")
}

async fn stand() -> Stand {
    Stand::with_more(Bounds::default(), PINNED).await
}

/// TLS that trusts the upstream's own CA alone: a pinned client.
async fn pinned_tls(stand: &Stand, stream: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(stand.upstream.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(settings)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// The outcome of the connection whose record is at or behind `from`, once it is there.
async fn outcome(stand: &Stand, from: usize) -> Record {
    let waiting = async {
        loop {
            if let Some(record) = stand.record(Kind::EgressOutcome, from) {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("an outcome in time")
}

#[tokio::test]
async fn a_pinned_client_talks_to_its_own_server_and_the_connection_is_recorded_as_uninspected() {
    let stand = stand().await;
    let (host, port) = ("pinned.test".parse().unwrap(), postern_policy::Port::new(443).unwrap());
    let permit = stand.session().zone.pass(&host, port).unwrap().expect("a rule lets it pass");
    for way in WAYS {
        let from = stand.audit.records().len();
        let stream = stand.towards(way, "pinned.test", 443).await;
        let mut stream = pinned_tls(&stand, stream, "pinned.test").await.expect("the upstream's own certificate");
        let seen = talk(&mut stream, &get("https", "pinned.test", 443, "/any", &[])).await;
        assert_eq!((seen.status, seen.text().as_str()), (200, "hello"));
        let allowed = stand.record(Kind::EgressConnect, from).unwrap();
        assert_eq!(allowed.decision, Decision::Allow);
        assert_eq!(allowed.outcome.as_deref(), Some("uninspected"));
        assert_eq!(allowed.rule.as_deref(), Some(permit.rule()));
        assert!(stand.record(Kind::EgressRequest, from).is_none(), "no request was seen");
        assert!(stand.record(Kind::EgressOutcome, from).is_none(), "it is still open");
        stream.shutdown().await.unwrap();
        drop(stream);
        let ended = outcome(&stand, from).await;
        let destination = ended.destination.unwrap();
        assert_eq!((destination.host.as_deref(), destination.port), (Some("pinned.test"), Some(443)));
        assert_eq!(destination.address, Some(stand.upstream.https.to_string()));
        assert!(ended.counts["sent_bytes"] > 300 && ended.counts["received_bytes"] > 500, "{:?}", ended.counts);
        assert!(!ended.counts.contains_key("scrubbed"));
    }
}

#[tokio::test]
async fn another_name_no_name_a_hidden_name_and_another_protocol_do_not_go_through() {
    let stand = stand().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let hello = |name: &str, sni: bool| {
        let mut settings = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        settings.enable_sni = sni;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(settings), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    // The same with an encrypted ClientHello beside the name: two more bytes of extensions, and four of this one.
    let hidden = with_extension(&hello("pinned.test", true), &[0xfe, 0x0d, 0, 0]);
    let mut damaged = hello("pinned.test", true);
    damaged[5] = 2;
    let table: [(&str, &[u8], &str); 6] = [
        ("other name", &hello("other.test", true), "authority_mismatch"),
        ("no name", &hello("pinned.test", false), "sni_missing"),
        ("hidden name", &hidden, "sni_missing"),
        ("no hello", &damaged, "protocol_unknown"),
        ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n", "protocol_unknown"),
        ("http/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "protocol_unknown"),
    ];
    for way in WAYS {
        for (row, bytes, reason) in &table {
            let from = stand.audit.records().len();
            let connections = stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst);
            let mut stream = stand.towards(way, "pinned.test", 443).await;
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            let _closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time");
            assert!(answer.is_empty(), "{row}");
            assert_eq!(stand.record(Kind::EgressConnect, from).unwrap().reason.as_deref(), Some(*reason), "{row}");
            assert_eq!(stand.refusals().await[0].reason, *reason, "{row}");
            assert_eq!(stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), connections, "{row}");
        }
    }
    let seen = stand.get(Way::Redirect, "http", "pinned.test", 443, "/", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("scheme_not_allowed"));
}

/// A real hello, longer by one extension.
fn with_extension(hello: &[u8], extension: &[u8]) -> Vec<u8> {
    let more = extension.len();
    let mut bytes = [hello, extension].concat();
    let mut grow = |at: usize| {
        let length = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])) + more;
        bytes[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    };
    // Record, message (its two low bytes), extensions.
    grow(3);
    grow(7);
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(hello[session]);
    let compression = suites + 2 + usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    grow(compression + 1 + usize::from(hello[compression]));
    bytes
}

#[tokio::test]
async fn the_address_of_what_passes_through_is_decided_like_any_other() {
    let stand = stand().await;
    stand.names.answer(&[&["10.0.0.1"]]);
    for (host, reason) in [("inside.test", "address_private"), ("nobody.test", "upstream_unreachable")] {
        let from = stand.audit.records().len();
        let stream = stand.towards(Way::Redirect, host, 443).await;
        assert!(pinned_tls(&stand, stream, host).await.is_err());
        assert_eq!(outcome(&stand, from).await.reason.as_deref(), Some(reason), "{host}");
        assert_eq!(stand.refusals().await[0].reason, reason);
    }
}

#[tokio::test]
async fn a_freeze_ends_what_passes_through_and_says_so() {
    let stand = stand().await;
    let from = stand.audit.records().len();
    let stream = stand.towards(Way::Redirect, "pinned.test", 443).await;
    let mut stream = pinned_tls(&stand, stream, "pinned.test").await.unwrap();
    stand.session().freeze().await;
    let mut byte = [0];
    assert!(!matches!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap(), Ok(count) if count > 0));
    let ended = outcome(&stand, from).await;
    assert_eq!(ended.reason.as_deref(), Some("session_frozen"));
}

#[tokio::test]
async fn a_silent_connection_is_closed_in_time() {
    let bounds = Bounds { passed_idle: Duration::from_millis(200), ..Bounds::default() };
    let stand = Stand::with_more(bounds, PINNED).await;
    let from = stand.audit.records().len();
    let stream = stand.towards(Way::Redirect, "pinned.test", 443).await;
    let mut stream = pinned_tls(&stand, stream, "pinned.test").await.unwrap();
    let mut byte = [0];
    assert!(!matches!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap(), Ok(count) if count > 0));
    assert_eq!(outcome(&stand, from).await.outcome.as_deref(), Some("silent for too long"));
}
