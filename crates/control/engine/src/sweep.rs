//! Removes bytes that nothing names any more and deliveries that were settled long ago, a little at a time: nobody waits long
//! for it.

use std::sync::Arc;
use std::time::Duration;

use postern_store::{StoreError, blobs, files, webhooks};
use tracing::warn;

use crate::create::now;
use crate::shared::Shared;

/// It is looked at least this often: uploads are broken off and files expire without a word.
const LONGEST_NAP: Duration = Duration::from_secs(10 * 60);
/// Between two removals others get their turn at the writer.
const BREATH: Duration = Duration::from_millis(5);

/// Runs until the engine drains.
pub(crate) async fn keep_clean(shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    loop {
        let nap = match sweep(&shared).await {
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

async fn sweep(shared: &Shared) -> Result<bool, StoreError> {
    let mut tx = shared.store.write().await?;
    files::forget_expired(&mut tx, now()).await?;
    let more = blobs::sweep(&mut tx, now()).await? | webhooks::sweep(&mut tx, now()).await?;
    tx.commit().await?;
    Ok(more)
}
