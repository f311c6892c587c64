//! A session with its log in memory: what the engine and the store are in earnest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use postern_model::agent::{Advisor, CreateAgent, SessionMultiagent, Team, ThreadAgent};
use postern_model::content::Block;
use postern_model::event::{Audience, ClientEvent, Event, EventBody, ModelUsage, Preview, StopReason};
use postern_model::ids::{AgentId, EventId, ThreadId};
use postern_model::money::{BudgetLimit, PerMillion, Price};
use postern_model::session::SessionAgent;
use postern_model::tool::web::WebTools;
use postern_model::{Field, Problem, Timestamp};
use serde_json::{Value, json};

use crate::marks::Mark;
use crate::sightings::Sightings;
use crate::workflow::Runs;
use crate::{
    Author, Chance, Consultation, ContextLimits, Counsellor, Deed, Effect, FailureKind, Input, Limits, McpFailure,
    McpFailureKind, McpNews, Message, ModelEvent, ModelFailure, Overall, Prices, Response, ResponseBlock, ServerTool,
    Session, State, Stop, WebOrder,
};

pub(crate) struct World {
    pub(crate) session: Session,
    /// The log as a list would show it.
    pub(super) log: Vec<Event>,
    /// Every event as a stream would show it, second showings included.
    pub(super) shown: Vec<Event>,
    pub(super) kept: HashMap<EventId, Vec<Value>>,
    /// A snapshot after each input that left no event waiting, with its place in the log.
    snapshots: Vec<(usize, String)>,
    /// Whose log each event is in.
    pub(super) owners: HashMap<EventId, ThreadId>,
    pub(super) request: Option<EventId>,
    /// The requests of threads that work for the primary one.
    pub(super) children: BTreeMap<ThreadId, EventId>,
    /// Events that those who watch the session are not shown.
    pub(super) hidden: HashSet<EventId>,
    pub(super) retry_at: Option<Timestamp>,
    pub(super) previews: Vec<Preview>,
    pub(super) work: u32,
    pub(super) seconds: i64,
    /// The consultation that runs.
    pub(super) consulting: Option<(EventId, Consultation)>,
    /// The connecting that runs: its number.
    pub(super) connecting: Option<u64>,
    /// The MCP calls that run, in the order they began.
    pub(super) running: Vec<EventId>,
    /// The calls that the journal says were begun.
    pub(super) journal: HashSet<EventId>,
    /// Every call that ever began, as often as it did.
    pub(super) begun: Vec<EventId>,
    /// What the model was sent last, as long as the log does not say that it was shortened since.
    pub(super) sent: Vec<Message>,
    /// What the web tools were told to do.
    pub(super) orders: Vec<WebOrder>,
    /// What the session may spend, and what the models cost.
    pub(super) budget: Option<BudgetLimit>,
    pub(super) prices: Prices,
    agent: Arc<SessionAgent>,
    limits: Limits,
    counter: Counter,
}

#[derive(Default)]
struct Counter(u64);

impl Chance for Counter {
    fn event_id(&mut self) -> EventId {
        self.0 += 1;
        EventId::parse(&format!("sevt_{}", self.0)).unwrap()
    }

    fn thread_id(&mut self) -> ThreadId {
        self.0 += 1;
        ThreadId::parse(&format!("sthr_{}", self.0)).unwrap()
    }

    fn jitter(&mut self) -> f64 {
        1.0
    }
}

pub(super) fn agent() -> Arc<SessionAgent> {
    let create: CreateAgent = serde_json::from_value(json!({"model": "m", "name": "smith", "tools": [
        {"type": "agent_toolset_20260401", "configs": [
            {"name": "write", "permission_policy": {"type": "always_ask"}}, {"name": "grep", "enabled": false}]},
        {"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}}]}))
    .unwrap();
    Arc::new(SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, create.resolve(Vec::new(), None).unwrap()))
}

/// The same with two MCP servers: `wiki` asks except for `search`, and has `danger` switched off; `docs` allows.
pub(super) fn agent_with_servers() -> Arc<SessionAgent> {
    let mut tools = serde_json::to_value(&agent().tools).unwrap();
    let allow = json!({"type": "always_allow"});
    tools.as_array_mut().unwrap().extend([
        json!({"type": "mcp_toolset", "mcp_server_name": "wiki", "configs": [
            {"name": "search", "permission_policy": allow}, {"name": "danger", "enabled": false},
            {"name": "judge", "permission_policy": {"type": "auto"}}]}),
        json!({"type": "mcp_toolset", "mcp_server_name": "docs", "default_config": {"permission_policy": allow}}),
    ]);
    let server = |name: &str| json!({"type": "url", "name": name, "url": format!("https://{name}.example/mcp")});
    let create: CreateAgent = serde_json::from_value(
        json!({"model": "m", "name": "smith", "tools": tools, "mcp_servers": [server("wiki"), server("docs")]}),
    )
    .unwrap();
    Arc::new(SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, create.resolve(Vec::new(), None).unwrap()))
}

/// The same with agents that work for it: `scout`, who has tools of its own, and a copy of itself.
pub(super) fn crew() -> Arc<SessionAgent> {
    let smith = (*agent()).clone();
    let scout = SessionAgent { id: AgentId::parse("agent_2").unwrap(), name: "scout".into(), ..smith.clone() };
    coordinator(smith.clone(), vec![ThreadAgent::from(scout), ThreadAgent::from(smith)], None)
}

/// The same with an advisor.
pub(super) fn advised() -> Arc<SessionAgent> {
    let smith = (*agent()).clone();
    let scout = SessionAgent { id: AgentId::parse("agent_2").unwrap(), name: "scout".into(), ..smith.clone() };
    coordinator(smith, vec![ThreadAgent::from(scout)], Some(Advisor::new("wise")))
}

/// This agent with others that work for it.
pub(super) fn coordinator(
    agent: SessionAgent,
    agents: Vec<ThreadAgent>,
    advisor: Option<Advisor>,
) -> Arc<SessionAgent> {
    let multiagent = Some(SessionMultiagent::Coordinator { agents: Team { agents, advisor } });
    Arc::new(SessionAgent { multiagent, ..agent })
}

pub(super) fn limits() -> Limits {
    let web = WebTools::Both;
    Limits { attempts: 3, requests_per_turn: 20, queued_messages: 5, parallel_mcp_calls: 2, web, ..Limits::default() }
}

/// Limits that a few messages reach.
pub(super) fn tight() -> Limits {
    let context = ContextLimits { clear_above: Some(80), keep_results: 1, compact_above: Some(200) };
    Limits { context, judge: Counsellor::Present, ..limits() }
}

fn empty(agent: &Arc<SessionAgent>, limits: Limits) -> Session {
    Session::new(ThreadId::parse("sthr_1").unwrap(), Arc::clone(agent), limits)
}

/// Whether the endpoint's cache of what was sent before serves what is sent now.
fn is_prefix(before: &[Message], now: &[Message]) -> bool {
    let Some((last, earlier)) = before.split_last() else { return true };
    now.starts_with(earlier)
        && now.get(earlier.len()).is_some_and(|m| m.role == last.role && m.content.starts_with(&last.content))
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(agent(), limits())
    }

    pub(super) fn with_servers() -> Self {
        Self::of(agent_with_servers(), limits())
    }

    pub(super) fn of(agent: Arc<SessionAgent>, limits: Limits) -> Self {
        Self {
            session: empty(&agent, limits),
            sent: Vec::new(),
            limits,
            consulting: None,
            connecting: None,
            running: Vec::new(),
            journal: HashSet::new(),
            begun: Vec::new(),
            orders: Vec::new(),
            budget: None,
            prices: Prices::default(),
            agent,
            log: Vec::new(),
            shown: Vec::new(),
            kept: HashMap::new(),
            snapshots: Vec::new(),
            owners: HashMap::new(),
            request: None,
            children: BTreeMap::new(),
            hidden: HashSet::new(),
            retry_at: None,
            previews: Vec::new(),
            work: 0,
            seconds: 1_000_000,
            counter: Counter::default(),
        }
    }

    /// The same, where every token costs a cent and the session may spend this many; `None`: as much as it wants.
    pub(super) fn paying(mut self, cents: Option<u64>) -> Self {
        self.prices = Prices { agent: Some(cent()), judge: Some(cent()), grader: Some(cent()) };
        self.budget = cents.map(budget);
        self.session = self.replayed();
        self
    }

    /// The budget is changed.
    pub(super) fn rebudget(&mut self, cents: Option<u64>) -> Vec<&'static str> {
        self.budget = cents.map(budget);
        let budget = self.budget.map_or(Field::Null, Field::Value);
        self.input(Input::Updated { agent: None, budget, metadata: None, title: None })
    }

    pub(super) fn rename(&mut self) -> Vec<&'static str> {
        self.input(Input::Updated { agent: None, budget: Field::Absent, metadata: None, title: Some("t".into()) })
    }

    /// Hands in an input and does what follows. Returns the types of the events that were shown.
    pub(super) fn input(&mut self, input: Input) -> Vec<&'static str> {
        self.seconds += 1;
        let now = Timestamp::from_second(self.seconds).unwrap();
        let effects = self.session.handle(input, now, &mut self.counter);
        let before = self.shown.len();
        for Deed { thread, effect } in effects {
            self.perform(&thread, effect);
        }
        if !self.session.has_waiting() {
            self.snapshots.extend(self.session.snapshot().map(|snapshot| (self.log.len(), snapshot)));
        }
        self.shown[before..].iter().map(|event| event.body.kind()).collect()
    }

    fn perform(&mut self, thread: &ThreadId, effect: Effect) {
        match effect {
            Effect::Append(event, audience) => {
                if audience == Audience::Thread {
                    self.hidden.insert(event.id.clone());
                }
                self.owners.insert(event.id.clone(), thread.clone());
                if matches!(event.body, EventBody::AgentThreadContextCompacted {}) {
                    self.sent.clear();
                }
                // Events that wait stand behind everything that took effect.
                let waiting = self.log.iter().rev().take_while(|event| event.processed_at.is_none()).count();
                let at = if event.processed_at.is_some() { self.log.len() - waiting } else { self.log.len() };
                self.log.insert(at, event.clone());
                self.shown.push(event);
            }
            Effect::Process(event) => {
                self.log.retain(|stored| stored.id != event.id);
                self.perform(thread, Effect::Append(event, Audience::Session));
            }
            Effect::Keep(id, blocks) => {
                if matches!(Mark::read(Some(&blocks)), Some(Mark::Cleared { .. } | Mark::Outgrown)) {
                    self.sent.clear();
                }
                self.kept.insert(id, blocks);
            }
            Effect::EnsureWork => self.work += 1,
            Effect::CallModel(start) if thread != self.session.primary().id() => {
                let before = self.children.insert(thread.clone(), start);
                assert_eq!(before, None, "one request of a thread at a time");
            }
            Effect::CancelModel if thread != self.session.primary().id() => drop(self.children.remove(thread)),
            Effect::CallModel(start) => {
                assert_eq!(self.request, None, "one request at a time");
                let asked = self.session.asked(self.session.primary()).messages().to_vec();
                assert!(is_prefix(&self.sent, &asked), "what was sent before is a prefix of what is sent now");
                let whole = self.session.primary().conversation().messages();
                self.sent = if is_prefix(whole, &asked) { whole.to_vec() } else { Vec::new() };
                self.request = Some(start);
            }
            Effect::CancelModel => {
                self.request = None;
                self.consulting = None;
            }
            Effect::Consult(start, consultation) => {
                assert_eq!(self.consulting, None, "one consultation at a time");
                self.consulting = Some((start, consultation));
            }
            Effect::ConnectMcp { attempt, servers } => {
                assert_eq!(self.connecting, None, "one connecting at a time");
                assert_eq!(servers, self.agent.mcp_servers);
                self.connecting = Some(attempt);
            }
            Effect::CallMcp { call, .. } => self.begin(call),
            Effect::CallWeb { call, order } => {
                self.orders.push(order);
                self.begin(call);
            }
            Effect::CancelMcp => {
                self.connecting = None;
                self.running.clear();
            }
            Effect::RetryAfter(wait) => {
                let now = Timestamp::from_second(self.seconds).unwrap();
                self.retry_at = Some(now + wait);
            }
            Effect::Preview(preview) => self.previews.push(preview),
            Effect::Accepted(_) => {}
        }
    }

    fn begin(&mut self, call: EventId) {
        self.journal.insert(call.clone());
        self.begun.push(call.clone());
        self.running.push(call);
    }

    /// The session as another process would read it from the log.
    pub(super) fn replayed(&self) -> Session {
        self.begun_by_journal(self.folded(0..self.log.len(), self.empty()))
    }

    fn empty(&self) -> Session {
        let models = ["m", "wise"].map(|model| (model.to_owned(), self.prices));
        let members = if self.prices == Prices::default() { BTreeMap::new() } else { BTreeMap::from(models) };
        empty(&self.agent, self.limits).priced(self.prices, self.budget).pricing(members)
    }

    fn folded(&self, places: Range<usize>, mut session: Session) -> Session {
        for event in &self.log[places] {
            let owner = self.owners.get(&event.id).unwrap_or(session.primary().id()).clone();
            session.replay(&owner, event, self.kept.get(&event.id).cloned());
        }
        session
    }

    fn begun_by_journal(&self, mut session: Session) -> Session {
        for call in &self.journal {
            session.replay_started(call);
        }
        session
    }

    /// The session as another process would read it from a snapshot at this place of the log and the events behind it.
    fn resumed(&self, place: usize, snapshot: &str) -> Session {
        let mut session = self.empty();
        session.restore(snapshot).unwrap();
        self.begun_by_journal(self.folded(place..self.log.len(), session))
    }

    /// Everything in memory is lost.
    pub(super) fn crash(&mut self) -> Vec<&'static str> {
        self.session = self.replayed();
        self.request = None;
        self.children.clear();
        self.retry_at = None;
        self.consulting = None;
        self.connecting = None;
        self.running.clear();
        self.input(Input::Resume)
    }

    /// The primary thread's wait is over.
    pub(super) fn retry(&mut self) -> Vec<&'static str> {
        self.input(Input::RetryDue(self.session.primary().id().clone()))
    }

    /// What this thread's model says; the thread is the n-th that was started.
    pub(super) fn child_answers(&mut self, n: usize, blocks: Vec<ResponseBlock>, stop: Stop) -> Vec<&'static str> {
        let usage = ModelUsage { input_tokens: 10, output_tokens: 1, ..ModelUsage::default() };
        let blocks = blocks.into_iter().enumerate().collect();
        self.child_news(n, ModelEvent::Finished(Response { blocks, stop, usage }))
    }

    /// This thread's model request fails.
    pub(super) fn child_fails(&mut self, n: usize, kind: FailureKind) -> Vec<&'static str> {
        let usage = ModelUsage::default();
        self.child_news(n, ModelEvent::Failed(ModelFailure { kind, message: "why".into(), retry_after: None, usage }))
    }

    fn child_news(&mut self, n: usize, news: ModelEvent) -> Vec<&'static str> {
        let start = self.children.remove(&self.child(n)).expect("a request of the thread runs");
        self.input(Input::Model(start, news))
    }

    /// Whether the model of this thread is asked; the primary one is 0.
    pub(super) fn asks(&self, thread: usize) -> bool {
        match thread {
            0 => self.request.is_some(),
            n => self.children.contains_key(&self.child(n - 1)),
        }
    }

    /// The same thread's model answers.
    pub(super) fn thread_answers(&mut self, thread: usize, blocks: Vec<ResponseBlock>, stop: Stop) {
        match thread {
            0 => self.answer(blocks, stop),
            n => self.child_answers(n - 1, blocks, stop),
        };
    }

    /// The same thread's model request fails.
    pub(super) fn thread_fails(&mut self, thread: usize, kind: FailureKind) {
        match thread {
            0 => self.fail(kind),
            n => self.child_fails(n - 1, kind),
        };
    }

    /// The n-th thread that was started.
    pub(super) fn child(&self, n: usize) -> ThreadId {
        self.session.children()[n].id().clone()
    }

    pub(super) fn child_state(&self, n: usize) -> &State {
        self.session.children()[n].state()
    }

    /// What those who watch the session were shown last, this many events.
    pub(super) fn shown_to_session(&self, last: usize) -> Vec<&'static str> {
        self.shown[self.shown.len() - last..]
            .iter()
            .filter(|event| !self.hidden.contains(&event.id))
            .map(|event| event.body.kind())
            .collect()
    }

    /// The log, read back, says what is in memory: whole, and from each snapshot on.
    pub(super) fn assert_log_says_everything(&self) {
        let said = |session: &Session| -> (Overall, Sightings, Runs, Vec<(ThreadId, String, State)>) {
            let threads = session.threads.iter();
            let states = threads.map(|thread| (thread.id.clone(), thread.agent.name.clone(), thread.state.clone()));
            (session.overall().clone(), session.sightings.clone(), session.runs.clone(), states.collect())
        };
        let expected = said(&self.session);
        assert_eq!(said(&self.replayed()), expected, "the log says everything");
        for (place, snapshot) in &self.snapshots {
            let resumed = said(&self.resumed(*place, snapshot));
            assert_eq!(resumed, expected, "a snapshot at {place} of {} says the same", self.log.len());
        }
    }

    pub(super) fn send(&mut self, events: Value) -> Result<Vec<&'static str>, Problem> {
        self.send_as(events, Author::Client)
    }

    pub(super) fn send_as(&mut self, events: Value, author: Author) -> Result<Vec<&'static str>, Problem> {
        let events: Vec<ClientEvent> = serde_json::from_value(events).unwrap();
        self.session.check(&events, author)?;
        Ok(self.input(Input::Events(events)))
    }

    pub(crate) fn say(&mut self, text: &str) -> Vec<&'static str> {
        self.send(json!([{"type": "user.message", "content": [{"type": "text", "text": text}]}])).unwrap()
    }

    pub(super) fn model(&mut self, event: ModelEvent) -> Vec<&'static str> {
        let start = self.request.clone().expect("a request runs");
        if matches!(event, ModelEvent::Finished(_) | ModelEvent::Failed(_)) {
            self.request = None;
        }
        self.input(Input::Model(start, event))
    }

    pub(super) fn answer(&mut self, blocks: Vec<ResponseBlock>, stop: Stop) -> Vec<&'static str> {
        self.answer_counted(blocks, stop, 10)
    }

    /// The endpoint counts this many tokens of input.
    pub(super) fn answer_counted(&mut self, blocks: Vec<ResponseBlock>, stop: Stop, input: u64) -> Vec<&'static str> {
        let usage = ModelUsage { input_tokens: input, output_tokens: 1, ..ModelUsage::default() };
        self.model(ModelEvent::Finished(Response { blocks: blocks.into_iter().enumerate().collect(), stop, usage }))
    }

    /// The judge says this, or does not answer.
    pub(super) fn consult(&mut self, answer: Option<&str>) -> Vec<&'static str> {
        let (start, _) = self.consulting.take().expect("somebody is asked");
        let usage = ModelUsage { input_tokens: 7, output_tokens: 1, ..ModelUsage::default() };
        let answer = answer.map(|text| (text.to_owned(), usage)).ok_or_else(|| "away".to_owned());
        self.input(Input::Consulted { start, answer })
    }

    pub(super) fn fail(&mut self, kind: FailureKind) -> Vec<&'static str> {
        let usage = ModelUsage::default();
        self.model(ModelEvent::Failed(ModelFailure { kind, message: "why".into(), retry_after: None, usage }))
    }

    /// The ids of the tool uses in the log, in order.
    pub(super) fn calls(&self) -> Vec<EventId> {
        let is_call = |event: &&Event| {
            use EventBody::{AgentCustomToolUse, AgentMcpToolUse, AgentToolUse};
            matches!(event.body, AgentToolUse { .. } | AgentCustomToolUse { .. } | AgentMcpToolUse { .. })
        };
        self.log.iter().filter(is_call).map(|event| event.id.clone()).collect()
    }

    pub(super) fn result(&mut self, call: &EventId) -> Result<Vec<&'static str>, Problem> {
        self.result_of(call, "out")
    }

    pub(super) fn result_of(&mut self, call: &EventId, text: &str) -> Result<Vec<&'static str>, Problem> {
        let content = json!([{"type": "text", "text": text}]);
        self.send_as(json!([{"type": "user.tool_result", "tool_use_id": call, "content": content}]), Author::Worker)
    }

    /// Every server answers, except those named.
    pub(super) fn connect(&mut self, failing: &[&str]) -> Vec<&'static str> {
        let attempt = self.connecting.take().expect("the servers are being asked");
        let news = |server: &str, tools: &[&str]| McpNews {
            server: server.into(),
            tools: match failing.contains(&server) {
                true => Err(failure("no route")),
                false => Ok(tools.iter().map(|tool| server_tool(tool)).collect()),
            },
        };
        let servers = vec![news("docs", &["read"]), news("wiki", &["search", "edit", "danger", "judge", "edit"])];
        self.input(Input::McpConnected { attempt, servers })
    }

    /// The agent is changed while the session is idle.
    pub(super) fn replace_agent(&mut self, agent: SessionAgent) {
        self.agent = Arc::new(agent.clone());
        self.input(Input::Updated { agent: Some(Box::new(agent)), budget: Field::Absent, metadata: None, title: None });
    }

    /// The first of the calls that run ends.
    pub(super) fn end_call(&mut self, text: &str) -> Vec<&'static str> {
        let call = self.running.remove(0);
        self.input(Input::Called { call, content: vec![Block::text(text)], is_error: false })
    }

    /// What this call was answered with.
    pub(super) fn answer_of(&self, id: &EventId) -> Option<(String, bool)> {
        self.log.iter().find_map(|event| match &event.body {
            EventBody::AgentMcpToolResult { mcp_tool_use_id: of, content, is_error }
            | EventBody::AgentToolResult { tool_use_id: of, content, is_error }
                if of == id =>
            {
                let Some([Block::Text { text }]) = content.as_deref() else { panic!("one text") };
                Some((text.clone(), *is_error == Some(true)))
            }
            _ => None,
        })
    }

    pub(super) fn last_stop(&self) -> StopReason {
        let stop = self.shown.iter().rev().find_map(|event| match &event.body {
            EventBody::StatusIdle { stop_reason, .. } => Some(stop_reason.clone()),
            _ => None,
        });
        stop.expect("it was idle")
    }
}

/// A cent for each token.
fn cent() -> Price {
    let PerMillion(each) = "10000".parse().unwrap();
    Price { input: each, output: each, cache_write: each, cache_read: each }
}

pub(super) fn budget(cents: u64) -> BudgetLimit {
    let amount = json!({"amount": cents.to_string(), "currency": "USD"});
    BudgetLimit::parse(&json!({"type": "limit", "max_list_cost": amount})).unwrap()
}

pub(super) fn failure(message: &str) -> McpFailure {
    McpFailure { kind: McpFailureKind::Connection, message: message.into() }
}

pub(super) fn server_tool(name: &str) -> ServerTool {
    ServerTool { name: name.into(), description: None, input_schema: json!({"type": "object"}) }
}

pub(super) fn text(text: &str) -> ResponseBlock {
    ResponseBlock::Text(text.into())
}

pub(super) fn call(name: &str) -> ResponseBlock {
    let input = match name {
        "web_search" => json!({"query": "q"}),
        "web_fetch" => json!({"url": "https://composed.example/"}),
        _ => json!({}),
    };
    tool(name, input)
}

/// The coordinator starts an agent.
pub(super) fn start(agent: &str, message: &str) -> ResponseBlock {
    tool("start_agent", json!({"agent": agent, "message": message}))
}

/// It asks its advisor.
pub(super) fn ask(question: &str) -> ResponseBlock {
    tool("ask_advisor", json!({"question": question}))
}

/// It says something to one that was started.
pub(super) fn tell(thread: &ThreadId, message: &str) -> ResponseBlock {
    tool("message_agent", json!({"session_thread_id": thread, "message": message}))
}

pub(super) fn tool(name: &str, input: Value) -> ResponseBlock {
    ResponseBlock::ToolUse { name: name.into(), input: Ok(input.as_object().unwrap().clone()) }
}
