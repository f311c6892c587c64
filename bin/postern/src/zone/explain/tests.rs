use clap::Parser;

use super::*;
use crate::zone::record::examples::with_policy;

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    explain: ExplainArguments,
}

/// `allowed`, or the reason of the refusal, and the whole answer.
fn asked(zone: &str, words: &[&str]) -> (String, String) {
    let policy = r#"forbid (principal, action == Postern::Action::"egress.connect", resource) when { context.transport == "tls" };"#;
    let zones = with_policy(&format!("config = 1\n[zone.a]\nenvironment = \"default\"\n{zone}"), policy);
    let Words { explain } = Words::parse_from([&["explain"], words].concat());
    let answer = match question::read(&explain).unwrap_or_else(|_| panic!("{words:?} is no question")) {
        Ok(question) => Answer::of(&zones.named("a").unwrap(), &question, explain.address),
        Err(denial) => Answer::before_any_rule(denial),
    };
    let verdict = answer.denial.as_ref().map_or("allowed", |denial| denial.reason.code()).to_owned();
    (verdict, answer.text("", Path::new("x")))
}

#[test]
fn the_address_of_a_connection_that_passes_unseen_is_judged() {
    let passing = |more: &str| format!("[[zone.a.egress]]\nhost = \"a.example\"\ninspect = false\n{more}\n");
    let table = [
        ("", Some("169.254.169.254"), "address_metadata", "a.example:443 at 169.254.169.254"),
        ("", Some("10.0.0.5"), "address_private", "uninspected"),
        ("", Some("93.184.216.34"), "allowed", "the address is allowed; uninspected"),
        ("", None, "allowed", "try --address"),
        ("addresses = [\"10.0.0.0/8\"]", Some("8.8.8.8"), "address_not_allowed", "uninspected"),
        ("connect = \"93.184.216.34:8443\"", None, "allowed", "93.184.216.34:8443; the address is allowed"),
    ];
    for (more, address, verdict, dialled) in table {
        let mut words = vec!["GET", "https://a.example/x"];
        words.extend(address.into_iter().flat_map(|address| ["--address", address]));
        let (said, text) = asked(&passing(more), &words);
        assert_eq!(said, verdict, "{more} {address:?}");
        assert!(text.contains(dialled), "{text}");
    }
}

#[test]
fn what_egress_refuses_before_it_asks_a_zone_is_refused_with_the_same_reason() {
    let zone = "[[zone.a.egress]]\nhost = \"a.example\"\nwebsocket = true\n";
    let table: &[(&str, &str, &[&str], &str)] = &[
        ("GET", "https://a.example/x", &[], "allowed"),
        ("GET", "https://a.example:443/x", &["Host: A.example."], "allowed"),
        ("GET", "https://a.example/x", &["Upgrade: websocket"], "allowed"),
        ("GET", "https://a.example/x", &["Connection: keep-alive, Upgrade", "Upgrade: WebSocket"], "allowed"),
        ("POST", "https://a.example/x", &["Transfer-Encoding: chunked"], "allowed"),
        ("GET", "https://a.example:+443/x", &[], "request_malformed"),
        ("GET", "https://a.example:/x", &[], "request_malformed"),
        ("GET", "https://a.example/x", &["Upgrade: h2c"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["Upgrade: websocket", "Upgrade: h2c"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["Upgrade: websocket", "HTTP2-Settings: x"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["HTTP2-Settings: x"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["Connection: close, upgrade"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["Connection: close", "Upgrade: websocket"], "upgrade_refused"),
        ("POST", "https://a.example/x", &["Upgrade: websocket"], "upgrade_refused"),
        ("GET", "https://a.example/x", &["Host: evil.example"], "authority_mismatch"),
        ("GET", "https://a.example/x", &["Host: a.example:80"], "authority_mismatch"),
        ("GET", "https://a.example/x", &["Host: a.example", "Host: a.example"], "request_malformed"),
        ("POST", "https://a.example/x", &["Transfer-Encoding: gzip, chunked"], "request_malformed"),
        ("POST", "https://a.example/x", &["Transfer-Encoding: chunked", "Content-Length: 1"], "request_malformed"),
    ];
    for (method, url, headers, verdict) in table {
        let mut words = vec![*method, *url];
        words.extend(headers.iter().flat_map(|header| ["--header", *header]));
        assert_eq!(asked(zone, &words).0, *verdict, "{words:?}");
    }
}

#[test]
fn arguments_that_two_parsers_read_differently_are_refused() {
    let zone = "[[zone.a.mcp]]\nserver = \"w\"\ntools = [\"t\"]\narguments = { p = { eq = \"ok\" } }\n";
    for (arguments, verdict) in [
        (r#"{"p": "ok"}"#, "allowed"),
        (r#"{"p": "evil", "p": "ok"}"#, "request_malformed"),
        (r#"{"p": "ok", "P": "evil"}"#, "request_malformed"),
        (r#"{"p": "evil"}"#, "argument_not_allowed"),
    ] {
        assert_eq!(asked(zone, &["mcp", "w", "t", arguments]).0, verdict, "{arguments}");
    }
}

#[test]
fn a_connection_of_which_nothing_could_pass_is_refused_though_it_begins() {
    let zone = |more: &str| format!("policy_file = \"a.cedar\"\n[[zone.a.egress]]\nhost = \"a.example\"\n{more}");
    let plain = "[[zone.a.egress]]\nhost = \"a.example\"\nscheme = \"http\"\nports = [443]\n";
    for (more, verdict) in [("", "policy_forbidden"), ("inspect = false\n", "policy_forbidden"), (plain, "allowed")] {
        assert_eq!(asked(&zone(more), &["connect", "a.example:443"]).0, verdict, "{more}");
    }
}
