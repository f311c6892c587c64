//! Events: what clients may send to a session and what its log holds (contract part 3).
//!
//! Shapes and the checks that need nothing but the request. What an event *does* is decided by the session's state
//! machine.

mod client;
mod outcome;
mod preview;
#[cfg(test)]
mod tests;
mod workflow;

pub use client::{ClientEvent, MAX_EVENTS, SendEvents};
pub use outcome::{DEFAULT_ITERATIONS, LONGEST_RUBRIC, OutcomeEvaluation, OutcomeProgress, OutcomeResult, Rubric};
pub use preview::{ContentDelta, Preview, Previewable, PreviewedEvent};
pub use workflow::{WorkflowError, WorkflowErrorKind, WorkflowPhase, WorkflowResult};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::content::Block;
use crate::ids::{CredentialId, EventId, OutcomeId, ThreadId, VaultId, WorkflowPhaseId, WorkflowRunId};
use crate::money::BudgetLimit;
use crate::session::{SessionAgent, Usage};
use crate::{Field, Timestamp};

/// Whose lists and streams show an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Those of its thread and those of the session.
    Session,
    /// Those of its thread alone.
    Thread,
}

/// One event of a session's log, as it stands in lists and on streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id; for a tool use also the id that results name.
    pub id: EventId,
    /// When it took effect; null while an accepted client event waits behind others.
    pub processed_at: Option<Timestamp>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What an event says. The names on the wire are those of contract 3.1 and 3.2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[expect(missing_docs, reason = "field names and meanings are the contract's, one for one")]
pub enum EventBody {
    #[serde(rename = "user.message")]
    UserMessage { content: Vec<Block> },
    #[serde(rename = "user.interrupt")]
    UserInterrupt {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "user.tool_confirmation")]
    UserToolConfirmation {
        tool_use_id: EventId,
        result: Verdict,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deny_message: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "user.custom_tool_result")]
    UserCustomToolResult {
        custom_tool_use_id: EventId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Block>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "user.tool_result")]
    UserToolResult {
        tool_use_id: EventId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Block>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "user.define_outcome")]
    UserDefineOutcome { outcome_id: OutcomeId, description: String, rubric: Rubric, max_iterations: Option<u32> },
    #[serde(rename = "system.message")]
    SystemMessage { content: Vec<Block> },
    #[serde(rename = "agent.message")]
    AgentMessage { content: Vec<Block> },
    #[serde(rename = "agent.thinking")]
    AgentThinking {},
    #[serde(rename = "agent.tool_use")]
    AgentToolUse {
        name: String,
        input: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluated_permission: Option<Permission>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluation: Option<Evaluation>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "agent.tool_result")]
    AgentToolResult {
        tool_use_id: EventId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Block>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
    },
    #[serde(rename = "agent.mcp_tool_use")]
    AgentMcpToolUse {
        mcp_server_name: String,
        name: String,
        input: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluated_permission: Option<Permission>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluation: Option<Evaluation>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "agent.mcp_tool_result")]
    AgentMcpToolResult {
        mcp_tool_use_id: EventId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Block>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
    },
    #[serde(rename = "agent.custom_tool_use")]
    AgentCustomToolUse {
        name: String,
        input: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "agent.thread_context_compacted")]
    AgentThreadContextCompacted {},
    #[serde(rename = "agent.thread_message_sent")]
    ThreadMessageSent {
        content: Vec<Block>,
        to_session_thread_id: ThreadId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_agent_name: Option<String>,
    },
    #[serde(rename = "agent.thread_message_received")]
    ThreadMessageReceived {
        content: Vec<Block>,
        from_session_thread_id: ThreadId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_agent_name: Option<String>,
    },
    #[serde(rename = "session.thread_created")]
    ThreadCreated {
        agent_name: String,
        session_thread_id: ThreadId,
        /// Null but for a thread of a workflow's run.
        #[serde(default)]
        workflow_run_id: Option<WorkflowRunId>,
    },
    #[serde(rename = "session.status_running")]
    StatusRunning {},
    #[serde(rename = "session.status_rescheduled")]
    StatusRescheduled {},
    #[serde(rename = "session.status_terminated")]
    StatusTerminated {},
    #[serde(rename = "session.status_idle")]
    StatusIdle { stop_reason: StopReason, stop_details: Option<StopDetails> },
    #[serde(rename = "session.thread_status_running")]
    ThreadStatusRunning { agent_name: String, session_thread_id: ThreadId },
    #[serde(rename = "session.thread_status_rescheduled")]
    ThreadStatusRescheduled { agent_name: String, session_thread_id: ThreadId },
    #[serde(rename = "session.thread_status_terminated")]
    ThreadStatusTerminated { agent_name: String, session_thread_id: ThreadId },
    #[serde(rename = "session.thread_status_idle")]
    ThreadStatusIdle {
        agent_name: String,
        session_thread_id: ThreadId,
        stop_reason: StopReason,
        stop_details: Option<StopDetails>,
    },
    #[serde(rename = "session.error")]
    SessionError { error: SessionError },
    #[serde(rename = "session.updated")]
    SessionUpdated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Box<SessionAgent>>,
        #[serde(default, skip_serializing_if = "Field::is_absent")]
        budget: Field<BudgetLimit>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<crate::Metadata>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    #[serde(rename = "session.deleted")]
    SessionDeleted {},
    #[serde(rename = "session.usage")]
    SessionUsage {
        usage: Usage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<BudgetLimit>,
    },
    #[serde(rename = "span.model_request_start")]
    ModelRequestStart {},
    #[serde(rename = "span.model_request_end")]
    ModelRequestEnd { model_request_start_id: EventId, model_usage: ModelUsage, is_error: Option<bool> },
    #[serde(rename = "span.outcome_evaluation_start")]
    OutcomeEvaluationStart { outcome_id: OutcomeId, iteration: u32 },
    #[serde(rename = "span.outcome_evaluation_ongoing")]
    OutcomeEvaluationOngoing { outcome_id: OutcomeId, iteration: u32 },
    #[serde(rename = "span.outcome_evaluation_end")]
    OutcomeEvaluationEnd {
        /// Empty where none had begun.
        outcome_evaluation_start_id: String,
        outcome_id: OutcomeId,
        iteration: u32,
        result: OutcomeResult,
        explanation: String,
        usage: ModelUsage,
    },
    #[serde(rename = "workflow_run.created")]
    WorkflowRunCreated {
        workflow_run_id: WorkflowRunId,
        name: String,
        description: Option<String>,
        phases: Vec<WorkflowPhase>,
    },
    #[serde(rename = "workflow_run.status_running")]
    WorkflowRunRunning { workflow_run_id: WorkflowRunId },
    #[serde(rename = "workflow_run.status_idle")]
    WorkflowRunIdle { workflow_run_id: WorkflowRunId },
    #[serde(rename = "workflow_run.phase_started")]
    WorkflowRunPhaseStarted { workflow_run_id: WorkflowRunId, workflow_run_phase_id: WorkflowPhaseId },
    #[serde(rename = "workflow_run.phase_ended")]
    WorkflowRunPhaseEnded {
        workflow_run_id: WorkflowRunId,
        workflow_run_phase_id: WorkflowPhaseId,
        phase_started_id: EventId,
    },
    #[serde(rename = "workflow_run.error")]
    WorkflowRunError { error: WorkflowError, workflow_run_id: Option<WorkflowRunId> },
    #[serde(rename = "workflow_run.status_ended")]
    WorkflowRunEnded { workflow_run_id: WorkflowRunId, result: WorkflowResult },
}

impl EventBody {
    /// Every type that a list may be filtered by (contract 1.5).
    pub const TYPES: [&'static str; 41] = [
        "user.message",
        "user.interrupt",
        "user.tool_confirmation",
        "user.custom_tool_result",
        "user.tool_result",
        "user.define_outcome",
        "system.message",
        "agent.message",
        "agent.thinking",
        "agent.tool_use",
        "agent.tool_result",
        "agent.mcp_tool_use",
        "agent.mcp_tool_result",
        "agent.custom_tool_use",
        "agent.thread_context_compacted",
        "agent.thread_message_sent",
        "agent.thread_message_received",
        "session.status_running",
        "session.status_rescheduled",
        "session.status_terminated",
        "session.status_idle",
        "session.error",
        "session.updated",
        "session.usage",
        "session.thread_created",
        "session.thread_status_running",
        "session.thread_status_rescheduled",
        "session.thread_status_terminated",
        "session.thread_status_idle",
        "span.model_request_start",
        "span.model_request_end",
        "span.outcome_evaluation_start",
        "span.outcome_evaluation_ongoing",
        "span.outcome_evaluation_end",
        "workflow_run.created",
        "workflow_run.status_running",
        "workflow_run.status_idle",
        "workflow_run.phase_started",
        "workflow_run.phase_ended",
        "workflow_run.error",
        "workflow_run.status_ended",
    ];

    /// The event's `type`, also the name of its SSE frame.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UserMessage { .. } => "user.message",
            Self::UserInterrupt { .. } => "user.interrupt",
            Self::UserToolConfirmation { .. } => "user.tool_confirmation",
            Self::UserCustomToolResult { .. } => "user.custom_tool_result",
            Self::UserToolResult { .. } => "user.tool_result",
            Self::UserDefineOutcome { .. } => "user.define_outcome",
            Self::SystemMessage { .. } => "system.message",
            Self::OutcomeEvaluationStart { .. } => "span.outcome_evaluation_start",
            Self::OutcomeEvaluationOngoing { .. } => "span.outcome_evaluation_ongoing",
            Self::OutcomeEvaluationEnd { .. } => "span.outcome_evaluation_end",
            Self::AgentMessage { .. } => "agent.message",
            Self::AgentThinking {} => "agent.thinking",
            Self::AgentToolUse { .. } => "agent.tool_use",
            Self::AgentToolResult { .. } => "agent.tool_result",
            Self::AgentMcpToolUse { .. } => "agent.mcp_tool_use",
            Self::AgentMcpToolResult { .. } => "agent.mcp_tool_result",
            Self::AgentCustomToolUse { .. } => "agent.custom_tool_use",
            Self::AgentThreadContextCompacted {} => "agent.thread_context_compacted",
            Self::ThreadMessageSent { .. } => "agent.thread_message_sent",
            Self::ThreadMessageReceived { .. } => "agent.thread_message_received",
            Self::ThreadCreated { .. } => "session.thread_created",
            Self::StatusRunning {} => "session.status_running",
            Self::StatusRescheduled {} => "session.status_rescheduled",
            Self::StatusTerminated {} => "session.status_terminated",
            Self::StatusIdle { .. } => "session.status_idle",
            Self::ThreadStatusRunning { .. } => "session.thread_status_running",
            Self::ThreadStatusRescheduled { .. } => "session.thread_status_rescheduled",
            Self::ThreadStatusTerminated { .. } => "session.thread_status_terminated",
            Self::ThreadStatusIdle { .. } => "session.thread_status_idle",
            Self::SessionError { .. } => "session.error",
            Self::SessionUpdated { .. } => "session.updated",
            Self::SessionDeleted {} => "session.deleted",
            Self::SessionUsage { .. } => "session.usage",
            Self::ModelRequestStart {} => "span.model_request_start",
            Self::ModelRequestEnd { .. } => "span.model_request_end",
            Self::WorkflowRunCreated { .. } => "workflow_run.created",
            Self::WorkflowRunRunning { .. } => "workflow_run.status_running",
            Self::WorkflowRunIdle { .. } => "workflow_run.status_idle",
            Self::WorkflowRunPhaseStarted { .. } => "workflow_run.phase_started",
            Self::WorkflowRunPhaseEnded { .. } => "workflow_run.phase_ended",
            Self::WorkflowRunError { .. } => "workflow_run.error",
            Self::WorkflowRunEnded { .. } => "workflow_run.status_ended",
        }
    }
}

/// A person's answer to one call that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Run it.
    Allow,
    /// Never run it.
    Deny,
}

/// What a policy made of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It may run.
    Allow,
    /// A person must say so first.
    Ask,
    /// It never runs.
    Deny,
}

/// Which policy came to the permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Evaluation {
    /// The policy allows every call.
    AlwaysAllow {},
    /// The policy asks for every call.
    AlwaysAsk {},
    /// A judge was to decide.
    Auto {
        /// What it said.
        evaluated_permission: AutoPermission,
    },
}

/// A judge's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AutoPermission {
    /// Safe.
    Allow {},
    /// It could not tell.
    Ask {
        /// Why.
        reason_code: String,
    },
    /// Too dangerous.
    Deny {
        /// Why.
        reason_code: String,
    },
}

/// Why a thread went idle (contract 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StopReason {
    /// The natural end, or an interrupt.
    EndTurn {},
    /// Calls wait for an answer.
    RequiresAction {
        /// Their ids.
        event_ids: Vec<EventId>,
    },
    /// The retry budget is spent.
    RetriesExhausted {},
    /// The session has spent what it may.
    BudgetReached {},
    /// The model refused.
    Refusal {},
}

/// Details of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StopDetails {
    /// The model refused.
    Refusal {
        /// What it was about.
        category: Option<String>,
        /// Its words.
        explanation: Option<String>,
    },
}

/// What went wrong in a session (contract 3.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionError {
    /// The type.
    #[serde(rename = "type")]
    pub kind: SessionErrorKind,
    /// The MCP server that failed; only with the kinds that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_server_name: Option<String>,
    /// The credential that cannot reach a host of its own; only with the kind that is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<CredentialId>,
    /// The credential's vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_id: Option<VaultId>,
    /// The repository that could not be brought; only with the kinds that are about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_url: Option<String>,
    /// What happened and what to do.
    pub message: String,
    /// Whether the server goes on by itself.
    pub retry_status: RetryStatus,
}

/// The types of session errors that this build emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionErrorKind {
    /// Everything without a type of its own.
    UnknownError,
    /// The model's endpoint has no capacity.
    ModelOverloadedError,
    /// The model's endpoint limits our rate.
    ModelRateLimitedError,
    /// The model request failed.
    ModelRequestFailedError,
    /// The model's endpoint wants to be paid.
    BillingError,
    /// An MCP server could not be reached or did not speak the protocol. The session goes on without its tools.
    McpConnectionFailedError,
    /// An MCP server refused who we are. The session goes on without its tools.
    McpAuthenticationFailedError,
    /// A vault's credential may go to a host to which nothing leads here. The session goes on.
    CredentialHostUnreachableError,
    /// A repository's host does not know the token. The session goes on without the repository, as after the four below.
    RepositoryAuthenticationError,
    /// A repository's host, or the perimeter, does not allow it.
    RepositoryForbiddenError,
    /// There is no such repository, or none that the token may see.
    RepositoryNotFoundError,
    /// A repository has not what was to be checked out.
    RepositoryCheckoutError,
    /// A repository could not be cloned.
    RepositoryCloneError,
    /// Too many model requests in one turn.
    ToolUseLimitReachedError,
    /// The conversation is too long for the model and cannot be shortened.
    CompactionLimitReachedError,
}

/// Whether the server goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RetryStatus {
    /// It tries again.
    Retrying {},
    /// The turn is over.
    Exhausted {},
    /// The session is over.
    Terminal {},
}

/// Tokens of one model request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsage {
    /// Uncached input.
    pub input_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// Input written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Input read from the cache.
    pub cache_read_input_tokens: u64,
}
