//! A session's events as far as a worker looks at them. Everything else passes: servers newer than this worker send more.

use serde_json::{Map, Value};

use crate::hands::ToolCall;

/// One event of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// A tool use of the agent's built-in tools, or of a custom one.
    ToolUse(ToolUse),
    /// A tool use was answered, by whomever.
    Answered {
        /// The tool use.
        tool_use: String,
        /// A worker ran it, and it did what it should: it may have left files.
        worked: bool,
    },
    /// A person's verdict on a held tool use.
    Verdict {
        /// The tool use.
        tool_use: String,
        /// Only the word `allow` allows.
        allow: bool,
    },
    /// A thread ended: its open tool uses take no result.
    ThreadEnded(String),
    /// The session is idle.
    Idle {
        /// Whether the turn is over; a session that waits for an action is not.
        turn_over: bool,
    },
    /// The session was changed; its agent's definition may be another now.
    Updated,
    /// The session is terminated or deleted.
    Over,
    /// Anything else: a sign of activity.
    Other,
}

/// A tool use as the server announces it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// What to run.
    pub call: ToolCall,
    /// Who may run it when.
    pub gate: Gate,
    /// Whether it is a custom tool: never ours, whatever its name.
    pub custom: bool,
}

/// What the server said about permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing, or that it is allowed.
    Open,
    /// A person must say so first; a word that this worker does not know counts as this.
    Ask,
    /// It is refused; the server answers it itself.
    Denied,
}

impl SessionEvent {
    /// Reads one event.
    pub fn read(event: &Value) -> Self {
        match text(event, "type").unwrap_or_default() {
            "agent.tool_use" => Self::tool_use(event, false),
            "agent.custom_tool_use" => Self::tool_use(event, true),
            "user.tool_result" => Self::about(event, "tool_use_id", |tool_use| Self::Answered {
                tool_use,
                worked: event.get("is_error").and_then(Value::as_bool) != Some(true),
            }),
            "agent.tool_result" => {
                Self::about(event, "tool_use_id", |tool_use| Self::Answered { tool_use, worked: false })
            }
            "user.custom_tool_result" => {
                Self::about(event, "custom_tool_use_id", |tool_use| Self::Answered { tool_use, worked: false })
            }
            "user.tool_confirmation" => Self::about(event, "tool_use_id", |tool_use| Self::Verdict {
                tool_use,
                allow: text(event, "result") == Some("allow"),
            }),
            "session.thread_status_terminated" => Self::about(event, "session_thread_id", Self::ThreadEnded),
            "session.status_idle" => Self::Idle {
                turn_over: event.get("stop_reason").and_then(|reason| text(reason, "type")) != Some("requires_action"),
            },
            "session.updated" => Self::Updated,
            "session.status_terminated" | "session.deleted" => Self::Over,
            _ => Self::Other,
        }
    }

    fn tool_use(event: &Value, custom: bool) -> Self {
        let (Some(id), Some(name)) = (text(event, "id"), text(event, "name")) else { return Self::Other };
        let gate = match event.get("evaluated_permission") {
            None | Some(Value::Null) => Gate::Open,
            Some(Value::String(word)) if word == "allow" => Gate::Open,
            Some(Value::String(word)) if word == "deny" => Gate::Denied,
            Some(_) => Gate::Ask,
        };
        let input = match event.get("input") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(input)) => input.clone(),
            // Arguments without names fit no tool: it says so in its own words, and nothing is made up for it.
            Some(other) => Map::from_iter([("input".to_owned(), other.clone())]),
        };
        let thread = text(event, "session_thread_id").map(str::to_owned);
        let asked = gate == Gate::Ask;
        let call = ToolCall { id: id.to_owned(), name: name.to_owned(), input, thread, asked };
        Self::ToolUse(ToolUse { call, gate, custom })
    }

    fn about(event: &Value, key: &str, read: impl FnOnce(String) -> Self) -> Self {
        text(event, key).map_or(Self::Other, |id| read(id.to_owned()))
    }

    /// Events that neither show activity nor end a turn (contract section 3.6). A change of the session is the operator's and no turn's.
    pub(crate) fn is_neutral(&self) -> bool {
        matches!(self, Self::Verdict { .. } | Self::ThreadEnded(_) | Self::Updated)
    }

    pub(crate) fn ends_turn(&self) -> bool {
        matches!(self, Self::Idle { turn_over: true })
    }
}

impl SessionEvent {
    /// About how many bytes it may leave behind.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::ToolUse(tool_use) => tool_use.weight(),
            Self::ThreadEnded(id) | Self::Answered { tool_use: id, .. } | Self::Verdict { tool_use: id, .. } => {
                id.len() + ENTRY_BYTES
            }
            Self::Idle { .. } | Self::Updated | Self::Over | Self::Other => 0,
        }
    }
}

impl ToolUse {
    pub(crate) fn weight(&self) -> usize {
        let call = &self.call;
        let members: usize = call.input.iter().map(|(name, value)| name.len() + weight(value) + ENTRY_BYTES).sum();
        // Its id stands in a set of its own too.
        2 * call.id.len() + call.name.len() + members + 2 * ENTRY_BYTES
    }
}

fn weight(value: &Value) -> usize {
    ENTRY_BYTES
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(members) => members.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        }
}

/// What one entry of a map or list takes besides its text.
const ENTRY_BYTES: usize = 64;

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
