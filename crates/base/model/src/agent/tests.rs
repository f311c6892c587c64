//! What an agent's body means, and what is refused.

use serde_json::{Value, json};

use super::{AgentDefinition, CreateAgent, UpdateAgent};
use crate::Problem;

fn create(body: Value) -> Result<AgentDefinition, Problem> {
    serde_json::from_value::<CreateAgent>(body).map_err(|error| Problem::invalid(error.to_string()))?.resolve()
}

fn update(stored: &AgentDefinition, body: Value) -> Result<AgentDefinition, Problem> {
    serde_json::from_value::<UpdateAgent>(body).map_err(|error| Problem::invalid(error.to_string()))?.apply(stored)
}

fn with(extra: Value) -> Value {
    let mut body = json!({"name": "n", "model": "m"});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn stored() -> AgentDefinition {
    create(json!({
        "name": "n", "model": {"id": "m", "effort": "high", "inference_geo": "eu"}, "description": "d", "system": "s",
        "metadata": {"a": "1"}, "tools": [{"type": "agent_toolset_20260401"}],
    }))
    .unwrap()
}

fn tool(extra: Value) -> Value {
    let mut tool = json!({"type": "custom", "name": "t", "description": "d", "input_schema": {"type": "object"}});
    for (key, value) in extra.as_object().unwrap() {
        tool[key] = value.clone();
    }
    with(json!({"tools": [tool]}))
}

#[test]
fn a_minimal_agent_is_resolved_to_every_field() {
    let shown = serde_json::to_value(create(with(json!({}))).unwrap()).unwrap();
    assert_eq!(
        shown,
        json!({
            "name": "n", "description": null, "system": null, "model": {"id": "m"},
            "execution_identity": {"type": "service_account"}, "mcp_servers": [], "skills": [], "tools": [],
            "multiagent": null, "metadata": {},
        })
    );
}

#[test]
fn a_toolset_is_resolved_with_its_defaults() {
    let body = with(json!({"tools": [{
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": "always_ask"}},
        "configs": [{"name": "bash", "type": "bash", "enabled": false}, {"name": "web_fetch", "enabled": false}],
    }]}));
    let shown = serde_json::to_value(create(body).unwrap()).unwrap();
    let ask = json!({"type": "always_ask"});
    assert_eq!(
        shown["tools"],
        json!([{
            "type": "agent_toolset_20260401",
            "default_config": {"enabled": true, "permission_policy": ask},
            "configs": [
                {"name": "bash", "type": "bash", "enabled": false, "permission_policy": ask},
                {"name": "web_fetch", "type": "web_fetch", "enabled": false, "permission_policy": ask, "url_sources": null},
            ],
        }])
    );
}

#[test]
fn a_model_is_a_name_or_an_object() {
    for (model, expected) in [
        (json!("m"), json!({"id": "m"})),
        (
            json!({"id": "m", "effort": "low", "speed": "fast"}),
            json!({"id": "m", "effort": {"type": "low"}, "speed": "fast"}),
        ),
        (json!({"id": "m", "effort": {"type": "max"}, "speed": null}), json!({"id": "m", "effort": {"type": "max"}})),
    ] {
        let shown = serde_json::to_value(create(with(json!({"model": model}))).unwrap()).unwrap();
        assert_eq!(shown["model"], expected);
    }
}

#[test]
fn what_the_contract_or_this_build_refuses_is_refused_with_its_place() {
    let toolset = |config: Value| with(json!({"tools": [{"type": "agent_toolset_20260401", "configs": [config]}]}));
    let auto = json!({"type": "auto"});
    for (body, expected) in [
        (with(json!({"name": ""})), "name:"),
        (with(json!({"name": "n".repeat(257)})), "name:"),
        (with(json!({"system": "s".repeat(100_001)})), "system:"),
        (with(json!({"description": "d".repeat(2049)})), "description:"),
        (with(json!({"model": ""})), "model.id"),
        (with(json!({"model": 7})), "model name"),
        (with(json!({"model": {"id": "m", "effort": "huge"}})), "huge"),
        (with(json!({"model": {"id": "m", "colour": 1}})), "colour"),
        (with(json!({"skills": [{"type": "custom", "skill_id": "s"}]})), "not in this build"),
        (with(json!({"multiagent": {"type": "coordinator", "agents": []}})), "not in this build"),
        (with(json!({"execution_identity": {"type": "aws_role", "role_arn": "x"}})), "service_account"),
        (with(json!({"mcp_servers": [{"type": "url", "name": "x", "url": "https://x"}]})), "not in this build"),
        (with(json!({"metadata": {"k": "v".repeat(513)}})), "metadata"),
        (with(json!({"metadata": {"k": 1}})), "invalid type"),
        (with(json!({"colour": 1})), "colour"),
        (with(json!({"tools": [{"type": "hammer"}]})), "hammer"),
        (with(json!({"tools": [{"type": "agent_toolset_20260401"}, {"type": "agent_toolset_20260401"}]})), "tools[1]"),
        (toolset(json!({"name": "sh"})), "sh"),
        (toolset(json!({"name": "bash", "type": "read"})), "tools[0]"),
        (toolset(json!({"name": "bash", "permission_policy": auto})), "judge"),
        (toolset(json!({"name": "web_search"})), "not in this build"),
        (
            with(json!({"tools": [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": auto}}]})),
            "judge",
        ),
        (tool(json!({"name": "has space"})), "name"),
        (tool(json!({"name": "bash"})), "built-in"),
        (tool(json!({"name": "mcp__x"})), "mcp__"),
        (tool(json!({"description": " "})), "description"),
        (tool(json!({"input_schema": {"type": "string"}})), "object"),
        (tool(json!({"input_schema": {"type": "object", "anyOf": []}})), "anyOf"),
        (tool(json!({"input_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}}})), "$ref"),
        (tool(json!({"input_schema": {"type": "object", "properties": {"a b": {}}}})), "a b"),
    ] {
        let problem = create(body).expect_err(expected);
        assert_eq!(problem.status(), 400);
        assert!(problem.message.contains(expected), "{:?} should name {expected:?}", problem.message);
    }
}

#[test]
fn other_schema_keywords_pass_through() {
    let schema = json!({"type": "object", "properties": {"a.b-c_1": {"type": "string", "oneOf": []}}, "additionalProperties": false});
    let shown = serde_json::to_value(create(tool(json!({"input_schema": schema}))).unwrap()).unwrap();
    assert_eq!(shown["tools"][0]["input_schema"], schema);
}

#[test]
fn an_update_keeps_clears_and_replaces() {
    let kept = |edit: fn(&mut AgentDefinition)| {
        let mut definition = stored();
        edit(&mut definition);
        definition
    };
    for (body, expected) in [
        (json!({}), stored()),
        (json!({"name": "n", "system": "s", "metadata": {}, "version": 1}), stored()),
        (json!({"name": "other"}), kept(|d| d.name = "other".into())),
        (json!({"description": null}), kept(|d| d.description = None)),
        (json!({"description": ""}), kept(|d| d.description = None)),
        (json!({"system": ""}), kept(|d| d.system = None)),
        (json!({"tools": null}), kept(|d| d.tools.clear())),
        (json!({"tools": []}), kept(|d| d.tools.clear())),
        (
            json!({"metadata": {"a": null, "b": "2"}}),
            kept(|d| d.metadata = serde_json::from_str(r#"{"b":"2"}"#).unwrap()),
        ),
        (json!({"execution_identity": null}), stored()),
        (json!({"multiagent": null}), stored()),
        // Whole replacement clears the place, the effort of the same model stays.
        (json!({"model": "m"}), kept(|d| d.model.inference_geo = None)),
        (json!({"model": "other"}), kept(|d| d.model = super::ModelConfig::named("other"))),
    ] {
        assert_eq!(update(&stored(), body.clone()).unwrap(), expected, "{body}");
    }
}

#[test]
fn name_and_model_cannot_be_cleared() {
    for body in [json!({"name": null}), json!({"model": null}), json!({"name": ""})] {
        assert_eq!(update(&stored(), body).unwrap_err().status(), 400);
    }
}

#[test]
fn a_stored_definition_reads_back() {
    let text = serde_json::to_string(&stored()).unwrap();
    assert_eq!(serde_json::from_str::<AgentDefinition>(&text).unwrap(), stored());
}
