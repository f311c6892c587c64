//! Limits of a definition, and how its parts must fit each other (contract 2.2 and 2.3).

use serde_json::Value;

use super::{AgentDefinition, ExecutionIdentity};
use crate::Problem;
use crate::tool::{Tool, ToolParam, resolve};

const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 2048;
const MAX_SYSTEM: usize = 100_000;

pub(super) fn definition(agent: &AgentDefinition) -> Result<(), Problem> {
    length("name", &agent.name, 1, MAX_NAME)?;
    length("description", agent.description.as_deref().unwrap_or_default(), 0, MAX_DESCRIPTION)?;
    length("system", agent.system.as_deref().unwrap_or_default(), 0, MAX_SYSTEM)?;
    if !agent.skills.is_empty() {
        return Err(Problem::invalid_at("skills", "skills are not in this build; send an empty list"));
    }
    if agent.multiagent.is_some() {
        return Err(Problem::invalid_at("multiagent", "multiagent is not in this build; send null"));
    }
    if !agent.mcp_servers.is_empty() {
        return Err(Problem::invalid_at("mcp_servers", "MCP servers are not in this build; send an empty list"));
    }
    Ok(())
}

pub(super) fn tools(sent: Vec<ToolParam>) -> Result<Vec<Tool>, Problem> {
    resolve(sent).map_err(|error| Problem::invalid_at(&format!("tools[{}]", error.index), error.message))
}

pub(super) fn execution_identity(sent: Option<Value>) -> Result<ExecutionIdentity, Problem> {
    let Some(sent) = sent else { return Ok(ExecutionIdentity::default()) };
    serde_json::from_value(sent).map_err(|_| {
        Problem::invalid_at("execution_identity", "only {\"type\":\"service_account\"} is in this build; leave it out")
    })
}

fn length(path: &str, text: &str, least: usize, most: usize) -> Result<(), Problem> {
    let count = text.chars().count();
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(Problem::invalid_at(path, format!("must have {least} to {most} characters, has {count}")))
}
