use super::mcp::{WIKI, call_in};
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

static WITHOUT: LazyLock<Arc<Zone>> = LazyLock::new(|| zone(WIKI));

/// Rules that are added to a zone, at its end or before all others.
const MORE: &[&str] = &[
    "server = \"wiki\"\ntools = [\"*\"]",
    "server = \"wiki\"\ntools = [\"write_page\"]\narguments = { path = { eq = \"inbox\" } }",
    "server = \"tickets\"\ntools = [\"close\"]",
    "server = \"payroll\"\nmethods = [\"logging/*\"]",
];

static WITH: LazyLock<Vec<Arc<Zone>>> = LazyLock::new(|| {
    let first = WIKI.find("[[zone.docs.mcp]]").unwrap();
    let rule = |more: &&str| format!("[[zone.docs.mcp]]\n{more}\n");
    let after = MORE.iter().map(|more| zone(&format!("{WIKI}{}", rule(more))));
    let before = MORE.iter().map(|more| zone(&format!("{}{}{}", &WIKI[..first], rule(more), &WIKI[first..])));
    after.chain(before).collect()
});

fn routes() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["wiki", "tickets", "payroll", "Wiki", ""])
}

fn methods() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "tools/call",
        "tools/call",
        "tools/list",
        "initialize",
        "resources/read",
        "prompts/get",
        "x",
    ])
}

fn tools() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["search", "read_a", "write_page", "delete", "", "close"]))
}

fn arguments() -> impl Strategy<Value = Value> {
    let value = prop::sample::select(vec![
        json!("drafts/a"),
        json!("inbox"),
        json!("drafts/../x"),
        json!(5),
        json!(500),
        json!(["a"]),
        json!([]),
        json!({"force": true}),
        json!({}),
        Value::Null,
    ]);
    let key = prop::sample::select(vec!["path", "Path", "size", "tags", "options", "other"]);
    prop::collection::hash_map(key, value, 0..5)
        .prop_map(|members| Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

proptest! {
    #[test]
    fn adding_a_rule_takes_nothing_away(
        route in routes(), method in methods(), tool in tools(), arguments in arguments(),
    ) {
        if call_in(&WITHOUT, route, method, tool, &arguments).is_ok() {
            for zone in WITH.iter() {
                prop_assert!(call_in(zone, route, method, tool, &arguments).is_ok());
            }
        }
    }

    #[test]
    fn a_permit_says_what_was_asked_and_its_rule_is_the_zones(
        route in routes(), method in methods(), tool in tools(), arguments in arguments(),
    ) {
        if let Ok(permit) = call_in(&WITHOUT, route, method, tool, &arguments) {
            prop_assert_eq!((permit.route(), permit.method()), (route, method));
            prop_assert_eq!(permit.tool(), tool.filter(|_| method == "tools/call"));
            prop_assert!(permit.rule().starts_with("docs/mcp/"));
        }
    }

    #[test]
    fn a_tool_with_a_rule_about_its_arguments_is_never_called_without_them(
        arguments in arguments(),
    ) {
        let named = arguments.get("path").is_some();
        let allowed = call_in(&WITHOUT, "wiki", "tools/call", Some("write_page"), &arguments).is_ok();
        prop_assert!(!allowed || named);
        prop_assert!(!allowed || arguments.get("Path").is_none());
    }

    #[test]
    fn a_policy_that_forbids_a_tool_holds_whatever_the_arguments(arguments in arguments()) {
        let denied = call_in(&FORBIDDING, "wiki", "tools/call", Some("write_page"), &arguments);
        prop_assert!(denied.is_err());
    }
}

static FORBIDDING: LazyLock<Arc<Zone>> = LazyLock::new(|| {
    let text = WIKI.replace("environment = \"default\"", "environment = \"default\"\npolicy_file = \"docs.cedar\"");
    let mut document = Document::parse("postern.toml", &text).unwrap();
    let policy = "forbid (principal, action == Postern::Action::\"mcp.call\", resource) when { context.tool == \"write_page\" };";
    document.attach("docs.cedar", policy);
    Zones::load(&document, &names()).unwrap().named("docs").unwrap()
});
