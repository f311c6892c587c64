//! A recorder in memory that lets a test act between a record and what follows it, or withhold the answer.

use std::sync::{Mutex, PoisonError};

use postern_audit::{Memory, Record, Recorder, Recording};
use tokio::sync::Semaphore;

type Act = Box<dyn Fn(&Record) + Send>;
type Which = fn(&Record) -> bool;

/// Before a memory.
pub(super) struct Between {
    memory: Memory,
    act: Mutex<Option<Act>>,
    withheld: Mutex<Which>,
    /// Open as long as nothing is withheld.
    answers: Semaphore,
}

impl Between {
    pub(super) fn before(memory: Memory) -> Self {
        let answers = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { memory, act: Mutex::default(), withheld: Mutex::new(|_| false), answers }
    }

    /// Does this whenever something was recorded, before whoever had it recorded goes on.
    pub(super) fn whenever(&self, act: impl Fn(&Record) + Send + 'static) {
        *self.act.lock().unwrap() = Some(Box::new(act));
    }

    /// Answers these records no more: they are written, and nobody hears of it.
    pub(super) fn withhold(&self, which: Which) {
        *self.withheld.lock().unwrap() = which;
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers them after all.
    pub(super) fn answer(&self) {
        self.answers.add_permits(Semaphore::MAX_PERMITS);
    }
}

impl Recorder for Between {
    fn record_all(&self, records: Vec<Record>) -> Recording<'_> {
        Box::pin(async move {
            let which = *self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
            let is_withheld = records.iter().any(which);
            let written = self.memory.record_all(records.clone()).await;
            if let Some(act) = &*self.act.lock().unwrap_or_else(PoisonError::into_inner) {
                records.iter().for_each(act);
            }
            if is_withheld {
                let _answered = self.answers.acquire().await;
            }
            written
        })
    }
}
