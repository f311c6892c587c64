use super::*;
use crate::location::{BodyKind, Segment};
use crate::reason::Reason;

#[test]
fn a_request_is_allowed_only_where_every_matcher_of_one_rule_agrees() {
    let zone = zone(LEDGER);
    let table = [
        ("GET https://api.ledger.internal/v1/entries", Ok("ledger/egress/1")),
        ("POST https://api.ledger.internal/v1/", Ok("ledger/egress/1")),
        ("GET https://API.Ledger.Internal./v1/entries", Ok("ledger/egress/1")),
        ("DELETE https://api.ledger.internal/public/x", Ok("ledger/egress/4")),
        ("GET https://files.pypi.example/simple", Ok("ledger/egress/2")),
        ("GET http://plain.example/", Ok("ledger/egress/3")),
        ("DELETE https://api.ledger.internal/v1/entries", Err(Reason::MethodNotAllowed)),
        ("GET https://api.ledger.internal/v2/entries", Err(Reason::PathNotAllowed)),
        ("GET https://api.ledger.internal/v1", Err(Reason::PathNotAllowed)),
        ("GET https://api.ledger.internal:8443/v1/x", Err(Reason::PortNotAllowed)),
        ("GET http://api.ledger.internal:443/v1/x", Err(Reason::SchemeNotAllowed)),
        ("GET http://api.ledger.internal/v1/x", Err(Reason::PortNotAllowed)),
        ("GET https://plain.example:80/", Err(Reason::SchemeNotAllowed)),
        ("GET https://pypi.example/", Err(Reason::HostNotAllowed)),
        ("GET https://evilpypi.example/", Err(Reason::HostNotAllowed)),
        ("POST https://files.pypi.example/", Err(Reason::MethodNotAllowed)),
        ("GET https://evil.example/v1/x", Err(Reason::HostNotAllowed)),
        ("GET https://10.3.0.7/v1/x", Err(Reason::RawAddress)),
        ("GET https://169.254.169.254/latest", Err(Reason::RawAddress)),
    ];
    for (line, expected) in table {
        let decided = zone.request(&request(line));
        assert_eq!(decided.as_ref().map(|permit| permit.rule()).map_err(|denial| denial.reason), expected, "{line}");
    }
}

#[test]
fn a_refusal_says_what_would_have_been_allowed() {
    let zone = zone(LEDGER);
    let step = |line: &str| zone.request(&request(line)).unwrap_err().next_step;
    assert!(step("DELETE https://api.ledger.internal/v1/x").contains("GET, POST"));
    assert!(step("GET https://api.ledger.internal/v2/x").contains("/v1/**"));
    assert!(step("GET https://api.ledger.internal:99/v1/x").contains("443"));
}

#[test]
fn a_placeholder_is_replaced_only_at_its_host_port_scheme_and_location() {
    let zone = zone(LEDGER);
    let allowed = "GET https://api.ledger.internal/v1/x";
    let header = |name: &str| Place::At(Location::Header(name.to_owned()));
    let table = [
        (allowed, authorization(), Ok(())),
        (allowed, Place::At(Location::Basic(BasicPart::Password)), Ok(())),
        (allowed, Place::At(Location::Basic(BasicPart::Username)), Err(Reason::PlaceholderWrongLocation)),
        (allowed, header("x-note"), Err(Reason::PlaceholderWrongLocation)),
        (allowed, Place::Path, Err(Reason::PlaceholderWrongLocation)),
        (allowed, Place::Query, Err(Reason::PlaceholderWrongLocation)),
        (allowed, Place::Body, Err(Reason::PlaceholderWrongLocation)),
        (allowed, Place::Elsewhere, Err(Reason::PlaceholderWrongLocation)),
        ("GET https://evil.example/v1/x", authorization(), Err(Reason::PlaceholderWrongHost)),
        ("GET https://files.pypi.example/x", authorization(), Err(Reason::PlaceholderWrongHost)),
        ("GET https://10.3.0.7/v1/x", authorization(), Err(Reason::PlaceholderWrongHost)),
        ("GET https://api.ledger.internal:8443/v1/x", authorization(), Err(Reason::PlaceholderWrongPort)),
        ("GET http://api.ledger.internal/v1/x", authorization(), Err(Reason::PlaceholderWrongPort)),
        ("GET http://api.ledger.internal:443/v1/x", authorization(), Err(Reason::PlaceholderWrongScheme)),
        ("DELETE https://api.ledger.internal/v1/x", authorization(), Err(Reason::MethodNotAllowed)),
        ("GET https://api.ledger.internal/v2/x", authorization(), Err(Reason::PathNotAllowed)),
        // Allowed without a credential, by a rule that has none.
        ("GET https://api.ledger.internal/public/x", authorization(), Err(Reason::PathNotAllowed)),
    ];
    for (line, place, expected) in table {
        let decided = zone.request(&holding(line, place.clone()));
        let reason = decided.as_ref().map(|_| ()).map_err(|denial| denial.reason);
        assert_eq!(reason, expected, "{line} {place:?}");
        if let Ok(permit) = decided {
            assert_eq!(permit.injections().len(), 1);
            assert_eq!(Place::At(permit.injections()[0].location().clone()), place);
        }
    }
}

#[test]
fn each_location_takes_its_own_place_and_no_other() {
    let text = LEDGER
        .replace(
            "inject = [{ header = \"authorization\" }, { basic = \"password\" }]",
            "inject = [{ query = \"key\" }, { path = \"/v1/bot{secret}/*\" }, { json = \"/auth/token\" }, { form = \"secret\" }]",
        )
        .replace("paths = [\"/v1/**\"]", "paths = [\"/v1/**\", \"/oauth/token\"]");
    let zone = zone(&text);
    let segment = |path: &str| Place::Segment(Segment::holding(&path.parse().unwrap(), "PH").unwrap());
    let plain = "POST https://api.ledger.internal/v1/x";
    let bot = "POST https://api.ledger.internal/v1/botPH/send";
    let table = [
        (plain, Place::At(Location::Query("key".parse().unwrap())), Ok("query key")),
        (plain, Place::At(Location::Query("Key".parse().unwrap())), Err(Reason::PlaceholderWrongLocation)),
        (plain, Place::At(Location::Form("key".parse().unwrap())), Err(Reason::PlaceholderWrongLocation)),
        (plain, Place::At(Location::Form("secret".parse().unwrap())), Ok("form secret")),
        (plain, Place::At(Location::Json("/auth/token".parse().unwrap())), Ok("json /auth/token")),
        (plain, Place::At(Location::Json("/auth/token/0".parse().unwrap())), Err(Reason::PlaceholderWrongLocation)),
        (plain, authorization(), Err(Reason::PlaceholderWrongLocation)),
        (plain, Place::Body, Err(Reason::PlaceholderWrongLocation)),
        (bot, segment("/v1/botPH/send"), Ok("path /v1/bot{secret}/*")),
        (bot, segment("/v1/PH/send"), Err(Reason::PlaceholderWrongLocation)),
        (bot, Place::Path, Err(Reason::PlaceholderWrongLocation)),
        (plain, segment("/v1/botPH/send"), Err(Reason::PlaceholderWrongLocation)),
        (
            "POST https://api.ledger.internal/v1/botPH/send/x",
            segment("/v1/botPH/send/x"),
            Err(Reason::PlaceholderWrongLocation),
        ),
        ("POST https://evil.example/v1/botPH/send", segment("/v1/botPH/send"), Err(Reason::PlaceholderWrongHost)),
        // What comes back from there nobody could scrub.
        (
            "POST https://api.ledger.internal/oauth/token",
            Place::At(Location::Form("secret".parse().unwrap())),
            Err(Reason::CredentialMinting),
        ),
    ];
    for (line, place, expected) in table {
        let decided = zone.request(&holding(line, place.clone()));
        let location = decided.map(|permit| permit.injections()[0].location().to_string());
        assert_eq!(location.as_deref().map_err(|denial| denial.reason), expected, "{line} {place:?}");
    }
    let host = "api.ledger.internal".parse().unwrap();
    assert!(zone.injects_into(&host, BodyKind::Json) && zone.injects_into(&host, BodyKind::Form));
    assert!(!zone.injects_into(&"plain.example".parse().unwrap(), BodyKind::Json));
    assert!(!super::zone(LEDGER).injects_into(&host, BodyKind::Json));
}

#[test]
fn a_refusal_of_a_place_in_a_body_says_what_the_body_must_be() {
    let text = LEDGER.replace("{ basic = \"password\" }", "{ json = \"/auth/token\" }");
    let denial = zone(&text).request(&holding("POST https://api.ledger.internal/v1/x", Place::Body)).unwrap_err();
    for part in ["header authorization, json /auth/token", "content-type", "UTF-8", "without a key twice"] {
        assert!(denial.next_step.contains(part), "{denial}");
    }
}

#[test]
fn a_condition_can_speak_of_each_location() {
    let forbidding = "forbid (principal, action == Postern::Action::\"credential.use\", resource) \
        when { context.location == \"basic password\" };";
    let zone = with_policy(forbidding).unwrap();
    let line = "GET https://api.ledger.internal/v1/x";
    let basic = holding(line, Place::At(Location::Basic(BasicPart::Password)));
    assert_eq!(zone.request(&basic).unwrap_err().reason, Reason::PolicyForbidden);
    assert!(zone.request(&holding(line, authorization())).is_ok());
}

#[test]
fn an_uninspected_connection_is_decided_by_name_and_port_and_no_request_is() {
    let text = LEDGER.replace("methods = [\"GET\"]\n\n", "inspect = false\n");
    let pinned = zone(&text);
    assert!(pinned.passes_uninspected() && !zone(LEDGER).passes_uninspected());
    let table = [
        ("files.pypi.example", 443, Some("ledger/egress/2")),
        ("files.pypi.example", 8443, None),
        ("pypi.example", 443, None),
        ("api.ledger.internal", 443, None),
        ("evil.example", 443, None),
    ];
    for (host, port, expected) in table {
        let passed = pinned.pass(&host.parse().unwrap(), Port::new(port).unwrap()).unwrap();
        assert_eq!(passed.as_ref().map(|permit| permit.rule()), expected, "{host}:{port}");
        if let Some(permit) = passed {
            assert_eq!(permit.target(), Target::Resolve(host.parse().unwrap(), Port::new(port).unwrap()));
            assert_eq!(permit.dial("93.184.216.34".parse().unwrap()).unwrap().host(), permit.host());
            assert_eq!(permit.dial("10.0.0.1".parse().unwrap()).unwrap_err().reason, Reason::AddressPrivate);
        }
    }
    // Whoever got a request there to be decided would not get it past the zone.
    assert_eq!(
        pinned.request(&request("GET https://files.pypi.example/x")).unwrap_err().reason,
        Reason::SchemeNotAllowed
    );
    let misused = holding("GET https://files.pypi.example/x", authorization());
    assert_eq!(pinned.request(&misused).unwrap_err().reason, Reason::PlaceholderWrongHost);
    assert!(zone(LEDGER).pass(&"files.pypi.example".parse().unwrap(), Port::new(443).unwrap()).unwrap().is_none());
}

#[test]
fn a_policy_file_can_forbid_what_would_pass_uninspected() {
    let text = LEDGER
        .replace("methods = [\"GET\"]\n\n", "inspect = false\n")
        .replace("mode = \"enforce\"", "policy_file = \"ledger.cedar\"");
    let mut document = Document::parse("postern.toml", &text).unwrap();
    let forbidding = "forbid (principal, action == Postern::Action::\"egress.connect\", resource) \
        when { !context.inspected };";
    document.attach("ledger.cedar", forbidding);
    let zone = Zones::load(&document, &names()).unwrap().named("ledger").unwrap();
    let denied = zone.pass(&"files.pypi.example".parse().unwrap(), Port::new(443).unwrap()).unwrap_err();
    assert_eq!(denied.reason, Reason::PolicyForbidden);
    assert!(zone.request(&request("GET https://api.ledger.internal/v1/x")).is_ok());
}

const MACHINE: &str = r#"
[[zone.ledger.credential]]
name = "machine"
source = "file:machine.pem"
inject = [{ client_certificate = true }]

[[zone.ledger.egress]]
host = "mtls.example"
client_certificate = "machine"
credential = "ledger-api"
"#;

#[test]
fn a_client_certificate_is_presented_where_a_rule_names_it_beside_whatever_is_injected() {
    let zone = zone(&format!("{LEDGER}{MACHINE}"));
    let machine = CredentialName::new("machine");
    let permit = zone.request(&request("GET https://mtls.example/x")).unwrap();
    assert_eq!((permit.client_certificate(), permit.injections().len()), (Some(&machine), 0));
    let permit = zone.request(&holding("GET https://mtls.example/x", authorization())).unwrap();
    assert_eq!((permit.client_certificate(), permit.injections().len()), (Some(&machine), 1));
    let permit = zone.request(&request("GET https://api.ledger.internal/v1/x")).unwrap();
    assert_eq!(permit.client_certificate(), None);
    assert!(zone.grant(&machine).is_ok());
    // What our identity is shown to takes no other's key, and mints none.
    let foreign = Request { foreign: vec![ForeignCredential::Cookie], ..request("GET https://mtls.example/x") };
    assert_eq!(zone.request(&foreign).unwrap_err().reason, Reason::ForeignCredential);
    let minting = request("POST https://mtls.example/oauth/token");
    assert_eq!(zone.request(&minting).unwrap_err().reason, Reason::CredentialMinting);
}

#[test]
fn a_condition_can_forbid_that_a_client_certificate_is_presented() {
    let text = format!("{LEDGER}{MACHINE}").replace("mode = \"enforce\"", "policy_file = \"ledger.cedar\"");
    let mut document = Document::parse("postern.toml", &text).unwrap();
    let forbidding = "forbid (principal, action == Postern::Action::\"credential.use\", resource) \
        when { context.location == \"client certificate\" && context.path == \"/secret\" };";
    document.attach("ledger.cedar", forbidding);
    let zone = Zones::load(&document, &names()).unwrap().named("ledger").unwrap();
    assert!(zone.request(&request("GET https://mtls.example/x")).is_ok());
    let denied = zone.request(&request("GET https://mtls.example/secret")).unwrap_err();
    assert_eq!(denied.reason, Reason::PolicyForbidden);
}

#[test]
fn nothing_is_injected_where_no_placeholder_stands() {
    let permit = zone(LEDGER).request(&request("GET https://api.ledger.internal/v1/x")).unwrap();
    assert_eq!(permit.injections(), []);
}

#[test]
fn secrets_and_strange_placeholders_refuse_any_request_with_an_alarm() {
    let zone = zone(LEDGER);
    for line in ["GET https://api.ledger.internal/v1/x", "GET http://plain.example/", "GET https://evil.example/"] {
        let secret = Found { value: FoundValue::Secret, ..placeholder(Issued::ThisSession, authorization()) };
        let table = [
            (secret, Reason::RealSecretSeen),
            (placeholder(Issued::AnotherSession, authorization()), Reason::PlaceholderWrongSession),
            (placeholder(Issued::Unknown, Place::Body), Reason::PlaceholderUnresolved),
        ];
        for (found, expected) in table {
            let denial = zone.request(&Request { credentials_present: vec![found], ..request(line) }).unwrap_err();
            assert_eq!((denial.reason, denial.alarm), (expected, true), "{line}");
        }
    }
}

#[test]
fn a_placeholder_beside_a_good_one_is_not_overlooked() {
    let zone = zone(LEDGER);
    let good = placeholder(Issued::ThisSession, authorization());
    let others = [
        placeholder(Issued::ThisSession, Place::Body),
        placeholder(Issued::ThisSession, authorization()),
        Found { credential: CredentialName::new("another"), ..placeholder(Issued::ThisSession, authorization()) },
    ];
    for other in others {
        let both = Request {
            credentials_present: vec![good.clone(), other],
            ..request("GET https://api.ledger.internal/v1/x")
        };
        assert_eq!(zone.request(&both).unwrap_err().reason, Reason::PlaceholderWrongLocation);
    }
}

#[test]
fn credentials_from_elsewhere_are_refused_at_every_path_of_a_host_with_ours() {
    let zone = zone(LEDGER);
    let foreign =
        |line: &str| Request { foreign: vec![ForeignCredential::Header("x-api-key".to_owned())], ..request(line) };
    for line in ["GET https://api.ledger.internal/v1/x", "GET https://api.ledger.internal/public/x"] {
        let denial = zone.request(&foreign(line)).unwrap_err();
        assert_eq!((denial.reason, denial.alarm), (Reason::ForeignCredential, true), "{line}");
    }
    // No credential of ours lives there, so there is nothing to confuse.
    assert!(zone.request(&foreign("GET https://files.pypi.example/x")).is_ok());
}

#[test]
fn a_rule_can_refuse_or_allow_foreign_credentials_by_itself() {
    let foreign = |line: &str| Request { foreign: vec![ForeignCredential::Cookie], ..request(line) };
    let allowing = LEDGER.replace("foreign_credentials = \"refuse\"", "foreign_credentials = \"allow\"");
    assert!(zone(&allowing).request(&foreign("GET https://api.ledger.internal/v1/x")).is_ok());
    let refusing =
        LEDGER.replace("host = \"plain.example\"", "host = \"plain.example\"\nforeign_credentials = \"refuse\"");
    assert_eq!(
        zone(&refusing).request(&foreign("GET http://plain.example/")).unwrap_err().reason,
        Reason::ForeignCredential
    );
}

#[test]
fn a_request_that_asks_to_be_taken_for_another_is_refused() {
    let overriding = Request {
        overrides: vec![Override::Header("x-http-method-override".to_owned())],
        ..request("GET https://api.ledger.internal/v1/x")
    };
    assert_eq!(zone(LEDGER).request(&overriding).unwrap_err().reason, Reason::OverrideRefused);
}

#[test]
fn endpoints_that_issue_credentials_are_refused_with_ours_only() {
    let zone = zone(&LEDGER.replace("paths = [\"/v1/**\"]", ""));
    let line = "POST https://api.ledger.internal/oauth/token";
    assert_eq!(zone.request(&holding(line, authorization())).unwrap_err().reason, Reason::CredentialMinting);
    assert!(zone.request(&request(line)).is_ok());
}

#[test]
fn a_connection_is_allowed_where_some_rule_could_allow_a_request() {
    let zone = zone(LEDGER);
    let table = [
        ("api.ledger.internal", 443, Transport::Unread, Ok(vec![Scheme::Https])),
        ("api.ledger.internal", 443, Transport::Tls, Ok(vec![Scheme::Https])),
        ("api.ledger.internal", 443, Transport::Http, Err(Reason::SchemeNotAllowed)),
        ("api.ledger.internal", 443, Transport::Other, Err(Reason::ProtocolUnknown)),
        ("api.ledger.internal", 443, Transport::Udp, Err(Reason::UdpRefused)),
        ("api.ledger.internal", 22, Transport::Unread, Err(Reason::PortNotAllowed)),
        ("plain.example", 80, Transport::Http, Ok(vec![Scheme::Http])),
        ("plain.example", 80, Transport::Tls, Err(Reason::SchemeNotAllowed)),
        ("evil.example", 443, Transport::Tls, Err(Reason::HostNotAllowed)),
        ("evil.example", 443, Transport::Other, Err(Reason::HostNotAllowed)),
        ("10.3.0.7", 443, Transport::Tls, Err(Reason::RawAddress)),
        ("evil.example", 53, Transport::Udp, Err(Reason::UdpRefused)),
    ];
    for (host, port, transport, expected) in table {
        let asked = Connect { host: host.parse().unwrap(), port: Port::new(port).unwrap(), transport };
        let decided = zone.connect(&asked);
        assert_eq!(
            decided.map(|permit| permit.schemes().to_vec()).map_err(|denial| denial.reason),
            expected,
            "{asked:?}"
        );
    }
}

#[test]
fn addresses_are_dialled_only_as_the_rule_names_them() {
    let zone = zone(LEDGER);
    let pinned = zone.request(&request("GET https://api.ledger.internal/v1/x")).unwrap();
    assert_eq!(pinned.target(), Target::Address("10.3.0.7:8443".parse().unwrap()));
    let dial = pinned.dial("10.3.0.7".parse().unwrap()).unwrap();
    assert_eq!((dial.address(), dial.host()), ("10.3.0.7:8443".parse().unwrap(), pinned.host()));
    assert_eq!(pinned.dial("10.3.0.8".parse().unwrap()).unwrap_err().reason, Reason::AddressNotAllowed);

    let open = zone.request(&request("GET https://files.pypi.example/x")).unwrap();
    assert_eq!(open.target(), Target::Resolve("files.pypi.example".parse().unwrap(), Port::new(443).unwrap()));
    let table = [
        ("93.184.216.34", Ok(())),
        ("10.3.0.7", Err(Reason::AddressPrivate)),
        ("127.0.0.1", Err(Reason::AddressLoopback)),
        ("::ffff:127.0.0.1", Err(Reason::AddressLoopback)),
        ("169.254.169.254", Err(Reason::AddressMetadata)),
        ("fd00:ec2::254", Err(Reason::AddressMetadata)),
        ("169.254.1.1", Err(Reason::AddressPrivate)),
        ("64:ff9b::a9fe:a9fe", Err(Reason::AddressMetadata)),
        ("0.0.0.0", Err(Reason::AddressPrivate)),
    ];
    for (address, expected) in table {
        assert_eq!(
            open.dial(address.parse().unwrap()).map(|_| ()).map_err(|denial| denial.reason),
            expected,
            "{address}"
        );
    }
}

#[test]
fn naming_a_range_opens_that_range_and_no_metadata_service_in_it() {
    let rule = |addresses: &str| {
        format!(
            "config = 1\n[zone.a]\nenvironment = \"default\"\n[[zone.a.egress]]\nhost = \"x.example\"\naddresses = [{addresses}]\n"
        )
    };
    let dial = |addresses: &str, address: &str| {
        let permit = zone(&rule(addresses)).request(&request("GET https://x.example/")).unwrap();
        permit.dial(address.parse().unwrap()).map(|_| ()).map_err(|denial| denial.reason)
    };
    assert_eq!(dial("\"127.0.0.0/8\"", "127.0.0.1"), Ok(()));
    assert_eq!(dial("\"127.0.0.1\"", "127.0.0.2"), Err(Reason::AddressLoopback));
    assert_eq!(dial("\"10.0.0.0/8\"", "93.184.216.34"), Err(Reason::AddressNotAllowed));
    assert_eq!(dial("\"169.254.0.0/16\"", "169.254.169.254"), Err(Reason::AddressMetadata));
    assert_eq!(dial("\"fc00::/7\"", "fd00:ec2::254"), Err(Reason::AddressMetadata));
    assert_eq!(dial("\"169.254.169.254\"", "169.254.169.254"), Ok(()));
}

#[test]
fn custody_may_grant_only_what_a_rule_of_the_zone_uses() {
    let unused = LEDGER.replace("credential = \"ledger-api\"\n", "");
    let name = CredentialName::new("ledger-api");
    assert_eq!(zone(LEDGER).grant(&name).unwrap().credential(), &name);
    assert_eq!(zone(&unused).grant(&name).unwrap_err().reason, Reason::CustodyDenied);
    assert_eq!(zone(LEDGER).grant(&CredentialName::new("other")).unwrap_err().reason, Reason::CustodyDenied);
    assert_eq!(Zones::deny_all().named(DENY_ALL).unwrap().grant(&name).unwrap_err().reason, Reason::CustodyDenied);
}

#[test]
fn the_built_in_zone_allows_tools_and_nothing_else() {
    let zone = Zones::deny_all().select(&facts("agent_1")).unwrap();
    assert_eq!(zone.name(), DENY_ALL);
    assert!(zone.tool_use(&ToolUse { name: "bash".to_owned() }).is_ok());
    assert_eq!(zone.request(&request("GET https://example.com/")).unwrap_err().reason, Reason::HostNotAllowed);
}

#[test]
fn forbid_in_the_policy_file_wins_at_each_decision_point() {
    let policy = r#"
        @id("read-only") @advice("only reading is allowed on Sundays")
        forbid (principal, action == Postern::Action::"egress.request", resource) when { context.method == "POST" };
        @id("no-secrets-there")
        forbid (principal, action == Postern::Action::"credential.use", resource == Postern::Credential::"ledger-api")
        when { context.path like "/v1/admin/*" };
        @id("no-plain")
        forbid (principal, action == Postern::Action::"egress.connect", resource == Postern::Host::"plain.example");
        @id("no-web")
        forbid (principal, action == Postern::Action::"tool.use", resource == Postern::Tool::"web_fetch");
    "#;
    let zone = with_policy(policy).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    let denial = zone.request(&request("POST https://api.ledger.internal/v1/x")).unwrap_err();
    assert_eq!((denial.reason, denial.rule.as_deref()), (Reason::PolicyForbidden, Some("ledger/policy/read-only")));
    assert_eq!(denial.next_step, "only reading is allowed on Sundays");
    assert!(zone.request(&request("GET https://api.ledger.internal/v1/x")).is_ok());
    assert!(zone.request(&request("GET https://api.ledger.internal/v1/admin/x")).is_ok());
    let denial = zone.request(&holding("GET https://api.ledger.internal/v1/admin/x", authorization())).unwrap_err();
    assert_eq!(denial.rule.as_deref(), Some("ledger/policy/no-secrets-there"));
    let plain =
        Connect { host: "plain.example".parse().unwrap(), port: Port::new(80).unwrap(), transport: Transport::Http };
    assert_eq!(zone.connect(&plain).unwrap_err().rule.as_deref(), Some("ledger/policy/no-plain"));
    assert_eq!(zone.tool_use(&ToolUse { name: "web_fetch".to_owned() }).unwrap_err().reason, Reason::PolicyForbidden);
    assert!(zone.tool_use(&ToolUse { name: "bash".to_owned() }).is_ok());
}

#[test]
fn a_policy_that_fails_to_evaluate_is_a_no() {
    let policy = "forbid (principal, action == Postern::Action::\"egress.request\", resource) when { context.port * 9223372036854775807 == 5 };";
    let zone = with_policy(policy).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    assert_eq!(
        zone.request(&request("GET https://api.ledger.internal/v1/x")).unwrap_err().reason,
        Reason::PolicyFailed
    );
}

#[test]
fn a_websocket_is_carried_by_rules_that_say_so_alone() {
    let of = |upgrade, url: &str| Request { upgrade, ..request(&format!("GET {url}")) };
    let document = "
[[zone.ledger.egress]]
host = \"chat.example\"
[[zone.ledger.egress]]
host = \"chat.example\"
paths = [\"/live/**\"]
websocket = true
[[zone.ledger.egress]]
host = \"plain.example\"
websocket = false
";
    let zone = zone(&format!("config = 1\n[zone.ledger]\nenvironment = \"default\"\nagents = [\"*\"]\n{document}"));
    for url in ["https://chat.example/live/x", "https://chat.example/other", "https://plain.example/"] {
        assert!(zone.request(&of(Upgrade::None, url)).is_ok(), "{url}");
    }
    let permit = zone.request(&of(Upgrade::WebSocket, "https://chat.example/live/x")).unwrap();
    assert_eq!((permit.rule(), permit.upgrade()), ("ledger/egress/2", Upgrade::WebSocket));
    for (url, reason) in [
        ("https://chat.example/other", Reason::UpgradeRefused),
        ("https://plain.example/", Reason::UpgradeRefused),
        ("https://elsewhere.example/", Reason::HostNotAllowed),
    ] {
        let denial = zone.request(&of(Upgrade::WebSocket, url)).unwrap_err();
        assert_eq!(denial.reason, reason, "{url}");
        assert_eq!(denial.next_step.contains("websocket = true"), reason == Reason::UpgradeRefused, "{url}");
    }
}
