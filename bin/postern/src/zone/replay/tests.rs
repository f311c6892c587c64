use super::*;
use crate::zone::record::examples::{egress, mcp, opened, zones};

const NEW: &str = r#"config = 1
[zone.ops]
environment = "default"
[[zone.ops.credential]]
name = "key"
source = "store:key"
inject = [{ header = "authorization" }]
[[zone.ops.egress]]
host = "api.example"
methods = ["GET"]
credential = "key"
[[zone.ops.egress]]
host = "new.example"
[[zone.ops.mcp]]
server = "wiki"
tools = ["search"]
[[zone.ops.mcp]]
server = "wiki"
tools = ["read"]
arguments = { path = { eq = "/a" } }
"#;

fn one(entry: Entry) -> String {
    under(NEW, vec![entry])
}

/// The first line about the one decision among these.
fn under(configuration: &str, entries: Vec<Entry>) -> String {
    let opened = opened("agent_a@1", "ops");
    let recorded = Recorded::of([opened].into_iter().chain(entries).collect(), None);
    let replay = Replay::of(&recorded, &zones(configuration));
    assert_eq!(replay.decisions, 1);
    let text = replay.text(&recorded);
    text.lines().next().unwrap_or_default().to_owned()
}

fn ops(lines: &str) -> String {
    format!("config = 1\n[zone.ops]\nenvironment = \"default\"\n{lines}")
}

fn asked(line: &str, reason: Option<Reason>) -> Entry {
    egress("agent_a@1", line, reason)
}

#[test]
fn each_decision_comes_out_as_the_new_zone_decides_it() {
    let with_key = |line: &str| {
        let mut entry = asked(line, None);
        entry.record.credential = Some("key".to_owned());
        entry
    };
    let table = [
        (asked("GET https://api.example:443/x", None), "1 decisions: 1 the same"),
        (
            asked("POST https://api.example:443/x", None),
            "allow -> DENY   1x  POST https://api.example:443/x  method_not_allowed ops/egress/1",
        ),
        (
            asked("GET https://new.example:443/x", Some(Reason::HostNotAllowed)),
            "deny -> ALLOW   1x  GET https://new.example:443/x  ops/egress/2",
        ),
        (asked("GET https://evil.example:443/x", Some(Reason::HostNotAllowed)), "1 decisions: 1 the same"),
        (with_key("GET https://api.example:443/x"), "1 decisions: 1 the same"),
        (
            with_key("GET https://new.example:443/x"),
            "allow -> DENY   1x  GET https://new.example:443/x  placeholder_wrong_host ops/egress/1",
        ),
        (mcp("agent_a@1", "wiki", "search", None), "1 decisions: 1 the same"),
        (
            mcp("agent_a@1", "wiki", "write", None),
            "allow -> DENY   1x  tools/call mcp://wiki/write  tool_not_allowed ops/mcp/1",
        ),
    ];
    for (entry, expected) in table {
        let said = one(entry);
        assert!(said.starts_with(expected), "{said} is not {expected}");
    }
}

#[test]
fn what_hangs_on_something_that_the_log_does_not_hold_is_not_judged() {
    for entry in [
        mcp("agent_a@1", "wiki", "read", None),
        asked("GET https://new.example:443/x", Some(Reason::ForeignCredential)),
        asked("GET https://new.example:443/cut\u{2026}", None),
        egress("agent_unknown@1", "GET https://new.example:443/x", None),
    ] {
        let said = one(entry);
        assert_eq!(said, "1 decisions: 0 the same, 0 changed, 1 not judged");
    }
}

#[test]
fn what_passes_unseen_now_is_judged_by_host_and_port_alone() {
    let passing = ops("[[zone.ops.egress]]\nhost = \"a.example\"\ninspect = false\n");
    let now = |line: &str, reason| under(&passing, vec![asked(line, reason)]);
    let same = "1 decisions: 1 the same";
    assert!(now("GET https://a.example:443/ok", None).starts_with(same));
    let refused = now("DELETE https://a.example:443/admin", Some(Reason::MethodNotAllowed));
    assert!(refused.starts_with("deny -> ALLOW   1x  DELETE https://a.example:443/admin  ops/egress/1"), "{refused}");
    assert!(now("GET https://a.example:8443/x", Some(Reason::PortNotAllowed)).starts_with(same));
}

#[test]
fn a_client_certificate_stands_nowhere_in_a_request_and_a_repositorys_token_is_not_judged() {
    let zone =
        ops("[[zone.ops.credential]]\nname = \"c\"\nsource = \"store:c\"\ninject = [{ client_certificate = true }]\n\
         [[zone.ops.egress]]\nhost = \"a.example\"\nmethods = [\"GET\"]\nclient_certificate = \"c\"\n\
         [[zone.ops.egress]]\nhost = \"git.example\"\nrepositories = true\n");
    let with = |line: &str, credential: &str| {
        let mut entry = asked(line, None);
        entry.record.credential = Some(credential.to_owned());
        under(&zone, vec![entry])
    };
    assert!(with("GET https://a.example:443/x", "c").starts_with("1 decisions: 1 the same"));
    assert!(with("PUT https://a.example:443/x", "c").contains("allow -> DENY"));
    let cloned = with("GET https://git.example:443/org/repo.git/info/refs", "repository:sesrsc_1");
    assert_eq!(cloned, "1 decisions: 0 the same, 0 changed, 1 not judged");
}

#[test]
fn a_rule_that_wants_an_argument_left_out_judges_no_recorded_call() {
    let absent = "[[zone.ops.mcp]]\nserver = \"wiki\"\ntools = [\"search\"]\narguments = { all = { absent = true } }\n";
    let any = "[[zone.ops.mcp]]\nserver = \"wiki\"\ntools = [\"search\"]\n";
    let call = |rules: &str| under(&ops(rules), vec![mcp("agent_a@1", "wiki", "search", None)]);
    assert_eq!(call(absent), "1 decisions: 0 the same, 0 changed, 1 not judged");
    assert!(call(&format!("{absent}{any}")).starts_with("1 decisions: 1 the same"));
}

#[test]
fn a_request_that_became_a_websocket_is_asked_as_one() {
    let zone = |more: &str| ops(&format!("[[zone.ops.egress]]\nhost = \"ws.example\"\n{more}"));
    let request = asked("GET https://ws.example:443/socket", None);
    let mut outcome = asked("GET https://ws.example:443/socket", None);
    outcome.record.kind = Kind::EgressOutcome;
    outcome.record.decision = Decision::Info;
    outcome.record.caused_by = Some(request.seq);
    outcome.record.counts.insert("status".to_owned(), 101);
    let now = |more: &str, status: u64| {
        let mut outcome = outcome.clone();
        outcome.record.counts.insert("status".to_owned(), status);
        under(&zone(more), vec![request.clone(), outcome])
    };
    assert!(now("", 101).contains("upgrade_refused"));
    for (more, status) in [("websocket = true\n", 101), ("", 200)] {
        assert!(now(more, status).starts_with("1 decisions: 1 the same"), "{more} {status}");
    }
}

#[test]
fn what_an_agent_named_is_shown_without_what_a_terminal_obeys() {
    let hostile = "\u{202e}gnp.exe\n0 decisions: all is well\u{1b}[8m";
    let called = one(mcp("agent_a@1", "wiki", hostile, None));
    assert!(called.contains(r"mcp://wiki/\u{202e}gnp.exe\n0 decisions: all is well\u{1b}[8m"), "{called}");
    let mut used = asked("GET https://a.example:443/", Some(Reason::PolicyForbidden));
    used.record.kind = Kind::ToolUse;
    used.record.counts.insert(format!("tool_{hostile}"), 1);
    let used = one(used);
    assert!(used.contains(r"tool \u{202e}gnp.exe\n0 decisions"), "{used}");
}
