//! What goes into a session and what comes out.

use std::time::Duration;

use postern_model::agent::McpServer;
use postern_model::content::Block;
use postern_model::event::{Audience, ClientEvent, Event, ModelUsage, Preview, StopDetails};
use postern_model::ids::{CredentialId, EventId, ThreadId, VaultId};
use postern_model::money::BudgetLimit;
use postern_model::resource::RepositoryFault;
use postern_model::session::SessionAgent;
use postern_model::{Field, Metadata};
use serde_json::{Map, Value};

use crate::web::WebOrder;

/// Who sends events: what a worker's credential may send is less than what a client's may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// An API key, or the operator's socket.
    Client,
    /// An environment key or a session token: results of open calls only.
    Worker,
}

/// Everything that is not decided by the log: handed in, so that a test can repeat it.
pub trait Chance {
    /// A fresh id for an event.
    fn event_id(&mut self) -> EventId;
    /// A fresh id for a thread.
    fn thread_id(&mut self) -> ThreadId;
    /// A number from 0 up to 1, to spread retries.
    fn jitter(&mut self) -> f64;
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The process began: go on where the log ends.
    Resume,
    /// Events that [`crate::Session::check`] found acceptable.
    Events(Vec<ClientEvent>),
    /// News of the model request that began with this event; of any other it is ignored.
    Model(EventId, ModelEvent),
    /// What the servers of [`Effect::ConnectMcp`] answered; of an attempt that nobody waits for it is ignored.
    McpConnected {
        /// Which attempt.
        attempt: u64,
        /// One entry per server; a server without one counts as failed.
        servers: Vec<McpNews>,
    },
    /// What became of an [`Effect::CallMcp`] or [`Effect::CallWeb`]; of a call that is answered already it is ignored.
    Called {
        /// The event that asked for the call.
        call: EventId,
        /// What the model and everyone else are shown.
        content: Vec<Block>,
        /// Whether it failed.
        is_error: bool,
    },
    /// What became of an [`Effect::Consult`]; of another it is ignored.
    Consulted {
        /// The number of the consultation: an event's id.
        start: EventId,
        /// The answer and its tokens, or what went wrong, for people.
        answer: Result<(String, ModelUsage), String>,
    },
    /// The consultation with this number still runs.
    Consulting(EventId),
    /// The wait of this thread's last [`Effect::RetryAfter`] is over.
    RetryDue(ThreadId),
    /// A worker could not serve the session's work item.
    WorkFailed {
        /// A stable reason code.
        code: String,
        /// A sentence with the next step.
        message: String,
    },
    /// Something that the session was promised will not be there; it goes on without.
    Missing {
        /// A stable reason code.
        code: String,
        /// A sentence with the next step.
        message: String,
        /// What that is.
        lacking: Lacking,
    },
    /// The time has come that [`crate::Session::next_lapse`] says.
    Lapsed,
    /// The session is archived; it must be idle.
    Archive,
    /// One of the threads that work for the session's agent is archived; it must be idle.
    ArchiveThread(ThreadId),
    /// The session's record was changed.
    Updated {
        /// The new snapshot, if it changed; the session must be idle.
        agent: Option<Box<SessionAgent>>,
        /// What it may spend, if that changed.
        budget: Field<BudgetLimit>,
        /// All pairs, if they changed.
        metadata: Option<Metadata>,
        /// The new title, if it changed.
        title: Option<String>,
    },
}

/// What a session goes without.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Lacking {
    /// What the message says.
    Something,
    /// A host of a vault's credential, to which nothing leads.
    Host(CredentialId, VaultId),
    /// The repository at a URL.
    Repository(RepositoryFault, String),
}

/// A question to a model that is not in the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consultation {
    /// Who is asked.
    pub counsel: Counsel,
    /// What it is told to be.
    pub system: &'static str,
    /// The question.
    pub text: String,
}

/// Whom a session asks besides its agent's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counsel {
    /// Whoever decides whether a call may run.
    Judge,
    /// Whoever finds whether an outcome holds.
    Grader,
}

/// What became of connecting to one MCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct McpNews {
    /// The agent's name for the server.
    pub server: String,
    /// Its tools, or why there are none.
    pub tools: Result<Vec<ServerTool>, McpFailure>,
}

/// A tool as its server describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTool {
    /// The server's name for it.
    pub name: String,
    /// What the server says about it.
    pub description: Option<String>,
    /// The schema of its input.
    pub input_schema: Value,
}

/// Why an MCP server cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpFailure {
    /// Which of the contract's two errors it is.
    pub kind: McpFailureKind,
    /// What happened and what to do, for people and for the model; never a credential.
    pub message: String,
}

/// The contract's two errors of MCP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McpFailureKind {
    /// It could not be reached, or did not speak the protocol.
    Connection,
    /// It refused who we are.
    Authentication,
}

impl McpFailure {
    pub(crate) fn unanswered() -> Self {
        let message = "The server was not asked. Look at this server's log, then send a message to try again.";
        Self { kind: McpFailureKind::Connection, message: message.into() }
    }

    pub(crate) fn nameless(count: usize) -> Self {
        let message = format!(
            "{count} of its tools are not offered to the model: a tool's name has 1 to {} bytes and no control or \
             invisible characters. Tell whoever runs the server.",
            crate::mcp::LONGEST_TOOL
        );
        Self { kind: McpFailureKind::Connection, message }
    }

    pub(crate) fn too_many(left_out: usize) -> Self {
        let message = format!(
            "{left_out} of its tools are not offered to the model: those of all servers together may be {} with {} bytes \
             of descriptions and schemas. Disable what is not needed in `configs` of the mcp_toolset.",
            crate::mcp::MOST_TOOLS,
            crate::mcp::MOST_BYTES
        );
        Self { kind: McpFailureKind::Connection, message }
    }
}

/// News of a model request.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// Tokens that the endpoint has counted so far: what a request costs that is given up from here on.
    Counted(ModelUsage),
    /// A block of thinking began.
    ThinkingStarted {
        /// Its index in the response.
        index: usize,
    },
    /// More text of a text block.
    Text {
        /// The block's index in the response.
        index: usize,
        /// The piece.
        text: String,
    },
    /// The response is complete.
    Finished(Response),
    /// It will not be.
    Failed(ModelFailure),
}

/// A complete response of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Its blocks, each with its index in the response.
    pub blocks: Vec<(usize, ResponseBlock)>,
    /// Why it stopped.
    pub stop: Stop,
    /// Tokens.
    pub usage: ModelUsage,
}

/// One block of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseBlock {
    /// Text.
    Text(String),
    /// Thinking, whole and verbatim: goes back to the model, never to a client.
    Thinking(Value),
    /// A call.
    ToolUse {
        /// The tool.
        name: String,
        /// Its input; `Err` carries why it is no JSON object.
        input: Result<Map<String, Value>, String>,
    },
    /// A kind of block that has no event: goes back to the model verbatim.
    Other(Value),
}

/// Why a response stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It said all it wanted.
    EndTurn,
    /// It wants tools to run.
    ToolUse,
    /// It reached the limit of output tokens.
    MaxTokens,
    /// It wants to be asked again with what it said.
    PauseTurn,
    /// It refused.
    Refusal(Option<StopDetails>),
    /// The conversation has outgrown the model's window.
    ContextExceeded,
}

/// Why a model request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, for people; never a credential.
    pub message: String,
    /// How long the endpoint asks to wait.
    pub retry_after: Option<Duration>,
    /// Tokens that were already counted.
    pub usage: ModelUsage,
}

/// Kinds of failure, by what helps against them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The endpoint limits our rate: wait.
    RateLimited,
    /// The endpoint has no capacity: wait.
    Overloaded,
    /// Connection trouble, a timeout, a 5xx: try again.
    Transient,
    /// The endpoint wants to be paid.
    Billing,
    /// The conversation is too long for the model: shortening it helps.
    TooLong,
    /// The request is wrong or not permitted: trying again does not help.
    Rejected,
}

/// Something to do, and in which thread.
#[derive(Debug, PartialEq)]
pub struct Deed {
    /// The thread.
    pub thread: ThreadId,
    /// What is to be done.
    pub effect: Effect,
}

/// Something to do. Everything up to the first effect that is not storage belongs into one transaction, and is stored
/// before anything is shown or begun.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Append this event to the thread's log, then show it to these.
    Append(Event, Audience),
    /// The event with this id is what became of the next of the client events that were handed in.
    Accepted(EventId),
    /// The event with this id was stored unprocessed: it takes effect now, at the end of the log. Show it again.
    Process(Event),
    /// Keep these blocks beside the event; they are the model's and are shown to no client.
    Keep(EventId, Vec<Value>),
    /// See that a work item for this session is queued or being served.
    EnsureWork,
    /// Ask the model; the request is [`crate::Session::asked`].
    CallModel(EventId),
    /// Ask a model that is not in the conversation, and hand in [`Input::Consulted`] with its answer.
    Consult(EventId, Consultation),
    /// Forget the model request and the consultation that run.
    CancelModel,
    /// See that these servers are connected, all at once, and hand in [`Input::McpConnected`] when each has answered or
    /// failed. Those that are connected may be kept.
    ConnectMcp {
        /// The number to answer with.
        attempt: u64,
        /// The agent's servers.
        servers: Vec<McpServer>,
    },
    /// Mark this call as begun, in the transaction of the effects around it, and call the tool once that is committed.
    /// Hand in [`Input::Called`] with what became of it.
    CallMcp {
        /// The event that asks for it.
        call: EventId,
        /// The agent's name for the server.
        server: String,
        /// The server's name for the tool.
        tool: String,
        /// Its arguments.
        input: Map<String, Value>,
    },
    /// The same for a web tool: what it may reach was decided.
    CallWeb {
        /// The event that asks for it.
        call: EventId,
        /// What is to be done.
        order: WebOrder,
    },
    /// Forget every connecting and every call of [`Effect::CallMcp`] and [`Effect::CallWeb`] that runs: cancel them.
    CancelMcp,
    /// Hand in [`Input::RetryDue`] after this long: a wait, not a time, so that a clock that is set does not change it.
    RetryAfter(Duration),
    /// Show this to those who want previews; store nothing.
    Preview(Preview),
}
