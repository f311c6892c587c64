//! How long one tool call may still run. Never waits by itself. While the sandbox is stopped from outside nobody here can look at a clock, and that time
//! does not count: whoever stopped it keeps the outer deadline.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What a call has left.
#[derive(Debug)]
pub(crate) struct Deadline {
    left: Cell<Duration>,
    looked: Cell<Instant>,
}

/// Who waits looks again after this at the latest; only so much of a longer time between two looks counts.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
const COUNTED: Duration = Duration::from_secs(2);

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        Self { left: Cell::new(duration), looked: Cell::new(Instant::now()) }
    }

    pub(crate) fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.remaining_at(Instant::now())
    }

    fn remaining_at(&self, now: Instant) -> Duration {
        let gone = now.saturating_duration_since(self.looked.replace(now));
        let left = self.left.get().saturating_sub(gone.min(COUNTED));
        self.left.set(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_a_look_does_not_count() {
        let deadline = Deadline::after(Duration::from_secs(10));
        let began = deadline.looked.get();
        let at = |seconds: u64| deadline.remaining_at(began + Duration::from_secs(seconds));
        assert_eq!(at(1), Duration::from_secs(9));
        assert_eq!(at(3601), Duration::from_secs(7), "an hour in which nobody looked");
        for second in 3602..3608 {
            at(second);
        }
        assert_eq!(at(3608), Duration::ZERO);
        assert!(deadline.passed());
    }
}
