//! Which refusals of a session are written one by one: a sandbox must not be able to fill the log at will. Each kind and reason has a bucket of its
//! own, so that a flood of one hides no other. What is beyond it is counted here until the count is written as a record itself. Writes nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use postern_audit::Kind;
use postern_policy::{Denial, Reason};
use tokio::{sync::Notify, time::Instant};

use crate::limits;

/// How a refusal gets into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// By a record of its own.
    Alone,
    /// With others, by their number.
    Counted,
}

/// Refusals of one kind and reason that have no record of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// What was refused.
    pub(crate) kind: Kind,
    /// Why.
    pub(crate) reason: Reason,
    /// How often.
    pub(crate) refusals: u64,
    /// How many of them someone must look at.
    pub(crate) alarms: u64,
}

/// The ration of one session.
#[derive(Debug, Default)]
pub(crate) struct Ration {
    buckets: Mutex<BTreeMap<(Kind, Reason), Bucket>>,
    counting: Notify,
}

impl Ration {
    /// Takes one refusal's share.
    pub(crate) fn take(&self, kind: Kind, denial: &Denial, now: Instant) -> Told {
        let mut buckets = self.lock();
        let bucket = bucket(&mut buckets, kind, denial.reason, now);
        if bucket.take(now) {
            return Told::Alone;
        }
        bucket.counted.refusals += 1;
        bucket.counted.alarms += u64::from(denial.alarm);
        self.counting.notify_one();
        Told::Counted
    }

    /// Counts refusals of which nothing else is known, or that could not be written.
    pub(crate) fn count(&self, counted: &Counted) {
        let mut buckets = self.lock();
        let Counted { kind, reason, refusals, alarms } = *counted;
        let bucket = bucket(&mut buckets, kind, reason, Instant::now());
        bucket.counted.refusals += refusals;
        bucket.counted.alarms += alarms;
        self.counting.notify_one();
    }

    /// Takes all counts, each once.
    pub(crate) fn drain(&self) -> Vec<Counted> {
        let mut buckets = self.lock();
        let counted = buckets.values_mut().filter(|bucket| bucket.counted.refusals > 0);
        counted
            .map(|bucket| {
                let none = Counted { refusals: 0, alarms: 0, ..bucket.counted };
                std::mem::replace(&mut bucket.counted, none)
            })
            .collect()
    }

    /// Waits until something was counted.
    pub(crate) async fn counting(&self) {
        self.counting.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, Reason), Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bucket(buckets: &mut BTreeMap<(Kind, Reason), Bucket>, kind: Kind, reason: Reason, now: Instant) -> &mut Bucket {
    buckets.entry((kind, reason)).or_insert_with(|| Bucket {
        left: limits::REFUSALS_RECORDED,
        since: now,
        counted: Counted { kind, reason, refusals: 0, alarms: 0 },
    })
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// From when on time counts towards the next record.
    since: Instant,
    counted: Counted,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let passed = u32::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(u32::MAX);
        if passed > 0 {
            self.left = self.left.saturating_add(passed).min(limits::REFUSALS_RECORDED);
            self.since = now;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BURST: u64 = limits::REFUSALS_RECORDED as u64;

    fn flood(ration: &Ration, reason: Reason, refusals: u64, now: Instant) -> u64 {
        let denial = Denial::new(reason);
        (0..refusals).filter(|_| ration.take(Kind::EgressRequest, &denial, now) == Told::Alone).count() as u64
    }

    #[test]
    fn what_is_not_told_alone_is_counted_once() {
        let (ration, now) = (Ration::default(), Instant::now());
        assert_eq!(flood(&ration, Reason::HostNotAllowed, BURST + 7, now), BURST);
        let counted = Counted { kind: Kind::EgressRequest, reason: Reason::HostNotAllowed, refusals: 7, alarms: 0 };
        assert_eq!(ration.drain(), std::slice::from_ref(&counted));
        assert_eq!(ration.drain(), []);
        ration.count(&counted);
        assert_eq!(ration.drain(), [counted]);
    }

    #[test]
    fn a_flood_of_one_reason_or_kind_hides_no_other() {
        let (ration, now) = (Ration::default(), Instant::now());
        flood(&ration, Reason::HostNotAllowed, BURST * 3, now);
        assert_eq!(flood(&ration, Reason::PathNotAllowed, 1, now), 1);
        let denial = Denial::new(Reason::HostNotAllowed);
        assert_eq!(ration.take(Kind::EgressConnect, &denial, now), Told::Alone);
    }

    #[test]
    fn each_second_gives_one_and_no_pause_gives_more_than_at_first() {
        let (ration, start) = (Ration::default(), Instant::now());
        flood(&ration, Reason::HostNotAllowed, BURST, start);
        for (millis, alone) in [(999, 0), (1_000, 1), (1_999, 0), (2_000, 1), (5_500, 3), (100_000_000, BURST)] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(flood(&ration, Reason::HostNotAllowed, BURST * 2, now), alone, "{millis}");
        }
    }

    #[test]
    fn counted_alarms_stay_alarms() {
        let (ration, now) = (Ration::default(), Instant::now());
        let denial = Denial::new(Reason::PlaceholderWrongSession);
        assert!(denial.alarm);
        for _ in 0..BURST + 2 {
            ration.take(Kind::EgressRequest, &denial, now);
        }
        assert_eq!(ration.drain()[0].alarms, 2);
    }
}
