//! The clock of deployments: acts on each time as it comes due, once, whoever else does too.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use postern_model::deployment::Trigger;
use postern_model::{Problem, Timestamp};
use postern_store::deployments::{self, Record};
use tracing::{error, warn};

use crate::create::now;
use crate::problem;
use crate::shared::Shared;

/// A time that passed longer ago, while no server ran, is not made up for.
const LATEST: SignedDuration = SignedDuration::from_mins(10);
/// The clock is looked at anew at least this often: it may be set, and another server may add a deployment.
const LONGEST_NAP: Duration = Duration::from_secs(30);
/// How many are read at once.
const BATCH: u32 = 100;

/// Runs until the engine drains.
pub(crate) async fn keep_time(shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    loop {
        let nap = match act(&shared).await {
            Ok(next) => nap_until(next),
            Err(_told) => shared.settings.recovery,
        };
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = shared.deployments_changed.notified() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// Acts on what is due and says when the next is.
async fn act(shared: &Arc<Shared>) -> Result<Option<Timestamp>, Problem> {
    loop {
        let mut reader = shared.store.read().await.map_err(problem)?;
        let due = deployments::due(&mut reader, now(), BATCH).await.map_err(problem)?;
        if due.is_empty() {
            return deployments::next_time(&mut reader).await.map_err(problem);
        }
        drop(reader);
        // One that fails does not hold up the others; it is tried again after a rest.
        let mut failed = None;
        for record in due {
            if shared.drain.is_cancelled() {
                return Ok(None);
            }
            failed = fire(shared, &record).await.err().or(failed);
        }
        if let Some(problem) = failed {
            return Err(problem);
        }
    }
}

/// Acts on the time of a deployment as it was read; what it is by now is read again.
pub(crate) async fn fire(shared: &Arc<Shared>, record: &Record) -> Result<(), Problem> {
    let Some(next) = record.next else { return Ok(()) };
    let trigger = Trigger::Schedule { scheduled_at: next.scheduled_at };
    let id = &record.deployment.id;
    let which = (&record.workspace_id, id);
    if now().duration_since(next.fires_at) > LATEST {
        warn!(deployment = %id, scheduled_at = %next.scheduled_at, "a scheduled run was missed and is not made up for");
        if let Some((tx, _)) = super::claimed(shared, which, trigger).await? {
            tx.commit().await.map_err(problem)?;
        }
        return Ok(());
    }
    super::run(shared, which, trigger, None).await.map(drop).inspect_err(|problem| {
        error!(deployment = %id, reason = %problem, "a scheduled run could not be recorded");
    })
}

fn nap_until(next: Option<Timestamp>) -> Duration {
    let until = next.map_or(LONGEST_NAP, |next| Duration::try_from(next.duration_since(now())).unwrap_or_default());
    until.min(LONGEST_NAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_within_half_a_minute_whatever_comes_due_when() {
        let after = |seconds| now() + SignedDuration::from_secs(seconds);
        assert_eq!(nap_until(None).as_secs(), 30);
        assert_eq!(nap_until(Some(after(3600))).as_secs(), 30);
        assert!(nap_until(Some(after(10))).as_secs() <= 10);
        assert_eq!(nap_until(Some(after(-10))), Duration::ZERO);
    }
}
