//! A bounded number of connections, of which those that ask for nothing give way to newcomers: who opens many and says little keeps nobody out.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Places for connections; `Clone` gives another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bound: usize,
    taken: Mutex<Taken>,
    /// A place came back, or a connection became quiet.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Counts upwards, so that the connection that has been quiet the longest has the smallest number.
    next: u64,
    quiet: BTreeMap<u64, CancellationToken>,
}

/// A connection's place, given back when dropped. It begins quiet.
#[derive(Debug)]
pub struct Place(Arc<Seat>);

/// Says of a connection when it is asked something.
#[derive(Debug, Clone)]
pub struct Asks(Arc<Seat>);

/// While one of these is held, its connection does not give way.
#[derive(Debug)]
pub struct Busy(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    places: Places,
    lost: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Its number among the quiet ones, while it is quiet.
    quiet: Option<u64>,
    requests: usize,
}

impl Places {
    /// At most `bound` connections at a time.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(Shared { bound, taken: Mutex::default(), changed: Notify::new() }))
    }

    /// A place. Where all are taken, the connection that has been quiet the longest is told to go, and this waits until its place, or another,
    /// is free; where none is quiet, until one is. Callers ask one after the other.
    pub async fn take(&self) -> Place {
        let mut told = false;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(place) = self.free(&mut told) {
                return place;
            }
            changed.await;
        }
    }

    fn free(&self, told: &mut bool) -> Option<Place> {
        let mut taken = self.taken();
        if taken.count < self.0.bound {
            taken.count += 1;
            let lost = CancellationToken::new();
            let state = State { quiet: Some(taken.quieten(&lost)), requests: 0 };
            return Some(Place(Arc::new(Seat { places: self.clone(), lost, state: Mutex::new(state) })));
        }
        if !*told && let Some((_, lost)) = taken.quiet.pop_first() {
            lost.cancel();
            *told = true;
        }
        None
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn quieten(&mut self, lost: &CancellationToken) -> u64 {
        self.next += 1;
        self.quiet.insert(self.next, lost.clone());
        self.next
    }
}

impl Place {
    /// Ends when the connection has to give way: whoever holds the place closes it.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.lost.clone().cancelled_owned()
    }

    /// What says that a request is under way, for the time it is.
    #[must_use]
    pub fn asks(&self) -> Asks {
        Asks(Arc::clone(&self.0))
    }
}

impl Asks {
    /// From now on, until what this returns is dropped, the connection does not give way, unless it was told to already.
    #[must_use]
    pub fn begin(&self) -> Busy {
        let mut taken = self.0.places.taken();
        let mut state = self.0.state();
        state.requests += 1;
        if let Some(number) = state.quiet.take() {
            taken.quiet.remove(&number);
        }
        drop(state);
        Busy(Arc::clone(&self.0))
    }
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut taken = self.0.places.taken();
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0 && !self.0.lost.is_cancelled() {
            state.quiet = Some(taken.quieten(&self.0.lost));
            self.0.places.0.changed.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.places.taken();
        taken.count -= 1;
        if let Some(number) = self.0.state().quiet.take() {
            taken.quiet.remove(&number);
        }
        // What may still be held as busy is not to count as quiet later.
        self.0.lost.cancel();
        self.0.places.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn is_lost(place: &Place) -> bool {
        now(std::pin::pin!(place.lost())).is_some()
    }

    fn taken_at_once(places: &Places) -> Place {
        now(std::pin::pin!(places.take())).expect("a place is free")
    }

    #[test]
    fn the_connection_that_has_been_quiet_the_longest_gives_way() {
        let places = Places::new(3);
        let [first, second, third] = [(); 3].map(|()| taken_at_once(&places));
        drop(first.asks().begin());
        let mut newcomer = std::pin::pin!(places.take());
        assert!(now(newcomer.as_mut()).is_none(), "more than the bound");
        assert_eq!([&first, &second, &third].map(is_lost), [false, true, false]);
        drop(second);
        let newcomer = now(newcomer).expect("the place that was given up");
        let mut next = std::pin::pin!(places.take());
        assert!(now(next.as_mut()).is_none());
        assert_eq!([&first, &third, &newcomer].map(is_lost), [false, true, false]);
    }

    #[test]
    fn a_connection_that_is_asked_something_keeps_its_place_until_it_has_answered() {
        let places = Places::new(1);
        let place = taken_at_once(&places);
        let (one, two) = (place.asks().begin(), place.asks().begin());
        let mut newcomer = std::pin::pin!(places.take());
        assert!(now(newcomer.as_mut()).is_none());
        drop(one);
        assert!(now(newcomer.as_mut()).is_none());
        assert!(!is_lost(&place));
        drop(two);
        assert!(now(newcomer.as_mut()).is_none());
        assert!(is_lost(&place), "it answered, and somebody waits");
        drop(place);
        assert!(now(newcomer).is_some());
    }

    #[test]
    fn one_newcomer_sends_one_connection_away() {
        let places = Places::new(2);
        let kept = [(); 2].map(|()| taken_at_once(&places));
        let mut newcomer = std::pin::pin!(places.take());
        for _ in 0..3 {
            assert!(now(newcomer.as_mut()).is_none());
        }
        assert_eq!(kept.iter().filter(|place| is_lost(place)).count(), 1);
    }

    #[test]
    fn an_answer_that_outlives_its_connection_counts_for_nothing() {
        let places = Places::new(1);
        let place = taken_at_once(&places);
        let busy = place.asks().begin();
        drop(place);
        drop(busy);
        let kept = taken_at_once(&places);
        let mut newcomer = std::pin::pin!(places.take());
        assert!(now(newcomer.as_mut()).is_none());
        assert!(is_lost(&kept));
    }
}
