//! What an agent's body means, and what is refused.

use serde_json::{Value, json};

use super::{AgentDefinition, CreateAgent, UpdateAgent};
use crate::Problem;
use crate::skill::AgentSkill;

fn create(body: Value) -> Result<AgentDefinition, Problem> {
    serde_json::from_value::<CreateAgent>(body)
        .map_err(|error| Problem::invalid(error.to_string()))?
        .resolve(Vec::new(), None)
}

fn update(stored: &AgentDefinition, body: Value) -> Result<AgentDefinition, Problem> {
    serde_json::from_value::<UpdateAgent>(body)
        .map_err(|error| Problem::invalid(error.to_string()))?
        .apply(stored, None, None)
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
fn when_a_conversation_is_shortened_is_said_only_where_it_is_set() {
    let agent = create(with(json!({"context": {"compact_above_tokens": 50000}}))).unwrap();
    let shown = serde_json::to_value(&agent).unwrap();
    assert_eq!(shown["context"], json!({"compact_above_tokens": 50000}));
    assert_eq!(update(&agent, json!({"name": "other"})).unwrap().context, agent.context);
    assert_eq!(update(&agent, json!({"context": null})).unwrap().context, None);
    for refused in [json!({"compact_above_tokens": 999}), json!({"clear_above_tokens": 1}), json!({"surprise": 1})] {
        assert!(create(with(json!({"context": refused}))).is_err());
    }
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
    for (body, expected) in [
        (with(json!({"name": ""})), "name:"),
        (with(json!({"name": "n".repeat(257)})), "name:"),
        (with(json!({"system": "s".repeat(100_001)})), "system:"),
        (with(json!({"description": "d".repeat(2049)})), "description:"),
        (with(json!({"model": ""})), "model.id"),
        (with(json!({"model": 7})), "model name"),
        (with(json!({"model": {"id": "m", "effort": "huge"}})), "huge"),
        (with(json!({"model": {"id": "m", "colour": 1}})), "colour"),
        (with(json!({"skills": [{"type": "borrowed", "skill_id": "s"}]})), "unknown variant `borrowed`"),
        (with(json!({"skills": [{"type": "custom"}]})), "missing field `skill_id`"),
        (with(json!({"skills": [{"type": "custom", "skill_id": "s", "colour": 1}]})), "colour"),
        (with(json!({"execution_identity": {"type": "aws_role", "role_arn": "x"}})), "service_account"),
        (with(json!({"metadata": {"k": "v".repeat(513)}})), "metadata"),
        (with(json!({"metadata": {"k": 1}})), "invalid type"),
        (with(json!({"colour": 1})), "colour"),
        (with(json!({"tools": [{"type": "hammer"}]})), "hammer"),
        (with(json!({"tools": [{"type": "agent_toolset_20260401"}, {"type": "agent_toolset_20260401"}]})), "tools[1]"),
        (toolset(json!({"name": "sh"})), "sh"),
        (toolset(json!({"name": "bash", "type": "read"})), "tools[0]"),
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

fn server(name: &str, url: &str) -> Value {
    json!({"type": "url", "name": name, "url": url})
}

fn toolset(server: &str) -> Value {
    json!({"type": "mcp_toolset", "mcp_server_name": server})
}

#[test]
fn an_mcp_server_is_shown_with_its_toolset_and_every_default() {
    let body = with(json!({
        "mcp_servers": [server("wiki", "https://wiki.example/mcp")],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki", "configs": [
            {"name": "search", "permission_policy": {"type": "always_allow"}}, {"name": "edit", "enabled": false}]}],
    }));
    let definition = create(body).unwrap();
    let shown = serde_json::to_value(&definition).unwrap();
    let ask = json!({"type": "always_ask"});
    assert_eq!(shown["mcp_servers"], json!([server("wiki", "https://wiki.example/mcp")]));
    assert_eq!(
        shown["tools"],
        json!([{"type": "mcp_toolset", "mcp_server_name": "wiki",
            "default_config": {"enabled": true, "permission_policy": ask},
            "configs": [{"name": "search", "enabled": true, "permission_policy": {"type": "always_allow"}},
                {"name": "edit", "enabled": false, "permission_policy": ask}]}])
    );
    assert_eq!(serde_json::from_value::<AgentDefinition>(shown).unwrap(), definition);
}

#[test]
fn mcp_servers_that_do_not_fit_are_refused_with_their_place() {
    let one = |server: Value| with(json!({"mcp_servers": [server], "tools": [toolset("wiki")]}));
    let url = |url: &str| one(server("wiki", url));
    let many: Vec<_> = (0..21).map(|n| server(&format!("s{n}"), "https://x.example")).collect();
    let twice = vec![server("wiki", "https://a.example"), server("wiki", "https://b.example")];
    for (body, expected) in [
        (
            with(json!({"mcp_servers": [server("wiki", "https://x.example")]})),
            "mcp_servers[0]: `wiki` has no mcp_toolset",
        ),
        (with(json!({"tools": [toolset("wiki")]})), "tools[0]: no server is named `wiki`"),
        (with(json!({"mcp_servers": many})), "at most 20 servers"),
        (with(json!({"mcp_servers": twice, "tools": [toolset("wiki")]})), "mcp_servers[1]: the name `wiki` is already"),
        (one(server("", "https://x.example")), "1 to 255"),
        (one(server(&"n".repeat(256), "https://x.example")), "1 to 255"),
        (one(server("a\nb", "https://x.example")), "control"),
        (one(json!({"type": "stdio", "name": "wiki", "url": "https://x.example"})), "stdio"),
        (one(json!({"type": "url", "name": "wiki"})), "url"),
        (one(json!({"type": "url", "name": "wiki", "url": "https://x.example", "token": "t"})), "token"),
        (url("ftp://x.example"), "https or http"),
        (url("wiki.example/mcp"), "https or http"),
        (url("https://"), "name a host"),
        (url("https:///mcp"), "name a host"),
        (url("https://:443/mcp"), "name a host"),
        (url("https://user:secret@x.example/mcp"), "user name or password"),
        (url("https://x.example/a b"), "white space"),
        (url("https://x.example/#part"), "fragment"),
        (url(&format!("https://x.example/{}", "p".repeat(2048))), "2048"),
        (with(json!({"tools": [toolset("wiki"), toolset("wiki")]})), "only once"),
    ] {
        let problem = create(body).expect_err(expected);
        assert_eq!(problem.status(), 400);
        assert!(problem.message.contains(expected), "{:?} should name {expected:?}", problem.message);
    }
    for good in ["https://x.example", "HTTPS://X.example:8443/a/b?c=d", "http://10.0.0.1/mcp", "https://[::1]:1/mcp"] {
        create(url(good)).expect(good);
    }
}

#[test]
fn an_update_cannot_leave_a_toolset_without_its_server_or_the_reverse() {
    let stored =
        create(with(json!({"mcp_servers": [server("wiki", "https://x.example")], "tools": [toolset("wiki")]})))
            .unwrap();
    for (body, expected) in [
        (json!({"mcp_servers": null}), Err("no server is named `wiki`")),
        (json!({"mcp_servers": []}), Err("no server is named `wiki`")),
        (json!({"tools": null}), Err("has no mcp_toolset")),
        (json!({"mcp_servers": null, "tools": null}), Ok(0)),
        (json!({"mcp_servers": [server("wiki", "https://y.example")]}), Ok(1)),
        (json!({"system": "x"}), Ok(1)),
    ] {
        let updated = update(&stored, body.clone());
        match expected {
            Ok(count) => assert_eq!(updated.unwrap().mcp_servers.len(), count, "{body}"),
            Err(part) => assert!(updated.unwrap_err().message.contains(part), "{body}"),
        }
    }
}

#[test]
fn skills_are_few_each_named_once_and_read_by_a_tool() {
    let of = |ids: &[&str]| -> Vec<AgentSkill> {
        let skill = |id: &&str| json!({"type": "custom", "skill_id": format!("skill_{id}"), "version": "skillver_1"});
        serde_json::from_value(ids.iter().map(skill).collect()).unwrap()
    };
    let resolved = |tools: Value, skills: Vec<AgentSkill>| {
        let create: CreateAgent = serde_json::from_value(with(json!({"tools": tools}))).unwrap();
        create.resolve(skills, None).map(|agent| agent.skills)
    };
    let toolset = json!([{"type": "agent_toolset_20260401"}]);
    assert_eq!(resolved(toolset.clone(), of(&["a", "b"])), Ok(of(&["a", "b"])));
    assert_eq!(resolved(json!([]), Vec::new()), Ok(Vec::new()));
    let only_read = json!([{"type": "agent_toolset_20260401", "default_config": {"enabled": false},
        "configs": [{"name": "read", "enabled": true}]}]);
    assert!(resolved(only_read, of(&["a"])).is_ok());
    let many: Vec<String> = (0..21).map(|number| number.to_string()).collect();
    let without_read = json!([{"type": "agent_toolset_20260401", "configs": [{"name": "read", "enabled": false}]}]);
    for (tools, skills, expected) in [
        (toolset.clone(), of(&many.iter().map(String::as_str).collect::<Vec<_>>()), "at most 20"),
        (toolset, of(&["a", "b", "a"]), "skills[2]: skill_a is named already"),
        (json!([]), of(&["a"]), "skills need the `read` tool"),
        (without_read, of(&["a"]), "skills need the `read` tool"),
    ] {
        let problem = resolved(tools, skills).unwrap_err();
        assert!(problem.message.contains(expected), "{problem}");
    }
}
