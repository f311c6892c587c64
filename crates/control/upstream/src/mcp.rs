//! The MCP client: streamable HTTP to private servers through a tunnel and to public ones, the same above the connection.
//! It never sends a tool call twice, opens no socket but by `net`, and holds no credential that it could read.

mod client;
mod connection;
mod failure;
mod http;
mod limits;
mod probe;
mod reach;
mod record;
mod result;
mod stream;
mod target;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use postern_model::content::Block;
use postern_tunnel::certificate::Ca;
use serde_json::{Map, Value};

pub use client::McpClient;
pub use failure::{McpFailure, McpFailureKind, REASON_HEADER};
pub use http::{CREDENTIAL_HEADER, ROUTE_URL_HEADER};
pub use limits::Limits;
pub use probe::{Hop, HopResult, ProbeReport};
pub use reach::PublicPolicy;

/// A future that borrows nothing of its caller but what it says.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A server as an agent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpServer {
    /// The agent's name for it.
    pub name: String,
    /// Its URL.
    pub url: String,
}

/// Who calls: what the identity of each request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerFacts {
    /// The workspace's id.
    pub workspace: String,
    /// The session's id.
    pub session: String,
    /// The agent's id.
    pub agent: String,
    /// The agent's version.
    pub agent_version: u64,
    /// The digest of the agent's effective definition.
    pub definition_digest: String,
    /// The environment's id.
    pub environment: String,
}

/// A vault's credential for a server: sealed, and only a perimeter can open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultCredential {
    /// The vault's id.
    pub vault_id: String,
    /// The credential's id.
    pub credential_id: String,
    /// The credential's kind, such as `static_bearer`.
    pub kind: String,
    /// The sealed value with its binding: base64 of JSON.
    pub sealed: String,
}

/// A tool that a server offers.
#[derive(Clone, Debug, PartialEq)]
pub struct McpTool {
    /// The server's name for it.
    pub name: String,
    /// What the server says about it.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub input_schema: Value,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// The answer, in the contract's blocks.
    pub content: Vec<Block>,
    /// Whether the tool says that it failed, or the gateway that it refused.
    pub is_error: bool,
}

/// What a tunnel's directory knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelFacts {
    /// Its id: the audience of every identity.
    pub id: String,
    /// Its workspace: sessions of another do not get into it.
    pub workspace: String,
    /// Its domain.
    pub domain: String,
    /// Its active authorities; none: nothing is sent.
    pub cas: Vec<Ca>,
}

/// Whoever knows which hosts lie behind which tunnel.
pub trait Tunnels: Send + Sync {
    /// The active tunnel under whose domain a host lies.
    fn tunnel_of(&self, host: &str) -> Option<TunnelFacts>;

    /// The tunnel of this workspace whose gateway has a route for a public MCP URL (normalised, contract 8.2): the only
    /// way in which a vault's credential gets to a public server.
    fn tunnel_of_route(&self, _workspace: &str, _url: &str) -> Option<TunnelFacts> {
        None
    }

    /// Whether a host belongs to tunnels at all: such a name is never looked up, also when its tunnel is archived or
    /// never was.
    fn is_tunnel_host(&self, host: &str) -> bool {
        self.tunnel_of(host).is_some()
    }
}

/// Connects to servers.
pub trait Mcp: Send + Sync {
    /// The tunnel whose gateway carries a vault's credential for this server of the workspace.
    fn tunnel_for(&self, workspace: &str, url: &str) -> Result<String, McpFailure>;

    /// Initializes a session with a server and reads its tools. `credential` is what the session's vaults hold for the
    /// server's URL.
    fn connect(
        &self,
        facts: CallerFacts,
        server: McpServer,
        credential: Option<VaultCredential>,
    ) -> BoxFuture<'_, Result<Arc<dyn McpConnection>, McpFailure>>;
}

/// A session with a server; dropping the last reference ends it.
pub trait McpConnection: Send + Sync {
    /// The server's tools, as they were when the session began.
    fn tools(&self) -> &[McpTool];

    /// Calls a tool, once. `tool_use_id` is the id of the event that asks for it. Dropping the future cancels the call;
    /// the tool may have run.
    fn call(
        &self,
        tool_use_id: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'_, Result<ToolResult, McpFailure>>;
}
