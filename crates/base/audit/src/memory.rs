//! A recorder in memory, for tests of whatever decides, records and acts. It can be told to fail, because that path matters most.

use std::sync::{Arc, Mutex, PoisonError};

use crate::client::{AuditError, Recorder, Recording};
use crate::record::Record;

/// Keeps records in memory; clones share them.
#[derive(Clone, Default)]
pub struct Memory {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    failing: Option<AuditError>,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything recorded so far, in order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// From now on every record fails with this error (or, with `None`, succeeds again).
    pub fn fail_with(&self, error: Option<AuditError>) {
        self.lock().failing = error;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for Memory {
    fn record_all(&self, records: Vec<Record>) -> Recording<'_> {
        let mut kept = self.lock();
        let answer = match &kept.failing {
            Some(error) => Err(error.clone()),
            None => {
                kept.records.extend(records);
                Ok(kept.records.len() as u64)
            }
        };
        Box::pin(std::future::ready(answer))
    }
}
