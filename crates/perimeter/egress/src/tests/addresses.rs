//! The gate after resolution: a permitted name that resolves to where it must not lead is refused, and what is dialled
//! is what was checked.

use postern_audit::{Decision, Kind};

use super::stand::{Stand, WAYS, Way};

#[tokio::test]
async fn a_permitted_name_that_resolves_inwards_is_refused_with_its_reason_and_recorded_with_the_address() {
    let stand = Stand::start().await;
    let table: [(&str, &str, &str); 15] = [
        ("10.0.0.1", "10.0.0.1", "address_private"),
        ("192.168.0.1", "192.168.0.1", "address_private"),
        ("100.64.0.1", "100.64.0.1", "address_private"),
        ("127.0.0.1", "127.0.0.1", "address_loopback"),
        ("0.0.0.0", "0.0.0.0", "address_private"),
        ("169.254.1.1", "169.254.1.1", "address_private"),
        ("169.254.169.254", "169.254.169.254", "address_metadata"),
        ("::1", "::1", "address_loopback"),
        ("fe80::1", "fe80::1", "address_private"),
        ("fd12::1", "fd12::1", "address_private"),
        ("fd00:ec2::254", "fd00:ec2::254", "address_metadata"),
        ("::ffff:127.0.0.1", "127.0.0.1", "address_loopback"),
        ("::ffff:169.254.169.254", "169.254.169.254", "address_metadata"),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1", "address_private"),
        ("64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "address_metadata"),
    ];
    for way in WAYS {
        for (scheme, port) in [("http", 80), ("https", 443)] {
            for (answer, address, reason) in table {
                stand.names.answer(&[&[answer]]);
                let from = stand.audit.records().len();
                let seen = stand.get(way, scheme, "gate.test", port, "/", &[]).await;
                let row = format!("{way:?} {scheme} {answer}");
                assert_eq!(seen.reason().as_deref(), Some(reason), "{row} {}", seen.head);
                assert_eq!(stand.names.asked(), ["gate.test"], "{row}");
                let records = stand.audit.records();
                let outcome = records[from..].iter().find(|record| record.kind == Kind::EgressOutcome).unwrap();
                assert_eq!((outcome.decision, outcome.reason.as_deref()), (Decision::Deny, Some(reason)), "{row}");
                assert!(outcome.caused_by.is_some() && outcome.rule.is_some(), "{row}");
                let recorded = outcome.destination.as_ref().and_then(|destination| destination.address.clone());
                let socket = std::net::SocketAddr::new(address.parse().unwrap(), port).to_string();
                assert_eq!(recorded, Some(socket), "{row}");
            }
        }
    }
    assert_eq!(stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_rebinds_between_two_lookups_gains_nothing() {
    let stand = Stand::start().await;
    let port = stand.upstream.http.port();
    let bound = async || stand.get(Way::Redirect, "http", "bound.test", port, "/", &[]).await;
    stand.names.answer(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let seen = bound().await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(stand.names.asked().len(), 1, "looked up once: what was checked is what was dialled");
    let outcome = stand.record(Kind::EgressOutcome, 0).unwrap();
    assert_eq!(outcome.destination.unwrap().address, Some(stand.upstream.http.to_string()));
    // The connection is kept and leads where it did; nothing is looked up for it.
    assert_eq!(bound().await.status, 200);
    assert_eq!(stand.names.asked().len(), 1);
    stand.session().pool.clear();
    assert_eq!(bound().await.reason().as_deref(), Some("address_metadata"));
    assert_eq!(stand.names.asked().len(), 2);
    // Of several addresses only those that may be dialled are.
    stand.names.answer(&[&["169.254.169.254", "::ffff:10.0.0.1", "::ffff:127.0.0.1"]]);
    let from = stand.audit.records().len();
    assert_eq!(bound().await.status, 200);
    let outcome = stand.record(Kind::EgressOutcome, from).unwrap();
    assert_eq!(outcome.destination.unwrap().address, Some(stand.upstream.http.to_string()));
}

#[tokio::test]
async fn nothing_is_looked_up_for_a_refused_request() {
    let stand = Stand::start().await;
    stand.names.answer(&[&["127.0.0.1"]]);
    for host in ["evil.test", "exfiltrated-data.evil.test"] {
        assert_eq!(
            stand.get(Way::Redirect, "http", host, 80, "/", &[]).await.reason().as_deref(),
            Some("host_not_allowed")
        );
    }
    let header = ("x-note", stand.placeholder.as_str());
    assert_eq!(stand.get(Way::Redirect, "http", "gate.test", 80, "/", &[header]).await.status, 403);
    assert!(stand.names.asked().is_empty());
}
