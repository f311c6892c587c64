//! What follows from the state when nothing is in flight: run, ask the model, or wait for someone.

use postern_model::event::{SessionErrorKind, StopReason};
use postern_model::session::SessionStatus;

use crate::advise;
use crate::machine::Step;

impl Step<'_> {
    /// Takes the step that the state calls for, if there is one.
    pub(crate) fn settle(&mut self) {
        match self.state().status {
            SessionStatus::Idle => self.settle_idle(),
            SessionStatus::Running => self.settle_running(),
            SessionStatus::Rescheduling | SessionStatus::Terminated => {}
        }
    }

    fn settle_idle(&mut self) {
        if self.is_paused() {
            return self.resume_paused();
        }
        let state = self.state();
        if let Some(StopReason::RequiresAction { event_ids: announced }) = &state.stop {
            let waiting = state.calls.waiting();
            if waiting.is_empty() {
                self.run();
                return self.settle_running();
            }
            if waiting != *announced {
                self.idle(StopReason::RequiresAction { event_ids: waiting }, None);
            }
        } else if state.has_new_input || !state.queue.is_empty() || state.has_mail() {
            self.flush();
            self.run();
            // A dormant session has no worker any more.
            self.ensure_work();
            self.settle_running();
        }
    }

    fn settle_running(&mut self) {
        if self.state().request.is_some() || self.state().is_evaluating() || self.thread().servers.is_asking() {
            return;
        }
        if !self.call_servers() {
            // A worker goes on beside them.
            if self.state().needs_worker() {
                self.ensure_work();
            }
            return;
        }
        let state = self.state();
        let waiting = state.calls.waiting();
        if !waiting.is_empty() {
            if state.needs_worker() {
                self.ensure_work();
            }
            self.idle(StopReason::RequiresAction { event_ids: waiting }, None);
        } else if state.calls.is_empty() {
            self.ask_model();
        }
        // Else every open call was confirmed and is being executed: its result goes on from here.
    }

    /// Begins the next model request of this turn, when the servers whose tools it names have answered.
    fn ask_model(&mut self) {
        if self.session.is_at_cap() {
            return self.pause();
        }
        let limit = match self.question() {
            Some(_) => advise::MOST_REQUESTS,
            None => self.session.limits.requests_per_turn,
        };
        if self.state().requests >= limit {
            let message = format!("The turn made {limit} model requests without an end. Send a message to go on.");
            return self.exhausted(SessionErrorKind::ToolUseLimitReachedError, message);
        }
        if !self.connect() {
            return;
        }
        self.request();
    }
}
