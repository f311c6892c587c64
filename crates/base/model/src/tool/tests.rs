//! What resolving spells out, and what it refuses.

use super::*;
use serde_json::json;

fn resolved(tools: Value) -> Result<Value, String> {
    let params = serde_json::from_value(tools).map_err(|error| error.to_string())?;
    resolve(params).map(|tools| serde_json::to_value(tools).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn every_default_of_the_toolset_is_spelled_out() {
    let tools = json!([{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}},
        "configs": [{"name": "bash", "enabled": false}, {"name": "web_fetch", "enabled": false}]}]);
    let ask = json!({"type": "always_ask"});
    assert_eq!(
        resolved(tools),
        Ok(json!([{"type": "agent_toolset_20260401", "default_config": {"enabled": true, "permission_policy": ask},
        "configs": [{"name": "bash", "type": "bash", "enabled": false, "permission_policy": ask},
            {"name": "web_fetch", "type": "web_fetch", "enabled": false, "permission_policy": ask, "url_sources": null}]}]))
    );
}

#[test]
fn tools_of_a_server_ask_unless_told_otherwise() {
    let (ask, allow) = (json!({"type": "always_ask"}), json!({"type": "always_allow"}));
    let auto = json!({"type": "auto"});
    let resolved = |toolset: Value| {
        let mut entry = json!({"type": "mcp_toolset", "mcp_server_name": "w"});
        entry.as_object_mut().unwrap().extend(toolset.as_object().unwrap().clone());
        match &resolve(vec![serde_json::from_value(entry).unwrap()]).unwrap()[0] {
            Tool::McpToolset(toolset) => toolset.clone(),
            other => panic!("{other:?}"),
        }
    };
    for (toolset, tool, enabled, policy) in [
        (json!({}), "x", true, &ask),
        (json!({"default_config": null, "configs": null}), "x", true, &ask),
        (json!({"default_config": {"enabled": false}}), "x", false, &ask),
        (json!({"default_config": {"permission_policy": allow}}), "x", true, &allow),
        (json!({"default_config": {"permission_policy": auto}}), "x", true, &auto),
        (json!({"configs": [{"name": "x", "permission_policy": allow}]}), "x", true, &allow),
        (json!({"configs": [{"name": "x", "permission_policy": allow}]}), "y", true, &ask),
        (json!({"default_config": {"enabled": false}, "configs": [{"name": "x", "enabled": true}]}), "x", true, &ask),
        (json!({"default_config": {"enabled": false}, "configs": [{"name": "x"}]}), "x", false, &ask),
    ] {
        let config = resolved(toolset.clone()).config(tool);
        assert_eq!((config.enabled, &json!(config.permission_policy)), (enabled, policy), "{toolset} {tool}");
    }
}

#[test]
fn a_resolved_toolset_reads_back() {
    let tools = resolve(vec![
        serde_json::from_value(json!({"type": "agent_toolset_20260401",
        "configs": [{"name": "web_fetch", "enabled": false}]}))
        .unwrap(),
    ])
    .unwrap();
    let text = serde_json::to_string(&tools).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Tool>>(&text).unwrap(), tools);
}

#[test]
fn what_the_contract_forbids_is_refused_with_its_place() {
    let schema = json!({"type": "object"});
    let custom = |name: &str, schema: Value| json!([{"type": "custom", "name": name, "description": "d", "input_schema": schema}]);
    for (tools, part) in [
        (json!([{"type": "agent_toolset_20260401"}, {"type": "agent_toolset_20260401"}]), "only once"),
        (json!([{"type": "agent_toolset_20260401", "configs": [{"name": "bash"}, {"name": "bash"}]}]), "twice"),
        (json!([{"type": "agent_toolset_20260401", "configs": [{"name": "bash", "type": "read"}]}]), "must equal"),
        (json!([{"type": "agent_toolset_20260401", "configs": [{"name": "web_search"}]}]), "not in this build"),
        (json!([{"type": "mcp_toolset", "mcp_server_name": ""}]), "1 to 255"),
        (json!([{"type": "mcp_toolset", "mcp_server_name": "w", "configs": [{"name": ""}]}]), "1 to 128"),
        (json!([{"type": "mcp_toolset", "mcp_server_name": "w", "configs": [{"name": "t".repeat(129)}]}]), "1 to 128"),
        (json!([{"type": "mcp_toolset", "mcp_server_name": "w", "configs": [{"name": "t"}, {"name": "t"}]}]), "twice"),
        (
            json!([{"type": "mcp_toolset", "mcp_server_name": "w", "configs": [{"name": "t", "type": "t"}]}]),
            "unknown field `type`",
        ),
        (json!([{"type": "mcp_toolset", "mcp_server_name": "w", "surprise": 1}]), "surprise"),
        (
            json!([{"type": "mcp_toolset", "mcp_server_name": "w",
                "configs": (0..257).map(|n| json!({"name": format!("t{n}")})).collect::<Vec<_>>()}]),
            "at most 256",
        ),
        (custom("bash", schema.clone()), "built-in"),
        (custom("mcp__x", schema.clone()), "mcp__"),
        (custom("a b", schema), "A-Z"),
        (custom("x", json!({"type": "string"})), "object"),
        (custom("x", json!({"type": "object", "anyOf": []})), "anyOf"),
        (custom("x", json!({"type": "object", "properties": {"a": {"$ref": "#"}}})), "$ref"),
        (custom("x", json!({"type": "object", "properties": {"a b": {}}})), "a b"),
        (json!([{"type": "agent_toolset_20260401", "surprise": 1}]), "surprise"),
    ] {
        let refusal = resolved(tools.clone()).expect_err(&tools.to_string());
        assert!(refusal.contains(part), "{tools}: {refusal}");
    }
}
