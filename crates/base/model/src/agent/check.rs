//! Limits of a definition, and how its parts must fit each other (contract 2.2 and 2.3).

use serde_json::Value;

use super::{
    ASK_ADVISOR, AgentDefinition, ExecutionIdentity, MAX_MCP_SERVERS, MESSAGE_AGENT, McpServer, START_AGENT,
    WORKFLOW_TOOLS,
};
use crate::Problem;
use crate::skill::{AgentSkill, MAX_SKILLS};
use crate::tool::{Builtin, McpToolset, Tool, ToolParam, resolve};

/// The longest name of an agent, in characters.
pub const MAX_NAME: usize = 256;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 2048;
/// The longest system prompt, in characters.
pub const MAX_SYSTEM: usize = 100_000;

pub(super) fn definition(agent: &AgentDefinition) -> Result<(), Problem> {
    length("name", &agent.name, 1, MAX_NAME)?;
    length("description", agent.description.as_deref().unwrap_or_default(), 0, MAX_DESCRIPTION)?;
    length("system", agent.system.as_deref().unwrap_or_default(), 0, MAX_SYSTEM)?;
    agent.context.unwrap_or_default().check()?;
    if agent.multiagent.is_some() {
        free_names(&agent.tools)?;
    }
    fitting_skills(&agent.skills, &agent.tools)?;
    fitting_mcp(&agent.mcp_servers, &agent.tools)
}

/// Checks that no custom tool has the name of one that a coordinator has.
fn free_names(tools: &[Tool]) -> Result<(), Problem> {
    let taken = [&[START_AGENT, MESSAGE_AGENT, ASK_ADVISOR][..], &WORKFLOW_TOOLS].concat();
    let is_taken = |tool: &Tool| matches!(tool, Tool::Custom(tool) if taken.contains(&&*tool.name));
    match tools.iter().position(is_taken) {
        None => Ok(()),
        Some(index) => Err(Problem::invalid_at(
            &format!("tools[{index}].name"),
            format!(
                "an agent with `multiagent` has tools of these names: {}; give the custom tool another name",
                taken.join(", ")
            ),
        )),
    }
}

/// Checks a definition's skills, and that it has the tool that reads them.
///
/// # Errors
/// 400 naming the place.
pub fn fitting_skills(skills: &[AgentSkill], tools: &[Tool]) -> Result<(), Problem> {
    if skills.len() > MAX_SKILLS {
        return Err(Problem::invalid_at("skills", format!("at most {MAX_SKILLS} are allowed, got {}", skills.len())));
    }
    for (index, AgentSkill::Custom { skill_id, .. }) in skills.iter().enumerate() {
        if skills[..index].iter().any(|AgentSkill::Custom { skill_id: other, .. }| other == skill_id) {
            return Err(Problem::invalid_at(&format!("skills[{index}]"), format!("{skill_id} is named already")));
        }
    }
    let reads = |tool: &Tool| matches!(tool, Tool::AgentToolset(toolset) if toolset.config(Builtin::Read).enabled);
    if skills.is_empty() || tools.iter().any(reads) {
        return Ok(());
    }
    let entry = "{\"type\":\"agent_toolset_20260401\"}";
    Err(Problem::invalid_at(
        "skills",
        format!("skills need the `read` tool: add {entry} to `tools`, with `read` enabled"),
    ))
}

/// Checks a definition's MCP servers, and that each has its toolset and each toolset its server.
///
/// # Errors
/// 400 naming the place.
pub fn fitting_mcp(servers: &[McpServer], tools: &[Tool]) -> Result<(), Problem> {
    if servers.len() > MAX_MCP_SERVERS {
        let message = format!("at most {MAX_MCP_SERVERS} servers are allowed, got {}", servers.len());
        return Err(Problem::invalid_at("mcp_servers", message));
    }
    for (index, server) in servers.iter().enumerate() {
        let at = format!("mcp_servers[{index}]");
        server.check().map_err(|reason| Problem::invalid_at(&at, reason))?;
        let name = &server.name;
        if servers[..index].iter().any(|other| other.name == *name) {
            return Err(Problem::invalid_at(&at, format!("the name `{name}` is already taken; names are unique")));
        }
        if !toolsets(tools).any(|(_, toolset)| toolset.mcp_server_name == *name) {
            let entry = format!("{{\"type\":\"mcp_toolset\",\"mcp_server_name\":\"{name}\"}}");
            return Err(Problem::invalid_at(&at, format!("`{name}` has no mcp_toolset; add {entry} to `tools`")));
        }
    }
    match toolsets(tools).find(|(_, toolset)| !servers.iter().any(|server| server.name == toolset.mcp_server_name)) {
        Some((index, toolset)) => Err(Problem::invalid_at(
            &format!("tools[{index}]"),
            format!(
                "no server is named `{}`; add it to `mcp_servers` or remove this mcp_toolset",
                toolset.mcp_server_name
            ),
        )),
        None => Ok(()),
    }
}

fn toolsets(tools: &[Tool]) -> impl Iterator<Item = (usize, &McpToolset)> {
    tools.iter().enumerate().filter_map(|(index, tool)| match tool {
        Tool::McpToolset(toolset) => Some((index, toolset)),
        Tool::AgentToolset(_) | Tool::Custom(_) => None,
    })
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
