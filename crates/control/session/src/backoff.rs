//! How long to wait before a model request is tried again.

use std::time::Duration;

/// Exponential backoff with jitter, never less than the endpoint asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait of our own.
    pub longest: Duration,
    /// The longest wait an endpoint can impose.
    pub longest_imposed: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            longest_imposed: Duration::from_secs(3600),
        }
    }
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row, `jitter` from 0 up to 1.
    pub fn delay(&self, failures: u32, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let spread = doubled.min(self.longest).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        spread.max(retry_after.unwrap_or_default().min(self.longest_imposed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_never_undercut_the_endpoint() {
        let seconds = Duration::from_secs;
        let backoff = Backoff::default();
        for (failures, retry_after, jitter, expected) in [
            (1, None, 1.0, seconds(1)),
            (1, None, 0.0, Duration::from_millis(500)),
            (4, None, 1.0, seconds(8)),
            (40, None, 1.0, seconds(30)),
            (u32::MAX, None, 1.0, seconds(30)),
            (1, Some(seconds(30)), 1.0, seconds(30)),
            (7, Some(seconds(3)), 1.0, seconds(30)),
            (1, Some(seconds(86_400)), 1.0, seconds(3600)),
        ] {
            assert_eq!(backoff.delay(failures, retry_after, jitter), expected, "{failures} {retry_after:?} {jitter}");
        }
    }

    #[test]
    fn all_attempts_at_an_endpoint_that_refuses_at_once_take_two_minutes_at_most() {
        let attempts = crate::Limits::default().attempts;
        let total: Duration = (1..attempts).map(|failures| Backoff::default().delay(failures, None, 1.0)).sum();
        assert!(total <= Duration::from_secs(120), "{total:?}");
        let total: Duration = (1..attempts).map(|failures| Backoff::default().delay(failures, None, 0.0)).sum();
        assert!(total >= Duration::from_secs(30), "an endpoint that restarts is waited for: {total:?}");
    }
}
