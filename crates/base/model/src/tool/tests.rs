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

fn web(tool: &str, config: Value) -> Value {
    let mut entry = json!({"name": tool});
    entry.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    json!([{"type": "agent_toolset_20260401", "configs": [entry]},
        {"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}}])
}

#[test]
fn what_is_said_of_the_web_tools_is_spelled_out_and_reads_back() {
    let allow = json!({"type": "always_allow"});
    let reference = |name: &str| json!({"type": "tool_reference", "name": name});
    for (tool, sent, shown) in [
        ("web_fetch", json!({}), json!({"url_sources": null})),
        ("web_fetch", json!({"url_sources": null, "allowed_domains": null}), json!({"url_sources": null})),
        (
            "web_fetch",
            json!({"allowed_domains": ["docs.example.com"], "max_content_tokens": 5, "url_sources": {}}),
            json!({"allowed_domains": ["docs.example.com"], "max_content_tokens": 5, "url_sources":
                {"client_tool_results": null, "server_tool_results": null, "user_input": null}}),
        ),
        (
            "web_fetch",
            json!({"url_sources": {"user_input": "none", "client_tool_results": "all",
                "server_tool_results": {"type": "only", "tools": [reference("web_search")]}}}),
            json!({"url_sources": {"client_tool_results": {"type": "all"}, "user_input": {"type": "none"},
                "server_tool_results": {"type": "only", "tools": [reference("web_search")]}}}),
        ),
        (
            "web_fetch",
            json!({"url_sources": {"client_tool_results": {"type": "except", "tools": [reference("lookup")]}}}),
            json!({"url_sources": {"client_tool_results": {"type": "except", "tools": [reference("lookup")]},
                "server_tool_results": null, "user_input": null}}),
        ),
        (
            "web_search",
            json!({"blocked_domains": ["a.example/x"], "user_location": {"type": "approximate", "country": "DE",
                "timezone": "Europe/Berlin", "city": "K\u{f6}ln"}}),
            json!({"blocked_domains": ["a.example/x"], "user_location": {"type": "approximate", "country": "DE",
                "timezone": "Europe/Berlin", "city": "K\u{f6}ln"}}),
        ),
    ] {
        let tools = resolved(web(tool, sent.clone())).unwrap_or_else(|error| panic!("{sent}: {error}"));
        let mut expected = json!({"name": tool, "type": tool, "enabled": true, "permission_policy": allow});
        expected.as_object_mut().unwrap().extend(shown.as_object().unwrap().clone());
        assert_eq!(tools[0]["configs"], json!([expected]), "{sent}");
        let back: Vec<Tool> = serde_json::from_value(tools.clone()).unwrap();
        assert_eq!(serde_json::to_value(back).unwrap(), tools);
    }
}

#[test]
fn what_cannot_be_said_of_the_web_tools_is_refused() {
    let domains = |list: Value| json!({"allowed_domains": list});
    let sources = |sources: Value| json!({"url_sources": sources});
    let only = |names: &[&str]| {
        let tools: Vec<_> = names.iter().map(|name| json!({"type": "tool_reference", "name": name})).collect();
        json!({"type": "only", "tools": tools})
    };
    let many = vec!["x"; 129];
    for (tool, config, part) in [
        ("web_fetch", domains(json!([])), "must not be empty"),
        ("web_fetch", domains(json!((0..65).map(|n| format!("a{n}.example")).collect::<Vec<_>>())), "at most 64"),
        ("web_fetch", domains(json!([""])), "1 to 255"),
        ("web_fetch", domains(json!(["a".repeat(256)])), "1 to 255"),
        ("web_fetch", domains(json!(["https://a.example"])), "scheme"),
        ("web_fetch", domains(json!(["a.example:443"])), "port"),
        ("web_fetch", domains(json!(["a.example/x"])), "path"),
        ("web_fetch", domains(json!(["com"])), "two labels"),
        ("web_fetch", domains(json!(["localhost"])), "not public"),
        ("web_fetch", domains(json!(["x.local"])), "not public"),
        ("web_fetch", domains(json!(["x.Internal"])), "not public"),
        ("web_fetch", domains(json!(["x.localdomain"])), "not public"),
        ("web_fetch", domains(json!(["x.invalid"])), "not public"),
        ("web_fetch", domains(json!(["b\u{fc}cher.example"])), "xn--"),
        ("web_fetch", domains(json!(["10.0.0.1"])), "not an address"),
        ("web_fetch", domains(json!(["[::1]"])), "address"),
        ("web_fetch", domains(json!(["*.example.com"])), "host name"),
        ("web_fetch", domains(json!(["a..example"])), "host name"),
        ("web_fetch", domains(json!(["a.example."])), "host name"),
        ("web_fetch", domains(json!(["me@a.example"])), "host name"),
        ("web_fetch", domains(json!(["a.example", "A.example"])), "twice"),
        ("web_search", domains(json!(["a.example/x y"])), "path"),
        ("web_search", domains(json!(["a.example/x?y"])), "path"),
        (
            "web_fetch",
            json!({"allowed_domains": ["a.example"], "blocked_domains": ["b.example"]}),
            "exclude each other",
        ),
        ("web_fetch", json!({"max_content_tokens": 0}), "at least 1"),
        ("web_fetch", json!({"max_content_tokens": -1}), "u64"),
        ("web_search", json!({"max_content_tokens": 1}), "not a field"),
        ("web_search", json!({"url_sources": {}}), "not a field"),
        ("web_fetch", json!({"user_location": {"type": "approximate"}}), "not a field"),
        ("bash", domains(json!(["a.example"])), "not a field"),
        ("web_search", json!({"user_location": {"type": "exact"}}), "exact"),
        ("web_search", json!({"user_location": {"type": "approximate", "country": "de"}}), "upper-case"),
        ("web_search", json!({"user_location": {"type": "approximate", "country": "DEU"}}), "upper-case"),
        ("web_search", json!({"user_location": {"type": "approximate", "timezone": "Mars/Base"}}), "IANA"),
        ("web_search", json!({"user_location": {"type": "approximate", "city": ""}}), "1 to 255"),
        ("web_search", json!({"user_location": {"type": "approximate", "city": "a\nb"}}), "1 to 255"),
        (
            "web_fetch",
            sources(
                json!({"client_tool_results": "none", "server_tool_results": {"type": "none"}, "user_input": "none"}),
            ),
            "no source is left",
        ),
        ("web_fetch", sources(json!({"client_tool_results": only(&["bash"])})), "no custom tool"),
        ("web_fetch", sources(json!({"server_tool_results": only(&["lookup"])})), "web_search or web_fetch"),
        ("web_fetch", sources(json!({"server_tool_results": only(&["web_search", "web_search"])})), "twice"),
        ("web_fetch", sources(json!({"server_tool_results": only(&[])})), "1 to 128"),
        ("web_fetch", sources(json!({"client_tool_results": only(&many)})), "1 to 128"),
        ("web_fetch", sources(json!({"user_input": only(&["lookup"])})), "all or none"),
        ("web_fetch", sources(json!({"user_input": "some"})), "all or none"),
        ("web_fetch", sources(json!({"surprise": "all"})), "surprise"),
    ] {
        let refusal = resolved(web(tool, config.clone())).expect_err(&config.to_string());
        assert!(refusal.contains(part), "{config}: {refusal}");
    }
}

#[test]
fn a_web_tool_that_a_server_has_not_is_refused_where_it_is_named_and_switched_on() {
    use super::web::WebTools;
    let both = WebTools::None.with(Builtin::WebFetch).with(Builtin::WebSearch);
    let check = |server: WebTools, tools: Value| {
        let params = serde_json::from_value(tools).unwrap();
        server.check(&resolve(params).unwrap()).map_err(|problem| problem.error_code.map(str::to_owned))
    };
    let refused = Err(Some("web_tool_unavailable".to_owned()));
    for (server, tools, expected) in [
        (WebTools::None, json!([{"type": "agent_toolset_20260401"}]), Ok(())),
        (WebTools::None, web("bash", json!({})), Ok(())),
        (WebTools::None, web("web_fetch", json!({"enabled": false})), Ok(())),
        (WebTools::None, web("web_fetch", json!({})), refused.clone()),
        (WebTools::Fetch, web("web_fetch", json!({})), Ok(())),
        (WebTools::Fetch, web("web_search", json!({})), refused.clone()),
        (WebTools::Search, web("web_search", json!({})), Ok(())),
        (WebTools::Search, web("web_fetch", json!({})), refused),
        (both, web("web_search", json!({})), Ok(())),
    ] {
        assert_eq!(check(server, tools.clone()), expected, "{server:?} {tools}");
    }
}
