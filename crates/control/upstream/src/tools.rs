//! The tools as the model is told of them: name, purpose, input (contract 5.1).

use postern_model::session::SessionAgent;
use postern_model::tool::web::WebTools;
use postern_model::tool::{Builtin, Tool};
use postern_session::{McpTool, Permissions, coordinator_tools};
use serde_json::{Value, json};

/// The definitions of every tool this agent may use, always in the same order: those of MCP servers last, because they
/// are the ones that change when a server comes or goes.
pub(crate) fn definitions(agent: &SessionAgent, web: WebTools, servers: &[McpTool]) -> Vec<Value> {
    let builtin = Permissions::new(agent, web)
        .offered()
        .into_iter()
        .map(|tool| json!({"name": tool.name(), "description": purpose(tool), "input_schema": input(tool)}));
    let custom = agent.tools.iter().filter_map(|tool| match tool {
        Tool::Custom(tool) => {
            Some(json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}))
        }
        Tool::AgentToolset(_) | Tool::McpToolset(_) => None,
    });
    builtin.chain(custom).chain(coordinator_tools(agent)).chain(servers.iter().map(mcp)).collect()
}

fn mcp(tool: &McpTool) -> Value {
    let mut definition = json!({"name": tool.name, "input_schema": tool.input_schema});
    if let Some(description) = &tool.description {
        definition["description"] = description.as_str().into();
    }
    definition
}

fn purpose(tool: Builtin) -> &'static str {
    match tool {
        Builtin::Bash => {
            "Run a command in a persistent bash shell. The working directory, variables and background jobs stay from \
             call to call. Commands read no input: stdin is empty. stdout and stderr come back together; only the last \
             100 KiB are kept. A command that runs longer than `timeout_ms` (default 120000, at most 150000) ends the \
             shell; call with `restart: true` to get a fresh one."
        }
        Builtin::Read => {
            "Read a text file of up to 256 KiB, or an image (.png .jpg .jpeg .gif .webp) or a .pdf. Relative paths start \
             at the working directory. `view_range` is [first line, last line], counted from 1; a last line of -1 means \
             the end."
        }
        Builtin::Write => "Write a file, replacing what is there and making parent directories.",
        Builtin::Edit => {
            "Replace an exact piece of text in a file. `old_string` must occur exactly once, unless `replace_all` is true."
        }
        Builtin::Glob => {
            "Find files by a pattern such as `**/*.rs`, below `path` or the working directory, newest first, at most 200."
        }
        Builtin::Grep => {
            "Search file contents by regular expression, below `path` or the working directory. Lines come back as \
             path:line:text. Files that .gitignore names, hidden and binary files are skipped."
        }
        Builtin::WebFetch => {
            "Fetch a public web page over https and get its text: HTML as text with its links, or plain text, Markdown, JSON, \
             XML. Only a URL that the conversation has shown can be fetched, exactly as it was shown: by the user, by a \
             tool that counts as a source, or by an earlier result of `web_search` or `web_fetch`. Do not compose URLs."
        }
        Builtin::WebSearch => {
            "Search the web. Returns titles, URLs and excerpts; read a page with `web_fetch`, where it is enabled. A query has \
             at most 400 characters."
        }
    }
}

fn input(tool: Builtin) -> Value {
    let text = json!({"type": "string"});
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    match tool {
        Builtin::Bash => {
            object(json!({"command": text, "restart": {"type": "boolean"}, "timeout_ms": {"type": "integer"}}), &[])
        }
        Builtin::Read => object(
            json!({"file_path": text, "view_range": {"type": "array", "items": {"type": "integer"}}}),
            &["file_path"],
        ),
        Builtin::Write => object(json!({"file_path": text, "content": text}), &["file_path", "content"]),
        Builtin::Edit => object(
            json!({"file_path": text, "old_string": text, "new_string": text, "replace_all": {"type": "boolean"}}),
            &["file_path", "old_string", "new_string"],
        ),
        Builtin::Glob | Builtin::Grep => object(json!({"pattern": text, "path": text}), &["pattern"]),
        Builtin::WebFetch => object(json!({"url": text}), &["url"]),
        Builtin::WebSearch => object(json!({"query": text}), &["query"]),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use postern_model::agent::{AgentDefinition, CreateAgent};
    use postern_model::ids::AgentId;

    /// An agent of model `m` whose system prompt is "be brief", with these tools.
    pub(crate) fn agent(tools: Value) -> SessionAgent {
        let create: CreateAgent =
            serde_json::from_value(json!({"model": "m", "name": "a", "system": "be brief", "tools": tools})).unwrap();
        let definition: AgentDefinition = create.resolve(Vec::new(), None).unwrap();
        SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, definition)
    }

    #[test]
    fn six_tools_are_offered_and_those_that_are_off_are_not() {
        let names = |tools| {
            definitions(&agent(tools), WebTools::None, &[])
                .iter()
                .map(|t| t["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(json!([{"type": "agent_toolset_20260401"}])),
            ["bash", "read", "write", "edit", "glob", "grep"]
        );
        let off = json!([{"type": "agent_toolset_20260401", "default_config": {"enabled": false},
            "configs": [{"name": "grep", "enabled": true}]},
            {"type": "custom", "name": "ask", "description": "d", "input_schema": {"type": "object"}}]);
        assert_eq!(names(off), ["grep", "ask"]);
        assert!(names(json!([])).is_empty());
    }

    #[test]
    fn web_tools_are_offered_where_the_server_has_them_and_the_agent_wants_them() {
        let names = |web: WebTools, tools| {
            let all = definitions(&agent(tools), web, &[]);
            all.iter().skip(6).map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (all, none) = (json!([{"type": "agent_toolset_20260401"}]), Vec::<&str>::new());
        assert_eq!(names(WebTools::None, all.clone()), none);
        assert_eq!(names(WebTools::Fetch, all.clone()), ["web_fetch"]);
        assert_eq!(names(WebTools::Both, all), ["web_fetch", "web_search"]);
        let off = json!([{"type": "agent_toolset_20260401", "configs": [{"name": "web_fetch", "enabled": false}]}]);
        assert_eq!(names(WebTools::Both, off), ["web_search"]);
    }

    #[test]
    fn tools_of_mcp_servers_come_last_with_the_servers_own_schema() {
        let schema = json!({"type": "object", "properties": {"q": {"type": "string"}}});
        let tool = |tool: &str, description: Option<&str>| McpTool {
            name: format!("mcp__wiki__{tool}"),
            server: "wiki".into(),
            tool: tool.into(),
            description: description.map(str::to_owned),
            input_schema: schema.clone(),
        };
        let servers = [tool("search", Some("Searches.")), tool("plain", None)];
        let all = definitions(&agent(json!([{"type": "agent_toolset_20260401"}])), WebTools::None, &servers);
        assert_eq!(
            all[6..],
            [
                json!({"name": "mcp__wiki__search", "description": "Searches.", "input_schema": schema}),
                json!({"name": "mcp__wiki__plain", "input_schema": schema}),
            ]
        );
    }
}
