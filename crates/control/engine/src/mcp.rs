//! The MCP servers of a session's threads: connecting to them, calling their tools, keeping connections while the session's
//! task lives. Calls of web tools run beside theirs.
//!
//! Each connecting and each call is a task of its own under the session's, with a deadline; cancelling drops its future.
//! Whether a call may be made is decided elsewhere, and its mark is in the journal before it gets here.

mod line;
pub(crate) mod result;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postern_model::agent::McpServer;
use postern_model::content::Block;
use postern_model::ids::{EnvironmentId, EventId, SessionId, ThreadId, VaultId, WorkspaceId};
use postern_model::session::SessionAgent;
use postern_policy::canonical::definition_digest;
use postern_session::{Input, McpNews, OUTCOME_UNKNOWN};
use postern_store::sessions::Record;
use postern_upstream::mcp::{CallerFacts, Mcp};
use postern_upstream::web::Web;
use serde_json::{Map, Value};
use tokio::task::{self, JoinSet};
use tracing::warn;

use crate::actor::Actor;
use crate::control::ControlHub;
use crate::shared::Shared;
use crate::webhooks::Messenger;
use line::Line;

/// Deadlines of what is done with MCP servers. The client has shorter ones of its own; these hold whatever it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct McpSettings {
    /// For connecting to one server, its list of tools included.
    pub connect: Duration,
    /// For one call.
    pub call: Duration,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self { connect: Duration::from_secs(20), call: Duration::from_secs(150) }
    }
}

/// What a server process has around its engine; without a part, what needs it fails with a reason.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Reaches MCP servers.
    pub mcp: Option<Arc<dyn Mcp>>,
    /// Fetches pages and searches; [`crate::Limits::web`] says which of the two it can.
    pub web: Option<Arc<dyn Web>>,
    /// Reaches the workers that hold sessions, for results that are too long to be shown.
    pub hub: Option<ControlHub>,
    /// Posts to webhooks; without one, what is noted for them waits.
    pub messenger: Option<Arc<dyn Messenger>>,
}

/// In whose name servers are called, and what is needed for it.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    facts: CallerFacts,
    workspace: WorkspaceId,
    environment: EnvironmentId,
    session: SessionId,
    vaults: Vec<VaultId>,
}

/// The connections of one thread and what runs over them.
#[derive(Default)]
pub(crate) struct Servers {
    lines: HashMap<String, Arc<Line>>,
    tasks: JoinSet<Input>,
    /// What each task was started for, so that one that breaks down is answered for.
    purposes: HashMap<task::Id, Purpose>,
}

enum Purpose {
    Connect(u64),
    Call(EventId),
}

impl Servers {
    /// The next thing that became of connecting or of a call; waits for ever while nothing runs.
    pub(crate) async fn next(&mut self) -> Input {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else { std::future::pending().await };
            let (id, news) = match ended {
                Ok((id, news)) => (id, Some(news)),
                Err(error) => (error.id(), None),
            };
            match (self.purposes.remove(&id), news) {
                // Cancelled before it could be heard.
                (None, _) => {}
                (Some(_), Some(news)) => return news,
                (Some(Purpose::Connect(attempt)), None) => return Input::McpConnected { attempt, servers: Vec::new() },
                (Some(Purpose::Call(call)), None) => {
                    warn!(%call, "the task of a call broke down");
                    let content = vec![Block::text(OUTCOME_UNKNOWN)];
                    return Input::Called { call, content, is_error: true };
                }
            }
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.purposes.is_empty()
    }

    /// Drops every connecting and every call that runs. Connections stay.
    pub(crate) fn cancel(&mut self) {
        self.purposes.clear();
        self.tasks.abort_all();
    }

    /// Runs a call until it ends or is cancelled.
    pub(crate) fn run(&mut self, call: EventId, work: impl Future<Output = Input> + Send + 'static) {
        self.spawn(Purpose::Call(call), work);
    }

    fn spawn(&mut self, purpose: Purpose, work: impl Future<Output = Input> + Send + 'static) {
        let handle = self.tasks.spawn(work);
        self.purposes.insert(handle.id(), purpose);
    }

    /// The lines to these servers; one whose server or caller is another now is given up.
    fn lines_to(&mut self, servers: Vec<McpServer>, caller: &Caller) -> Vec<Arc<Line>> {
        let mut before = std::mem::take(&mut self.lines);
        for server in servers {
            let line = before.remove(&server.name).filter(|line| line.is_for(&server, &caller.facts));
            let line = line.unwrap_or_else(|| Arc::new(Line::new(server.clone(), caller.facts.clone())));
            self.lines.insert(server.name, line);
        }
        self.lines.values().cloned().collect()
    }
}

impl Actor {
    pub(crate) fn connect_mcp(&mut self, thread: &ThreadId, attempt: u64, servers: Vec<McpServer>) {
        let caller = self.caller(thread);
        let of_thread = &mut self.under_way(thread).mcp;
        let lines = of_thread.lines_to(servers, &caller);
        of_thread.spawn(Purpose::Connect(attempt), async move {
            Input::McpConnected { attempt, servers: connect_all(lines, caller).await }
        });
    }

    /// In whose name this thread's servers are called: its agent's, or that of whoever defined it.
    pub(crate) fn caller(&self, thread: &ThreadId) -> Caller {
        let thread = self.session.thread(thread).filter(|thread| !thread.is_inline());
        let agent = thread.map_or(&self.record.agent, |thread| thread.agent());
        Caller::of(&self.shared, &self.record, agent)
    }

    pub(crate) fn call_mcp(
        &mut self,
        thread: &ThreadId,
        call: EventId,
        server: String,
        tool: String,
        input: Map<String, Value>,
    ) {
        let caller = self.caller(thread);
        let of_thread = &mut self.under_way(thread).mcp;
        let line = of_thread.lines.get(&server).map(Arc::clone);
        let id = call.clone();
        of_thread.run(id, async move {
            let Some(line) = line else {
                let text = format!("The tool was not run: the MCP server `{server}` is not connected. Try again.");
                return Input::Called { call, content: vec![Block::text(text)], is_error: true };
            };
            postern_danger::point!("mcp.before");
            let done = line.call(&caller, &call, &tool, input).await;
            postern_danger::point!("mcp.after");
            match done {
                Ok(result) => {
                    let content = result::fit(&caller, &call, result.content).await;
                    Input::Called { call, content, is_error: result.is_error }
                }
                Err(failure) => {
                    let text = result::failed(&server, &tool, &failure);
                    Input::Called { call, content: vec![Block::text(text)], is_error: true }
                }
            }
        });
    }
}

impl Caller {
    fn of(shared: &Arc<Shared>, record: &Record, agent: &SessionAgent) -> Self {
        let definition = serde_json::to_value(agent).unwrap_or_default();
        Self {
            shared: Arc::clone(shared),
            facts: CallerFacts {
                workspace: record.workspace_id.to_string(),
                session: record.id.to_string(),
                agent: agent.id.to_string(),
                agent_version: agent.version,
                definition_digest: definition_digest(&definition),
                environment: record.environment_id.to_string(),
            },
            workspace: record.workspace_id.clone(),
            environment: record.environment_id.clone(),
            session: record.id.clone(),
            vaults: record.vault_ids.clone(),
        }
    }
}

/// Asks every server at once: an agent has at most 20.
async fn connect_all(lines: Vec<Arc<Line>>, caller: Caller) -> Vec<McpNews> {
    let mut asked = JoinSet::new();
    for line in lines {
        let caller = caller.clone();
        asked.spawn(async move { line.tools(&caller).await });
    }
    let mut news = Vec::new();
    while let Some(answer) = asked.join_next().await {
        // One that broke down has no entry, which counts as a failure.
        news.extend(answer.ok());
    }
    news
}
