use super::load::{Builder, PolicyFile};
use super::{Action, Attribute, Policies, fact};
use std::collections::BTreeSet;

use cedar_policy::{Schema, ValidationMode, Validator};

#[test]
fn the_shipped_schema_reads_without_a_warning_and_names_the_five_decision_points() {
    let (schema, warnings) = Schema::from_cedarschema_str(include_str!("postern.cedarschema")).unwrap();
    assert_eq!(warnings.count(), 0);
    let mut actions: Vec<String> = schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
    actions.sort();
    assert_eq!(actions, ["credential.use", "egress.connect", "egress.request", "mcp.call", "tool.use"]);
    drop(Validator::new(schema).validate(&cedar_policy::PolicySet::new(), ValidationMode::Strict));
}

#[test]
fn generated_permits_pass_the_schema() {
    let mut builder = Builder::new("ledger");
    builder.add_rule("ledger/egress/1", &["ledger-api"]);
    builder.add_rule("ledger/egress/2", &[]);
    assert!(builder.finish().is_ok());
}

/// A question about a rule with all its facts but one.
fn ask(policies: &Policies, rule: &str, action: Action, resource: &str, path: &str, without: &str) -> bool {
    let matchers = match action {
        Action::Connect => &["host", "port", "scheme"][..],
        Action::Request => &["host", "port", "scheme", "method", "path"],
        Action::CredentialUse | Action::ToolUse | Action::McpCall => {
            &["host", "port", "scheme", "method", "path", "location"]
        }
    };
    let facts = matchers.iter().filter(|matcher| **matcher != without).map(|matcher| fact("z/egress/1", matcher));
    let attributes = vec![("path", Attribute::Text(path)), ("facts", Attribute::Names(facts.collect()))];
    policies.ask(rule, action, resource, attributes).is_ok()
}

fn policies(own: &str) -> Policies {
    let mut builder = Builder::new("z");
    builder.add_rule("z/egress/1", &["key"]);
    builder.add_rule("z/egress/2", &["other"]);
    builder.add_file(PolicyFile { name: "own.cedar", text: own }, &BTreeSet::new()).unwrap();
    builder.finish().unwrap()
}

#[test]
fn a_question_that_cedar_said_yes_to_says_nothing_about_any_other() {
    let (one, two) = ("z/egress/1", "z/egress/2");
    let table = [
        (one, Action::Request, "a.example", "", true),
        (one, Action::Request, "b.example", "", true),
        (one, Action::Request, "a.example", "path", false),
        (one, Action::Connect, "a.example", "", true),
        (one, Action::Connect, "a.example", "host", false),
        (one, Action::CredentialUse, "key", "", true),
        (one, Action::CredentialUse, "other", "", false),
        (one, Action::CredentialUse, "key", "location", false),
        // The facts of another rule.
        (two, Action::Request, "a.example", "", false),
        (two, Action::CredentialUse, "other", "", false),
    ];
    let policies = policies("");
    for turn in 0..3 {
        for (rule, action, resource, without, expected) in table {
            let said = ask(&policies, rule, action, resource, "/v1/x", without);
            assert_eq!(said, expected, "turn {turn}: {rule} {action:?} {resource} without {without:?}");
        }
    }
}

#[test]
fn a_zone_with_policies_of_its_own_asks_for_each_request() {
    let forbid = r#"forbid (principal, action == Postern::Action::"egress.request", resource) when { context.path == "/v1/b" };"#;
    let policies = policies(forbid);
    for _ in 0..2 {
        assert!(ask(&policies, "z/egress/1", Action::Request, "a.example", "/v1/a", ""));
        assert!(!ask(&policies, "z/egress/1", Action::Request, "a.example", "/v1/b", ""));
    }
}
