//! Remembers whether anything was heard on a connection since the last request: what times out with a head begun is a slow client, what times out
//! without one merely idled.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use postern_net::tap::{Tap, Tapped};

/// Whether a head was begun.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<AtomicBool>);

impl Heard {
    /// A request was taken or answered: the next byte begins another.
    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether bytes came since.
    pub(crate) fn anything(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Listens to a stream.
    pub(crate) fn on<S>(&self, stream: S) -> Tapped<S, Self> {
        Tapped::new(stream, self.clone())
    }
}

impl Tap for Heard {
    fn came(&mut self, _bytes: &[u8]) {
        self.0.store(true, Ordering::Relaxed);
    }
}
