//! Agents: the versioned definition of a mind, as requests carry it, as it is stored and as it is shown (contract 2.3).
//!
//! A request is resolved once, on arrival: what is stored and shown says everything explicitly.

mod advisor;
mod check;
mod context;
mod inline;
mod mcp;
mod model_config;
mod multiagent;
mod parts;

pub use advisor::{ADVISOR, ASK_ADVISOR, Advisor, Team};
pub use check::{MAX_DESCRIPTION, MAX_NAME, MAX_SYSTEM, fitting_mcp, fitting_skills};
pub use context::ContextSettings;
pub use inline::InlineAgent;
pub use mcp::{MAX_MCP_SERVERS, McpServer, McpServerTag};
pub use model_config::{Effort, EffortLevel, ModelConfig, ModelParam, Speed};
pub use multiagent::{
    CHECK_WORKFLOW, CONTINUE_WORKFLOW, HasRoster, MAX_ROSTER, MESSAGE_AGENT, Member, MemberFacts, MemberParam, Mind,
    Multiagent, START_AGENT, START_WORKFLOW, STOP_WORKFLOW, SessionMultiagent, ThreadAgent, WORKFLOW_TOOLS,
    fitting_roster, fitting_roster_skills,
};
pub use parts::{AdvisorPart, InlineAgents, Parts, Spawning};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::AgentId;
use crate::metadata::MetadataPatch;
use crate::skill::{AgentSkill, SkillParam};
use crate::tool::{Tool, ToolParam};
use crate::{Field, Metadata, Problem, Timestamp};

/// One version of an agent, as the contract shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id, shared by all versions.
    pub id: AgentId,
    /// Always `agent`.
    #[serde(rename = "type")]
    pub kind: AgentTag,
    /// Counts from 1.
    pub version: u64,
    /// What this version says.
    #[serde(flatten)]
    pub definition: AgentDefinition,
    /// When the agent was made.
    pub created_at: Timestamp,
    /// When this version was made.
    pub updated_at: Timestamp,
    /// When the agent was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `agent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentTag {
    /// `agent`.
    #[default]
    #[serde(rename = "agent")]
    Agent,
}

/// What one version of an agent says, fully resolved. `mcp_servers`, `skills` and `tools` are always present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentDefinition {
    /// 1 to 256 characters.
    pub name: String,
    /// Up to 2048 characters.
    pub description: Option<String>,
    /// The system prompt, up to 100 000 characters.
    pub system: Option<String>,
    /// The model and how it is asked.
    pub model: ModelConfig,
    /// Who the agent acts as.
    pub execution_identity: ExecutionIdentity,
    /// MCP servers, each with its `mcp_toolset` in `tools`.
    pub mcp_servers: Vec<McpServer>,
    /// Skills, each pinned to a version.
    pub skills: Vec<AgentSkill>,
    /// Toolsets and custom tools.
    pub tools: Vec<Tool>,
    /// Whom it has work for it.
    pub multiagent: Option<Multiagent>,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When its conversations are shortened; an addition to the contract, left out unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextSettings>,
}

/// Who an agent acts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecutionIdentity {
    /// The installation itself.
    #[default]
    ServiceAccount,
}

/// The body that creates an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// The model: a bare name or an object.
    pub model: ModelParam,
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Null or `service_account`.
    #[serde(default)]
    pub execution_identity: Option<Value>,
    /// At most 20, each with its `mcp_toolset` in `tools`.
    #[serde(default)]
    pub mcp_servers: Option<Vec<McpServer>>,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// A roster of agents that work for it.
    #[serde(default)]
    pub multiagent: Option<Value>,
    /// At most 20; they need the `read` tool.
    #[serde(default)]
    pub skills: Option<Vec<SkillParam>>,
    /// The system prompt.
    #[serde(default)]
    pub system: Option<String>,
    /// Toolsets and custom tools.
    #[serde(default)]
    pub tools: Option<Vec<ToolParam>>,
    /// When its conversations are shortened.
    #[serde(default)]
    pub context: Option<ContextSettings>,
}

/// The body that updates an agent: absent keeps.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateAgent {
    /// Replaces; not clearable.
    pub model: Field<ModelParam>,
    /// Replaces; not clearable.
    pub name: Field<String>,
    /// Null or an empty text clears.
    pub description: Field<String>,
    /// Replaces; null means the default.
    pub execution_identity: Field<Value>,
    /// Replaces; null clears.
    pub mcp_servers: Field<Vec<McpServer>>,
    /// Merged; null deletes a key.
    pub metadata: Field<MetadataPatch>,
    /// Replaces; null clears.
    pub multiagent: Field<Value>,
    /// Replaces; null clears.
    pub skills: Field<Vec<SkillParam>>,
    /// Null or an empty text clears.
    pub system: Field<String>,
    /// Replaces; null clears.
    pub tools: Field<Vec<ToolParam>>,
    /// Replaces; null clears.
    pub context: Field<ContextSettings>,
    /// The version that the caller read: compare-and-set.
    pub version: Field<u64>,
}

impl CreateAgent {
    /// The definition that this body means, within the contract's limits; `skills` and `multiagent` are what its skills and
    /// its roster were looked up as.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn resolve(self, skills: Vec<AgentSkill>, multiagent: Option<Multiagent>) -> Result<AgentDefinition, Problem> {
        AgentDefinition {
            name: self.name,
            description: non_empty(self.description),
            system: non_empty(self.system),
            model: self.model.resolve()?,
            execution_identity: check::execution_identity(self.execution_identity)?,
            mcp_servers: self.mcp_servers.unwrap_or_default(),
            skills,
            tools: check::tools(self.tools.unwrap_or_default())?,
            multiagent,
            metadata: self.metadata.unwrap_or_default(),
            context: self.context,
        }
        .checked()
    }
}

impl UpdateAgent {
    /// The definition after this update of `stored`. Equal to `stored` when nothing changes. `skills` and `multiagent` are
    /// what its skills and its roster were looked up as, where it has any.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn apply(
        self,
        stored: &AgentDefinition,
        skills: Option<Vec<AgentSkill>>,
        multiagent: Option<Multiagent>,
    ) -> Result<AgentDefinition, Problem> {
        AgentDefinition {
            name: required("name", self.name, &stored.name)?,
            description: clearable_text(self.description, &stored.description),
            system: clearable_text(self.system, &stored.system),
            model: match self.model {
                Field::Absent => stored.model.clone(),
                Field::Null => return Err(Problem::invalid_at("model", "cannot be cleared")),
                Field::Value(model) => model.resolve()?.keeping_effort_of(&stored.model),
            },
            execution_identity: match self.execution_identity {
                Field::Absent => stored.execution_identity,
                other => check::execution_identity(other.value())?,
            },
            mcp_servers: clearable_list(self.mcp_servers, &stored.mcp_servers),
            skills: skills.unwrap_or_else(|| stored.skills.clone()),
            tools: match self.tools {
                Field::Absent => stored.tools.clone(),
                other => check::tools(other.value().unwrap_or_default())?,
            },
            multiagent: match self.multiagent {
                Field::Absent => stored.multiagent.clone(),
                Field::Null => None,
                Field::Value(_) => multiagent,
            },
            metadata: match self.metadata {
                Field::Absent => stored.metadata.clone(),
                Field::Null => Metadata::default(),
                Field::Value(patch) => stored.metadata.merged(&patch)?,
            },
            context: match self.context {
                Field::Absent => stored.context,
                other => other.value(),
            },
        }
        .checked()
    }
}

impl AgentDefinition {
    /// The same definition when it keeps the contract's limits and its parts fit each other. Also for the effective
    /// definition of a session with overrides.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn checked(mut self) -> Result<Self, Problem> {
        check::definition(&self)?;
        self.metadata = self.metadata.checked()?;
        Ok(self)
    }
}

fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn clearable_text(field: Field<String>, stored: &Option<String>) -> Option<String> {
    match field {
        Field::Absent => stored.clone(),
        other => non_empty(other.value()),
    }
}

fn clearable_list<T: Clone>(field: Field<Vec<T>>, stored: &[T]) -> Vec<T> {
    match field {
        Field::Absent => stored.to_vec(),
        other => other.value().unwrap_or_default(),
    }
}

fn required(path: &str, field: Field<String>, stored: &str) -> Result<String, Problem> {
    match field {
        Field::Absent => Ok(stored.to_owned()),
        Field::Null => Err(Problem::invalid_at(path, "cannot be cleared")),
        Field::Value(value) => Ok(value),
    }
}

#[cfg(test)]
mod tests;
