//! Resolving an `mcp_toolset`: every default spelled out. Which tools the server really has is not known here.

use std::collections::HashSet;

use super::{DefaultConfig, DefaultConfigParam, McpToolConfig, McpToolConfigParam, McpToolset, PermissionPolicy};

const MAX_SERVER_NAME: usize = 255;
const MAX_TOOL_NAME: usize = 128;

pub(super) fn resolve(
    mcp_server_name: String,
    default: DefaultConfigParam,
    configs: Vec<McpToolConfigParam>,
) -> Result<McpToolset, String> {
    length("mcp_server_name", &mcp_server_name, MAX_SERVER_NAME)?;
    let default_config = DefaultConfig {
        enabled: default.enabled.unwrap_or(true),
        permission_policy: default.permission_policy.unwrap_or(PermissionPolicy::ASK),
    };
    let mut seen = HashSet::new();
    let resolve_config = |config: McpToolConfigParam| {
        length("configs: name", &config.name, MAX_TOOL_NAME)?;
        if !seen.insert(config.name.clone()) {
            return Err(format!("configs: `{}` appears twice", config.name));
        }
        Ok(McpToolConfig {
            enabled: config.enabled.unwrap_or(default_config.enabled),
            permission_policy: config.permission_policy.unwrap_or(default_config.permission_policy),
            name: config.name,
        })
    };
    let configs = configs.into_iter().map(resolve_config).collect::<Result<_, _>>()?;
    Ok(McpToolset { mcp_server_name, default_config, configs })
}

fn length(path: &str, text: &str, most: usize) -> Result<(), String> {
    let count = text.chars().count();
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(format!("{path}: must have 1 to {most} characters, has {count}"))
}
