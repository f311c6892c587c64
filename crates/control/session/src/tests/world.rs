//! A session with its log in memory: what the engine and the store are in earnest.

use std::collections::HashMap;
use std::sync::Arc;

use postern_model::agent::CreateAgent;
use postern_model::event::{ClientEvent, Event, EventBody, ModelUsage, Preview, StopReason};
use postern_model::ids::{AgentId, EventId, ThreadId};
use postern_model::session::SessionAgent;
use postern_model::{Problem, Timestamp};
use serde_json::{Value, json};

use crate::{
    Author, Chance, Effect, FailureKind, Input, Limits, ModelEvent, ModelFailure, Response, ResponseBlock, Session,
    Stop,
};

pub(super) struct World {
    pub(super) session: Session,
    /// The log as a list would show it.
    pub(super) log: Vec<Event>,
    /// Every event as a stream would show it, second showings included.
    pub(super) shown: Vec<Event>,
    pub(super) kept: HashMap<EventId, Vec<Value>>,
    pub(super) request: Option<EventId>,
    pub(super) retry_at: Option<Timestamp>,
    pub(super) previews: Vec<Preview>,
    pub(super) work: u32,
    pub(super) seconds: i64,
    counter: Counter,
}

#[derive(Default)]
struct Counter(u64);

impl Chance for Counter {
    fn event_id(&mut self) -> EventId {
        self.0 += 1;
        EventId::parse(&format!("sevt_{}", self.0)).unwrap()
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
    Arc::new(SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, create.resolve().unwrap()))
}

pub(super) fn limits() -> Limits {
    Limits { attempts: 3, requests_per_turn: 20, queued_messages: 5, ..Limits::default() }
}

fn empty() -> Session {
    Session::new(ThreadId::parse("sthr_1").unwrap(), agent(), limits())
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            session: empty(),
            log: Vec::new(),
            shown: Vec::new(),
            kept: HashMap::new(),
            request: None,
            retry_at: None,
            previews: Vec::new(),
            work: 0,
            seconds: 1_000_000,
            counter: Counter::default(),
        }
    }

    /// Hands in an input and does what follows. Returns the types of the events that were shown.
    pub(super) fn input(&mut self, input: Input) -> Vec<&'static str> {
        self.seconds += 1;
        let now = Timestamp::from_second(self.seconds).unwrap();
        let effects = self.session.handle(input, now, &mut self.counter);
        let before = self.shown.len();
        for effect in effects {
            self.perform(effect);
        }
        self.shown[before..].iter().map(|event| event.body.kind()).collect()
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Append(event) => {
                // Events that wait stand behind everything that took effect.
                let waiting = self.log.iter().rev().take_while(|event| event.processed_at.is_none()).count();
                let at = if event.processed_at.is_some() { self.log.len() - waiting } else { self.log.len() };
                self.log.insert(at, event.clone());
                self.shown.push(event);
            }
            Effect::Process(event) => {
                self.log.retain(|stored| stored.id != event.id);
                self.perform(Effect::Append(event));
            }
            Effect::Keep(id, blocks) => drop(self.kept.insert(id, blocks)),
            Effect::EnsureWork => self.work += 1,
            Effect::CallModel(start) => {
                assert_eq!(self.request, None, "one request at a time");
                self.request = Some(start);
            }
            Effect::CancelModel => self.request = None,
            Effect::RetryAt(at) => self.retry_at = Some(at),
            Effect::Preview(preview) => self.previews.push(preview),
            Effect::Accepted(_) => {}
        }
    }

    /// The session as another process would read it from the log.
    pub(super) fn replayed(&self) -> Session {
        let mut session = empty();
        for event in &self.log {
            session.replay(event, self.kept.get(&event.id).cloned());
        }
        session
    }

    /// Everything in memory is lost.
    pub(super) fn crash(&mut self) -> Vec<&'static str> {
        self.session = self.replayed();
        self.request = None;
        self.retry_at = None;
        self.input(Input::Resume)
    }

    pub(super) fn send(&mut self, events: Value) -> Result<Vec<&'static str>, Problem> {
        self.send_as(events, Author::Client)
    }

    pub(super) fn send_as(&mut self, events: Value, author: Author) -> Result<Vec<&'static str>, Problem> {
        let events: Vec<ClientEvent> = serde_json::from_value(events).unwrap();
        self.session.check(&events, author)?;
        Ok(self.input(Input::Events(events)))
    }

    pub(super) fn say(&mut self, text: &str) -> Vec<&'static str> {
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
        let usage = ModelUsage { input_tokens: 10, output_tokens: 1, ..ModelUsage::default() };
        self.model(ModelEvent::Finished(Response { blocks: blocks.into_iter().enumerate().collect(), stop, usage }))
    }

    pub(super) fn fail(&mut self, kind: FailureKind) -> Vec<&'static str> {
        let usage = ModelUsage::default();
        self.model(ModelEvent::Failed(ModelFailure { kind, message: "why".into(), retry_after: None, usage }))
    }

    /// The ids of the tool uses in the log, in order.
    pub(super) fn calls(&self) -> Vec<EventId> {
        let is_call = |event: &&Event| {
            matches!(event.body, EventBody::AgentToolUse { .. } | EventBody::AgentCustomToolUse { .. })
        };
        self.log.iter().filter(is_call).map(|event| event.id.clone()).collect()
    }

    pub(super) fn result(&mut self, call: &EventId) -> Result<Vec<&'static str>, Problem> {
        let content = json!([{"type": "text", "text": "out"}]);
        self.send_as(json!([{"type": "user.tool_result", "tool_use_id": call, "content": content}]), Author::Worker)
    }

    pub(super) fn last_stop(&self) -> StopReason {
        let stop = self.shown.iter().rev().find_map(|event| match &event.body {
            EventBody::StatusIdle { stop_reason, .. } => Some(stop_reason.clone()),
            _ => None,
        });
        stop.expect("it was idle")
    }
}

pub(super) fn text(text: &str) -> ResponseBlock {
    ResponseBlock::Text(text.into())
}

pub(super) fn call(name: &str) -> ResponseBlock {
    ResponseBlock::ToolUse { name: name.into(), input: Ok(serde_json::Map::new()) }
}
