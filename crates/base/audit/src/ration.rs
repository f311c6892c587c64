//! Which refusals of a session are written one by one: nobody may fill the log at will. Each kind and reason has a bucket of its own, so that a flood of
//! one hides no other. What is beyond it is counted here until the count is written as a record itself. Writes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::record::{Decision, Kind, Record, Shadow};

/// How a refusal gets into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// By a record of its own.
    Alone,
    /// With others, by their number.
    Counted,
}

/// Refusals of one kind and reason that have no record of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<R> {
    /// What was refused.
    pub kind: Kind,
    /// Why.
    pub reason: R,
    /// What a zone in shadow would have done, of all of them.
    pub shadow: Option<Shadow>,
    /// How often.
    pub refusals: u64,
    /// How many of them someone must look at.
    pub alarms: u64,
}

impl<R> Counted<R> {
    /// The records of a count: how often, and, of alarms, how many. `base` makes a record of this kind and decision that says whose it is and why.
    pub fn records(&self, base: impl Fn(Kind, Decision) -> Record) -> Vec<Record> {
        let of = |kind, decision, name: &str, number| {
            let mut record = base(kind, decision);
            // Of no tool use more than of another.
            record.tool_use = None;
            record.shadow.clone_from(&self.shadow);
            record.outcome = Some("counted: more refusals of one reason than are written one by one".to_owned());
            record.counts.insert(name.to_owned(), number);
            record
        };
        let alarm = (self.alarms > 0).then(|| of(Kind::Alarm, Decision::Info, "alarms", self.alarms));
        [of(self.kind, Decision::Deny, "refusals", self.refusals)].into_iter().chain(alarm).collect()
    }
}

/// The ration of one session.
#[derive(Debug)]
pub struct Ration<R> {
    burst: u32,
    buckets: Mutex<BTreeMap<(Kind, R), Bucket>>,
    counting: Notify,
}

impl<R: Copy + Ord> Ration<R> {
    /// So many of a kind and reason at once, and one more each second.
    #[must_use]
    pub fn new(burst: u32) -> Self {
        Self { burst, buckets: Mutex::default(), counting: Notify::new() }
    }

    /// Takes one refusal's share.
    pub fn take(&self, refused: &Counted<R>, now: Instant) -> Told {
        let mut buckets = self.lock();
        let bucket = self.bucket(&mut buckets, refused, now);
        if bucket.take(self.burst, now) {
            return Told::Alone;
        }
        bucket.count(refused);
        self.counting.notify_one();
        Told::Counted
    }

    /// Counts refusals of which nothing else is known, or that could not be written.
    pub fn count(&self, counted: &Counted<R>) {
        let mut buckets = self.lock();
        self.bucket(&mut buckets, counted, Instant::now()).count(counted);
        self.counting.notify_one();
    }

    /// Takes all counts, each once.
    pub fn drain(&self) -> Vec<Counted<R>> {
        let mut buckets = self.lock();
        let counted =
            buckets.iter_mut().flat_map(|((kind, reason), bucket)| {
                let (kind, reason) = (*kind, *reason);
                std::mem::take(&mut bucket.counts)
                    .into_iter()
                    .map(move |(shadow, Count { refusals, alarms })| Counted { kind, reason, shadow, refusals, alarms })
            });
        counted.collect()
    }

    /// Waits until something was counted.
    pub async fn counting(&self) {
        self.counting.notified().await;
    }

    /// Whether it is as a new one would be.
    fn is_rested(&self, now: Instant) -> bool {
        let mut buckets = self.lock();
        buckets.values_mut().all(|bucket| {
            bucket.fill(self.burst, now);
            bucket.left == self.burst && bucket.counts.is_empty()
        })
    }

    fn bucket<'a>(
        &self,
        buckets: &'a mut BTreeMap<(Kind, R), Bucket>,
        of: &Counted<R>,
        now: Instant,
    ) -> &'a mut Bucket {
        let new = || Bucket { left: self.burst, since: now, counts: BTreeMap::new() };
        buckets.entry((of.kind, of.reason)).or_insert_with(new)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Kind, R), Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rations of many sessions, by their names.
#[derive(Debug)]
pub struct Rations<R> {
    burst: u32,
    most: usize,
    table: Mutex<BTreeMap<String, Arc<Ration<R>>>>,
}

impl<R: Copy + Ord> Rations<R> {
    /// One for each of so many sessions at a time; those beyond share one, whose name is empty.
    #[must_use]
    pub fn new(burst: u32, most: usize) -> Self {
        Self { burst, most, table: Mutex::default() }
    }

    /// Takes one refusal's share of a session's ration.
    pub fn take(&self, session: &str, refused: &Counted<R>, now: Instant) -> Told {
        self.of(session).take(refused, now)
    }

    /// Takes all counts, each once, with the sessions that they are of, and forgets those that have nothing left to tell.
    pub fn drain(&self, now: Instant) -> Vec<(String, Counted<R>)> {
        let mut table = self.lock();
        let counted = table.iter().flat_map(|(session, ration)| {
            let of = |counted| (session.clone(), counted);
            ration.drain().into_iter().map(of).collect::<Vec<_>>()
        });
        let counted = counted.collect();
        table.retain(|_, ration| !ration.is_rested(now));
        counted
    }

    /// Counts again what could not be written.
    pub fn count(&self, session: &str, counted: &Counted<R>) {
        self.of(session).count(counted);
    }

    fn of(&self, session: &str) -> Arc<Ration<R>> {
        let mut table = self.lock();
        let known = table.contains_key(session) || table.len() < self.most;
        let name = if known { session } else { "" };
        Arc::clone(table.entry(name.to_owned()).or_insert_with(|| Arc::new(Ration::new(self.burst))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Ration<R>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// From when on time counts towards the next record.
    since: Instant,
    counts: BTreeMap<Option<Shadow>, Count>,
}

#[derive(Debug, Default)]
struct Count {
    refusals: u64,
    alarms: u64,
}

impl Bucket {
    fn fill(&mut self, burst: u32, now: Instant) {
        let passed = u32::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(u32::MAX);
        if passed > 0 {
            self.left = self.left.saturating_add(passed).min(burst);
            self.since = now;
        }
    }

    fn take(&mut self, burst: u32, now: Instant) -> bool {
        self.fill(burst, now);
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    fn count<R>(&mut self, counted: &Counted<R>) {
        let known = self.counts.len() < SHADOWS || self.counts.contains_key(&counted.shadow);
        // A candidate has rules without number; one count is told without its word before there are counts without number.
        let count = self.counts.entry(counted.shadow.clone().filter(|_| known)).or_default();
        count.refusals += counted.refusals;
        count.alarms += counted.alarms;
    }
}

/// Words of a zone in shadow that are counted apart, of one kind and reason.
const SHADOWS: usize = 32;

#[cfg(test)]
mod tests;
