//! Who polls: the distinct worker ids of the last 30 seconds, for the queue's statistics.
//!
//! In memory: a figure about this moment, not a record.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::ids::EnvironmentId;

const WINDOW: SignedDuration = SignedDuration::from_secs(30);
/// A caller chooses its worker id freely; more than these are not counted.
const MAX_ENTRIES: usize = 10_000;
const MAX_WORKER_ID: usize = 256;

/// Worker ids by the time of their last poll.
#[derive(Debug, Default)]
pub(crate) struct Pollers {
    seen: Mutex<HashMap<(EnvironmentId, String), Timestamp>>,
}

impl Pollers {
    /// Notes a poll. A worker without an id is not counted.
    pub(crate) fn note(&self, environment: &EnvironmentId, worker: &str, now: Timestamp) {
        if worker.is_empty() || worker.len() > MAX_WORKER_ID {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.duration_since(*at) <= WINDOW);
        if seen.len() < MAX_ENTRIES {
            seen.insert((environment.clone(), worker.to_owned()), now);
        }
    }

    /// How many workers polled this environment lately.
    pub(crate) fn count(&self, environment: &EnvironmentId, now: Timestamp) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = seen.iter().filter(|((of, _), at)| of == environment && now.duration_since(**at) <= WINDOW);
        recent.count().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_counts_once_for_thirty_seconds_and_only_in_its_environment() {
        let pollers = Pollers::default();
        let (here, there) = (EnvironmentId::generate(), EnvironmentId::generate());
        let start = Timestamp::UNIX_EPOCH;
        for worker in ["a", "a", "b", ""] {
            pollers.note(&here, worker, start);
        }
        assert_eq!(pollers.count(&here, start), 2);
        assert_eq!(pollers.count(&there, start), 0);
        assert_eq!(pollers.count(&here, start + SignedDuration::from_secs(30)), 2);
        assert_eq!(pollers.count(&here, start + SignedDuration::from_secs(31)), 0);
    }
}
