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
/// The server's part of it.
const LONGEST_SERVER: usize = 48;
/// The longest name that a server may give a tool, in bytes: it goes into every event about a call.
pub(crate) const LONGEST_TOOL: usize = 256;

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

    /// They are being asked, under this number.
    pub(crate) fn ask(&mut self, attempt: u64) {
        self.phase = Phase::Asking;
        self.attempt = attempt;
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
                Ok(Offered { nameless: 0, left_out: 0 }) => {}
                Ok(Offered { nameless: 0, left_out }) => {
                    failures.push((server.name.clone(), McpFailure::too_many(left_out)));
                }
                Ok(Offered { nameless, .. }) => failures.push((server.name.clone(), McpFailure::nameless(nameless))),
                Err(failure) => {
                    self.failures.insert(server.name.clone(), failure.message.clone());
                    failures.push((server.name.clone(), failure));
                }
            }
        }
        failures
    }

    /// Adds a server's enabled tools; returns which could not be.
    fn offer(
        &mut self,
        agent: &SessionAgent,
        server: &McpServer,
        tools: Vec<ServerTool>,
        names: &mut HashSet<String>,
    ) -> Offered {
        let mut offered = Offered::default();
        let Some(toolset) = toolset(agent, &server.name) else { return offered };
        let mut seen = HashSet::new();
        for tool in tools {
            if !is_name(&tool.name) {
                offered.nameless += 1;
                continue;
            }
            if !toolset.config(&tool.name).enabled || !seen.insert(tool.name.clone()) {
                continue;
            }
            let description = tool.description.filter(|text| !text.trim().is_empty());
            let input_schema = schema(tool.input_schema);
            let size = description.as_ref().map_or(0, String::len) + input_schema.to_string().len();
            if self.tools.len() == MOST_TOOLS || self.bytes + size > MOST_BYTES {
                offered.left_out += 1;
                continue;
            }
            self.bytes += size;
            let name = unique(&server.name, &tool.name, names);
            self.tools.push(McpTool { name, server: server.name.clone(), tool: tool.name, description, input_schema });
        }
        offered
    }
}

/// How many of a server's tools are not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offered {
    /// Their names are none.
    nameless: usize,
    /// There was no room for them.
    left_out: usize,
}

/// Whether a tool may be called this. The name is shown to people, who confirm calls by it, and in logs.
fn is_name(name: &str) -> bool {
    (1..=LONGEST_TOOL).contains(&name.len()) && !name.chars().any(|c| c.is_control() || is_invisible(c))
}

/// Characters that reorder or hide what stands beside them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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
        let tool = name.strip_prefix(&prefix(server))?;
        (!tool.is_empty()).then(|| (server, tool.to_owned()))
    })
}

/// The model's name for a tool. Depends on the two names alone unless two tools of one server would share it. No tool of
/// one server can have the name of another's, whatever it is called: the model would send to the one what is meant for the
/// other.
fn unique(server: &str, tool: &str, taken: &mut HashSet<String>) -> String {
    let prefix = prefix(server);
    let room = LONGEST_NAME - prefix.len();
    let mut name = match tool.len() <= room && safe(tool) == tool {
        true => format!("{prefix}{tool}"),
        false => format!("{prefix}{}", marked(tool, tool, room)),
    };
    let mut round = 0;
    while taken.contains(&name) {
        round += 1;
        name = format!("{prefix}{}", marked(tool, &format!("{tool}\0{round}"), room));
    }
    taken.insert(name.clone());
    name
}

/// What the names of a server's tools begin with. The server's part holds no `__` and does not end in `_`, so that what
/// follows the first `__` is the tool's, however that begins.
fn prefix(server: &str) -> String {
    let is_faithful =
        server.len() <= LONGEST_SERVER && safe(server) == server && !server.contains("__") && !server.ends_with('_');
    if is_faithful {
        return format!("mcp__{server}__");
    }
    let words: Vec<_> = safe(server).split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let part = marked(words.join("_").trim_end_matches('_'), server, LONGEST_SERVER);
    format!("mcp__{part}__")
}

/// A name made safe and short enough, with a mark of what it stands for.
fn marked(name: &str, stands_for: &str, room: usize) -> String {
    let (name, mark) = (safe(name), format!("_{:08x}", fingerprint(stands_for)));
    // Every character is ASCII: made safe above.
    let name = name[..name.len().min(room - mark.len())].trim_end_matches('_');
    format!("{name}{mark}")
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
    fn no_tool_of_one_server_can_take_the_name_of_another_s() {
        // Whoever is first: the honest one is not there yet, and the other one tries what the name would be.
        for (honest, liar) in [
            (("a__b", "c"), ("a", "b__c")),
            (("a_", "b"), ("a", "_b")),
            (("my wiki", "se arch"), ("my_wiki", "se_arch")),
        ] {
            let name = unique(honest.0, honest.1, &mut HashSet::new());
            assert_ne!(unique(liar.0, liar.1, &mut HashSet::new()), name);
            let rest = name.strip_prefix(&prefix(liar.0));
            assert_eq!(rest, None, "{name} begins as the names of {} do", liar.0);
        }
        let long = "s".repeat(255);
        let name = unique(&long, &"t".repeat(200), &mut HashSet::new());
        assert!(name.len() <= LONGEST_NAME && name.starts_with(&prefix(&long)), "{name}");
    }

    #[test]
    fn a_name_that_people_cannot_read_is_none() {
        for (name, good) in [
            ("search", true),
            ("s\u{e9}arch pages", true),
            ("", false),
            ("a\nb", false),
            ("a\u{1b}[2J", false),
            ("safe\u{202e}egnad", false),
            ("sea\u{200b}rch", false),
            (&"x".repeat(LONGEST_TOOL), true),
            (&"x".repeat(LONGEST_TOOL + 1), false),
        ] {
            assert_eq!(is_name(name), good, "{name:?}");
        }
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
