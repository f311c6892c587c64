//! Calls that are not answered yet.

use postern_model::ids::EventId;
use postern_model::tool::Builtin;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Owner {
    /// A worker, with `user.tool_result`.
    Worker,
    /// Whoever registered the name, with `user.custom_tool_result`.
    Custom,
    /// This server, which calls the tool of an MCP server or runs a web tool.
    Server,
    /// An advisor, in a thread of its own.
    Advisor,
}

/// How far an open call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// A person must say whether it may run.
    Asking,
    /// It may run, by policy.
    Free,
    /// It may run: a person said so. Nobody but its owner has to act any more.
    Confirmed,
    /// It was begun, which is in the journal. Only of calls that this server makes.
    Started,
}

/// One open call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) id: EventId,
    pub(crate) owner: Owner,
    pub(crate) progress: Progress,
    /// Whether those who watch the session were shown it though it is another thread's.
    pub(crate) is_posted: bool,
    /// What to call, where this server does it.
    pub(crate) target: Option<Target>,
}

/// What this server calls, and with what input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// A tool of an MCP server.
    Mcp { server: String, tool: String, input: Map<String, Value> },
    /// A web tool.
    Web { tool: Builtin, input: Map<String, Value> },
}

impl Target {
    /// What a call of a built-in tool is to this server; `None` where a worker runs it.
    pub(crate) fn builtin(name: &str, input: &Map<String, Value>) -> Option<Self> {
        let tool = Builtin::named(name).filter(|tool| !tool.runs_in_sandbox())?;
        Some(Self::Web { tool, input: input.clone() })
    }
}

impl Call {
    /// Whether someone outside has to act.
    fn waits(&self) -> bool {
        match self.progress {
            Progress::Asking => true,
            Progress::Free => matches!(self.owner, Owner::Worker | Owner::Custom),
            Progress::Confirmed | Progress::Started => false,
        }
    }
}

/// The open calls, in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calls(Vec<Call>);

impl Calls {
    pub(crate) fn open(&mut self, call: Call) {
        self.0.push(call);
    }

    pub(crate) fn find(&self, id: &EventId) -> Option<&Call> {
        self.0.iter().find(|call| call.id == *id)
    }

    pub(crate) fn confirm(&mut self, id: &EventId) {
        if let Some(call) = self.0.iter_mut().find(|call| call.id == *id) {
            call.progress = Progress::Confirmed;
        }
    }

    pub(crate) fn start(&mut self, id: &EventId) {
        if let Some(call) = self.0.iter_mut().find(|call| call.id == *id && call.owner == Owner::Server) {
            call.progress = Progress::Started;
        }
    }

    /// The calls that this server has begun.
    pub(crate) fn started(&self) -> impl Iterator<Item = &Call> {
        self.0.iter().filter(|call| call.progress == Progress::Started)
    }

    /// The calls that this server may begin, in the order they were made.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Call> {
        let may_run = |call: &&Call| matches!(call.progress, Progress::Free | Progress::Confirmed);
        self.0.iter().filter(|call| call.owner == Owner::Server).filter(may_run)
    }

    pub(crate) fn close(&mut self, id: &EventId) {
        self.0.retain(|call| call.id != *id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Call> {
        self.0.iter()
    }

    /// The calls that wait for someone outside: what `requires_action` lists. A confirmed call is executing instead, and
    /// so is one that this server or an advisor answers.
    pub(crate) fn waiting(&self) -> Vec<EventId> {
        self.0.iter().filter(|call| call.waits()).map(|call| call.id.clone()).collect()
    }

    /// Whether a worker has something to do.
    pub(crate) fn need_worker(&self) -> bool {
        self.0.iter().any(|call| call.owner == Owner::Worker && call.progress != Progress::Asking)
    }
}
