//! MCP servers as an agent names them: a name and where it is (contract 2.2). Whether one answers is found out when a
//! session runs.

use serde::{Deserialize, Serialize};

/// The most MCP servers one agent may have.
pub const MAX_MCP_SERVERS: usize = 20;
const MAX_NAME: usize = 255;
const MAX_URL: usize = 2048;

/// One MCP server of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpServer {
    /// Always `url`.
    #[serde(rename = "type")]
    pub kind: McpServerTag,
    /// Unique among the agent's servers: 1 to 255 characters.
    pub name: String,
    /// Where it speaks streamable HTTP, up to 2048 characters.
    pub url: String,
}

/// The constant `url`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum McpServerTag {
    /// `url`.
    #[default]
    #[serde(rename = "url")]
    Url,
}

impl McpServer {
    /// What is wrong with it by itself; the text is for the caller.
    pub(super) fn check(&self) -> Result<(), String> {
        let length = self.name.chars().count();
        if !(1..=MAX_NAME).contains(&length) || self.name.trim().is_empty() {
            return Err(format!("name: must have 1 to {MAX_NAME} characters, has {length}"));
        }
        if self.name.chars().any(char::is_control) {
            return Err("name: must not contain control characters".into());
        }
        check_url(&self.url).map_err(|reason| format!("url: {reason}"))
    }
}

/// Only the outer shape: whoever connects parses it whole.
fn check_url(url: &str) -> Result<(), String> {
    let length = url.chars().count();
    if length > MAX_URL {
        return Err(format!("must have at most {MAX_URL} characters, has {length}"));
    }
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err("must be an https or http URL".into());
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must not contain white space or control characters".into());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not carry a user name or password; put the credential into a vault or a gateway route".into());
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err("must name a host".into());
    }
    if url.contains('#') {
        return Err("must not have a fragment".into());
    }
    Ok(())
}
