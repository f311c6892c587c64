//! A recorder in memory that lets a test act between a record and what follows it, or withhold the answer.

use std::sync::{Mutex, PoisonError};

use postern_audit::{Kind, Memory, Record, Recorder, Recording};
use tokio::sync::Semaphore;

type Act = Box<dyn Fn(&Record) + Send>;

/// Before a memory.
pub(super) struct Between {
    memory: Memory,
    act: Mutex<Option<Act>>,
    /// Of outcomes that may be answered.
    outcomes: Semaphore,
}

impl Between {
    pub(super) fn before(memory: Memory) -> Self {
        Self { memory, act: Mutex::default(), outcomes: Semaphore::new(Semaphore::MAX_PERMITS) }
    }

    /// Does this whenever something was recorded, before whoever had it recorded goes on.
    pub(super) fn whenever(&self, act: impl Fn(&Record) + Send + 'static) {
        *self.act.lock().unwrap() = Some(Box::new(act));
    }

    /// Answers outcomes no more: they are written, and nobody hears of it.
    pub(super) fn withhold_outcomes(&self) {
        self.outcomes.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers them again.
    pub(super) fn answer_outcomes(&self) {
        self.outcomes.add_permits(Semaphore::MAX_PERMITS);
    }
}

impl Recorder for Between {
    fn record_all(&self, records: Vec<Record>) -> Recording<'_> {
        Box::pin(async move {
            let outcome = records.iter().any(|record| record.kind == Kind::EgressOutcome);
            let written = self.memory.record_all(records.clone()).await;
            if let Some(act) = &*self.act.lock().unwrap_or_else(PoisonError::into_inner) {
                records.iter().for_each(act);
            }
            if outcome {
                let _answered = self.outcomes.acquire().await;
            }
            written
        })
    }
}
