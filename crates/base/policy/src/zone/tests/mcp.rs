use super::*;
use serde_json::{Map, Value, json};

pub(super) const WIKI: &str = r#"config = 1
[zone.docs]
environment = "default"

[[zone.docs.mcp]]
server = "wiki"
tools = ["search", "read_*"]

[[zone.docs.mcp]]
server = "wiki"
tools = ["write_page"]
arguments = { path = { glob = "drafts/**" }, "/options/force" = { absent = true } }

[[zone.docs.mcp]]
server = "wiki"
tools = ["write_page"]
arguments = { path = { eq = "inbox" }, size = { range = [1, 100] }, tags = { each = { in = ["a", "b"] } } }

[[zone.docs.mcp]]
server = "tickets"
methods = ["resources/*", "prompts/get"]
"#;

fn call(route: &str, method: &str, tool: Option<&str>, arguments: &Value) -> Result<McpPermit, Denial> {
    call_in(&zone(WIKI), route, method, tool, arguments)
}

pub(super) fn call_in(
    zone: &Zone,
    route: &str,
    method: &str,
    tool: Option<&str>,
    arguments: &Value,
) -> Result<McpPermit, Denial> {
    let arguments: Option<&Map<String, Value>> = arguments.as_object();
    zone.mcp(&McpCall { route, method, tool, arguments })
}

fn with_mcp_policy(policy: &str) -> Result<Arc<Zone>, Vec<ConfigError>> {
    let text = WIKI.replace("environment = \"default\"", "environment = \"default\"\npolicy_file = \"docs.cedar\"");
    let mut document = Document::parse("postern.toml", &text)?;
    document.attach("docs.cedar", policy);
    Zones::load(&document, &names()).map(|zones| zones.named("docs").unwrap())
}

#[test]
fn a_call_is_allowed_by_the_first_rule_that_agrees_whole() {
    let table = [
        ("wiki", "tools/call", Some("search"), json!({"q": "x"}), "docs/mcp/1"),
        ("wiki", "tools/call", Some("read_page"), Value::Null, "docs/mcp/1"),
        ("wiki", "tools/call", Some("write_page"), json!({"path": "drafts/a/b"}), "docs/mcp/2"),
        ("wiki", "tools/call", Some("write_page"), json!({"path": "drafts/a", "options": {}}), "docs/mcp/2"),
        ("wiki", "tools/call", Some("write_page"), json!({"path": "inbox", "size": 5, "tags": ["a"]}), "docs/mcp/3"),
        ("wiki", "initialize", None, Value::Null, "docs/mcp/1"),
        ("wiki", "ping", None, Value::Null, "docs/mcp/1"),
        ("wiki", "tools/list", None, Value::Null, "docs/mcp/1"),
        ("wiki", "notifications/cancelled", None, Value::Null, "docs/mcp/1"),
        ("tickets", "initialize", None, Value::Null, "docs/mcp/4"),
        ("tickets", "tools/list", None, Value::Null, "docs/mcp/4"),
        ("tickets", "resources/read", None, Value::Null, "docs/mcp/4"),
        ("tickets", "resources/templates/list", None, Value::Null, "docs/mcp/4"),
        ("tickets", "prompts/get", None, Value::Null, "docs/mcp/4"),
    ];
    for (route, method, tool, arguments, rule) in table {
        let permit = call(route, method, tool, &arguments).unwrap_or_else(|denial| panic!("{method}: {denial}"));
        assert_eq!(permit.rule(), rule, "{method} {tool:?}");
        assert_eq!((permit.route(), permit.method(), permit.tool()), (route, method, tool));
        assert_eq!((permit.zone(), permit.policy_digest()), ("docs", zone(WIKI).digest()));
    }
}

#[test]
fn a_denial_is_as_exact_as_the_nearest_rule() {
    let table = [
        ("payroll", "tools/call", Some("search"), json!({}), Reason::McpServerNotAllowed, None, "wiki, tickets"),
        ("WIKI", "tools/call", Some("search"), json!({}), Reason::McpServerNotAllowed, None, "wiki, tickets"),
        ("payroll", "initialize", None, json!({}), Reason::McpServerNotAllowed, None, "wiki, tickets"),
        ("wiki", "resources/read", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/1"), "tools/call"),
        ("tickets", "prompts/list", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/4"), "resources/*"),
        ("wiki", "tools/calls", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/1"), "tools/list"),
        ("wiki", "", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/1"), "tools/list"),
        ("wiki", "notifications/", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/1"), "tools/list"),
        ("wiki", "notifications/a b", None, json!({}), Reason::McpMethodNotAllowed, Some("docs/mcp/1"), "tools/list"),
        (
            "tickets",
            "tools/call",
            Some("x"),
            json!({}),
            Reason::ToolNotAllowed,
            Some("docs/mcp/4"),
            "no tools of tickets",
        ),
        ("wiki", "tools/call", Some("delete"), json!({}), Reason::ToolNotAllowed, Some("docs/mcp/1"), "search, read_*"),
        ("wiki", "tools/call", Some(""), json!({}), Reason::ToolNotAllowed, Some("docs/mcp/1"), "search"),
        ("wiki", "tools/call", None, json!({}), Reason::ToolNotAllowed, Some("docs/mcp/1"), "search"),
        ("wiki", "tools/call", Some("read_a\n"), json!({}), Reason::ToolNotAllowed, Some("docs/mcp/1"), "search"),
        (
            "wiki",
            "tools/call",
            Some("write_page"),
            json!({"path": "etc/passwd"}),
            Reason::ArgumentNotAllowed,
            Some("docs/mcp/2"),
            "argument \"path\" must be given and be a string like \"drafts/**\"",
        ),
        (
            "wiki",
            "tools/call",
            Some("write_page"),
            json!({"path": "drafts/a", "options": {"force": false}}),
            Reason::ArgumentNotAllowed,
            Some("docs/mcp/2"),
            "leave argument \"/options/force\" out",
        ),
        (
            "wiki",
            "tools/call",
            Some("write_page"),
            json!({"path": "inbox", "size": 101, "tags": ["a"]}),
            Reason::ArgumentNotAllowed,
            Some("docs/mcp/3"),
            "argument \"size\" must be given and be a number from 1 to 100",
        ),
        (
            "wiki",
            "tools/call",
            Some("write_page"),
            json!({"path": "inbox", "size": 1, "tags": []}),
            Reason::ArgumentNotAllowed,
            Some("docs/mcp/3"),
            "argument \"tags\"",
        ),
        (
            "wiki",
            "tools/call",
            Some("write_page"),
            json!({"path": "drafts/a", "PATH": "etc"}),
            Reason::ArgumentNotAllowed,
            Some("docs/mcp/2"),
            "give argument \"path\" once, in this spelling only",
        ),
    ];
    for (route, method, tool, arguments, reason, rule, step) in table {
        let denial = call(route, method, tool, &arguments).unwrap_err();
        assert_eq!((denial.reason, denial.rule.as_deref()), (reason, rule), "{method} {tool:?} {arguments}: {denial}");
        assert!(denial.next_step.contains(step), "{denial}");
        assert!(!denial.alarm);
    }
}

#[test]
fn a_zone_without_rules_reaches_no_server() {
    for zone in [zone(LEDGER), Arc::new(Zone::deny_all())] {
        for method in ["initialize", "tools/list", "tools/call", "ping"] {
            let denial = call_in(&zone, "wiki", method, Some("search"), &json!({})).unwrap_err();
            assert_eq!(denial.reason, Reason::McpServerNotAllowed);
            assert!(zone.mcp_servers().is_empty());
        }
    }
    assert_eq!(zone(WIKI).mcp_servers(), ["wiki", "tickets"]);
}

#[test]
fn a_denial_never_says_what_the_agent_sent_and_is_never_long() {
    let marker = "EXFIL";
    let long = marker.repeat(1000);
    let arguments = json!({"path": long, &long: long, "PATH": long, "options": {"force": long}});
    let many: String = (0..200).map(|number| format!("\"tool_number_{number}\",")).collect();
    let crowded = zone(&WIKI.replace("\"search\", \"read_*\"", &many));
    for zone in [zone(WIKI), crowded] {
        for (route, method, tool) in [
            (long.as_str(), "tools/call", "search"),
            ("wiki", long.as_str(), "search"),
            ("wiki", "tools/call", long.as_str()),
            ("wiki", "tools/call", "write_page"),
        ] {
            let denial = call_in(&zone, route, method, Some(tool), &arguments).unwrap_err();
            assert!(!denial.to_string().contains(marker), "{denial}");
            assert!(denial.next_step.len() < 800, "{}", denial.next_step.len());
        }
    }
}

#[test]
fn a_tool_named_with_another_method_is_not_called_by_it() {
    let permit = call("wiki", "tools/list", Some("delete"), &json!({"path": "x"})).unwrap();
    assert_eq!(permit.tool(), None);
}

#[test]
fn a_policy_file_forbids_calls_by_server_method_and_tool() {
    let table = [
        ("context.tool == \"search\"", false, true, true),
        ("context.method == \"tools/call\" && context.tool like \"read_*\"", true, false, true),
        ("context.method == \"initialize\"", true, true, false),
        ("context.server == \"wiki\"", false, false, false),
        ("resource == Postern::McpServer::\"wiki\"", false, false, false),
        ("context.server == \"tickets\"", true, true, true),
    ];
    for (condition, search, read, initialize) in table {
        let policy = format!(
            "@id(\"careful\") @advice(\"ask first\") forbid (principal, action == Postern::Action::\"mcp.call\", resource) when {{ {condition} }};"
        );
        let zone = with_mcp_policy(&policy).unwrap_or_else(|errors| panic!("{condition}: {}", super::listed(&errors)));
        let calls = [
            ("tools/call", Some("search"), search),
            ("tools/call", Some("read_x"), read),
            ("initialize", None, initialize),
        ];
        for (method, tool, allowed) in calls {
            let answer = call_in(&zone, "wiki", method, tool, &json!({}));
            assert_eq!(answer.is_ok(), allowed, "{condition}: {method} {tool:?}");
            if let Err(denial) = answer {
                assert_eq!((denial.reason, denial.next_step.as_str()), (Reason::PolicyForbidden, "ask first"));
                assert_eq!(denial.rule.as_deref(), Some("docs/policy/careful"));
            }
        }
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    // An overflow is an error at evaluation, which Cedar alone would pass over.
    let policy = "forbid (principal, action == Postern::Action::\"mcp.call\", resource) when { 9223372036854775807 + (if context.tool == \"search\" then 1 else 0) < 0 };";
    let zone = with_mcp_policy(policy).unwrap_or_else(|errors| panic!("{}", super::listed(&errors)));
    assert_eq!(
        call_in(&zone, "wiki", "tools/call", Some("search"), &json!({})).unwrap_err().reason,
        Reason::PolicyFailed
    );
    assert!(call_in(&zone, "wiki", "tools/call", Some("read_x"), &json!({})).is_ok());
}

#[test]
fn a_policy_over_calls_may_only_speak_of_what_exists_there_and_only_forbid() {
    let table = [
        (
            "forbid (principal, action == Postern::Action::\"mcp.call\", resource) when { context.path == \"x\" };",
            "path",
        ),
        ("forbid (principal, action == Postern::Action::\"mcp.call\", resource) when { context.tool == 1 };", "type"),
        ("permit (principal, action == Postern::Action::\"mcp.call\", resource);", "[[zone.docs.mcp]]"),
        ("forbid (principal, action == Postern::Action::\"mcp.calls\", resource);", "mcp.calls"),
    ];
    for (policy, message) in table {
        let errors = super::listed(&with_mcp_policy(policy).map(|_| ()).unwrap_err());
        assert!(errors.contains("policy_file: ") && errors.contains(message), "{policy}: {errors}");
    }
}

#[test]
fn each_mistake_in_an_mcp_rule_is_refused_where_it_stands() {
    let table = [
        ("server = \"wiki\"\n", "", "5:1: missing key: server"),
        ("server = \"wiki\"", "server = \"Wiki.example\"", "6:10: server is the name of a gateway route"),
        ("server = \"wiki\"", "server = 7", "6:10: server must be a string"),
        ("tools = [\"search\", \"read_*\"]\n", "", "5:1: the rule allows no tool"),
        ("\"search\", \"read_*\"", "", "5:1: tools is empty"),
        ("\"search\", \"read_*\"", "\"a\", \"re[ad]\"", "7:15: tools: globs know *, ** and ? only"),
        ("\"search\", \"read_*\"", "\"a\", 5", "7:15: tools must be a string"),
        ("\"search\"", "\"\"", "7:10: tools: the glob is empty"),
        ("methods = [\"resources/*\"", "methods = [\"tools/call\"", "21:12: methods: tools are named in `tools`"),
        ("methods = [\"resources/*\"", "methods = [\"tools/*\"", "21:12: methods: tools are named in `tools`"),
        ("methods = [\"resources/*\"", "methods = [\"*\"", "21:12: methods: not an MCP method"),
        ("methods = [\"resources/*\"", "methods = [\"/x\"", "21:12: methods: not an MCP method"),
        ("methods = [\"resources/*\"", "methods = [\"ping\"", "21:12: methods: this method goes with every rule"),
        (
            "methods = [\"resources/*\"",
            "methods = [\"notifications/*\"",
            "21:12: methods: this method goes with every rule",
        ),
        ("\"resources/*\", \"prompts/get\"", "", "19:1: methods is empty"),
        (
            "methods = [\"resources/*\", \"prompts/get\"]",
            "arguments = { a = { eq = 1 } }",
            "19:1: arguments are those of tools",
        ),
        ("glob = \"drafts/**\"", "matches = \"x\"", "12:24: unknown key: matches in [zone.docs.mcp.arguments.path]"),
        ("tools = [\"write_page\"]", "tool = \"x\"", "11:1: unknown key: tool in [zone.docs.mcp]"),
    ];
    for (from, to, message) in table {
        assert!(WIKI.contains(from), "{from}");
        let errors = super::listed(&load(&WIKI.replacen(from, to, 1)).map(|_| ()).unwrap_err());
        assert!(errors.contains(&format!("postern.toml:{message}")), "{from} -> {to}: {errors}");
    }
}

#[test]
fn a_zones_digest_follows_its_mcp_rules() {
    let digest = |text: &str| zone(text).digest().to_owned();
    assert_ne!(digest(WIKI), digest(&WIKI.replace("read_*", "read_?")));
    assert_ne!(digest(WIKI), digest(&WIKI.replace("[1, 100]", "[1, 101]")));
}
