use super::load::Builder;
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
