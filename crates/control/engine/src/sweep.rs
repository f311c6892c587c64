//! Removes bytes that nothing names any more, deliveries that were settled long ago, answers that are no longer given and
//! what is left of deleted sessions, a little at a time: nobody waits long for it.

use std::sync::Arc;
use std::time::Duration;

use postern_store::{StoreError, answers, blobs, files, webhooks, work, workspaces};
use tracing::{info, warn};

use crate::command::Command;
use crate::create::now;
use crate::shared::Shared;

/// It is looked at least this often: uploads are broken off and files expire without a word.
const LONGEST_NAP: Duration = Duration::from_secs(10 * 60);
/// How many sessions are forgotten before others get their turn.
const SESSIONS_AT_ONCE: u32 = 50;
/// Between two removals others get their turn at the writer.
const BREATH: Duration = Duration::from_millis(5);

/// Runs until the engine drains.
pub(crate) async fn keep_clean(shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    loop {
        let nap = match swept(&shared).await {
            Ok(true) => BREATH,
            Ok(false) => LONGEST_NAP,
            Err(error) => {
                warn!(%error, "what nothing names any more could not be removed; it is tried again");
                shared.settings.recovery
            }
        };
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = shared.litter.notified(), if nap > BREATH => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// Whether there may be more.
async fn swept(shared: &Arc<Shared>) -> Result<bool, StoreError> {
    let sessions = forget_sessions(shared).await?;
    Ok(sweep(shared).await? || sessions)
}

/// Deletes sessions that rested for longer than their workspace keeps them, each by its own task, as a client would.
async fn forget_sessions(shared: &Arc<Shared>) -> Result<bool, StoreError> {
    let old = workspaces::sessions_to_forget(&mut shared.store.read().await?, now(), SESSIONS_AT_ONCE).await?;
    let mut deleted = 0;
    for (workspace, session) in &old {
        match shared.ask(Some(workspace), session, |reply| Command::Delete { reply }).await {
            Ok(()) => deleted += 1,
            // It was woken meanwhile, or the store is in trouble: the next look finds out.
            Err(problem) => info!(%session, reason = problem.message, "a session is not forgotten yet"),
        }
    }
    if deleted > 0 {
        info!(sessions = deleted, "sessions that rested for longer than their workspace keeps them were deleted");
    }
    Ok(deleted == SESSIONS_AT_ONCE)
}

async fn sweep(shared: &Shared) -> Result<bool, StoreError> {
    let mut tx = shared.store.write().await?;
    files::forget_expired(&mut tx, now()).await?;
    answers::forget_old(&mut tx, now()).await?;
    let more = blobs::sweep(&mut tx, now()).await?
        | webhooks::sweep(&mut tx, now()).await?
        | work::sweep(&mut tx, now()).await?;
    tx.commit().await?;
    Ok(more)
}
