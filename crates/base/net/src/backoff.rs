//! How long to wait before the next attempt. Pure: it never sleeps and draws no random numbers.

use std::time::Duration;

/// Exponential waiting with full jitter, bounded, and obedient to what the peer asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound of every wait that this side chooses.
    pub cap: Duration,
    /// The longest `retry-after` that is obeyed; a longer one is cut to this.
    pub retry_after_cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            retry_after_cap: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The wait before attempt `attempt + 1`, where `attempt` counts from 0 and `random` is uniform over all of `u64`.
    ///
    /// Where the peer named a time, that is the least; up to a tenth of it is added, so that many clients do
    /// not return at the same instant. Else the wait lies between half of the exponential bound and the bound.
    #[must_use]
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, random: u64) -> Duration {
        match retry_after {
            Some(asked) => {
                let asked = asked.min(self.retry_after_cap);
                asked + share(asked / 10, random)
            }
            None => {
                let bound = self.base.saturating_mul(2u32.saturating_pow(attempt)).min(self.cap);
                bound / 2 + share(bound / 2, random)
            }
        }
    }
}

/// The part of `whole` that `random` is of all `u64`.
fn share(whole: Duration, random: u64) -> Duration {
    let nanoseconds = (whole.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Reads a `retry-after` header: whole or broken seconds. Dates are not read: a peer's clock is not ours.
#[must_use]
pub fn retry_after(header: &str) -> Option<Duration> {
    let text = header.trim();
    let plausible =
        !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = plausible.then(|| text.parse().ok()).flatten()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_stay_between_half_and_whole() {
        let backoff = Backoff::default();
        for (attempt, bound_ms) in
            [(0, 500), (1, 1000), (2, 2000), (5, 16_000), (6, 30_000), (60, 30_000), (u32::MAX, 30_000)]
        {
            let bound = Duration::from_millis(bound_ms);
            assert_eq!(backoff.delay(attempt, None, 0), bound / 2, "attempt {attempt}");
            let longest = backoff.delay(attempt, None, u64::MAX);
            assert!(longest <= bound && longest > bound.mul_f64(0.99), "attempt {attempt}: {longest:?}");
        }
    }

    #[test]
    fn what_the_peer_asks_for_is_the_least_and_is_capped() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(0, Some(Duration::from_secs(20)), 0), Duration::from_secs(20));
        assert!(backoff.delay(0, Some(Duration::from_secs(20)), u64::MAX) <= Duration::from_secs(22));
        assert_eq!(backoff.delay(0, Some(Duration::from_secs(86_400)), 0), backoff.retry_after_cap);
    }

    #[test]
    fn retry_after_is_read_as_seconds_only() {
        let table = [
            ("3", Some(3000)),
            (" 0.5 ", Some(500)),
            ("0", Some(0)),
            ("", None),
            ("-1", None),
            ("inf", None),
            ("1e9", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("1.2.3", None),
            ("99999999999999999", None),
        ];
        for (header, expected) in table {
            assert_eq!(retry_after(header), expected.map(Duration::from_millis), "{header:?}");
        }
    }
}
