//! The instant at which one tool call must have ended. Never waits by itself.

use std::time::{Duration, Instant};

/// When a call must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    pub(crate) fn passed(self) -> bool {
        Instant::now() >= self.0
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
