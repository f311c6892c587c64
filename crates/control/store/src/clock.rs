//! Two kinds of time. The wall's is what clients are shown and schedules follow; somebody may set it. The time that passes
//! here cannot be set: leases are measured in it, so that no jump of the wall clock ends one early or holds one for long.
//!
//! A [`Tick`] is a moment on the lease clock, one for each database: it goes on while a server runs and stands still while none
//! does, since nobody can keep a lease alive meanwhile. Never read the wall clock for a lease.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use postern_model::Timestamp;

use crate::{StoreError, Tx};

/// What the wall clock may differ by from what passed here before it counts as a jump: more than it is slewed by between
/// two looks.
const STEADY: SignedDuration = SignedDuration::from_secs(2);

/// Where time comes from; tests bring their own.
pub trait Time: Debug + Send + Sync {
    /// What the wall clock says.
    fn wall(&self) -> Timestamp;

    /// How much time passed since some moment before: never less than at the call before, and nothing while the host slept.
    fn passed(&self) -> Duration;
}

/// The host's clocks.
#[derive(Debug)]
struct Host {
    began: Instant,
}

impl Time for Host {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn passed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A moment on the lease clock, in microseconds. What it counts from says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(i64);

impl Tick {
    pub(crate) fn micros(self) -> i64 {
        self.0
    }

    pub(crate) fn before(self, span: Duration) -> i64 {
        self.0.saturating_sub(micros(span))
    }

    pub(crate) fn after(self, span: Duration) -> i64 {
        self.0.saturating_add(micros(span))
    }
}

/// The wall clock moved against the time that passed here: it was set, or the host slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// By how much; negative where it went back.
    pub by: SignedDuration,
}

/// What time it is, of both kinds; shared by cloning.
#[derive(Clone, Debug)]
pub struct Clock {
    time: Arc<dyn Time>,
    offsets: Arc<Mutex<Offsets>>,
}

/// What is added to the time that passed here.
#[derive(Debug)]
struct Offsets {
    /// For a tick, in microseconds.
    tick: i64,
    /// For what the wall clock said at the last look.
    wall: SignedDuration,
}

impl Clock {
    /// The host's.
    pub(crate) fn host() -> Self {
        Self::of(Arc::new(Host { began: Instant::now() }))
    }

    pub(crate) fn of(time: Arc<dyn Time>) -> Self {
        let wall = wall_offset(&*time);
        Self { time, offsets: Arc::new(Mutex::new(Offsets { tick: 0, wall })) }
    }

    /// What the wall clock says, as microseconds: what the database keeps.
    pub fn wall(&self) -> Timestamp {
        let now = self.time.wall();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// The moment on the lease clock.
    pub fn tick(&self) -> Tick {
        Tick(self.offsets().tick.saturating_add(micros(self.time.passed())))
    }

    /// Goes on from a moment that was noted, unless it is past.
    pub(crate) fn follow(&self, noted: i64) {
        let mut offsets = self.offsets();
        offsets.tick = offsets.tick.max(noted.saturating_sub(micros(self.time.passed())));
    }

    /// By how much the wall clock jumped since the last look, if it did.
    pub fn jump(&self) -> Option<Jump> {
        let offset = wall_offset(&*self.time);
        let by = offset - std::mem::replace(&mut self.offsets().wall, offset);
        (by.abs() > STEADY).then_some(Jump { by })
    }

    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the lease clock and notes it: whoever opens the database later, and any other server on it, is not behind what
/// this transaction writes.
pub(crate) async fn noted(tx: &mut Tx) -> Result<Tick, StoreError> {
    let clock = tx.clock().clone();
    let noted: i64 = sqlx::query_scalar(
        "INSERT INTO lease_clock (id, tick) VALUES (1, ?1) \
         ON CONFLICT (id) DO UPDATE SET tick = CASE WHEN lease_clock.tick < ?1 THEN ?1 ELSE lease_clock.tick END RETURNING tick",
    )
    .bind(clock.tick().micros())
    .fetch_one(&mut **tx)
    .await?;
    clock.follow(noted);
    Ok(Tick(noted))
}

/// Has the lease clock go on where it stood when it was noted last. A database that has none begins with the wall's time, in
/// which leases were kept before there was one.
pub(crate) async fn begin(tx: &mut Tx) -> Result<(), StoreError> {
    let clock = tx.clock().clone();
    let stored: Option<i64> = sqlx::query_scalar("SELECT tick FROM lease_clock").fetch_optional(&mut **tx).await?;
    clock.follow(stored.unwrap_or_else(|| clock.wall().as_microsecond()));
    noted(tx).await?;
    Ok(())
}

fn wall_offset(time: &dyn Time) -> SignedDuration {
    let passed = SignedDuration::try_from(time.passed()).unwrap_or(SignedDuration::MAX);
    time.wall().duration_since(Timestamp::UNIX_EPOCH).saturating_sub(passed)
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Store;

    /// Time that passes when a test says so, and a wall clock that it sets.
    #[derive(Debug)]
    pub(crate) struct ByHand(Mutex<(Timestamp, Duration)>);

    impl ByHand {
        pub(crate) fn at(wall: Timestamp) -> Arc<Self> {
            Arc::new(Self(Mutex::new((wall, Duration::ZERO))))
        }

        pub(crate) fn pass(&self, span: Duration) {
            let mut now = self.0.lock().unwrap();
            *now = (now.0 + span, now.1 + span);
        }

        pub(crate) fn set_wall(&self, by: SignedDuration) {
            self.0.lock().unwrap().0 += by;
        }
    }

    impl Time for ByHand {
        fn wall(&self) -> Timestamp {
            self.0.lock().unwrap().0
        }

        fn passed(&self) -> Duration {
            self.0.lock().unwrap().1
        }
    }

    fn noon() -> Arc<ByHand> {
        ByHand::at("2026-11-22T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_noticed_once_and_moves_no_tick() {
        let time = noon();
        let clock = Clock::of(time.clone());
        let began = clock.tick();
        for by in [SignedDuration::from_hours(24), SignedDuration::from_hours(-48), SignedDuration::from_secs(3)] {
            time.set_wall(by);
            time.pass(Duration::from_secs(15));
            assert_eq!((clock.jump(), clock.jump()), (Some(Jump { by }), None));
        }
        time.set_wall(SignedDuration::from_secs(1));
        assert_eq!(clock.jump(), None, "as much as a clock is slewed by");
        assert_eq!(clock.tick().micros() - began.micros(), 45_000_000);
    }

    #[tokio::test]
    async fn the_lease_clock_goes_on_where_it_was_noted_whatever_the_wall_clock_says_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let time = noon();
        let store = Store::open_by(&path, None, time.clone()).await.unwrap();
        time.pass(Duration::from_secs(100));
        let mut tx = store.write().await.unwrap();
        let last = noted(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        store.close().await;
        for wall in ["2026-11-21T12:00:00Z", "2027-11-22T12:00:00Z"] {
            let store = Store::open_by(&path, None, ByHand::at(wall.parse().unwrap())).await.unwrap();
            assert_eq!(store.clock().tick(), last, "nothing passed while no server ran");
            store.close().await;
        }
    }

    #[tokio::test]
    async fn servers_on_one_database_follow_the_one_that_is_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let (ahead, behind) = (noon(), noon());
        let first = Store::open_by(&path, None, ahead.clone()).await.unwrap();
        let second = Store::open_by(&path, None, behind).await.unwrap();
        ahead.pass(Duration::from_secs(100));
        for store in [&first, &second] {
            let mut tx = store.write().await.unwrap();
            noted(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(first.clock().tick(), second.clock().tick());
    }
}
