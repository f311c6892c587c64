//! What became of one request: whether any of it was sent, and why it failed. Shared between the call that waits and
//! the code that sends, so that what a failure means does not depend on how a library passes errors on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::McpFailure;

/// The record of one request. `Clone` shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicBool,
    waiting: AtomicBool,
    failure: Mutex<Option<McpFailure>>,
    server_timing: Mutex<Option<String>>,
}

impl Record {
    /// Says whether the request may have reached the peer. Said before sending, taken back where it was certainly not.
    pub(super) fn set_sent(&self, sent: bool) {
        self.shared.sent.store(sent, Ordering::SeqCst);
    }

    pub(super) fn was_sent(&self) -> bool {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Says whether the request waits for a place among those to its host.
    pub(super) fn set_waiting(&self, waiting: bool) {
        self.shared.waiting.store(waiting, Ordering::SeqCst);
    }

    /// What it means that there is no answer in time. Several clocks run; whichever is first says the same.
    pub(super) fn late(&self, what: &str, patience: Duration) -> McpFailure {
        match self.shared.waiting.load(Ordering::SeqCst) {
            true => McpFailure::busy(),
            false => McpFailure::timeout(what, patience),
        }
    }

    /// Keeps the first failure.
    pub(super) fn fail(&self, failure: &McpFailure) {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failure.clone());
    }

    pub(super) fn failure(&self) -> Option<McpFailure> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_server_timing(&self, value: &str) {
        let mut timing = self.shared.server_timing.lock().unwrap_or_else(PoisonError::into_inner);
        *timing = Some(value.chars().take(1024).collect());
    }

    pub(super) fn server_timing(&self) -> Option<String> {
        self.shared.server_timing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a request of ours carries, beside what it says, from the call to the sending code.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) record: Record,
    /// The tool use that the request carries out: its identity names it, and a break is an unknown outcome.
    pub(super) tool_use: Option<String>,
}
