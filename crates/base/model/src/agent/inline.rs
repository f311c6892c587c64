//! Agents that a coordinator defines when it starts them: they are saved nowhere, and have no id and no version (contract 2.7).

use serde::{Deserialize, Serialize};

use super::{ContextSettings, ExecutionIdentity, McpServer, ModelConfig};
use crate::session::SessionAgent;
use crate::skill::AgentSkill;
use crate::tool::Tool;

/// Such an agent, as its thread shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InlineAgent {
    /// Always `inline`.
    #[serde(rename = "type")]
    kind: InlineTag,
    /// What whoever defined it calls it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its system prompt.
    pub system: Option<String>,
    /// Its model.
    pub model: ModelConfig,
    /// In whose name it acts.
    pub execution_identity: ExecutionIdentity,
    /// Its MCP servers.
    pub mcp_servers: Vec<McpServer>,
    /// Its skills.
    pub skills: Vec<AgentSkill>,
    /// Its tools.
    pub tools: Vec<Tool>,
    /// When its conversation is shortened; an addition to the contract, left out unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextSettings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum InlineTag {
    #[serde(rename = "inline")]
    Inline,
}

impl From<SessionAgent> for InlineAgent {
    fn from(agent: SessionAgent) -> Self {
        Self {
            kind: InlineTag::Inline,
            name: agent.name,
            description: agent.description,
            system: agent.system,
            model: agent.model,
            execution_identity: agent.execution_identity,
            mcp_servers: agent.mcp_servers,
            skills: agent.skills,
            tools: agent.tools,
            context: agent.context,
        }
    }
}
