//! The tools an agent may name: the built-in toolset and custom tools, as sent and as resolved.
//!
//! Says which tools exist and under which policy; never runs one.

mod mcp;
pub mod web;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Field;
use web::{UrlSources, UrlSourcesParam, UserLocation};

/// A built-in tool of `agent_toolset_20260401`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// Runs a command in the session's shell.
    Bash,
    /// Replaces text in a file.
    Edit,
    /// Reads a file.
    Read,
    /// Writes a file.
    Write,
    /// Finds files by pattern.
    Glob,
    /// Searches files by regular expression.
    Grep,
    /// Fetches a page; runs on the server.
    WebFetch,
    /// Searches the web; runs on the server.
    WebSearch,
}

impl Builtin {
    /// Every tool that a worker runs, in the order they are shown to the model.
    pub const IN_SANDBOX: [Self; 6] = [Self::Bash, Self::Read, Self::Write, Self::Edit, Self::Glob, Self::Grep];

    /// Every tool that the server runs itself.
    pub const ON_SERVER: [Self; 2] = [Self::WebFetch, Self::WebSearch];

    /// The tool's wire name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Edit => "edit",
            Self::Read => "read",
            Self::Write => "write",
            Self::Glob => "glob",
            Self::Grep => "grep",
            Self::WebFetch => "web_fetch",
            Self::WebSearch => "web_search",
        }
    }

    /// The tool of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ON_SERVER.into_iter().chain(Self::IN_SANDBOX).find(|tool| tool.name() == name)
    }

    /// True when a worker runs it, false when the server would.
    pub fn runs_in_sandbox(self) -> bool {
        Self::IN_SANDBOX.contains(&self)
    }
}

/// Who decides whether one call may run (contract 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PermissionPolicy {
    /// Every call runs.
    AlwaysAllow {},
    /// Every call waits for a person.
    AlwaysAsk {},
    /// A judge decides where the server has one; else a person.
    Auto {},
}

impl PermissionPolicy {
    /// Every call runs.
    pub const ALLOW: Self = Self::AlwaysAllow {};
    /// Every call waits for a person.
    pub const ASK: Self = Self::AlwaysAsk {};
}

/// What holds for the tools of a toolset that have no configuration of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultConfig {
    /// Whether such tools are offered.
    pub enabled: bool,
    /// Their policy.
    pub permission_policy: PermissionPolicy,
}

/// The resolved configuration of one built-in tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolConfig {
    /// The tool.
    pub name: Builtin,
    /// The same again: the wire has both.
    #[serde(rename = "type")]
    pub kind: Builtin,
    /// Whether it is offered.
    pub enabled: bool,
    /// Its policy.
    pub permission_policy: PermissionPolicy,
    /// The hosts that alone may be reached; only of the web tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_domains: Option<Vec<String>>,
    /// The hosts that may not be reached; only of the web tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_domains: Option<Vec<String>>,
    /// How much of a page the model is shown; only of `web_fetch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_content_tokens: Option<u64>,
    /// Where the URLs must have stood that are fetched; always there on `web_fetch`, and only there.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub url_sources: Field<UrlSources>,
    /// Where the user is; only of `web_search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_location: Option<UserLocation>,
}

/// A custom tool: described to the model, run by whoever registered its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomTool {
    /// Its name: 1 to 128 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// A JSON Schema whose `type` is `object`.
    pub input_schema: Map<String, Value>,
}

/// The built-in toolset, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentToolset {
    /// For tools not in `configs`.
    pub default_config: DefaultConfig,
    /// Per tool.
    pub configs: Vec<ToolConfig>,
}

impl AgentToolset {
    /// The configuration that names this tool.
    pub fn named(&self, tool: Builtin) -> Option<&ToolConfig> {
        self.configs.iter().find(|config| config.name == tool)
    }

    /// What holds for one tool.
    pub fn config(&self, tool: Builtin) -> DefaultConfig {
        self.named(tool).map_or(self.default_config, |config| DefaultConfig {
            enabled: config.enabled,
            permission_policy: config.permission_policy,
        })
    }
}

/// The resolved configuration of one tool of an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpToolConfig {
    /// The server's name for it.
    pub name: String,
    /// Whether it is offered.
    pub enabled: bool,
    /// Its policy.
    pub permission_policy: PermissionPolicy,
}

/// The tools of one MCP server, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpToolset {
    /// Which of the agent's `mcp_servers`.
    pub mcp_server_name: String,
    /// For tools not in `configs`.
    pub default_config: DefaultConfig,
    /// Per tool.
    pub configs: Vec<McpToolConfig>,
}

impl McpToolset {
    /// What holds for one tool.
    pub fn config(&self, tool: &str) -> DefaultConfig {
        let named = self.configs.iter().find(|config| config.name == tool);
        named.map_or(self.default_config, |config| DefaultConfig {
            enabled: config.enabled,
            permission_policy: config.permission_policy,
        })
    }
}

/// One entry of an agent's `tools`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Tool {
    /// The built-in toolset.
    #[serde(rename = "agent_toolset_20260401")]
    AgentToolset(AgentToolset),
    /// A custom tool.
    #[serde(rename = "custom")]
    Custom(CustomTool),
    /// The tools of an MCP server.
    #[serde(rename = "mcp_toolset")]
    McpToolset(McpToolset),
}

/// One entry of `tools` as a client sends it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum ToolParam {
    /// The built-in toolset.
    #[serde(rename = "agent_toolset_20260401")]
    AgentToolset {
        /// For tools not in `configs`.
        #[serde(default)]
        default_config: Option<DefaultConfigParam>,
        /// Per tool.
        #[serde(default)]
        configs: Option<Vec<ToolConfigParam>>,
    },
    /// A custom tool.
    #[serde(rename = "custom")]
    Custom {
        /// Its name.
        name: String,
        /// What it does.
        description: String,
        /// Its input.
        input_schema: Map<String, Value>,
    },
    /// The tools of an MCP server.
    #[serde(rename = "mcp_toolset")]
    McpToolset {
        /// The server.
        mcp_server_name: String,
        /// For tools not in `configs`.
        #[serde(default)]
        default_config: Option<DefaultConfigParam>,
        /// Per tool.
        #[serde(default)]
        configs: Option<Vec<McpToolConfigParam>>,
    },
}

/// `default_config` as sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultConfigParam {
    /// Absent: true.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Absent: always allow for the built-in toolset, always ask for an MCP server's.
    #[serde(default)]
    pub permission_policy: Option<PermissionPolicy>,
}

/// One of `configs` as sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolConfigParam {
    /// The tool.
    pub name: Builtin,
    /// The same again, if present.
    #[serde(default, rename = "type")]
    pub kind: Option<Builtin>,
    /// Absent: the toolset's default.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Absent: the toolset's default.
    #[serde(default)]
    pub permission_policy: Option<PermissionPolicy>,
    /// Of the web tools.
    #[serde(default)]
    pub allowed_domains: Option<Vec<String>>,
    /// Of the web tools.
    #[serde(default)]
    pub blocked_domains: Option<Vec<String>>,
    /// Of `web_fetch`.
    #[serde(default)]
    pub max_content_tokens: Option<u64>,
    /// Of `web_fetch`.
    #[serde(default)]
    pub url_sources: Option<UrlSourcesParam>,
    /// Of `web_search`.
    #[serde(default)]
    pub user_location: Option<UserLocation>,
}

/// One of an `mcp_toolset`'s `configs` as sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpToolConfigParam {
    /// The server's name for the tool.
    pub name: String,
    /// Absent: the toolset's default.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Absent: the toolset's default.
    #[serde(default)]
    pub permission_policy: Option<PermissionPolicy>,
}

/// Why a `tools` array was refused; the text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tools.{index}: {message}")]
pub struct ToolError {
    /// Which entry.
    pub index: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// The most tools one agent may have, over all toolsets.
pub const MAX_TOOLS: usize = 256;

/// Checks a `tools` array and fills in every default.
///
/// # Errors
/// The first entry that the contract refuses, or that this build cannot serve.
pub fn resolve(params: Vec<ToolParam>) -> Result<Vec<Tool>, ToolError> {
    let mut total = 0;
    for (index, param) in params.iter().enumerate() {
        total += named_tools(param);
        if total > MAX_TOOLS {
            return Err(ToolError { index, message: format!("at most {MAX_TOOLS} tools are allowed") });
        }
    }
    let mut names = HashSet::new();
    let resolve_at = |(index, param)| {
        let fail = |message| ToolError { index, message };
        let tool = resolve_one(param).map_err(fail)?;
        let name = match &tool {
            Tool::AgentToolset(_) => "agent_toolset_20260401".to_owned(),
            Tool::Custom(custom) => custom.name.clone(),
            // A space cannot stand in a custom tool's name: the two kinds never collide.
            Tool::McpToolset(toolset) => format!("mcp_toolset {}", toolset.mcp_server_name),
        };
        if names.contains(&name) {
            return Err(fail(format!("`{name}` may appear only once")));
        }
        names.insert(name);
        Ok(tool)
    };
    let tools: Vec<Tool> = params.into_iter().enumerate().map(resolve_at).collect::<Result<_, _>>()?;
    let custom = |tool: &Tool| match tool {
        Tool::Custom(custom) => Some(custom.name.clone()),
        Tool::AgentToolset(_) | Tool::McpToolset(_) => None,
    };
    let custom: HashSet<String> = tools.iter().filter_map(custom).collect();
    for (index, tool) in tools.iter().enumerate() {
        if let Tool::AgentToolset(toolset) = tool {
            web::known_sources(toolset, &custom).map_err(|message| ToolError { index, message })?;
        }
    }
    Ok(tools)
}

/// How many tools an entry names.
fn named_tools(param: &ToolParam) -> usize {
    match param {
        ToolParam::McpToolset { configs, .. } => configs.as_ref().map_or(0, Vec::len).max(1),
        ToolParam::AgentToolset { .. } | ToolParam::Custom { .. } => 1,
    }
}

fn resolve_one(param: ToolParam) -> Result<Tool, String> {
    match param {
        ToolParam::AgentToolset { default_config, configs } => {
            resolve_toolset(default_config.unwrap_or_default(), configs.unwrap_or_default()).map(Tool::AgentToolset)
        }
        ToolParam::Custom { name, description, input_schema } => {
            check_custom(&name, &description, &input_schema)?;
            Ok(Tool::Custom(CustomTool { name, description, input_schema }))
        }
        ToolParam::McpToolset { mcp_server_name, default_config, configs } => {
            mcp::resolve(mcp_server_name, default_config.unwrap_or_default(), configs.unwrap_or_default())
                .map(Tool::McpToolset)
        }
    }
}

fn resolve_toolset(default: DefaultConfigParam, configs: Vec<ToolConfigParam>) -> Result<AgentToolset, String> {
    let default_config = DefaultConfig {
        enabled: default.enabled.unwrap_or(true),
        permission_policy: default.permission_policy.unwrap_or(PermissionPolicy::ALLOW),
    };
    let mut seen = HashSet::new();
    let resolve_config = |config: ToolConfigParam| {
        let name = config.name.name();
        if config.kind.is_some_and(|kind| kind != config.name) {
            return Err(format!("configs: `type` of `{name}` must equal its `name`"));
        }
        if !seen.insert(config.name) {
            return Err(format!("configs: `{name}` appears twice"));
        }
        web::check(&config).map_err(|message| format!("configs: `{name}`: {message}"))?;
        let url_sources = match (config.name, config.url_sources) {
            (Builtin::WebFetch, Some(sources)) => Field::Value(sources.into()),
            (Builtin::WebFetch, None) => Field::Null,
            _ => Field::Absent,
        };
        Ok(ToolConfig {
            name: config.name,
            kind: config.name,
            enabled: config.enabled.unwrap_or(default_config.enabled),
            permission_policy: config.permission_policy.unwrap_or(default_config.permission_policy),
            allowed_domains: config.allowed_domains,
            blocked_domains: config.blocked_domains,
            max_content_tokens: config.max_content_tokens,
            url_sources,
            user_location: config.user_location,
        })
    };
    let configs = configs.into_iter().map(resolve_config).collect::<Result<_, _>>()?;
    Ok(AgentToolset { default_config, configs })
}

fn check_custom(name: &str, description: &str, schema: &Map<String, Value>) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
        return Err("name: must be 1 to 128 characters of A-Z a-z 0-9 _ -".into());
    }
    if Builtin::named(name).is_some() {
        return Err(format!("name: `{name}` is a built-in tool; choose another name"));
    }
    if name.starts_with("mcp__") {
        return Err("name: must not start with `mcp__`".into());
    }
    if description.trim().is_empty() {
        return Err("description: must not be empty".into());
    }
    check_schema(schema).map_err(|message| format!("input_schema: {message}"))
}

fn check_schema(schema: &Map<String, Value>) -> Result<(), String> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("`type` must be \"object\"".into());
    }
    if let Some(key) = ["oneOf", "anyOf", "allOf"].into_iter().find(|key| schema.contains_key(*key)) {
        return Err(format!("`{key}` is not allowed at the top level"));
    }
    if schema.contains_key("$ref") || schema.values().any(has_reference) {
        return Err("`$ref` is not allowed; write the definition in place".into());
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match schema.get("properties") {
        None => Ok(()),
        Some(Value::Object(properties)) => {
            match properties.keys().find(|key| key.is_empty() || key.len() > 64 || !key.chars().all(legal)) {
                Some(key) => Err(format!("property `{key}`: names are 1 to 64 characters of A-Z a-z 0-9 _ . -")),
                None => Ok(()),
            }
        }
        Some(_) => Err("`properties` must be an object".into()),
    }
}

fn has_reference(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key == "$ref" || has_reference(value)),
        Value::Array(items) => items.iter().any(has_reference),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
