//! One step of one thread: takes an input, changes the thread's state through events, says what is to be done.

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::content::Block;
use postern_model::event::{
    ClientEvent, Event, EventBody, ModelUsage, RetryStatus, Rubric, SessionError, SessionErrorKind, StopDetails,
    StopReason, Verdict,
};
use postern_model::ids::{EventId, ThreadId};
use postern_model::session::SessionStatus;
use serde_json::Value;

use crate::OUTCOME_UNKNOWN;
use crate::context::{ContextLimits, Purpose};
use crate::input::{Chance, Deed, Effect, ModelEvent};
use crate::marks::Mark;
use crate::previews::Previews;
use crate::session::Session;
use crate::state::State;
use crate::thread::Thread;
use crate::tools::Permissions;

/// One input on its way, in the thread that it is for.
pub(crate) struct Step<'a> {
    pub(crate) session: &'a mut Session,
    /// The place of the thread among the session's.
    pub(crate) at: usize,
    pub(crate) now: Timestamp,
    pub(crate) chance: &'a mut dyn Chance,
    pub(crate) deeds: Vec<Deed>,
}

impl Step<'_> {
    pub(crate) fn resume(&mut self) {
        if let Some(start) = self.state().request.clone() {
            self.end_request(&start, ModelUsage::default(), true);
        }
        self.close_started(OUTCOME_UNKNOWN);
        match self.state().status {
            SessionStatus::Rescheduling => self.push(Effect::RetryAfter(Duration::ZERO)),
            SessionStatus::Idle | SessionStatus::Running => {
                if self.state().needs_worker() {
                    self.ensure_work();
                }
                self.ask_grader();
                self.settle();
            }
            SessionStatus::Terminated => {}
        }
    }

    pub(crate) fn accept(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::UserMessage { content } => self.message(content),
            ClientEvent::UserInterrupt { session_thread_id } => self.interrupt_of(session_thread_id),
            ClientEvent::UserToolConfirmation { ref tool_use_id, .. } => self.answered(&tool_use_id.clone(), event),
            ClientEvent::UserCustomToolResult { custom_tool_use_id: ref call, .. }
            | ClientEvent::UserToolResult { tool_use_id: ref call, .. } => self.answered(&call.clone(), event),
            ClientEvent::UserDefineOutcome { description, rubric, max_iterations } => {
                // What is no rubric was refused by `ClientEvent::check` before anything was handed in.
                if let Ok(rubric) = Rubric::parse(&rubric) {
                    self.define(description, rubric, max_iterations);
                }
            }
            ClientEvent::SystemMessage { content } => self.system(content),
        }
    }

    /// System text takes effect with what stands before it in its request: it waits where that waits.
    fn system(&mut self, content: Vec<Block>) {
        let appended = self.deeds.iter().rev().find_map(|deed| match &deed.effect {
            Effect::Append(event, _) => Some(event.processed_at.is_some()),
            _ => None,
        });
        let processed_at = appended.unwrap_or(true).then_some(self.now);
        let event = Event { id: self.chance.event_id(), processed_at, body: EventBody::SystemMessage { content } };
        self.push(Effect::Accepted(event.id.clone()));
        self.store(event, None);
    }

    /// Takes in what somebody says of a call, in the thread whose call it is.
    fn answered(&mut self, call: &EventId, event: ClientEvent) {
        // A call that no thread has was refused before anything was handed in.
        let at = self.session.thread_of_call(call).unwrap_or(self.at);
        self.on(at, |step| step.answer(event));
    }

    fn answer(&mut self, event: ClientEvent) {
        let session_thread_id = Some(self.thread().id.clone());
        match event {
            ClientEvent::UserToolConfirmation { tool_use_id, result, deny_message } => {
                self.take_in(EventBody::UserToolConfirmation {
                    tool_use_id: tool_use_id.clone(),
                    result,
                    deny_message: deny_message.clone(),
                    session_thread_id,
                });
                match result {
                    Verdict::Allow if self.state().needs_worker() => self.ensure_work(),
                    Verdict::Allow => {}
                    Verdict::Deny => self.refuse(tool_use_id, denial(deny_message)),
                }
            }
            ClientEvent::UserCustomToolResult { custom_tool_use_id, content, is_error } => {
                self.take_in(EventBody::UserCustomToolResult {
                    custom_tool_use_id,
                    content,
                    is_error,
                    session_thread_id,
                });
            }
            ClientEvent::UserToolResult { tool_use_id, content, is_error } => {
                self.take_in(EventBody::UserToolResult { tool_use_id, content, is_error, session_thread_id });
            }
            ClientEvent::UserMessage { .. }
            | ClientEvent::UserInterrupt { .. }
            | ClientEvent::UserDefineOutcome { .. }
            | ClientEvent::SystemMessage { .. } => {}
        }
    }

    /// Interrupts one thread, or all.
    fn interrupt_of(&mut self, session_thread_id: Option<ThreadId>) {
        let of_one = session_thread_id.as_ref().and_then(|thread| self.session.position(thread));
        let echo = EventBody::UserInterrupt { session_thread_id };
        match of_one {
            Some(at) => self.on(at, |step| {
                step.take_in(echo);
                step.interrupt();
            }),
            None => {
                self.take_in(echo);
                self.pause_runs();
                self.each(Self::interrupt);
            }
        }
    }

    fn message(&mut self, content: Vec<Block>) {
        let state = self.state();
        let takes_effect = state.status == SessionStatus::Idle && state.calls.is_empty() && state.queue.is_empty();
        let processed_at = takes_effect.then_some(self.now);
        let event = Event { id: self.chance.event_id(), processed_at, body: EventBody::UserMessage { content } };
        self.push(Effect::Accepted(event.id.clone()));
        self.store(event, None);
    }

    /// Appends a client's event that takes effect at once.
    pub(crate) fn take_in(&mut self, body: EventBody) {
        let id = self.append(body);
        self.push(Effect::Accepted(id));
    }

    pub(crate) fn consulted(&mut self, start: &EventId, answer: Result<(String, ModelUsage), String>) {
        if self.thread().judges(start) {
            self.judged(answer);
        } else {
            self.graded(answer);
        }
    }

    pub(crate) fn model(&mut self, start: EventId, event: ModelEvent) {
        let is_summary = self.state().purpose == Purpose::Summary;
        let previews = match event {
            ModelEvent::Counted(usage) => {
                self.thread_mut().counted = usage;
                return;
            }
            // It is written for the model alone.
            ModelEvent::ThinkingStarted { .. } | ModelEvent::Text { .. } if is_summary => return,
            ModelEvent::Finished(response) if is_summary => return self.summarised(&start, response),
            ModelEvent::ThinkingStarted { index } => {
                self.session.threads[self.at].previews.thinking(index, self.chance)
            }
            ModelEvent::Text { index, text } => self.session.threads[self.at].previews.text(index, text, self.chance),
            ModelEvent::Finished(response) => return self.finished(&start, response),
            ModelEvent::Failed(failure) => return self.failed(&start, failure),
        };
        for preview in previews {
            self.push(Effect::Preview(preview));
        }
    }

    pub(crate) fn end_request(&mut self, start: &EventId, model_usage: ModelUsage, is_error: bool) {
        self.thread_mut().previews = Previews::default();
        self.thread_mut().counted = ModelUsage::default();
        self.thread_mut().judging = None;
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
        let error = SessionError {
            kind,
            repository_url: None,
            mcp_server_name,
            credential_id,
            vault_id,
            message,
            retry_status,
        };
        self.append(EventBody::SessionError { error });
    }

    /// Every message that waits takes effect now.
    pub(crate) fn flush(&mut self) {
        while let Some(event) = self.state().queue.front().cloned() {
            let event = Event { processed_at: Some(self.now), ..event };
            self.session.apply(self.at, &event, None);
            self.push(Effect::Process(event));
        }
    }

    pub(crate) fn run(&mut self) {
        // Within a turn, servers that failed stay failed: a worker's every answer would wait for them again.
        if self.state().begins_turn() {
            self.thread_mut().servers.lapse();
        }
        self.session_runs();
        let (agent_name, session_thread_id) = self.named();
        self.append(EventBody::ThreadStatusRunning { agent_name, session_thread_id });
    }

    /// Ends a turn.
    pub(crate) fn idle(&mut self, stop_reason: StopReason, stop_details: Option<StopDetails>) {
        self.idle_with(stop_reason, stop_details, None);
    }

    /// The same with a note beside it.
    pub(crate) fn idle_with(&mut self, stop_reason: StopReason, stop_details: Option<StopDetails>, mark: Option<Mark>) {
        let (agent_name, session_thread_id) = self.named();
        let idle = EventBody::ThreadStatusIdle { agent_name, session_thread_id, stop_reason, stop_details };
        match mark {
            Some(mark) => self.append_with(idle, mark.kept()),
            None => self.append(idle),
        };
        self.session_rests();
    }

    pub(crate) fn append(&mut self, body: EventBody) -> EventId {
        let id = self.chance.event_id();
        self.append_as(id, body)
    }

    pub(crate) fn append_as(&mut self, id: EventId, body: EventBody) -> EventId {
        self.store(Event { id: id.clone(), processed_at: Some(self.now), body }, None);
        id
    }

    /// Appends an event with what is kept beside it.
    pub(crate) fn append_with(&mut self, body: EventBody, kept: Vec<Value>) -> EventId {
        let id = self.chance.event_id();
        let event = Event { id: id.clone(), processed_at: Some(self.now), body };
        self.store(event, Some(kept.clone()));
        self.push(Effect::Keep(id.clone(), kept));
        id
    }

    fn store(&mut self, event: Event, kept: Option<Vec<Value>>) {
        let audience = self.audience(&event.body);
        self.session.apply(self.at, &event, kept);
        self.push(Effect::Append(event, audience));
    }

    /// Says what is to be done in this thread's name.
    pub(crate) fn push(&mut self, effect: Effect) {
        let thread = self.thread().id.clone();
        self.deeds.push(Deed { thread, effect });
    }

    pub(crate) fn thread(&self) -> &Thread {
        &self.session.threads[self.at]
    }

    pub(crate) fn thread_mut(&mut self) -> &mut Thread {
        &mut self.session.threads[self.at]
    }

    pub(crate) fn state(&self) -> &State {
        &self.thread().state
    }

    pub(crate) fn permissions(&self) -> Permissions<'_> {
        Permissions::new(&self.thread().agent, self.session.limits.web)
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.at == 0
    }

    pub(crate) fn context(&self) -> ContextLimits {
        self.session.limits.context.with(self.thread().agent.context)
    }

    pub(crate) fn named(&self) -> (String, ThreadId) {
        (self.thread().agent.name.clone(), self.thread().id.clone())
    }
}

fn denial(message: Option<String>) -> String {
    match message.filter(|text| !text.trim().is_empty()) {
        Some(text) => text,
        None => "The user denied permission to run this tool. Go on without it, or ask the user how to proceed.".into(),
    }
}
