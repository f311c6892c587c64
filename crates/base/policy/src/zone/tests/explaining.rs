use super::mcp::WIKI;
use super::properties::requests;
use super::*;
use crate::reason::Reason;
use crate::zone::CedarWord;
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

const POLICY: &str = r#"
    @id("read-only")
    forbid (principal, action == Postern::Action::"egress.request", resource) when { context.method == "POST" };
    @id("no-plain")
    forbid (principal, action == Postern::Action::"egress.connect", resource == Postern::Host::"plain.example");
"#;

static FORBIDDING: LazyLock<Arc<Zone>> =
    LazyLock::new(|| with_policy(POLICY).unwrap_or_else(|errors| panic!("{}", listed(&errors))));

static PLAIN: LazyLock<Arc<Zone>> = LazyLock::new(|| zone(LEDGER));

#[test]
fn an_explanation_names_each_rule_for_the_host_with_its_line_and_what_each_matcher_said() {
    let zone = zone(LEDGER);
    let explained = zone.explain_request(&request("GET https://api.ledger.internal/public/x"));
    assert_eq!(explained.decided.unwrap().rule(), "ledger/egress/4");
    let said: Vec<_> = explained.rules.iter().map(|account| (account.rule.as_str(), account.agrees())).collect();
    assert_eq!(said, [("ledger/egress/1", false), ("ledger/egress/4", true)]);
    let refused: Vec<_> = explained.rules[0].matchers.iter().filter(|(_, agrees)| !agrees).collect();
    assert_eq!(refused, [&("path", false)]);
    for account in &explained.rules {
        let line = LEDGER.lines().nth(account.line.unwrap() - 1).unwrap();
        assert_eq!(line, "[[zone.ledger.egress]]", "{}", account.rule);
    }
    assert_eq!(explained.cedar, CedarWord::Permitted { by: "ledger/egress/4".to_owned(), forbids: Vec::new() });
}

#[test]
fn an_explanation_names_the_policy_that_forbids_and_those_that_did_not() {
    let denied = FORBIDDING.explain_request(&request("POST https://api.ledger.internal/v1/x"));
    assert_eq!(denied.cedar, CedarWord::Forbidden { by: "ledger/policy/read-only".to_owned() });
    let allowed = FORBIDDING.explain_request(&request("GET https://api.ledger.internal/v1/x"));
    let CedarWord::Permitted { by, mut forbids } = allowed.cedar else { panic!("{:?}", allowed.cedar) };
    forbids.sort();
    assert_eq!(by, "ledger/egress/1");
    assert_eq!(forbids, ["ledger/policy/no-plain", "ledger/policy/read-only"]);
    let unasked = FORBIDDING.explain_request(&request("GET https://evil.example/"));
    assert_eq!(unasked.cedar, CedarWord::NotAsked);
}

#[test]
fn what_is_forbidden_to_connect_is_forbidden_to_every_request() {
    let denial = FORBIDDING.request(&request("GET http://plain.example/")).unwrap_err();
    assert_eq!((denial.reason, denial.rule.as_deref()), (Reason::PolicyForbidden, Some("ledger/policy/no-plain")));
    assert!(zone(LEDGER).request(&request("GET http://plain.example/")).is_ok());
}

#[test]
fn an_mcp_call_a_tool_and_a_grant_are_explained_too() {
    let wiki = zone(WIKI);
    let arguments = json!({"path": "drafts/a"});
    let call = crate::McpCall {
        route: "wiki",
        method: "tools/call",
        tool: Some("no_such_tool"),
        arguments: arguments.as_object(),
    };
    let explained = wiki.explain_mcp(&call);
    assert_eq!(explained.decided.unwrap_err().reason, wiki.mcp(&call).unwrap_err().reason);
    assert!(!explained.rules.is_empty() && explained.rules.iter().all(|account| account.line.is_some()));
    let ledger = zone(LEDGER);
    assert!(ledger.explain_tool(&ToolUse { name: "bash".to_owned() }).decided.is_ok());
    let granted = ledger.explain_grant(&CredentialName::new("ledger-api"));
    assert_eq!(granted.rules.iter().map(|account| account.rule.as_str()).collect::<Vec<_>>(), ["ledger/egress/1"]);
    assert_eq!(ledger.explain_grant(&CredentialName::new("other")).decided.unwrap_err().reason, Reason::CustodyDenied);
}

proptest! {
    #[test]
    fn the_explained_verdict_is_the_enforced_one_and_the_deciding_rule_agreed_in_everything(request in requests()) {
        for zone in [&*FORBIDDING, &*PLAIN] {
            let (explained, decided) = (zone.explain_request(&request), zone.request(&request));
            let verdict = |decided: &Result<crate::Permit, crate::Denial>| {
                decided.as_ref().map(|permit| permit.rule().to_owned()).map_err(Clone::clone)
            };
            prop_assert_eq!(verdict(&explained.decided), verdict(&decided));
            match decided {
                Ok(permit) => {
                    let account = explained.rules.iter().find(|account| account.rule == permit.rule());
                    prop_assert!(account.is_some_and(crate::zone::Account::agrees));
                }
                Err(_) => {
                    let permitted = matches!(explained.cedar, CedarWord::Permitted { .. });
                    prop_assert!(!permitted);
                }
            }
        }
    }
}
