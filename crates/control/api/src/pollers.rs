//! Who polls: the worker ids of the last moments, for the queue's statistics and for sessions whose files a worker has.
//!
//! In memory, and by a clock that nobody sets: about this moment, not a record.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_model::ids::EnvironmentId;

/// Who polled within this counts in the statistics.
const WINDOW: Duration = Duration::from_secs(30);
/// A caller chooses its worker id freely; more than these are not counted.
const MAX_ENTRIES: usize = 10_000;
/// Of so many an environment's sessions wait for theirs; a query takes no more.
const MOST_PRESENT: usize = 500;
const MAX_WORKER_ID: usize = 256;

/// Worker ids by the time of their last poll.
#[derive(Debug)]
pub(crate) struct Pollers {
    /// Who polled within this is there.
    present: Duration,
    began: Instant,
    seen: Mutex<HashMap<(EnvironmentId, String), Instant>>,
}

impl Pollers {
    /// Nobody was seen yet.
    pub(crate) fn new(present: Duration, began: Instant) -> Self {
        Self { present, began, seen: Mutex::default() }
    }

    /// Notes a poll, and gives the name under which it counts: a worker without one, or with one that is too long, has none.
    pub(crate) fn note<'a>(&self, environment: &EnvironmentId, worker: &'a str, now: Instant) -> &'a str {
        if worker.is_empty() || worker.len() > MAX_WORKER_ID {
            return "";
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.duration_since(*at) <= WINDOW);
        if seen.len() < MAX_ENTRIES {
            seen.insert((environment.clone(), worker.to_owned()), now);
        }
        worker
    }

    /// How many workers polled this environment lately.
    pub(crate) fn count(&self, environment: &EnvironmentId, now: Instant) -> u64 {
        self.within(environment, now, WINDOW).len().try_into().unwrap_or(u64::MAX)
    }

    /// Which workers of this environment are there. `None` as long as one that is could not have polled yet.
    pub(crate) fn present(&self, environment: &EnvironmentId, now: Instant) -> Option<Vec<String>> {
        if now.duration_since(self.began) < self.present {
            return None;
        }
        let mut present = self.within(environment, now, self.present);
        present.truncate(MOST_PRESENT);
        Some(present)
    }

    fn within(&self, environment: &EnvironmentId, now: Instant, window: Duration) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = seen.iter().filter(|((of, _), at)| of == environment && now.duration_since(**at) <= window);
        recent.map(|((_, worker), _)| worker.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: Duration = Duration::from_secs(10);

    #[test]
    fn a_worker_counts_once_for_thirty_seconds_and_only_in_its_environment() {
        let start = Instant::now();
        let pollers = Pollers::new(PRESENT, start);
        let (here, there) = (EnvironmentId::generate(), EnvironmentId::generate());
        for worker in ["a", "a", "b", ""] {
            pollers.note(&here, worker, start);
        }
        assert_eq!((pollers.count(&here, start), pollers.count(&there, start)), (2, 0));
        assert_eq!(pollers.count(&here, start + WINDOW), 2);
        assert_eq!(pollers.count(&here, start + WINDOW + Duration::from_millis(1)), 0);
    }

    #[test]
    fn who_is_there_is_known_once_all_could_have_polled() {
        let start = Instant::now();
        let pollers = Pollers::new(PRESENT, start);
        let here = EnvironmentId::generate();
        assert_eq!(pollers.note(&here, "a", start), "a");
        assert_eq!(pollers.present(&here, start), None, "another may come yet");
        assert_eq!(pollers.present(&here, start + PRESENT), Some(vec!["a".to_owned()]));
        assert_eq!(pollers.present(&here, start + PRESENT + Duration::from_millis(1)), Some(Vec::new()));
    }

    #[test]
    fn a_name_that_is_too_long_is_none() {
        let start = Instant::now();
        let pollers = Pollers::new(PRESENT, start);
        assert_eq!(pollers.note(&EnvironmentId::generate(), &"x".repeat(MAX_WORKER_ID + 1), start), "");
    }

    #[test]
    fn whoever_invents_worker_ids_is_counted_up_to_a_bound_and_keeps_sessions_for_fewer() {
        let start = Instant::now();
        let pollers = Pollers::new(PRESENT, start);
        let here = EnvironmentId::generate();
        let invented = (1..MAX_ENTRIES).map(|number| ((here.clone(), number.to_string()), start));
        pollers.seen.lock().unwrap().extend(invented);
        for worker in ["the last", "one more"] {
            pollers.note(&here, worker, start);
        }
        assert_eq!(pollers.count(&here, start), 10_000);
        assert_eq!(pollers.present(&here, start + PRESENT).map(|present| present.len()), Some(500));
        assert_eq!(pollers.count(&here, start + WINDOW + Duration::from_millis(1)), 0);
    }
}
