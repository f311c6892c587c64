//! What the tests play on: a database in a directory, an agent, an environment, a model that waits for its lines.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postern_model::agent::CreateAgent;
use postern_model::event::{ClientEvent, Event, ModelUsage, Previewable};
use postern_model::ids::{SessionId, WorkspaceId};
use postern_model::model_info::ModelInfo;
use postern_model::session::{CreateSession, Session};
use postern_model::{Problem, Timestamp};
use postern_session::{Backoff, FailureKind, ModelEvent, ModelFailure, Response, ResponseBlock, Stop};
use postern_store::agents::roster;
use postern_store::{Store, agents, environments};
use postern_upstream::Model;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use crate::{Author, Engine, EventQuery, Frame, Limits, Of, Settings, Subscription, Surroundings};

/// How often a log may be looked at for one answer.
const LOOKS: usize = 100_000;
/// Longer than anything here takes: a test that waits this long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Stage {
    pub(super) engine: Engine,
    pub(super) script: Arc<Script>,
    pub(super) workspace: WorkspaceId,
    pub(super) agent: String,
    pub(super) environment: String,
    pub(super) surroundings: Surroundings,
    directory: TempDir,
}

/// A model that says what the test tells it to.
pub(super) struct Script {
    requests: mpsc::UnboundedSender<Call>,
    calls: Mutex<mpsc::UnboundedReceiver<Call>>,
}

/// A request that the model has received.
pub(super) struct Call {
    pub(super) body: Value,
    pub(super) news: mpsc::Sender<ModelEvent>,
}

impl Model for Script {
    fn start(&self, body: Bytes) -> mpsc::Receiver<ModelEvent> {
        let (news, receiver) = mpsc::channel(64);
        let body = serde_json::from_slice(&body).unwrap();
        drop(self.requests.send(Call { body, news }));
        receiver
    }

    fn models(&self) -> Pin<Box<dyn Future<Output = Vec<ModelInfo>> + Send + '_>> {
        Box::pin(async { vec![ModelInfo::unknown("m")] })
    }
}

impl Script {
    fn new() -> Arc<Self> {
        let (requests, calls) = mpsc::unbounded_channel();
        Arc::new(Self { requests, calls: Mutex::new(calls) })
    }

    pub(super) async fn call(&self) -> Call {
        timeout(PATIENCE, async { self.calls.lock().await.recv().await.unwrap() }).await.expect("the model is called")
    }

    pub(super) async fn is_called(&self) -> bool {
        self.calls.lock().await.try_recv().is_ok()
    }
}

impl Call {
    pub(super) async fn piece(&self, text: &str) {
        self.news.send(ModelEvent::Text { index: 0, text: text.into() }).await.unwrap();
    }

    pub(super) async fn says(self, text: &str) {
        self.answers(vec![ResponseBlock::Text(text.into())], Stop::EndTurn).await;
    }

    pub(super) async fn uses(self, tools: &[&str]) {
        let call = |name: &&str| ResponseBlock::ToolUse { name: (*name).into(), input: Ok(serde_json::Map::new()) };
        self.answers(tools.iter().map(call).collect(), Stop::ToolUse).await;
    }

    pub(super) async fn answers(self, blocks: Vec<ResponseBlock>, stop: Stop) {
        let usage = ModelUsage { input_tokens: 3, output_tokens: 2, ..ModelUsage::default() };
        let blocks = blocks.into_iter().enumerate().collect();
        // The session may have lost interest.
        drop(self.news.send(ModelEvent::Finished(Response { blocks, stop, usage })).await);
    }

    pub(super) async fn fails(self, kind: FailureKind, retry_after: Option<Duration>) {
        let failure = ModelFailure { kind, message: "no".into(), retry_after, usage: ModelUsage::default() };
        self.news.send(ModelEvent::Failed(failure)).await.unwrap();
    }
}

pub(super) fn settings() -> Settings {
    let first = Duration::from_millis(1);
    let backoff = Backoff { first, longest: first, ..Backoff::default() };
    // Few events: whatever a test does over a restart is read from a snapshot and what follows it.
    let limits = Limits { backoff, ..Limits::default() };
    Settings { limits, events_between_snapshots: 3, settle_every: Duration::from_millis(20), ..Settings::default() }
}

impl Stage {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).await.unwrap();
        let workspace = WorkspaceId::default_workspace();
        let mut tx = store.write().await.unwrap();
        let create: CreateAgent =
            serde_json::from_value(json!({"model": {"id": "m", "effort": "high"}, "name": "smith",
            "system": "s", "tools": [{"type": "agent_toolset_20260401", "configs": [
                {"name": "write", "permission_policy": {"type": "always_ask"}}]},
            {"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}}]}))
            .unwrap();
        let now = Timestamp::now();
        let agent = agents::create(&mut tx, &workspace, create.resolve(Vec::new(), None).unwrap(), now)
            .await
            .unwrap()
            .id
            .to_string();
        let body = serde_json::from_value(json!({"name": "here"})).unwrap();
        let environment = environments::create(&mut tx, &workspace, body, now).await.unwrap().id.to_string();
        tx.commit().await.unwrap();
        let script = Script::new();
        let engine = Engine::start(store, Arc::clone(&script) as Arc<dyn Model>, settings()).await.unwrap();
        Self { engine, script, workspace, agent, environment, surroundings: Surroundings::default(), directory }
    }

    /// The same database under an engine with other settings.
    pub(super) async fn with(mut self, settings: Settings) -> Self {
        self.start(self.engine.shared.store.clone(), settings).await;
        self
    }

    /// The same database and settings under an engine with these surroundings.
    pub(super) async fn among(mut self, surroundings: Surroundings) -> Self {
        self.surroundings = surroundings;
        self.with(settings()).await
    }

    async fn start(&mut self, store: Store, settings: Settings) {
        let model = Arc::clone(&self.script) as Arc<dyn Model>;
        self.engine = Engine::start_with(store, model, self.surroundings.clone(), settings).await.unwrap();
    }

    /// Sessions that follow are of an agent with this definition.
    pub(super) async fn use_agent(&mut self, definition: Value) {
        self.agent = self.agent(definition).await;
    }

    /// Another agent.
    pub(super) async fn agent(&self, definition: Value) -> String {
        let create: CreateAgent = serde_json::from_value(definition).unwrap();
        let mut tx = self.engine.shared.store.write().await.unwrap();
        let roster = match &create.multiagent {
            Some(sent) => Some(roster::pin(&mut tx, &self.workspace, None, sent).await.unwrap()),
            None => None,
        };
        let definition = create.resolve(Vec::new(), roster).unwrap();
        let made = agents::create(&mut tx, &self.workspace, definition, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        made.id.to_string()
    }

    /// Everything in memory is gone; another process opens the same database.
    pub(super) async fn restart(&mut self) {
        self.restart_with(settings()).await;
    }

    /// The same with other settings.
    pub(super) async fn restart_with(&mut self, settings: Settings) {
        self.engine.drain(PATIENCE).await;
        self.engine.shared.store.close().await;
        let store = Store::open(&self.directory.path().join("db")).await.unwrap();
        self.script = Script::new();
        self.start(store, settings).await;
    }

    pub(super) async fn create(&self, more: Value) -> Result<Session, Problem> {
        let mut body = json!({"agent": self.agent, "environment_id": self.environment});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request: CreateSession = serde_json::from_value(body).map_err(|e| Problem::invalid(e.to_string()))?;
        self.engine.create_session(&self.workspace, request, None).await
    }

    pub(super) async fn session(&self) -> SessionId {
        self.create(json!({})).await.unwrap().id
    }

    pub(super) async fn send(&self, id: &SessionId, events: Value) -> Result<Vec<Event>, Problem> {
        self.send_as(id, events, Author::Client).await
    }

    pub(super) async fn send_as(&self, id: &SessionId, events: Value, author: Author) -> Result<Vec<Event>, Problem> {
        let events: Vec<ClientEvent> = serde_json::from_value(events).unwrap();
        self.engine.send_events(&self.workspace, id, events, author, None).await
    }

    pub(super) async fn say(&self, id: &SessionId, text: &str) -> Event {
        self.send(id, message(text)).await.unwrap().remove(0)
    }

    pub(super) async fn result(&self, id: &SessionId, call: &Event) -> Result<Vec<Event>, Problem> {
        let content = json!([{"type": "text", "text": "out"}]);
        let events = json!([{"type": "user.tool_result", "tool_use_id": call.id, "content": content}]);
        self.send_as(id, events, Author::Worker).await
    }

    /// Waits until a model's answer is stored, or the engine is dead.
    pub(super) async fn wait_for_more(&self, id: &SessionId, seen: usize) {
        for _ in 0..LOOKS {
            if self.engine.shared.drain.is_cancelled() || self.log(id).await.len() > seen {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the model's answer is not stored");
    }

    pub(super) async fn log(&self, id: &SessionId) -> Vec<Event> {
        self.engine.list_events(&self.workspace, id, Of::Session, &EventQuery::default()).await.unwrap().data
    }

    pub(super) async fn watch(&self, id: &SessionId, previews: &[Previewable]) -> Watch {
        let previews: HashSet<_> = previews.iter().copied().collect();
        Watch(self.engine.subscribe(&self.workspace, id, Of::Session, previews, None).await.unwrap())
    }

    pub(super) async fn watch_of(
        &self,
        id: &SessionId,
        of: Of,
        previews: HashSet<Previewable>,
        after: Option<i64>,
    ) -> Watch {
        Watch(self.engine.subscribe(&self.workspace, id, of, previews, after).await.unwrap())
    }

    pub(super) async fn watch_from(&self, id: &SessionId, after: i64) -> Result<Watch, Problem> {
        self.engine.subscribe(&self.workspace, id, Of::Session, HashSet::new(), Some(after)).await.map(Watch)
    }
}

pub(super) fn message(text: &str) -> Value {
    json!([{"type": "user.message", "content": [{"type": "text", "text": text}]}])
}

pub(super) fn kinds(log: &[Event]) -> Vec<&'static str> {
    log.iter().map(|event| event.body.kind()).collect()
}

pub(super) fn calls(log: &[Event]) -> Vec<Event> {
    let is_call = |event: &&Event| event.body.kind().ends_with("tool_use");
    log.iter().filter(is_call).cloned().collect()
}

/// A stream that a test reads.
pub(super) struct Watch(Subscription);

impl Watch {
    pub(super) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.0.next()).await.expect("a frame or the end of the stream")
    }

    /// Reads up to and including the next frame of this name.
    pub(super) async fn until(&mut self, name: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            let is_last = frame.event == name;
            frames.push(frame);
            if is_last {
                return frames;
            }
        }
    }
}
