use super::*;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::LazyLock;

static ZONE: LazyLock<Arc<Zone>> = LazyLock::new(|| zone(LEDGER));

fn hosts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "api.ledger.internal",
        "API.ledger.internal.",
        "a.pypi.example",
        "b.c.pypi.example",
        "plain.example",
        "evil.example",
        "10.3.0.7",
    ])
}

fn paths() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["/v1/a", "/v1/%61", "/public/x", "/", "/v2/x", "/oauth/token"])
}

fn places() -> impl Strategy<Value = Option<Place>> {
    let header = |name: &str| Place::At(Location::Header(name.to_owned()));
    prop::option::of(prop::sample::select(vec![
        header("authorization"),
        header("x-note"),
        Place::At(Location::Basic(BasicPart::Password)),
        Place::At(Location::Basic(BasicPart::Username)),
        Place::At(Location::Query("key".parse().unwrap())),
        Place::At(Location::Json("/auth/token".parse().unwrap())),
        Place::At(Location::Form("key".parse().unwrap())),
        Place::Body,
        Place::Query,
    ]))
}

pub(super) fn requests() -> impl Strategy<Value = Request> {
    let methods = prop::sample::select(vec!["GET", "POST", "DELETE"]);
    let ports = prop::sample::select(vec![80u16, 443, 8443]);
    let schemes = prop::sample::select(vec![Scheme::Https, Scheme::Http]);
    (hosts(), paths(), methods, ports, schemes, places()).prop_map(|(host, path, method, port, scheme, place)| {
        Request {
            host: host.parse().unwrap(),
            port: Port::new(port).unwrap(),
            scheme,
            method: method.parse().unwrap(),
            path: path.parse().unwrap(),
            query: None,
            upgrade: Upgrade::None,
            credentials_present: place.into_iter().map(|place| placeholder(Issued::ThisSession, place)).collect(),
            foreign: Vec::new(),
            overrides: Vec::new(),
        }
    })
}

pub(super) fn addresses() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![
        "10.3.0.7",
        "10.3.0.8",
        "127.0.0.1",
        "93.184.216.34",
        "169.254.169.254",
        "::1",
        "::ffff:10.3.0.7",
    ])
    .prop_map(|text| text.parse().unwrap())
}

proptest! {
    #[test]
    fn host_decided_on_is_host_injected_for_is_host_dialled(request in requests(), address in addresses()) {
        let zone = &*ZONE;
        let Ok(permit) = zone.request(&request) else { return Ok(()); };
        prop_assert_eq!(permit.host(), &request.host);
        prop_assert_eq!(permit.port(), request.port);
        prop_assert_eq!(permit.path(), &request.path);
        prop_assert_eq!(permit.injections().len(), request.credentials_present.len());
        for injection in permit.injections() {
            // Only the one rule with a credential, and only what the credential allows.
            prop_assert_eq!(permit.host().to_string(), "api.ledger.internal");
            prop_assert_eq!((permit.scheme(), permit.port().number()), (Scheme::Https, 443));
            prop_assert!(zone.credential(injection.credential()).unwrap().inject.contains(injection.location()));
        }
        if let Ok(dial) = permit.dial(address) {
            prop_assert_eq!(dial.host(), permit.host());
            prop_assert!(crate::classify(dial.address().ip()) == crate::AddressClass::Public || dial.address() == "10.3.0.7:8443".parse().unwrap());
        }
    }

    #[test]
    fn a_request_is_allowed_only_over_a_connection_that_is(request in requests()) {
        let zone = &*ZONE;
        let transport = if request.scheme == Scheme::Https { Transport::Tls } else { Transport::Http };
        let connect = Connect { host: request.host.clone(), port: request.port, transport };
        if zone.request(&request).is_ok() {
            let permit = zone.connect(&connect).unwrap();
            prop_assert!(permit.schemes().contains(&request.scheme));
        }
    }

    #[test]
    fn an_added_foreign_credential_or_override_never_turns_a_no_into_a_yes(request in requests()) {
        let zone = &*ZONE;
        let before = zone.request(&request).is_ok();
        let foreign = Request { foreign: vec![ForeignCredential::Userinfo], ..request.clone() };
        let overriding = Request { overrides: vec![Override::Query("_method".to_owned())], ..request };
        prop_assert!(before || (zone.request(&foreign).is_err() && zone.request(&overriding).is_err()));
        prop_assert!(zone.request(&overriding).is_err());
    }
}

fn fragments() -> impl Strategy<Value = String> {
    let sharp = prop::sample::select(vec![
        "\"",
        "'",
        "\\",
        "[",
        "]",
        "{",
        "}",
        "=",
        "\n",
        ".",
        "#",
        "0",
        "-1",
        "\u{0}",
        "\u{fc}",
        "[[zone.ledger.egress]]\n",
        "credential = 'a\"b'\n",
        "host = 1\n",
        "*",
        "9999999999999999999999",
        "1979-05-27",
        "nan",
        "true",
    ]);
    prop_oneof![sharp.prop_map(str::to_owned), "\\PC{0,4}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn a_damaged_file_is_refused_with_a_place_or_loads_and_never_panics(
        at in 0..LEDGER.len(), removed in 0usize..12, inserted in fragments(),
    ) {
        let end = (at + removed).min(LEDGER.len());
        let text = format!("{}{inserted}{}", &LEDGER[..at], &LEDGER[end..]);
        if let Err(errors) = load(&text) {
            prop_assert!(!errors.is_empty());
            let lines = text.lines().count() + 1;
            prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line) && error.column > 0));
        }
    }
}

#[test]
fn a_decision_takes_microseconds() {
    let rules: String =
        (0..100).map(|n| format!("[[zone.ledger.egress]]\nhost = \"h{n}.example\"\npaths = [\"/v1/**\"]\n")).collect();
    let zone = zone(&format!("{LEDGER}{rules}"));
    let asked = holding("GET https://api.ledger.internal/v1/x", authorization());
    let rounds = 200u32;
    let begun = std::time::Instant::now();
    for _ in 0..rounds {
        assert!(zone.request(&asked).is_ok());
    }
    let each = begun.elapsed() / rounds;
    eprintln!("{each:?} for a decision with one injection among {} rules", zone.rules.len());
    assert!(each < std::time::Duration::from_millis(50), "{each:?}");
}

#[test]
fn a_host_is_a_host_in_every_form_it_is_written() {
    let zone = zone(LEDGER);
    for host in ["api.ledger.internal", "API.LEDGER.INTERNAL", "api.ledger.internal.", "\u{ff41}pi.ledger.internal"] {
        let asked = Request { host: host.parse::<Host>().unwrap(), ..request("GET https://x.example/v1/x") };
        assert!(zone.request(&asked).is_ok(), "{host}");
    }
}
