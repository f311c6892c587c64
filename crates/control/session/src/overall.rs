//! What the threads of a session come to: its status, why it rests, its times. A fold over the session's own events.

use std::collections::BTreeSet;

use postern_model::Timestamp;
use postern_model::event::{Audience, Event, EventBody, StopDetails, StopReason};
use postern_model::session::{SessionStatus, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::input::Effect;
use crate::machine::Step;
use crate::marks::Mark;
use crate::missing;
use crate::session::Session;
use crate::spending::Spending;

/// What the log says of the session as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overall {
    /// What the session does.
    pub status: SessionStatus,
    /// Why it went idle last; `None` before it first did.
    pub stop: Option<StopReason>,
    /// Whether it ever ran.
    pub has_run: bool,
    /// Since when it runs, if it does.
    pub running_since: Option<Timestamp>,
    active_seconds: f64,
    /// Fingerprints of what the session was told that it goes without.
    pub(crate) told: BTreeSet<u64>,
    /// The last time in the log; the next event is not earlier.
    pub(crate) last_at: Timestamp,
}

impl Default for Overall {
    fn default() -> Self {
        Self {
            status: SessionStatus::Idle,
            stop: None,
            has_run: false,
            running_since: None,
            active_seconds: 0.0,
            told: BTreeSet::new(),
            last_at: Timestamp::UNIX_EPOCH,
        }
    }
}

impl Overall {
    pub(crate) fn apply(&mut self, event: &Event, kept: Option<&[Value]>) {
        if let Some(at) = event.processed_at {
            self.last_at = self.last_at.max(at);
        }
        match &event.body {
            EventBody::StatusRunning {} => {
                self.has_run = true;
                self.become_status(SessionStatus::Running);
            }
            EventBody::StatusRescheduled {} => self.become_status(SessionStatus::Rescheduling),
            EventBody::StatusTerminated {} => self.become_status(SessionStatus::Terminated),
            EventBody::StatusIdle { stop_reason, .. } => {
                self.stop = Some(stop_reason.clone());
                self.become_status(SessionStatus::Idle);
            }
            EventBody::SessionError { error } if Mark::read(kept) == Some(Mark::Missing) => {
                self.told.insert(missing::fingerprint(error));
            }
            _ => {}
        }
    }

    fn become_status(&mut self, status: SessionStatus) {
        if let Some(since) = self.running_since.take() {
            self.active_seconds += self.last_at.duration_since(since).as_secs_f64().max(0.0);
        }
        if status == SessionStatus::Running {
            self.running_since = Some(self.last_at);
        }
        self.status = status;
    }
}

impl Session {
    /// What all threads have spent.
    pub fn spending(&self) -> Spending {
        self.threads.iter().fold(Spending::default(), |sum, thread| sum.plus(thread.state.spending))
    }

    /// Tokens of all threads, and seconds of running without the present run; seconds in which several ran count once.
    pub fn settled_usage(&self) -> Usage {
        let tokens = self.threads.iter().map(|thread| thread.state.settled_usage());
        let sum = tokens.fold(Usage::default(), |sum, usage| sum.plus(&usage));
        Usage { active_seconds: self.overall.active_seconds, list_cost: self.spending().shown(), ..sum }
    }

    /// The same with the present run, up to `now`.
    pub fn usage(&self, now: Timestamp) -> Usage {
        let running = self.overall.running_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
        let settled = self.settled_usage();
        Usage { active_seconds: settled.active_seconds + running, ..settled }
    }

    /// Whether a worker has something to do.
    pub fn needs_worker(&self) -> bool {
        self.threads.iter().any(|thread| thread.state.needs_worker())
    }

    /// What the threads do, taken together.
    fn aggregate(&self) -> SessionStatus {
        let any = |status| self.threads.iter().any(|thread| thread.state.status == status);
        match () {
            () if any(SessionStatus::Running) => SessionStatus::Running,
            () if any(SessionStatus::Rescheduling) => SessionStatus::Rescheduling,
            () => SessionStatus::Idle,
        }
    }

    /// Why the session rests where every thread does: somebody's answer comes before money, and both before what the
    /// primary thread says.
    fn reason(&self) -> (StopReason, Option<StopDetails>) {
        let idle = || self.threads.iter().filter(|thread| thread.state.status == SessionStatus::Idle);
        let waits = |stop: &StopReason| match stop {
            StopReason::RequiresAction { event_ids } => Some(event_ids.clone()),
            _ => None,
        };
        let lists: Vec<_> = idle().filter_map(|thread| thread.state.stop.as_ref().and_then(waits)).collect();
        if !lists.is_empty() {
            return (StopReason::RequiresAction { event_ids: lists.concat() }, None);
        }
        if self.has_unpaid_runs() || idle().any(|thread| thread.state.stop == Some(StopReason::BudgetReached {})) {
            return (StopReason::BudgetReached {}, None);
        }
        let primary = &self.threads[0].state;
        (primary.stop.clone().unwrap_or(StopReason::EndTurn {}), primary.stop_details.clone())
    }
}

impl Step<'_> {
    /// Says that the session runs, if it is not known yet. Comes before what its thread says.
    pub(crate) fn session_runs(&mut self) {
        if self.session.overall.status != SessionStatus::Running {
            self.append_to_session(EventBody::StatusRunning {});
        }
    }

    /// Says that the session waits to try again, if no other thread runs. Comes before what its thread says.
    pub(crate) fn session_is_rescheduled(&mut self) {
        let at = self.at;
        let mut others = self.session.threads.iter().enumerate().filter(|(other, _)| *other != at);
        let another_runs = others.any(|(_, thread)| thread.state.status == SessionStatus::Running);
        if !another_runs && self.session.overall.status != SessionStatus::Rescheduling {
            self.append_to_session(EventBody::StatusRescheduled {});
        }
    }

    /// Says what the session does now that a thread has come to rest. Its idle event is the last of a turn: workers leave
    /// when it stays so.
    pub(crate) fn session_rests(&mut self) {
        self.session_rests_with(None);
    }

    fn session_rests_with(&mut self, mark: Option<Mark>) {
        match self.session.aggregate() {
            SessionStatus::Rescheduling if self.session.overall.status != SessionStatus::Rescheduling => {
                self.append_to_session(EventBody::StatusRescheduled {});
            }
            SessionStatus::Idle => {
                let (stop_reason, stop_details) = self.session.reason();
                let usage = self.session.usage(self.now);
                let budget = self.session.budget;
                self.append_to_session(EventBody::SessionUsage { usage, budget });
                let idle = EventBody::StatusIdle { stop_reason, stop_details };
                self.on(0, |step| {
                    match mark {
                        Some(mark) => step.append_with(idle, mark.kept()),
                        None => step.append(idle),
                    };
                });
            }
            SessionStatus::Running | SessionStatus::Rescheduling | SessionStatus::Terminated => {}
        }
    }

    /// The same where something else has just been settled too: what that has said is not said again.
    pub(crate) fn session_rests_too(&mut self) {
        if self.session.overall.status != SessionStatus::Idle {
            self.session_rests();
        }
    }

    /// The same where a thread ended that was at rest: nothing new is said where nothing changes.
    pub(crate) fn session_rests_otherwise(&mut self) {
        if self.session.overall.status == SessionStatus::Idle
            && self.session.overall.stop.as_ref() != Some(&self.session.reason().0)
        {
            self.session_rests();
        }
    }

    /// The same where something was said after the turn had ended: workers leave when its idle event is the last, and would
    /// stay for ever. One that waits for somebody's answer keeps them anyhow, and nobody is asked for it twice.
    pub(crate) fn session_still_rests(&mut self) {
        let overall = &self.session.overall;
        let is_over = !matches!(overall.stop, None | Some(StopReason::RequiresAction { .. }));
        if overall.status == SessionStatus::Idle && is_over && self.was_said_after_idle() {
            self.session_rests_with(Some(Mark::Again));
        }
    }

    /// Whether this step has said something to those who watch the session, and not that it rests after it. The end of a
    /// thread and a confirmation are none of that: workers leave also when these come last.
    fn was_said_after_idle(&self) -> bool {
        let said = self.deeds.iter().rev().filter_map(|deed| match &deed.effect {
            Effect::Append(event, Audience::Session) => Some(&event.body),
            _ => None,
        });
        said.take_while(|body| !matches!(body, EventBody::StatusIdle { .. })).any(|body| {
            !matches!(body, EventBody::ThreadStatusTerminated { .. } | EventBody::UserToolConfirmation { .. })
        })
    }

    /// Appends an event of the session itself, which the primary thread's log holds.
    pub(crate) fn append_to_session(&mut self, body: EventBody) {
        self.on(0, |step| drop(step.append(body)));
    }

    /// Does something as another thread.
    pub(crate) fn on<T>(&mut self, at: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.at, at);
        let done = act(self);
        self.at = before;
        done
    }

    /// Sees that a worker is there.
    pub(crate) fn ensure_work(&mut self) {
        self.push(Effect::EnsureWork);
    }
}
