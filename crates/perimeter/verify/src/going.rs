//! Whether a run goes on: until a part of its perimeter ends, somebody tells it to end, or its time is over. What is asked of a perimeter without one of its
//! parts is never answered, so whoever asks is not waited for.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What ends a run before it is over.
pub(crate) struct Going<'a> {
    until: Instant,
    stop: &'a Notify,
}

impl<'a> Going<'a> {
    /// From now on.
    pub(crate) fn begin(stop: &'a Notify) -> Self {
        Self { until: Instant::now() + LONGEST, stop }
    }

    /// Does this, or says what broke it off. `gone` names the part of the perimeter that ended.
    pub(crate) async fn on<T>(
        &self,
        gone: impl Future<Output = &'static str>,
        work: impl Future<Output = T>,
    ) -> Result<T, String> {
        // In this order: an answer that comes when a part has ended may be that part's end.
        tokio::select! {
            biased;
            part = gone => Err(format!("{part} ended")),
            () = self.stop.notified() => Err("it was told to end".to_owned()),
            () = sleep_until(self.until) => Err(format!("it took longer than {} s", LONGEST.as_secs())),
            done = work => Ok(done),
        }
    }
}

/// A whole run.
const LONGEST: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_a_part_of_its_perimeter_when_it_is_told_to_and_after_ten_minutes() {
        let stop = Notify::new();
        let going = Going::begin(&stop);
        assert_eq!(going.on(pending(), ready(7)).await, Ok(7));
        assert_eq!(going.on(ready("egress"), ready(7)).await, Err("egress ended".to_owned()));
        let begun = Instant::now();
        assert_eq!(going.on(pending(), pending::<u8>()).await, Err("it took longer than 600 s".to_owned()));
        assert_eq!(begun.elapsed().as_secs(), 600);
        stop.notify_one();
        assert_eq!(going.on(pending(), pending::<u8>()).await, Err("it was told to end".to_owned()));
    }
}
