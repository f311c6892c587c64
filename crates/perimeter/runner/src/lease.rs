//! The lease on a work item: what each heartbeat's answer means, and when the next one is due (contract section 4.4). Sends nothing itself.

use std::time::Duration;

/// The word that matches a lease without a heartbeat.
pub(crate) const NO_HEARTBEAT: &str = "NO_HEARTBEAT";

const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// A failed heartbeat is repeated after this at the latest, so that one lost packet does not cost half a lease.
const RETRY: Duration = Duration::from_secs(5);
/// Assumed until the first answer says.
const ASSUMED_TTL: Duration = Duration::from_secs(90);
/// A server that says more is not believed: for this long at most nothing is heard from it.
const LONGEST_TTL: Duration = Duration::from_secs(3_600);
/// How long results are retried until the first answer says.
const ASSUMED_SEND_WINDOW: Duration = Duration::from_secs(300);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Beat {
    /// 200.
    Answer {
        /// To be echoed byte for byte.
        last_heartbeat: String,
        /// Whether the lease goes on.
        extended: bool,
        /// Whether the item is stopping or stopped.
        stopping: bool,
        /// The lease's length in seconds; 0 says nothing.
        ttl_seconds: u64,
    },
    /// 412: the item belongs to somebody else.
    Conflict,
    /// Another 4xx that no retry mends.
    Rejected,
    /// Anything that may pass.
    Failed,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// The server wants the item to end.
    Stop,
    /// It belongs to somebody else.
    Lost,
    /// The server refuses to hear of it.
    Rejected,
    /// No heartbeat got through for the whole lease.
    AssumedLost,
}

impl LeaseEnd {
    /// Whether the item may still be ours to stop.
    pub(crate) fn may_stop(self) -> bool {
        match self {
            Self::Stop | Self::Rejected => true,
            Self::Lost | Self::AssumedLost => false,
        }
    }
}

/// The state of one lease.
#[derive(Debug)]
pub(crate) struct Lease {
    last: String,
    interval: Duration,
    ttl: Option<Duration>,
    last_success: Duration,
}

impl Lease {
    pub(crate) fn new(now: Duration) -> Self {
        Self { last: NO_HEARTBEAT.to_owned(), interval: LONGEST_INTERVAL, ttl: None, last_success: now }
    }

    /// A lease that an earlier run of this worker held, with the last word it heard.
    pub(crate) fn resumed(last: String, now: Duration) -> Self {
        Self { last, ..Self::new(now) }
    }

    /// What the next heartbeat must say it expects.
    pub(crate) fn expected(&self) -> &str {
        &self.last
    }

    /// How long one heartbeat may take.
    pub(crate) fn patience(&self) -> Duration {
        self.interval
    }

    /// How long a result is retried.
    pub(crate) fn send_window(&self) -> Duration {
        self.ttl.unwrap_or(ASSUMED_SEND_WINDOW)
    }

    /// Takes what came back; answers how long to wait for the next beat.
    pub(crate) fn heard(&mut self, beat: Beat, now: Duration) -> Result<Duration, LeaseEnd> {
        match beat {
            Beat::Answer { last_heartbeat, extended, stopping, ttl_seconds } => {
                self.last = last_heartbeat;
                self.last_success = now;
                if ttl_seconds > 0 {
                    let ttl = Duration::from_secs(ttl_seconds).min(LONGEST_TTL);
                    self.ttl = Some(ttl);
                    self.interval = (ttl / 2).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
                }
                if stopping || !extended { Err(LeaseEnd::Stop) } else { Ok(self.interval) }
            }
            Beat::Conflict => Err(LeaseEnd::Lost),
            Beat::Rejected => Err(LeaseEnd::Rejected),
            Beat::Failed if now.saturating_sub(self.last_success) > self.ttl.unwrap_or(ASSUMED_TTL) => {
                Err(LeaseEnd::AssumedLost)
            }
            Beat::Failed => Ok(self.interval.min(RETRY)),
        }
    }
}

#[cfg(test)]
mod tests;
