//! The ways a turn ends early: failures, interrupts, a worker that cannot serve, archival.

use postern_model::content::Block;
use postern_model::event::{EventBody, RetryStatus, SessionErrorKind, StopReason};
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;

use crate::INTERRUPTED;
use crate::calls::Owner;
use crate::input::{Effect, FailureKind, Lacking, ModelFailure};
use crate::machine::Step;
use crate::marks::Mark;
use crate::servers::closed;
use crate::workflow::Outcome;

impl Step<'_> {
    pub(crate) fn failed(&mut self, start: &EventId, failure: ModelFailure) {
        let purpose = self.state().purpose;
        self.end_request(start, failure.usage, true);
        let kind = match failure.kind {
            FailureKind::RateLimited => SessionErrorKind::ModelRateLimitedError,
            FailureKind::Overloaded => SessionErrorKind::ModelOverloadedError,
            FailureKind::Transient | FailureKind::Rejected => SessionErrorKind::ModelRequestFailedError,
            FailureKind::Billing => SessionErrorKind::BillingError,
            FailureKind::TooLong => return self.outgrew(purpose, &failure.message),
        };
        let helps = !matches!(failure.kind, FailureKind::Billing | FailureKind::Rejected);
        if !helps || self.state().failures + 1 >= self.session.limits.attempts {
            let next = match helps {
                true => " Every try failed. Send a message to try again; the server's log has the cause.",
                false => "",
            };
            return self.exhausted(kind, failure.message + next);
        }
        self.error(kind, failure.message + " It is tried again.", RetryStatus::Retrying {});
        self.session_is_rescheduled();
        let (agent_name, session_thread_id) = self.named();
        self.append(EventBody::ThreadStatusRescheduled { agent_name, session_thread_id });
        let failures = self.state().failures;
        let delay = self.session.limits.backoff.delay(failures, failure.retry_after, self.chance.jitter());
        self.push(Effect::RetryAfter(delay));
    }

    /// The turn is dead: says why, takes what waited into the conversation, goes idle. A thread that works for another is
    /// over instead (contract 3.13), and the other hears of it.
    pub(crate) fn exhausted(&mut self, kind: SessionErrorKind, message: String) {
        if self.is_primary() {
            self.error(kind, message, RetryStatus::Exhausted {});
            self.flush();
            self.idle(StopReason::RetriesExhausted {}, None);
            if !self.state().notices.is_empty() {
                // It has not read how a run ended: one more turn, and none after that.
                self.settle();
            }
            return;
        }
        self.give_up_thread(kind, message);
        self.conduct_all();
        self.on(0, Self::settle);
        self.session_rests_too();
    }

    fn give_up_thread(&mut self, kind: SessionErrorKind, message: String) {
        let question = self.question();
        let is_errand = self.thread().errand().is_some();
        if question.is_none() && !is_errand {
            self.report_failure(&format!("The agent's thread ended. {message}"));
        }
        self.error(kind, message.clone(), RetryStatus::Exhausted {});
        self.close_calls("The thread ended before the tool was run.");
        if is_errand {
            return self.end_errand(Outcome::Failed(message));
        }
        self.terminate();
        if let Some(call) = question {
            let text = format!("The advisor did not answer: {message} Go on without advice.");
            self.answer_question(&call, vec![Block::text(text)], true);
        }
    }

    /// A worker cannot serve the session: whatever needs one ends. The others of the session's agents go on.
    pub(crate) fn work_failed(&mut self, code: &str, message: &str) {
        let text = format!("{code}: {message}");
        // Those that work for the primary thread first: it says its last word of this turn with what they leave it.
        for at in 1..self.session.threads.len() {
            self.on(at, |step| {
                if step.state().needs_worker() {
                    step.abandon(code, message);
                    step.give_up_thread(SessionErrorKind::UnknownError, text.clone());
                }
            });
        }
        self.conduct_all();
        if self.is_paused() {
            // It needs no worker and has no open call: it goes on when its budget is raised.
            return self.missing(code, message, Lacking::Something);
        }
        self.abandon(code, message);
        self.exhausted(SessionErrorKind::UnknownError, text);
    }

    fn abandon(&mut self, code: &str, message: &str) {
        self.stop_request();
        self.stop_servers();
        if self.state().is_evaluating() {
            self.interrupt_outcome();
        }
        self.close_calls(&format!(
            "The turn ended before this tool was done: a worker could not serve the session ({code}). {message}"
        ));
    }

    pub(crate) fn archive(&mut self) {
        self.end_runs();
        for at in (0..self.session.threads.len()).rev() {
            self.on(at, |step| {
                if step.state().status != SessionStatus::Terminated {
                    step.close_calls("The session was archived before the tool was run.");
                    step.interrupt_outcome();
                    step.flush();
                    step.terminate();
                }
            });
        }
        self.append(EventBody::StatusTerminated {});
    }

    pub(crate) fn interrupt(&mut self) {
        // At the cap an interrupt has no effect (contract 3.11): the outcome stays open for a raised budget.
        if self.is_paused() {
            return;
        }
        let left_by_worker = matches!(self.state().stop, Some(StopReason::RetriesExhausted {}));
        let had_calls = !self.state().calls.is_empty();
        self.stop_request();
        self.stop_servers();
        self.close_calls(INTERRUPTED);
        self.interrupt_outcome();
        match self.state().status {
            SessionStatus::Idle if had_calls => self.rest_interrupted(),
            SessionStatus::Idle if left_by_worker => self.ensure_work(),
            SessionStatus::Idle | SessionStatus::Terminated => {}
            SessionStatus::Running | SessionStatus::Rescheduling => self.rest_interrupted(),
        }
    }

    fn rest_interrupted(&mut self) {
        if let Some(call) = self.question() {
            self.end_consultation();
            self.answer_question(&call, vec![Block::text(INTERRUPTED)], true);
            return self.go_on_with_advice();
        }
        // A note only where it means something: what others said and was not heard yet wakes nobody now.
        let mark = self.state().has_mail().then_some(Mark::Interrupted);
        self.idle_with(StopReason::EndTurn {}, None, mark);
    }

    pub(crate) fn stop_request(&mut self) {
        if let Some(start) = self.state().request.clone() {
            self.push(Effect::CancelModel);
            let counted = self.thread().counted;
            self.end_request(&start, counted, true);
        }
    }

    /// Answers every open call with an error, in the form that tells a worker that the call is answered: a worker that
    /// comes later must not run it.
    pub(crate) fn close_calls(&mut self, text: &str) {
        let open: Vec<_> = self.state().calls.iter().cloned().collect();
        for call in open {
            let content = vec![Block::text(closed(&call, text))];
            if call.owner == Owner::Server {
                self.answer_call(call.id, content, true);
                continue;
            }
            if call.owner == Owner::Advisor {
                self.stop_consultation(&call.id);
            }
            let content = Some(content);
            let session_thread_id = Some(self.thread().id.clone());
            self.append(match call.owner {
                Owner::Advisor => EventBody::AgentToolResult { tool_use_id: call.id, content, is_error: Some(true) },
                Owner::Custom => EventBody::UserCustomToolResult {
                    custom_tool_use_id: call.id,
                    content,
                    is_error: Some(true),
                    session_thread_id,
                },
                Owner::Worker | Owner::Server => {
                    EventBody::UserToolResult { tool_use_id: call.id, content, is_error: Some(true), session_thread_id }
                }
            });
        }
    }

    /// Answers a call that never runs.
    pub(crate) fn refuse(&mut self, tool_use_id: EventId, text: String) {
        if self.state().calls.find(&tool_use_id).is_some_and(|call| call.owner == Owner::Server) {
            return self.answer_call(tool_use_id, vec![Block::text(text)], true);
        }
        let content = Some(vec![Block::text(text)]);
        self.append(EventBody::AgentToolResult { tool_use_id, content, is_error: Some(true) });
    }
}
