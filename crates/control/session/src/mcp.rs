//! What this process knows of a session's MCP servers: which answered, and the tools that the model is told of, each under
//! a name that no other tool has. Nothing here is in the log: another process connects again.

use std::collections::{HashMap, HashSet};

use postern_model::agent::McpServer;
use postern_model::session::SessionAgent;
use postern_model::tool::{McpToolset, Tool};
use serde_json::{Map, Value, json};

use crate::input::{McpFailure, McpNews, ServerTool};

/// The most tools of MCP servers that one model request names.
pub(crate) const MOST_TOOLS: usize = 256;
/// How much their descriptions and schemas may have together, in bytes: every model request carries them.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// The longest name the model's endpoint takes for a tool.
const LONGEST_NAME: usize = 128;

/// A tool of an MCP server as the model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct McpTool {
    /// The model's name for it: `mcp__<server>__<tool>`, made safe and unique.
    pub name: String,
    /// The agent's name for the server.
    pub server: String,
    /// The server's name for the tool.
    pub tool: String,
    /// What the server says about it.
    pub description: Option<String>,
    /// The schema of its input, as the server has it where the endpoint takes that.
    pub input_schema: Value,
}

/// Whether the servers were asked in this turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not in this turn, or not by this process.
    #[default]
    Unasked,
    /// Their answers are awaited.
    Asking,
    /// Every one has answered or failed.
    Known,
}

/// What is known of the servers at the moment.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    phase: Phase,
    attempt: u64,
    tools: Vec<McpTool>,
    /// What the tools' descriptions and schemas come to.
    bytes: usize,
    failures: HashMap<String, String>,
}

impl Servers {
    /// The tools of those that answered, always in the same order.
    pub(crate) fn tools(&self) -> &[McpTool] {
        &self.tools
    }

    pub(crate) fn find(&self, name: &str) -> Option<&McpTool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Why this server cannot be used, if it cannot.
    pub(crate) fn failure(&self, server: &str) -> Option<&str> {
        self.failures.get(server).map(String::as_str)
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.phase == Phase::Asking
    }

    pub(crate) fn is_known(&self) -> bool {
        self.phase == Phase::Known
    }

    /// Nothing is known of them any more; what is still on its way answers for others.
    pub(crate) fn forget(&mut self) {
        *self = Self { attempt: self.attempt, ..Self::default() };
    }

    /// They are asked anew before they are used again.
    pub(crate) fn lapse(&mut self) {
        self.phase = Phase::Unasked;
    }

    /// They are being asked: the number of this attempt.
    pub(crate) fn ask(&mut self) -> u64 {
        self.phase = Phase::Asking;
        self.attempt += 1;
        self.attempt
    }

    pub(crate) fn awaits(&self, attempt: u64) -> bool {
        self.is_asking() && self.attempt == attempt
    }

    /// Takes in what they answered. Returns the failures in the order of the agent's servers.
    pub(crate) fn learn(&mut self, agent: &SessionAgent, news: Vec<McpNews>) -> Vec<(String, McpFailure)> {
        self.phase = Phase::Known;
        self.tools.clear();
        self.bytes = 0;
        self.failures.clear();
        let mut news: HashMap<String, _> = news.into_iter().map(|news| (news.server, news.tools)).collect();
        let mut failures = Vec::new();
        let mut names = HashSet::new();
        for server in &agent.mcp_servers {
            let answer = news.remove(&server.name).unwrap_or_else(|| Err(McpFailure::unanswered()));
            match answer.map(|tools| self.offer(agent, server, tools, &mut names)) {
                Ok(0) => {}
                Ok(left_out) => failures.push((server.name.clone(), McpFailure::too_many(left_out))),
                Err(failure) => {
                    self.failures.insert(server.name.clone(), failure.message.clone());
                    failures.push((server.name.clone(), failure));
                }
            }
        }
        failures
    }

    /// Adds a server's enabled tools; returns how many there was no room for.
    fn offer(
        &mut self,
        agent: &SessionAgent,
        server: &McpServer,
        tools: Vec<ServerTool>,
        names: &mut HashSet<String>,
    ) -> usize {
        let Some(toolset) = toolset(agent, &server.name) else { return 0 };
        let mut seen = HashSet::new();
        let mut left_out = 0;
        for tool in tools {
            if !toolset.config(&tool.name).enabled || !seen.insert(tool.name.clone()) {
                continue;
            }
            let description = tool.description.filter(|text| !text.trim().is_empty());
            let input_schema = schema(tool.input_schema);
            let size = description.as_ref().map_or(0, String::len) + input_schema.to_string().len();
            if self.tools.len() == MOST_TOOLS || self.bytes + size > MOST_BYTES {
                left_out += 1;
                continue;
            }
            self.bytes += size;
            let name = unique(&server.name, &tool.name, names);
            self.tools.push(McpTool { name, server: server.name.clone(), tool: tool.name, description, input_schema });
        }
        left_out
    }
}

/// The toolset of this server.
pub(crate) fn toolset<'a>(agent: &'a SessionAgent, server: &str) -> Option<&'a McpToolset> {
    agent.tools.iter().find_map(|tool| match tool {
        Tool::McpToolset(toolset) if toolset.mcp_server_name == server => Some(toolset),
        Tool::McpToolset(_) | Tool::AgentToolset(_) | Tool::Custom(_) => None,
    })
}

/// The server and the tool that a name which is not offered means, as far as it says.
pub(crate) fn meant<'a>(agent: &'a SessionAgent, name: &str) -> Option<(&'a str, String)> {
    let mut servers: Vec<_> = agent.mcp_servers.iter().map(|server| server.name.as_str()).collect();
    // `a__b` before `a`: the longer name says more.
    servers.sort_by_key(|server| std::cmp::Reverse(server.len()));
    servers.into_iter().find_map(|server| {
        let tool = name.strip_prefix(&format!("mcp__{}__", safe(server)))?;
        (!tool.is_empty()).then(|| (server, tool.to_owned()))
    })
}

/// The model's name for a tool. Depends on the two names alone unless two tools would share it.
fn unique(server: &str, tool: &str, taken: &mut HashSet<String>) -> String {
    let plain = format!("mcp__{}__{}", safe(server), safe(tool));
    let is_faithful = plain.len() <= LONGEST_NAME && safe(server) == server && safe(tool) == tool;
    let mut name = if is_faithful { plain.clone() } else { marked(&plain, server, tool, 0) };
    let mut round = 0;
    while taken.contains(&name) {
        round += 1;
        name = marked(&plain, server, tool, round);
    }
    taken.insert(name.clone());
    name
}

fn marked(plain: &str, server: &str, tool: &str, round: u32) -> String {
    let mark = format!("_{:08x}", fingerprint(&format!("{server}\0{tool}\0{round}")));
    let room = LONGEST_NAME - mark.len();
    // Every character is ASCII: made safe above.
    format!("{}{mark}", &plain[..plain.len().min(room)])
}

fn safe(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect()
}

/// FNV-1a: tells names apart, proves nothing.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The schema as the server has it. What an endpoint refuses at the top level is left out: the server checks its input
/// itself, while one such tool would make every request of the session fail.
fn schema(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else { return json!({"type": "object"}) };
    for refused in ["oneOf", "anyOf", "allOf"] {
        schema.shift_remove(refused);
    }
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        let mut typed = Map::new();
        typed.insert("type".into(), "object".into());
        typed.extend(schema.into_iter().filter(|(key, _)| key != "type"));
        schema = typed;
    }
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_unique_and_short_enough_and_depend_on_what_they_name() {
        let long = "x".repeat(255);
        let pairs = [
            ("wiki", "search"),
            ("my wiki", "se arch"),
            ("my_wiki", "se_arch"),
            ("my.wiki", "se.arch"),
            ("a__b", "c"),
            ("a", "b__c"),
            (long.as_str(), "one"),
            (long.as_str(), "two"),
            ("\u{e9}", "\u{1f600}"),
        ];
        let mut taken = HashSet::new();
        let names: Vec<_> = pairs.iter().map(|(server, tool)| unique(server, tool, &mut taken)).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), pairs.len());
        let legal = |name: &String| {
            name.len() <= LONGEST_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        assert!(names.iter().all(legal), "{names:?}");
        assert_eq!(names[0], "mcp__wiki__search");
        assert_eq!(names[2], "mcp__my_wiki__se_arch", "a name that needed no change has no mark");
        let alone = unique("my wiki", "se arch", &mut HashSet::new());
        assert_eq!(alone, names[1], "whatever else there is");
    }

    #[test]
    fn a_schema_passes_through_unless_it_would_break_every_request() {
        let whole =
            json!({"type": "object", "properties": {"q": {"$ref": "#/$defs/q"}}, "$defs": {"q": {"anyOf": []}}});
        assert_eq!(schema(whole.clone()), whole);
        for (given, kept) in [
            (json!(null), json!({"type": "object"})),
            (json!({"properties": {}}), json!({"type": "object", "properties": {}})),
            (json!({"type": ["object", "null"]}), json!({"type": "object"})),
            (json!({"type": "object", "anyOf": [{"required": ["a"]}]}), json!({"type": "object"})),
        ] {
            assert_eq!(schema(given.clone()), kept, "{given}");
        }
    }
}
