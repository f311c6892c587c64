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
    let recorded = Recorded::of(vec![opened("agent_a@1", "ops"), entry], None);
    let replay = Replay::of(&recorded, &zones(NEW));
    assert_eq!(replay.decisions, 1);
    let text = replay.text(&recorded);
    text.lines().next().unwrap_or_default().to_owned()
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
