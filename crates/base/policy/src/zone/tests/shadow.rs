use super::properties::requests;
use super::*;
use crate::reason::Reason;
use crate::request::{McpCall, ToolUse};
use crate::zone::{Shadow, ZoneInForce};
use proptest::prelude::*;
use std::sync::LazyLock;

/// A candidate that reads only, and elsewhere too.
const NEXT: &str = r#"
[zone.next]
mode = "shadow"
of = "ledger"

[[zone.next.egress]]
host = "api.ledger.internal"
methods = ["GET"]
paths = ["/v1/**"]

[[zone.next.egress]]
host = "status.example"

[[zone.next.mcp]]
server = "wiki"
tools = ["search"]
"#;

static ALONE: LazyLock<ZoneInForce> = LazyLock::new(|| ZoneInForce::new(zone(LEDGER)));
static WATCHED: LazyLock<ZoneInForce> = LazyLock::new(|| ZoneInForce::new(zone(&(LEDGER.to_owned() + NEXT))));

fn would(line: &str) -> Option<Shadow> {
    match WATCHED.request(&request(line)) {
        Ok(permit) => permit.shadow().cloned(),
        Err(denial) => denial.shadow.map(|shadow| *shadow),
    }
}

#[test]
fn where_a_candidate_differs_its_word_stands_beside_the_decision() {
    let next = |reason, rule: &str| Some(Shadow { zone: "next".to_owned(), reason, rule: Some(rule.to_owned()) });
    for (line, expected) in [
        ("GET https://api.ledger.internal/v1/x", None),
        ("POST https://api.ledger.internal/v1/x", next(Some(Reason::MethodNotAllowed), "next/egress/1")),
        ("GET https://status.example/", next(None, "next/egress/2")),
        ("GET https://evil.example/", None),
    ] {
        assert_eq!(would(line), expected, "{line}");
    }
    let zone = Arc::clone(WATCHED.opened());
    let call = McpCall { route: "wiki", method: "tools/call", tool: Some("search"), arguments: None };
    let denial = zone.mcp(&call).unwrap_err();
    assert_eq!(denial.shadow.map(|shadow| *shadow), next(None, "next/mcp/1"));
    assert_eq!(WATCHED.tool_use(&ToolUse { name: "bash".to_owned() }).unwrap().shadow(), None);
}

proptest! {
    /// Whatever the candidate says: the same requests leave, with the same secrets, and the same are refused.
    #[test]
    fn a_candidate_never_changes_a_decision(request in requests()) {
        match (ALONE.request(&request), WATCHED.request(&request)) {
            (Ok(alone), Ok(watched)) => {
                prop_assert_eq!(alone.rule(), watched.rule());
                prop_assert_eq!(alone.injections(), watched.injections());
                prop_assert_eq!(alone.target(), watched.target());
            }
            (Err(alone), Err(watched)) => {
                prop_assert_eq!(alone, crate::Denial { shadow: None, ..watched });
            }
            (alone, watched) => prop_assert!(false, "{alone:?} and {watched:?}"),
        }
    }
}

#[test]
fn a_candidate_is_selected_for_no_session_and_grants_nothing() {
    let text = LEDGER.to_owned()
        + NEXT
        + "[[zone.next.credential]]\nname = \"other\"\nsource = \"store:other\"\ninject = [{ header = \"x-key\" }]\n";
    let zones = load(&text).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    assert_eq!(zones.iter().map(|zone| zone.name()).collect::<Vec<_>>(), ["ledger"]);
    assert!(zones.named("next").is_none());
    assert_eq!(zones.select(&facts("agent_1")).unwrap().name(), "ledger");
    assert!(zones.select(&facts("agent_1")).unwrap().grant(&CredentialName::new("other")).is_err());
    assert_eq!(zones.agents_of("next"), ["*"], "it is asked about those of its zone");
    assert!(zones.warnings().iter().any(|warning| warning.message.contains("next is in shadow")));
    assert_eq!(zones.named("ledger").unwrap().digest(), zone(LEDGER).digest(), "grants go on as they are");
}

#[test]
fn a_changed_candidate_counts_for_sessions_that_run() {
    let running = ZoneInForce::new(zone(LEDGER));
    let post = request("POST https://api.ledger.internal/v1/x");
    assert_eq!(running.request(&post).unwrap().shadow(), None);
    let watched = running.succeeded(Ok(zone(&(LEDGER.to_owned() + NEXT))));
    assert_eq!(watched.request(&post).unwrap().shadow().unwrap().reason, Some(Reason::MethodNotAllowed));
    assert_eq!(watched.succeeded(Ok(zone(LEDGER))).request(&post).unwrap().shadow(), None);
}

#[test]
fn a_candidate_of_nothing_or_with_sessions_of_its_own_does_not_load() {
    for (from, to, part) in [
        ("of = \"ledger\"", "", "missing key: of"),
        ("of = \"ledger\"", "of = \"nobody\"", "no zone \"nobody\" decides"),
        ("of = \"ledger\"", "of = \"next\"", "no zone \"next\" decides"),
        ("of = \"ledger\"", "of = \"ledger\"\nenvironment = \"default\"", "leave `environment` out"),
        ("of = \"ledger\"", "of = \"ledger\"\nagents = [\"*\"]", "leave `agents` out"),
        ("mode = \"shadow\"", "mode = \"half\"", "mode must be"),
        ("mode = \"shadow\"\n", "environment = \"default\"\n", "of"),
        ("host = \"status.example\"", "host = \"status..example\"", "host"),
        (
            "[[zone.next.mcp]]",
            "[zone.third]\nmode = \"shadow\"\nof = \"ledger\"\n[[zone.next.mcp]]",
            "has a candidate already",
        ),
    ] {
        let text = LEDGER.to_owned() + &NEXT.replace(from, to);
        let errors = load(&text).expect_err(to);
        assert!(errors.iter().any(|error| error.message.contains(part)), "{to}: {}", listed(&errors));
    }
}
