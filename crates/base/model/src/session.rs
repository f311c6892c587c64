//! Sessions and their threads: the resource, its snapshot of an agent, and the bodies that create and change it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{
    AgentDefinition, AgentTag, ContextSettings, ExecutionIdentity, McpServer, Mind, ModelConfig, ModelParam,
    SessionMultiagent,
};
use crate::event::{ClientEvent, OutcomeEvaluation};
use crate::ids::{AgentId, DeploymentId, EnvironmentId, SessionId, ThreadId, VaultId, WorkflowRunId};
use crate::metadata::MetadataPatch;
use crate::money::{BudgetLimit, MonetaryAmount};
use crate::resource::{Resource, ResourceParam};
use crate::skill::{AgentSkill, SkillParam};
use crate::tool::{Tool, ToolParam};
use crate::{Field, Metadata, Problem, Timestamp};

/// The longest title of a session, in characters.
const MAX_TITLE: usize = 500;

/// A session's title as it was sent; no title is null, not an empty text.
///
/// # Errors
/// 400 when it is empty, blank or too long.
pub fn title(sent: String) -> Result<String, Problem> {
    if sent.trim().is_empty() || sent.chars().count() > MAX_TITLE {
        let message = format!("must have 1 to {MAX_TITLE} characters and not be blank; null is no title");
        return Err(Problem::invalid_at("title", message));
    }
    Ok(sent)
}

/// A session (contract 2.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Always `session`.
    #[serde(rename = "type")]
    pub kind: SessionTag,
    /// The agent as resolved when the session began, or as updated since.
    pub agent: SessionAgent,
    /// Whose workers serve it.
    pub environment_id: EnvironmentId,
    /// What it does now.
    pub status: SessionStatus,
    /// The caller's title.
    pub title: Option<String>,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// What it may spend.
    pub budget: Option<BudgetLimit>,
    /// Where its MCP servers' credentials are looked for, in this order.
    pub vault_ids: Vec<VaultId>,
    /// What started it, if it was a deployment.
    pub deployment_id: Option<DeploymentId>,
    /// What it is given besides.
    pub resources: Vec<Resource>,
    /// The outcomes that were defined, oldest first.
    pub outcome_evaluations: Vec<OutcomeEvaluation>,
    /// Times.
    pub stats: Stats,
    /// Tokens.
    pub usage: Usage,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `session`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionTag {
    /// `session`.
    #[default]
    #[serde(rename = "session")]
    Session,
}

/// A session's snapshot of its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionAgent {
    /// The base agent.
    pub id: AgentId,
    /// Always `agent`.
    #[serde(rename = "type")]
    pub kind: AgentTag,
    /// The base agent's version.
    pub version: u64,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Its system prompt.
    pub system: Option<String>,
    /// Its model.
    pub model: ModelConfig,
    /// In whose name it acts.
    pub execution_identity: ExecutionIdentity,
    /// Its MCP servers.
    pub mcp_servers: Vec<McpServer>,
    /// Its skills, each pinned to a version.
    pub skills: Vec<AgentSkill>,
    /// Its tools.
    pub tools: Vec<Tool>,
    /// Whom it has work for it; absent in threads.
    pub multiagent: Option<SessionMultiagent>,
    /// When its conversation is shortened; an addition to the contract, left out unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextSettings>,
}

impl SessionAgent {
    /// The snapshot of one version of an agent; its metadata stays behind, and its roster is not looked up.
    pub fn snapshot(id: AgentId, version: u64, definition: AgentDefinition) -> Self {
        Self {
            id,
            kind: AgentTag::Agent,
            version,
            name: definition.name,
            description: definition.description,
            system: definition.system,
            model: definition.model,
            execution_identity: definition.execution_identity,
            mcp_servers: definition.mcp_servers,
            skills: definition.skills,
            tools: definition.tools,
            multiagent: None,
            context: definition.context,
        }
    }
}

/// What a session or thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// It waits for somebody.
    Idle,
    /// It works.
    Running,
    /// It waits to try again.
    Rescheduling,
    /// It is over.
    Terminated,
}

impl SessionStatus {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Rescheduling => "rescheduling",
            Self::Terminated => "terminated",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Idle, Self::Running, Self::Rescheduling, Self::Terminated].into_iter().find(|s| s.as_str() == word)
    }
}

/// Times of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds spent running.
    pub active_seconds: f64,
    /// Seconds since creation, frozen when terminated.
    pub duration_seconds: f64,
}

/// Tokens, their cost and running time of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Uncached input.
    pub input_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// Input read from the cache.
    pub cache_read_input_tokens: u64,
    /// Input written to the cache.
    pub cache_creation: CacheCreation,
    /// Seconds spent running.
    pub active_seconds: f64,
    /// What the tokens cost; absent unless each of them has a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_cost: Option<MonetaryAmount>,
    /// What this server ran itself; absent while it ran nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_tool_use: Option<ServerToolUsage>,
}

/// How often this server's own tools were run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerToolUsage {
    /// Always 0 (contract 2.2).
    pub web_fetch_requests: u64,
    /// Searches.
    pub web_search_requests: u64,
}

impl ServerToolUsage {
    fn plus(self, other: Self) -> Self {
        Self {
            web_fetch_requests: self.web_fetch_requests + other.web_fetch_requests,
            web_search_requests: self.web_search_requests + other.web_search_requests,
        }
    }
}

impl Usage {
    /// The tokens of both; times and costs do not add up and are left to whoever knows them.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (cache, others) = (self.cache_creation, other.cache_creation);
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cache_read_input_tokens: self.cache_read_input_tokens + other.cache_read_input_tokens,
            cache_creation: CacheCreation {
                ephemeral_1h_input_tokens: cache.ephemeral_1h_input_tokens + others.ephemeral_1h_input_tokens,
                ephemeral_5m_input_tokens: cache.ephemeral_5m_input_tokens + others.ephemeral_5m_input_tokens,
            },
            active_seconds: 0.0,
            list_cost: None,
            server_tool_use: match (self.server_tool_use, other.server_tool_use) {
                (Some(one), Some(two)) => Some(one.plus(two)),
                (one, two) => one.or(two),
            },
        }
    }
}

/// Input written to the cache, by how long it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCreation {
    /// Kept an hour.
    pub ephemeral_1h_input_tokens: u64,
    /// Kept five minutes.
    pub ephemeral_5m_input_tokens: u64,
}

/// A thread of a session (contract 2.7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its id.
    pub id: ThreadId,
    /// Always `session_thread`.
    #[serde(rename = "type")]
    pub kind: ThreadTag,
    /// Whose thread it is.
    pub session_id: SessionId,
    /// Who thinks in it.
    pub agent: Mind,
    /// What it does now.
    pub status: SessionStatus,
    /// The thread that it works for; null for the primary one.
    pub parent_thread_id: Option<ThreadId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// Times; null until it first ran.
    pub stats: Option<Stats>,
    /// Tokens; null until it was first idle after running.
    pub usage: Option<Usage>,
    /// The run of a workflow that created it; null for any other.
    pub workflow_run_id: Option<WorkflowRunId>,
}

/// The constant `session_thread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadTag {
    /// `session_thread`.
    #[default]
    #[serde(rename = "session_thread")]
    SessionThread,
}

/// The body of `POST /v1/sessions`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Which agent.
    pub agent: AgentParam,
    /// Whose workers serve it.
    pub environment_id: String,
    /// What it may spend; never null.
    #[serde(default)]
    pub budget: Field<Value>,
    /// Sent at once.
    #[serde(default)]
    pub initial_events: Option<Vec<ClientEvent>>,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// What it is given besides, at most 500.
    #[serde(default)]
    pub resources: Option<Vec<ResourceParam>>,
    /// The caller's title.
    #[serde(default)]
    pub title: Option<String>,
    /// At most 50 vaults, none archived.
    #[serde(default)]
    pub vault_ids: Option<Vec<String>>,
}

/// How a session names its agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an agent id, {\"type\":\"agent\",...} or {\"type\":\"agent_with_overrides\",...}"
)]
pub enum AgentParam {
    /// The latest version.
    Id(String),
    /// A version, perhaps with overrides.
    Reference(AgentReferenceParam),
}

/// An agent by id and version, perhaps with overrides.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentReferenceParam {
    /// As it is.
    Agent {
        /// Which.
        id: String,
        /// Absent: the latest.
        #[serde(default)]
        version: Option<u64>,
    },
    /// With whole fields replaced.
    AgentWithOverrides {
        /// Which.
        id: String,
        /// Absent: the latest.
        #[serde(default)]
        version: Option<u64>,
        /// Null is refused (`agent_model_required`).
        #[serde(default)]
        model: Field<ModelParam>,
        /// Null clears.
        #[serde(default)]
        system: Field<String>,
        /// Null clears.
        #[serde(default)]
        tools: Field<Vec<ToolParam>>,
        /// Null clears.
        #[serde(default)]
        mcp_servers: Field<Vec<McpServer>>,
        /// Null clears.
        #[serde(default)]
        skills: Field<Vec<SkillParam>>,
    },
}

/// The body of `POST /v1/sessions/{id}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSession {
    /// Replaces arrays of the snapshot; needs an idle session.
    #[serde(default)]
    pub agent: Field<UpdateSessionAgent>,
    /// Raises a budget that the session was created with; null removes it for good.
    #[serde(default)]
    pub budget: Field<Value>,
    /// Merged.
    #[serde(default)]
    pub metadata: Field<MetadataPatch>,
    /// Null clears.
    #[serde(default)]
    pub title: Field<String>,
    /// Always refused: reserved.
    #[serde(default)]
    pub vault_ids: Field<Value>,
}

/// The agent part of an update.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSessionAgent {
    /// The whole array; null clears.
    #[serde(default)]
    pub tools: Field<Vec<ToolParam>>,
    /// The whole array; null clears.
    #[serde(default)]
    pub mcp_servers: Field<Vec<McpServer>>,
}
