use super::properties::{addresses, requests};
use super::*;
use crate::reason::Reason;
use crate::zone::{AuditMode, ZoneInForce};
use proptest::prelude::*;
use std::sync::LazyLock;

static OPENED: LazyLock<Arc<Zone>> = LazyLock::new(|| zone(LEDGER));

/// What the zone may have become.
static LATER: LazyLock<Vec<Arc<Zone>>> = LazyLock::new(|| {
    let rule = |lines: &str| format!("[[zone.ledger.egress]]\n{lines}\n");
    [
        LEDGER.replace("\"GET\", \"POST\"", "\"GET\""),
        LEDGER.replace("10.3.0.7:8443", "10.3.0.8:8443"),
        LEDGER.replace("connect = \"10.3.0.7:8443\"\n", ""),
        LEDGER.replace("{ header = \"authorization\" }, ", ""),
        LEDGER.replace("host = \"*.pypi.example\"", "host = \"a.pypi.example\""),
        LEDGER.to_owned() + &rule("host = \"evil.example\"") + &rule("host = \"api.ledger.internal\""),
    ]
    .iter()
    .map(|text| zone(text))
    .collect()
});

#[test]
fn a_narrowing_counts_at_once_and_a_widening_does_not() {
    let running = ZoneInForce::new(Arc::clone(&OPENED));
    let reason = |running: &ZoneInForce, line: &str| running.request(&request(line)).err().map(|denial| denial.reason);
    let (post, evil) = ("POST https://api.ledger.internal/v1/x", "GET https://evil.example/");
    assert_eq!((reason(&running, post), reason(&running, evil)), (None, Some(Reason::HostNotAllowed)));
    let narrower = running.succeeded(Ok(Arc::clone(&LATER[0])));
    assert_eq!(reason(&narrower, post), Some(Reason::MethodNotAllowed));
    assert_eq!(reason(&narrower, "GET https://api.ledger.internal/v1/x"), None);
    let wider = running.succeeded(Ok(Arc::clone(&LATER[5])));
    assert_eq!((reason(&wider, post), reason(&wider, evil)), (None, Some(Reason::HostNotAllowed)));
    let back = narrower.succeeded(Ok(zone(LEDGER)));
    assert_eq!(reason(&back, post), None, "what is as it was is allowed as it was");
}

#[test]
fn a_credential_that_has_its_secret_from_elsewhere_now_is_not_used_by_its_name() {
    let with = || holding("GET https://api.ledger.internal/v1/x", authorization());
    let moved = LEDGER.replacen("source = \"store:ledger-api\"", "source = \"store:ledger-readonly\"", 1);
    assert_ne!(moved, LEDGER);
    let running = ZoneInForce::new(Arc::clone(&OPENED)).succeeded(Ok(zone(&moved)));
    let denied = running.request(&with()).unwrap_err();
    assert_eq!((denied.reason, denied.rule.is_some()), (Reason::CustodyDenied, true), "{denied:?}");
    assert!(running.request(&request("GET https://api.ledger.internal/v1/x")).is_ok(), "without it as before");
    assert!(ZoneInForce::new(zone(&moved)).request(&with()).is_ok(), "a new session uses it");
}

#[test]
fn what_either_zone_promises_about_records_is_kept() {
    let on_disk = LEDGER.replacen("[zone.ledger]\n", "[zone.ledger]\naudit = \"disk\"\n", 1);
    assert_ne!(on_disk, LEDGER);
    let (written, disk) = (AuditMode::Written, AuditMode::Disk);
    for (opened, later, expected) in
        [(written, written, written), (written, disk, disk), (disk, written, disk), (disk, disk, disk)]
    {
        let of = |mode| zone(if mode == disk { &on_disk } else { LEDGER });
        let running = ZoneInForce::new(of(opened)).succeeded(Ok(of(later)));
        assert_eq!(running.audit(), expected, "{opened:?} {later:?}");
    }
}

#[test]
fn a_session_that_no_zone_covers_any_more_is_refused_everything() {
    let gone = ZoneInForce::new(Arc::clone(&OPENED)).succeeded(Err(crate::Denial::new(Reason::ZoneNone)));
    let denials = [
        gone.request(&request("GET https://api.ledger.internal/v1/x")).map(drop),
        gone.tool_use(&ToolUse { name: "bash".to_owned() }).map(drop),
        gone.connect(&Connect {
            host: "plain.example".parse().unwrap(),
            port: Port::new(80).unwrap(),
            transport: Transport::Http,
        })
        .map(drop),
    ];
    for denied in denials {
        assert_eq!(denied.unwrap_err().reason, Reason::ZoneNone);
    }
}

#[test]
fn what_one_of_both_inspects_does_not_pass_through() {
    let inspected = "host = \"*.pypi.example\"\nmethods = [\"GET\"]";
    let text = LEDGER.replace(inspected, "host = \"*.pypi.example\"\ninspect = false");
    let (passing, other) = (zone(&text), zone(&format!("{text}\n[[zone.ledger.egress]]\nhost = \"other.example\"\n")));
    let (host, port) = ("a.pypi.example".parse::<Host>().unwrap(), Port::new(443).unwrap());
    let passes = |opened: &Arc<Zone>, later: &Arc<Zone>| {
        let running = ZoneInForce::new(Arc::clone(opened)).succeeded(Ok(Arc::clone(later)));
        running.pass(&host, port).unwrap().is_some()
    };
    assert!(passes(&passing, &other) && passes(&passing, &passing));
    assert!(!passes(&passing, &OPENED) && !passes(&OPENED, &passing));
    let running = ZoneInForce::new(Arc::clone(&passing)).succeeded(Ok(Arc::clone(&OPENED)));
    assert!(running.request(&request("GET https://a.pypi.example/x")).is_err(), "nor is a request of it allowed");
    let gone = running.succeeded(Err(crate::Denial::new(Reason::ZoneNone)));
    assert!(gone.pass(&host, port).unwrap().is_none());
}

proptest! {
    #[test]
    fn what_leaves_under_a_changed_zone_would_leave_and_be_dialled_under_either(
        request in requests(), later in 0usize..6, address in addresses(),
    ) {
        let later = &LATER[later];
        let running = ZoneInForce::new(Arc::clone(&OPENED)).succeeded(Ok(Arc::clone(later)));
        let (before, after) = (OPENED.request(&request), later.request(&request));
        match running.request(&request) {
            Ok(permit) => {
                let (before, after) = (before.unwrap(), after.unwrap());
                prop_assert_eq!(permit.injections(), after.injections());
                prop_assert_eq!(permit.policy_digest(), OPENED.digest());
                if let Ok(dial) = permit.dial(address) {
                    prop_assert_eq!(before.dial(address).ok(), Some(dial.clone()));
                    prop_assert_eq!(after.dial(address).ok(), Some(dial));
                }
            }
            Err(_) => prop_assert!(before.is_err() || after.is_err()),
        }
    }
}
