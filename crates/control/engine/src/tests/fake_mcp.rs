//! A client for MCP that does what a test says: servers that answer, refuse, hang or break down.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_model::content::Block;
use postern_model::ids::TunnelId;
use postern_upstream::mcp::{
    BoxFuture, CallerFacts, Mcp, McpConnection, McpFailure, McpFailureKind, McpServer, McpTool, ToolResult,
    VaultCredential,
};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::stage::{PATIENCE, Stage, settings};
use crate::control::ControlHub;
use crate::{McpSettings, Settings, Surroundings};

/// The servers of [`definition`] and their tools.
const SERVERS: [(&str, &[&str]); 2] = [("wiki", &["search", "edit"]), ("docs", &["read"])];

pub(super) struct Fake {
    pub(super) connects: Mutex<Vec<(CallerFacts, McpServer, Option<VaultCredential>)>>,
    /// Why a server cannot be connected to.
    pub(super) refused: Mutex<HashMap<String, McpFailure>>,
    /// The sealed token that servers do not accept.
    pub(super) stale: Mutex<Option<String>>,
    /// The tunnel behind which the servers lie.
    pub(super) tunnel: TunnelId,
    /// Servers that never answer.
    pub(super) hung: Mutex<HashSet<String>>,
    /// Every call that reached a server, in order.
    pub(super) ran: Mutex<Vec<String>>,
    calls: mpsc::UnboundedSender<FakeCall>,
    arrived: tokio::sync::Mutex<mpsc::UnboundedReceiver<FakeCall>>,
}

/// A call that has reached its server.
pub(super) struct FakeCall {
    pub(super) id: String,
    pub(super) server: String,
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
    reply: oneshot::Sender<Result<ToolResult, McpFailure>>,
}

impl FakeCall {
    pub(super) fn says(self, text: &str) {
        self.answers(Ok(ToolResult { content: vec![Block::text(text)], is_error: false }));
    }

    pub(super) fn answers(self, result: Result<ToolResult, McpFailure>) {
        drop(self.reply.send(result));
    }

    /// Ends when nobody waits for the answer any more.
    pub(super) async fn is_dropped(&mut self) {
        timeout(PATIENCE, self.reply.closed()).await.expect("the call's future is dropped");
    }
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        let (calls, arrived) = mpsc::unbounded_channel();
        Arc::new(Self {
            connects: Mutex::default(),
            refused: Mutex::default(),
            stale: Mutex::default(),
            tunnel: TunnelId::generate(),
            hung: Mutex::default(),
            ran: Mutex::default(),
            calls,
            arrived: tokio::sync::Mutex::new(arrived),
        })
    }

    /// A stage whose agent has two MCP servers behind this client: `wiki` asks to edit, the rest is allowed.
    pub(super) async fn stage(self: &Arc<Self>) -> Stage {
        self.stage_with(None).await
    }

    pub(super) async fn stage_with(self: &Arc<Self>, hub: Option<ControlHub>) -> Stage {
        let mcp: Arc<dyn Mcp> = Arc::new(Handle(Arc::clone(self)));
        let mut stage = Stage::new().await.among(Surroundings { mcp: Some(mcp), hub, ..Surroundings::default() }).await;
        stage.use_agent(definition()).await;
        stage
    }

    pub(super) async fn call(&self) -> FakeCall {
        timeout(PATIENCE, async { self.arrived.lock().await.recv().await.unwrap() }).await.expect("a server is called")
    }

    pub(super) async fn is_called(&self) -> bool {
        self.arrived.lock().await.try_recv().is_ok()
    }

    pub(super) fn connect_count(&self, server: &str) -> usize {
        self.connects.lock().unwrap().iter().filter(|(_, to, _)| to.name == server).count()
    }
}

/// The client as the engine holds it.
struct Handle(Arc<Fake>);

impl Mcp for Handle {
    fn tunnel_for(&self, _workspace: &str, _url: &str) -> Result<String, McpFailure> {
        Ok(self.0.tunnel.to_string())
    }

    fn connect(
        &self,
        facts: CallerFacts,
        server: McpServer,
        credential: Option<VaultCredential>,
    ) -> BoxFuture<'_, Result<Arc<dyn McpConnection>, McpFailure>> {
        let fake = Arc::clone(&self.0);
        Box::pin(async move {
            let sealed = credential.as_ref().map(|one| one.sealed.clone());
            fake.connects.lock().unwrap().push((facts, server.clone(), credential));
            if sealed.is_some() && *fake.stale.lock().unwrap() == sealed {
                return Err(failure("upstream_unauthorized", false));
            }
            if fake.hung.lock().unwrap().contains(&server.name) {
                std::future::pending::<()>().await;
            }
            if let Some(failure) = fake.refused.lock().unwrap().get(&server.name) {
                return Err(failure.clone());
            }
            let tools = SERVERS.iter().find(|(name, _)| *name == server.name).map_or(&[][..], |(_, tools)| tools);
            let tool = |name: &&str| McpTool {
                name: (*name).into(),
                description: Some(format!("{name} it")),
                input_schema: json!({"type": "object", "properties": {"q": {"type": "string"}}}),
            };
            let tools = tools.iter().map(tool).collect();
            Ok(Arc::new(FakeConnection { fake, server: server.name, tools }) as Arc<dyn McpConnection>)
        })
    }
}

struct FakeConnection {
    fake: Arc<Fake>,
    server: String,
    tools: Vec<McpTool>,
}

impl McpConnection for FakeConnection {
    fn tools(&self) -> &[McpTool] {
        &self.tools
    }

    fn call(
        &self,
        id: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'_, Result<ToolResult, McpFailure>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let server = self.server.clone();
            assert_ne!(arguments.get("q"), Some(&json!("panic")), "the client breaks down");
            self.fake.ran.lock().unwrap().push(id.clone());
            drop(self.fake.calls.send(FakeCall { id, server, tool, arguments, reply }));
            answer.await.unwrap_or_else(|_| Err(failure("outcome_unknown", true)))
        })
    }
}

pub(super) fn failure(code: &str, started: bool) -> McpFailure {
    McpFailure {
        kind: McpFailureKind::Connection,
        code: code.into(),
        message: "it went wrong".into(),
        next_step: "look at the gateway".into(),
        started,
    }
}

pub(super) fn definition() -> Value {
    let allow = json!({"permission_policy": {"type": "always_allow"}});
    json!({"model": "m", "name": "smith", "mcp_servers": [
        {"type": "url", "name": "wiki", "url": "https://WIKI.example:443/mcp/"},
        {"type": "url", "name": "docs", "url": "https://docs.example/mcp"}],
        "tools": [{"type": "agent_toolset_20260401"},
            {"type": "mcp_toolset", "mcp_server_name": "wiki", "configs": [
                {"name": "search", "permission_policy": {"type": "always_allow"}}]},
            {"type": "mcp_toolset", "mcp_server_name": "docs", "default_config": allow}]})
}

/// Settings whose deadlines pass at once.
pub(super) fn impatient() -> Settings {
    let mcp = McpSettings { connect: Duration::from_secs(2), call: Duration::from_millis(50) };
    Settings { mcp, ..settings() }
}
