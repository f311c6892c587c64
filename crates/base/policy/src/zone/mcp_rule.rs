//! One `mcp` rule of a zone: which server, which tools with which arguments, which other methods.

use crate::argument::{Argument, Disagreement, Glob};
use crate::request::McpCall;
use serde_json::Map;
use std::fmt;
use std::str::FromStr;

/// The method that calls a tool.
pub(crate) const CALL: &str = "tools/call";

/// Longer names are nobody's.
const LONGEST_NAME: usize = 256;

/// A rule of a zone, as written there.
#[derive(Clone, Debug)]
pub(crate) struct McpRule {
    /// `<zone>/mcp/<n>`, n from 1 in the order of the file.
    pub(crate) id: String,
    /// The route's name.
    pub(crate) server: String,
    pub(crate) tools: Vec<Glob>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) methods: Vec<MethodPattern>,
}

/// Methods beside those that go with every rule: one, or all of a family (`resources/*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MethodPattern {
    Exact(String),
    /// With the slash.
    Below(String),
}

/// The text names no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPattern {
    #[error("not an MCP method such as resources/read, nor a family such as resources/*")]
    Malformed,
    #[error("tools are named in `tools`; methods names others, such as resources/* or prompts/*")]
    Tools,
    #[error("this method goes with every rule; leave it out")]
    Always,
}

impl FromStr for MethodPattern {
    type Err = BadPattern;
    fn from_str(text: &str) -> Result<Self, BadPattern> {
        if text.starts_with("tools/") {
            return Err(BadPattern::Tools);
        }
        let (name, family) = text.strip_suffix("/*").map_or((text, false), |name| (name, true));
        if !is_method(name) {
            return Err(BadPattern::Malformed);
        }
        if always(name) || (family && always(&format!("{name}/x"))) {
            return Err(BadPattern::Always);
        }
        Ok(if family { Self::Below(format!("{name}/")) } else { Self::Exact(name.to_owned()) })
    }
}

impl fmt::Display for MethodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(family) => write!(f, "{family}*"),
        }
    }
}

impl MethodPattern {
    fn covers(&self, method: &str) -> bool {
        match self {
            Self::Exact(name) => name == method,
            Self::Below(family) => method.strip_prefix(family.as_str()).is_some_and(|rest| !rest.is_empty()),
        }
    }
}

/// What belongs to speaking with a server at all, and to knowing what it has.
fn always(method: &str) -> bool {
    matches!(method, "initialize" | "ping" | "tools/list") || method.starts_with("notifications/")
}

fn is_method(text: &str) -> bool {
    let of_method = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$');
    text.len() <= LONGEST_NAME && text.split('/').all(|part| !part.is_empty() && part.bytes().all(of_method))
}

/// How far a call agrees with a rule, in the order in which it is looked at. `Tool` counts the arguments that agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum McpAgreement {
    Nothing,
    Server,
    Method,
    Tool(usize),
    Whole,
}

impl McpRule {
    /// How far this call agrees with the rule.
    pub(crate) fn agreement(&self, call: &McpCall<'_>) -> McpAgreement {
        if !self.covers_server(call) {
            McpAgreement::Nothing
        } else if !self.covers_method(call) {
            McpAgreement::Server
        } else if call.method != CALL {
            McpAgreement::Whole
        } else if !self.covers_tool(call) {
            McpAgreement::Method
        } else {
            match self.disagreements(call).len() {
                0 => McpAgreement::Whole,
                disagreeing => McpAgreement::Tool(self.arguments.len() - disagreeing),
            }
        }
    }

    pub(crate) fn covers_server(&self, call: &McpCall<'_>) -> bool {
        self.server == call.route
    }

    pub(crate) fn covers_method(&self, call: &McpCall<'_>) -> bool {
        let named = if call.method == CALL {
            !self.tools.is_empty()
        } else {
            always(call.method) || self.methods.iter().any(|pattern| pattern.covers(call.method))
        };
        named && is_method(call.method)
    }

    pub(crate) fn covers_tool(&self, call: &McpCall<'_>) -> bool {
        let well_formed =
            |tool: &str| (1..=LONGEST_NAME).contains(&tool.len()) && tool.chars().all(|letter| !letter.is_control());
        call.tool.is_some_and(|tool| well_formed(tool) && self.tools.iter().any(|glob| glob.matches(tool)))
    }

    /// The arguments of the rule with which a call does not agree. A call without arguments has an empty object.
    pub(crate) fn disagreements(&self, call: &McpCall<'_>) -> Vec<(&Argument, Disagreement)> {
        let none = Map::new();
        let given = call.arguments.unwrap_or(&none);
        let disagreement = |argument: &Argument| argument.check(given).err();
        self.arguments.iter().filter_map(|argument| Some((argument, disagreement(argument)?))).collect()
    }
}
