//! The session: takes an input, changes its state through events, says what is to be done.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::content::Block;
use postern_model::event::{
    ClientEvent, Event, EventBody, ModelUsage, RetryStatus, Rubric, SessionError, SessionErrorKind, StopDetails,
    StopReason, Verdict,
};
use postern_model::ids::{EventId, ThreadId};
use postern_model::money::BudgetLimit;
use postern_model::session::{SessionAgent, SessionStatus, Usage};
use serde_json::Value;

use crate::OUTCOME_UNKNOWN;
use crate::accept;
use crate::backoff::Backoff;
use crate::context::{self, ContextLimits, Purpose};
use crate::conversation::Conversation;
use crate::input::{Chance, Effect, Input, ModelEvent};
use crate::judge::{Counsellor, Judging};
use crate::marks::Mark;
use crate::mcp::{McpTool, Servers};
use crate::previews::Previews;
use crate::spending::Prices;
use crate::state::State;

/// Bounds on what a session does by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How often a model request is tried before the turn ends.
    pub attempts: u32,
    /// How many model requests one turn may make.
    pub requests_per_turn: u32,
    /// How many messages may wait.
    pub queued_messages: usize,
    /// How many calls to MCP servers may run at once.
    pub parallel_mcp_calls: usize,
    /// Whether there is a judge of calls whose policy is `auto`; without one a person is asked.
    pub judge: Counsellor,
    /// When the conversation is shortened, unless the agent says otherwise.
    pub context: ContextLimits,
    /// Waits between attempts.
    pub backoff: Backoff,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 8,
            requests_per_turn: 1000,
            queued_messages: 200,
            parallel_mcp_calls: 16,
            judge: Counsellor::Absent,
            context: ContextLimits::default(),
            backoff: Backoff::default(),
        }
    }
}

/// One session's loop.
#[derive(Debug)]
pub struct Session {
    pub(crate) thread: ThreadId,
    pub(crate) agent: Arc<SessionAgent>,
    pub(crate) limits: Limits,
    pub(crate) state: State,
    pub(crate) previews: Previews,
    pub(crate) servers: Servers,
    /// Tokens of the model request that runs, as far as the endpoint has said.
    pub(crate) counted: ModelUsage,
    /// The response whose calls a judge is looking at.
    pub(crate) judging: Option<Judging>,
    pub(crate) prices: Prices,
    pub(crate) budget: Option<BudgetLimit>,
}

impl Session {
    /// A session whose log is empty.
    pub fn new(thread: ThreadId, agent: Arc<SessionAgent>, limits: Limits) -> Self {
        Self {
            thread,
            agent,
            limits,
            state: State::default(),
            previews: Previews::default(),
            servers: Servers::default(),
            counted: ModelUsage::default(),
            judging: None,
            prices: Prices::default(),
            budget: None,
        }
    }

    /// The same with what its models cost from here on, and what it may spend.
    #[must_use]
    pub fn priced(self, prices: Prices, budget: Option<BudgetLimit>) -> Self {
        Self { prices, budget, ..self }
    }

    /// Takes in the next event of a stored log, with the blocks kept beside it. When all are in, hand in
    /// [`Input::Resume`].
    pub fn replay(&mut self, event: &Event, kept: Option<Vec<Value>>) {
        self.state.apply(event, kept);
    }

    /// Takes in that the journal says an MCP call was begun. After the event that asks for it.
    pub fn replay_started(&mut self, call: &EventId) {
        self.state.start(call);
    }

    /// The tools of MCP servers that the model is told of, always in the same order.
    pub fn mcp_tools(&self) -> &[McpTool] {
        self.servers.tools()
    }

    /// What the log says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The conversation as the model knows it.
    pub fn conversation(&self) -> &Conversation {
        &self.state.conversation
    }

    /// What the model is to be sent by the request that [`Effect::CallModel`] begins.
    pub fn asked(&self) -> Cow<'_, Conversation> {
        match self.state.purpose {
            Purpose::Turn | Purpose::Aside => Cow::Borrowed(&self.state.conversation),
            Purpose::Summary => Cow::Owned(context::summary_request(&self.state.conversation, self.state.size)),
        }
    }

    pub(crate) fn context(&self) -> ContextLimits {
        self.limits.context.with(self.agent.context)
    }

    /// The agent as it is now.
    pub fn agent(&self) -> &Arc<SessionAgent> {
        &self.agent
    }

    /// Whether these events, in this order, would be accepted from this author.
    ///
    /// # Errors
    /// The reason for the first that would not; then none may be handed in.
    pub fn check(&self, events: &[ClientEvent], author: crate::Author) -> Result<(), postern_model::Problem> {
        accept::check(self, events, author)
    }

    /// Takes one input and says what is to be done. The state has already changed when this returns: if storing the
    /// effects fails, drop the session and read the log again.
    pub fn handle(&mut self, input: Input, now: Timestamp, chance: &mut dyn Chance) -> Vec<Effect> {
        // Stored instants have microseconds; the log never goes back in time.
        let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now).max(self.state.last_at);
        let mut step = Step { session: self, now, chance, effects: Vec::new() };
        step.take(input);
        step.effects
    }
}

/// One input on its way.
pub(crate) struct Step<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) now: Timestamp,
    pub(crate) chance: &'a mut dyn Chance,
    pub(crate) effects: Vec<Effect>,
}

impl Step<'_> {
    fn take(&mut self, input: Input) {
        if self.state().status == SessionStatus::Terminated {
            return;
        }
        match input {
            Input::Resume => self.resume(),
            Input::Events(events) => {
                for event in events {
                    self.accept(event);
                }
                self.settle();
            }
            Input::Model(start, event) => {
                if self.state().request.as_ref() == Some(&start) {
                    self.model(start, event);
                }
            }
            Input::McpConnected { attempt, servers } => self.connected(attempt, servers),
            Input::McpResult { call, content, is_error } => self.called(&call, content, is_error),
            Input::Consulted { start, answer } => self.consulted(&start, answer),
            Input::Consulting(start) => self.still_grading(&start),
            Input::RetryDue => {
                if self.state().status == SessionStatus::Rescheduling {
                    self.run();
                    self.settle();
                }
            }
            Input::WorkFailed { code, message } => self.work_failed(&code, &message),
            Input::Missing { code, message, unreachable } => {
                let kind = match unreachable {
                    Some(_) => SessionErrorKind::CredentialHostUnreachableError,
                    None => SessionErrorKind::UnknownError,
                };
                let (credential_id, vault_id) = unreachable.unzip();
                let error = SessionError {
                    kind,
                    mcp_server_name: None,
                    credential_id,
                    vault_id,
                    message: format!("{code}: {message}"),
                    retry_status: RetryStatus::Retrying {},
                };
                self.append_with(EventBody::SessionError { error }, Mark::Missing.kept());
            }
            Input::Archive => self.archive(),
            Input::Updated { agent, budget, metadata, title } => {
                if let Some(agent) = &agent {
                    self.session.agent = Arc::new((**agent).clone());
                    self.session.servers.forget();
                }
                let is_rebudgeted = !budget.is_absent();
                if is_rebudgeted {
                    self.session.budget = budget.clone().value();
                }
                self.append(EventBody::SessionUpdated { agent, budget, metadata, title });
                if is_rebudgeted {
                    self.settle();
                }
            }
        }
    }

    fn resume(&mut self) {
        if let Some(start) = self.state().request.clone() {
            self.end_request(&start, ModelUsage::default(), true);
        }
        self.close_started(OUTCOME_UNKNOWN);
        match self.state().status {
            SessionStatus::Rescheduling => self.effects.push(Effect::RetryAfter(Duration::ZERO)),
            SessionStatus::Idle | SessionStatus::Running => {
                if self.state().needs_worker() {
                    self.effects.push(Effect::EnsureWork);
                }
                self.ask_grader();
                self.settle();
            }
            SessionStatus::Terminated => {}
        }
    }

    fn accept(&mut self, event: ClientEvent) {
        let thread = Some(self.session.thread.clone());
        match event {
            ClientEvent::UserMessage { content } => self.message(content),
            ClientEvent::UserInterrupt { session_thread_id } => {
                self.take_in(EventBody::UserInterrupt { session_thread_id });
                self.interrupt();
            }
            ClientEvent::UserToolConfirmation { tool_use_id, result, deny_message } => {
                self.take_in(EventBody::UserToolConfirmation {
                    tool_use_id: tool_use_id.clone(),
                    result,
                    deny_message: deny_message.clone(),
                    session_thread_id: thread,
                });
                match result {
                    Verdict::Allow if self.state().needs_worker() => self.effects.push(Effect::EnsureWork),
                    Verdict::Allow => {}
                    Verdict::Deny => self.refuse(tool_use_id, denial(deny_message)),
                }
            }
            ClientEvent::UserCustomToolResult { custom_tool_use_id, content, is_error } => {
                let session_thread_id = thread;
                self.take_in(EventBody::UserCustomToolResult {
                    custom_tool_use_id,
                    content,
                    is_error,
                    session_thread_id,
                });
            }
            ClientEvent::UserToolResult { tool_use_id, content, is_error } => {
                self.take_in(EventBody::UserToolResult { tool_use_id, content, is_error, session_thread_id: thread });
            }
            ClientEvent::UserDefineOutcome { description, rubric, max_iterations } => {
                // What is no rubric was refused by `ClientEvent::check` before anything was handed in.
                if let Ok(rubric) = Rubric::parse(&rubric) {
                    self.define(description, rubric, max_iterations);
                }
            }
            // Refused by `ClientEvent::check` before anything is handed in.
            ClientEvent::SystemMessage { .. } => {}
        }
    }

    fn message(&mut self, content: Vec<Block>) {
        let state = self.state();
        let takes_effect = state.status == SessionStatus::Idle && state.calls.is_empty() && state.queue.is_empty();
        let processed_at = takes_effect.then_some(self.now);
        let event = Event { id: self.chance.event_id(), processed_at, body: EventBody::UserMessage { content } };
        self.effects.push(Effect::Accepted(event.id.clone()));
        self.store(event);
    }

    /// Appends a client's event that takes effect at once.
    fn take_in(&mut self, body: EventBody) {
        let id = self.append(body);
        self.effects.push(Effect::Accepted(id));
    }

    fn consulted(&mut self, start: &EventId, answer: Result<(String, ModelUsage), String>) {
        if self.session.judging.as_ref().is_some_and(|judging| judging.start == *start) {
            self.judged(answer);
        } else if self.state().outcome.as_ref().is_some_and(|outcome| outcome.evaluating.as_ref() == Some(start)) {
            self.graded(answer);
        }
    }

    fn model(&mut self, start: EventId, event: ModelEvent) {
        let is_summary = self.state().purpose == Purpose::Summary;
        let previews = match event {
            ModelEvent::Counted(usage) => {
                self.session.counted = usage;
                return;
            }
            // It is written for the model alone.
            ModelEvent::ThinkingStarted { .. } | ModelEvent::Text { .. } if is_summary => return,
            ModelEvent::Finished(response) if is_summary => return self.summarised(&start, response),
            ModelEvent::ThinkingStarted { index } => self.session.previews.thinking(index, self.chance),
            ModelEvent::Text { index, text } => self.session.previews.text(index, text, self.chance),
            ModelEvent::Finished(response) => return self.finished(&start, response),
            ModelEvent::Failed(failure) => return self.failed(&start, failure),
        };
        self.effects.extend(previews.into_iter().map(Effect::Preview));
    }

    pub(crate) fn end_request(&mut self, start: &EventId, model_usage: ModelUsage, is_error: bool) {
        self.session.previews = Previews::default();
        self.session.counted = ModelUsage::default();
        self.session.judging = None;
        self.append(EventBody::ModelRequestEnd {
            model_request_start_id: start.clone(),
            model_usage,
            is_error: Some(is_error),
        });
    }

    pub(crate) fn error(&mut self, kind: SessionErrorKind, message: String, retry_status: RetryStatus) {
        self.error_of(kind, None, message, retry_status);
    }

    pub(crate) fn error_of(
        &mut self,
        kind: SessionErrorKind,
        mcp_server_name: Option<String>,
        message: String,
        retry_status: RetryStatus,
    ) {
        let (credential_id, vault_id) = (None, None);
        let error = SessionError { kind, mcp_server_name, credential_id, vault_id, message, retry_status };
        self.append(EventBody::SessionError { error });
    }

    /// Every message that waits takes effect now.
    pub(crate) fn flush(&mut self) {
        while let Some(event) = self.state().queue.front().cloned() {
            let event = Event { processed_at: Some(self.now), ..event };
            self.session.state.apply(&event, None);
            self.effects.push(Effect::Process(event));
        }
    }

    pub(crate) fn run(&mut self) {
        // Within a turn, servers that failed stay failed: a worker's every answer would wait for them again.
        if self.state().begins_turn() {
            self.session.servers.lapse();
        }
        self.append(EventBody::StatusRunning {});
        let (agent_name, session_thread_id) = self.named();
        self.append(EventBody::ThreadStatusRunning { agent_name, session_thread_id });
    }

    /// Ends a turn. The session's idle event is the last of it: workers leave when it stays so.
    pub(crate) fn idle(&mut self, stop_reason: StopReason, stop_details: Option<StopDetails>) {
        self.idle_with(stop_reason, stop_details, None);
    }

    /// The same with a note beside it.
    pub(crate) fn idle_with(&mut self, stop_reason: StopReason, stop_details: Option<StopDetails>, mark: Option<Mark>) {
        let (agent_name, session_thread_id) = self.named();
        self.append(EventBody::ThreadStatusIdle {
            agent_name,
            session_thread_id,
            stop_reason: stop_reason.clone(),
            stop_details: stop_details.clone(),
        });
        let usage: Usage = self.state().usage(self.now);
        self.append(EventBody::SessionUsage { usage, budget: self.session.budget });
        let idle = EventBody::StatusIdle { stop_reason, stop_details };
        match mark {
            Some(mark) => self.append_with(idle, mark.kept()),
            None => self.append(idle),
        };
    }

    pub(crate) fn append(&mut self, body: EventBody) -> EventId {
        let id = self.chance.event_id();
        self.append_as(id, body)
    }

    pub(crate) fn append_as(&mut self, id: EventId, body: EventBody) -> EventId {
        self.store(Event { id: id.clone(), processed_at: Some(self.now), body });
        id
    }

    /// Appends an event with what is kept beside it.
    pub(crate) fn append_with(&mut self, body: EventBody, kept: Vec<Value>) -> EventId {
        let id = self.chance.event_id();
        let event = Event { id: id.clone(), processed_at: Some(self.now), body };
        self.session.state.apply(&event, Some(kept.clone()));
        self.effects.extend([Effect::Append(event), Effect::Keep(id.clone(), kept)]);
        id
    }

    fn store(&mut self, event: Event) {
        self.session.state.apply(&event, None);
        self.effects.push(Effect::Append(event));
    }

    pub(crate) fn state(&self) -> &State {
        &self.session.state
    }

    pub(crate) fn named(&self) -> (String, ThreadId) {
        (self.session.agent.name.clone(), self.session.thread.clone())
    }
}

fn denial(message: Option<String>) -> String {
    match message.filter(|text| !text.trim().is_empty()) {
        Some(text) => text,
        None => "The user denied permission to run this tool. Go on without it, or ask the user how to proceed.".into(),
    }
}
