//! What is left of the items of deleted sessions: nothing that anybody said, and after a day nothing at all.

use postern_model::Timestamp;
use postern_model::ids::SessionId;

use crate::row::micros;
use crate::{StoreError, Tx};

/// How long an item outlives its session: its worker may still ask for it, and learns that it stopped.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// How many items one sweep removes.
const SWEEP: i64 = 500;

/// Takes out of a session's items what workers said of it and which they were, in the transaction that deletes the session.
pub(crate) async fn blank(tx: &mut Tx, session: &SessionId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE work SET failure = NULL, metadata = '{}', worker = NULL, home = NULL, gone_at = ?2 WHERE session_id = ?1",
    )
    .bind(session.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes a number of items whose sessions were deleted a day ago, with their tokens. Returns whether there may be more.
///
/// # Errors
/// The database failed.
pub async fn sweep(tx: &mut Tx, now: Timestamp) -> Result<bool, StoreError> {
    let before = micros(now.checked_sub(KEPT).unwrap_or(Timestamp::MIN));
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM work WHERE gone_at < ?1 AND state = 'stopped' ORDER BY gone_at LIMIT ?2")
            .bind(before)
            .bind(SWEEP)
            .fetch_all(&mut **tx)
            .await?;
    for id in &ids {
        sqlx::query("DELETE FROM session_tokens WHERE work_id = ?1").bind(id).execute(&mut **tx).await?;
        sqlx::query("DELETE FROM work WHERE id = ?1").bind(id).execute(&mut **tx).await?;
    }
    Ok(ids.len() as u64 >= SWEEP.unsigned_abs())
}
