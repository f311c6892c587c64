use super::*;
use crate::zone::record::examples::{egress, mcp, opened, zones};

const SHARED: &str = "config = 1\n[zone.ops]\nenvironment = \"default\"\n";
const OWN: &str = "config = 1\n[zone.ops]\nenvironment = \"default\"\nagents = [\"agent_a\"]\n";
const A: &str = "agent_a@1";

fn learned(entries: Vec<Entry>, configuration: &str) -> String {
    let mut all = vec![opened(A, "ops"), opened("agent_b@1", "ops")];
    all.extend(entries);
    Proposal::of("agent_a", Whose::Enforced, &Recorded::of(all, None), &zones(configuration)).text()
}

#[test]
fn refusals_become_exact_rules_that_load_and_allow_what_was_refused_and_no_more() {
    let refused = vec![
        egress(A, "GET https://api.example:443/v1/a", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/v1/b", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/v1/b", Some(Reason::PathNotAllowed)),
        egress(A, "DELETE https://api.example:443/v1/d", Some(Reason::MethodNotAllowed)),
        egress(A, "GET http://plain.example:8080/", Some(Reason::HostNotAllowed)),
        mcp(A, "wiki", "search", Some(Reason::ToolNotAllowed)),
    ];
    let text = learned(refused, OWN);
    assert!(text.contains("refused 3x, first 2026-01-02T03:04:05Z"), "{text}");
    let proposed = zones(&format!("{OWN}{text}"));
    let zone = proposed.named("ops").unwrap();
    let allowed = |line: &str| zone.request(&record::request(&egress(A, line, None)).unwrap()).is_ok();
    for line in
        ["GET https://api.example:443/v1/a", "GET https://api.example:443/v1/b", "GET http://plain.example:8080/"]
    {
        assert!(allowed(line), "{line}\n{text}");
    }
    for line in [
        "DELETE https://api.example:443/v1/a",
        "GET https://api.example:443/v1/d",
        "GET https://api.example:443/v1/c",
        "POST https://api.example:443/v1/a",
        "GET https://api.example:8443/v1/a",
    ] {
        assert!(!allowed(line), "{line}\n{text}");
    }
    let call =
        |tool| postern_policy::McpCall { route: "wiki", method: "tools/call", tool: Some(tool), arguments: None };
    assert!(zone.mcp(&call("search")).is_ok() && zone.mcp(&call("delete")).is_err());
}

#[test]
fn nothing_is_learned_from_another_agent() {
    let text = learned(vec![egress("agent_b@1", "GET https://b.example:443/", Some(Reason::HostNotAllowed))], OWN);
    assert!(!text.contains("b.example"), "{text}");
}

#[test]
fn a_zone_that_covers_others_gets_no_rule_and_the_agent_a_zone_of_its_own() {
    let refused = vec![egress(A, "GET https://api.example:443/", Some(Reason::HostNotAllowed))];
    let text = learned(refused, SHARED);
    assert!(text.contains("# Zone ops covers others too (*)") && !text.contains("[[zone.ops."), "{text}");
    let apart = zones(&text);
    assert_eq!(apart.agents_of(apart.iter().next().unwrap().name()), ["agent_a"]);
}

#[test]
fn what_an_agent_wrote_never_becomes_a_pattern_and_no_alarm_becomes_a_rule() {
    let hostile = vec![
        egress(A, "GET https://api.example:443/**", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/a*/b", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://93.184.216.34:443/", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/x\"\\n[zone.evil]", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/cut\u{2026}", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://*.example:443/", Some(Reason::HostNotAllowed)),
        egress(A, "GET https://api.example:443/", Some(Reason::PlaceholderWrongHost)),
        egress(A, "GET https://api.example:443/", Some(Reason::ForeignCredential)),
        mcp(A, "wiki", "*", Some(Reason::ToolNotAllowed)),
        mcp(A, "wiki", "re?d", Some(Reason::ToolNotAllowed)),
        mcp(A, "wi\"ki", "read", Some(Reason::McpServerNotAllowed)),
    ];
    let text = learned(hostile, OWN);
    assert!(text.lines().all(|line| line.starts_with('#') || line.is_empty()), "{text}");
    assert!(text.contains("placeholder_wrong_host") && text.contains("with a star"), "{text}");
}

#[test]
fn a_host_where_anybody_can_have_a_name_is_warned_of() {
    let refused = vec![egress(A, "PUT https://bucket.s3.amazonaws.com:443/k", Some(Reason::HostNotAllowed))];
    assert!(learned(refused, OWN).contains("WARNING: anybody can have a name there"));
}

#[test]
fn what_a_candidate_would_have_refused_becomes_rules_for_it_and_what_was_refused_does_not() {
    let candidate = "[zone.next]\nmode = \"shadow\"\nof = \"ops\"\n";
    let mut now_allowed = egress(A, "GET https://api.example:443/v1/a", None);
    now_allowed.record.shadow = Some(postern_audit::Shadow::new("next", Some("host_not_allowed"), None));
    let mut would_allow = egress(A, "GET https://other.example:443/", Some(Reason::HostNotAllowed));
    would_allow.record.shadow = Some(postern_audit::Shadow::new("next", None, Some("next/egress/1")));
    let recorded = Recorded::of(vec![opened(A, "ops"), now_allowed, would_allow], None);
    let configuration = format!("{OWN}{candidate}");
    let text = Proposal::of("agent_a", Whose::Candidate, &recorded, &zones(&configuration)).text();
    assert!(text.contains("[[zone.next.egress]]\nhost = \"api.example\"") && !text.contains("other.example"), "{text}");
    zones(&format!("{configuration}{text}"));
    let text = Proposal::of("agent_a", Whose::Enforced, &recorded, &zones(&configuration)).text();
    assert!(text.contains("[[zone.ops.egress]]\nhost = \"other.example\"") && !text.contains("api.example"), "{text}");
}

/// What is proposed where the log says that the agent had this zone.
fn having(zone: &str, configuration: &str) -> String {
    let mut refused = egress(A, "GET https://api.example:443/", Some(Reason::HostNotAllowed));
    refused.record.zone = Some(zone.to_owned());
    Proposal::of("agent_a", Whose::Enforced, &Recorded::of(vec![refused], None), &zones(configuration)).text()
}

#[test]
fn a_zone_of_the_agents_own_stands_in_the_environment_of_the_one_it_had() {
    let text = having("prod", "config = 1\n[zone.prod]\nenvironment = \"env_prod1\"\n");
    assert!(text.contains("environment = \"env_prod1\""), "{text}");
    for (zone, said) in [("deny-all", "had no zone"), ("gone", "Zone gone is not in this file")] {
        let text = having(zone, SHARED);
        assert!(text.contains(said) && !text.contains("covers others"), "{text}");
        assert!(text.contains("correct `environment`") && text.contains("environment = \"default\""), "{text}");
        zones(&text);
    }
}

#[test]
fn a_zones_name_in_a_forged_log_becomes_no_line_of_the_proposal() {
    let forged = "x\n[zone.evil]\nenvironment = \"env_2\"\n[[zone.evil.egress]]\nhost = \"evil.example\"\n#";
    let text = having(forged, SHARED);
    let proposed = zones(&text);
    assert_eq!(proposed.iter().map(|zone| zone.name()).collect::<Vec<_>>(), ["only-agenta"], "{text}");
}
