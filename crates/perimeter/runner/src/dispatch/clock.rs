//! The countdown after a finished turn. Tool uses that wait for a person, or run after one allowed them, hold it.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct IdleClock {
    max_idle: Duration,
    turn_ended_at: Option<Duration>,
    holds: usize,
    /// A turn ended while held: the countdown starts with the last release.
    deferred: bool,
}

impl IdleClock {
    pub(super) fn new(max_idle: Duration) -> Self {
        Self { max_idle, turn_ended_at: None, holds: 0, deferred: false }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.turn_ended_at.map(|at| at + self.max_idle)
    }

    pub(super) fn expired(&self, now: Duration) -> bool {
        self.due().is_some_and(|due| now >= due)
    }

    pub(super) fn arm(&mut self, now: Duration) {
        if self.holds > 0 {
            self.deferred = true;
        } else {
            self.deferred = false;
            self.turn_ended_at = Some(now);
        }
    }

    pub(super) fn disarm(&mut self) {
        self.deferred = false;
        self.turn_ended_at = None;
    }

    pub(super) fn hold(&mut self) {
        self.holds += 1;
        if self.turn_ended_at.take().is_some() {
            self.deferred = true;
        }
    }

    pub(super) fn release(&mut self, now: Duration) {
        self.holds = self.holds.saturating_sub(1);
        self.settle(now);
    }

    /// Starts a deferred countdown once nothing holds it.
    pub(super) fn settle(&mut self, now: Duration) {
        if self.holds == 0 && self.deferred {
            self.arm(now);
        }
    }
}
