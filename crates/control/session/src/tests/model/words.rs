//! What happens to a session and what can be seen of it, in the words of its model.

use postern_model::ids::EventId;

/// What a call needs before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// A worker runs it.
    Free,
    /// A worker runs it when a person has agreed.
    Asks,
    /// Whoever knows it answers it.
    Custom,
    /// It is not enabled: answered at once.
    Disabled,
    /// An advisor answers it.
    Advised,
    /// The server calls it: tools of two MCP servers, and one of them when a person has agreed.
    Search,
    Read,
    Edit,
    /// The same when a judge has agreed; where none may be asked or says nothing clear, a person.
    Judged,
    /// It is switched off at its MCP server.
    Danger,
    /// The server runs it.
    WebSearch,
    /// The server finds that it may not be fetched.
    Composed,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Free => "bash",
            Self::Asks => "write",
            Self::Custom => "lookup",
            Self::Disabled => "grep",
            Self::Advised => "ask_advisor",
            Self::Search => "mcp__wiki__search",
            Self::Read => "mcp__docs__read",
            Self::Edit => "mcp__wiki__edit",
            Self::Judged => "mcp__wiki__judge",
            Self::Danger => "mcp__wiki__danger",
            Self::WebSearch => "web_search",
            Self::Composed => "web_fetch",
        }
    }

    /// Whether the server itself answers it.
    pub(super) fn is_servers(self) -> bool {
        match self {
            Self::Search | Self::Read | Self::Edit | Self::Judged | Self::Danger | Self::WebSearch | Self::Composed => {
                true
            }
            Self::Free | Self::Asks | Self::Custom | Self::Disabled | Self::Advised => false,
        }
    }
}

/// How far a call is that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// A person is to agree.
    Asks,
    /// It may run.
    Waits,
    /// A person has agreed.
    Confirmed,
    /// The server runs it.
    Started,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Stopped {
    Refusal,
    Pause,
    Cut,
    /// The conversation has outgrown the window.
    Outgrown,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failed {
    Helpless,
    Transient,
    /// The conversation is too long.
    TooLong,
}

/// What a judge says of every call that it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Deny,
    Ask,
    Nonsense,
    Silence,
}

impl Verdict {
    pub(super) fn says(self) -> Option<String> {
        let all = |decision: &str| {
            let each = |call: usize| format!(r#"{{"call":{call},"decision":"{decision}","reason":"r"}}"#);
            format!(r#"{{"verdicts":[{}]}}"#, (0..4).map(each).collect::<Vec<_>>().join(","))
        };
        match self {
            Self::Allow => Some(all("allow")),
            Self::Deny => Some(all("deny")),
            Self::Ask => Some(all("ask")),
            Self::Nonsense => Some("hm".to_owned()),
            Self::Silence => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Grade {
    Satisfied,
    Revise,
    Failed,
    Nonsense,
    Silence,
}

impl Grade {
    pub(super) fn says(self) -> Option<&'static str> {
        match self {
            Self::Satisfied => Some(r#"{"result":"satisfied","explanation":"e"}"#),
            Self::Revise => Some(r#"{"result":"needs_revision","explanation":"e"}"#),
            Self::Failed => Some(r#"{"result":"failed","explanation":"e"}"#),
            Self::Nonsense => Some("hm"),
            Self::Silence => None,
        }
    }
}

/// What can be seen from outside.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) status: &'static str,
    pub(super) reason: Option<&'static str>,
    /// What `requires_action` names.
    pub(super) waiting: Vec<EventId>,
    /// Calls without an answer, and whether a person is asked.
    pub(super) open: Vec<(EventId, bool)>,
    pub(super) asks_model: bool,
    /// A judge or a grader.
    pub(super) consults: bool,
    pub(super) queued: usize,
    /// Whether MCP servers are being asked who they are.
    pub(super) connects: bool,
    /// Calls that the server runs.
    pub(super) running: Vec<EventId>,
}
