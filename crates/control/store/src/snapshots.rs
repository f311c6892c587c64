//! Snapshots beside the logs: what a session has come to at one of its events. A cache, never the truth: one that does not
//! fit its log, is of another fold or is damaged is named as such, and whoever asked reads the log.

use postern_model::ids::SessionId;
use sqlx::Row;

use crate::row::digest;
use crate::{Connection, StoreError, Tx, encrypted};

/// What a log has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The fold that made it.
    pub fold: String,
    /// The place of the last event that it holds.
    pub place: i64,
    /// The state, as the fold writes it.
    pub state: String,
}

/// What was found beside a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No snapshot.
    Nothing,
    /// One to go on from.
    Snapshot(Snapshot),
    /// One that is of no use.
    Unusable(Unusable),
}

/// Why a snapshot is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Another build wrote it.
    #[error("it is of another build's fold")]
    AnotherFold,
    /// It is not what was written.
    #[error("it is damaged")]
    Damaged,
    /// The log does not have its last event at that place.
    #[error("its last event is not in the log at that place")]
    NotOfThisLog,
}

/// Keeps a snapshot in the place of the one before. Does nothing where the log has no event at its place.
///
/// # Errors
/// The database failed.
pub async fn keep(tx: &mut Tx, session: &SessionId, snapshot: &Snapshot) -> Result<(), StoreError> {
    let state = tx.cipher().seal(snapshot.state.clone(), encrypted::snapshot(&[session.as_str()]))?;
    sqlx::query(
        "INSERT INTO session_snapshots (workspace_id, session_id, fold, seq, event_id, digest, state) \
         SELECT workspace_id, session_id, ?3, seq, id, ?4, ?5 FROM session_events WHERE session_id = ?1 AND seq = ?2 \
         ON CONFLICT (session_id) DO UPDATE SET fold = excluded.fold, seq = excluded.seq, event_id = excluded.event_id, \
           digest = excluded.digest, state = excluded.state",
    )
    .bind(session.as_str())
    .bind(snapshot.place)
    .bind(&snapshot.fold)
    .bind(snapshot.digest(session))
    .bind(state)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The snapshot of a session, if it is of this fold and of what the log says.
///
/// # Errors
/// The database failed.
pub async fn find(connection: &mut Connection, session: &SessionId, fold: &str) -> Result<Found, StoreError> {
    let cipher = connection.cipher();
    let row = sqlx::query(
        "SELECT s.fold, s.seq, s.digest, s.state, e.id IS NOT NULL AS is_of_log FROM session_snapshots s \
         LEFT JOIN session_events e ON e.session_id = s.session_id AND e.seq = s.seq AND e.id = s.event_id \
         WHERE s.session_id = ?1",
    )
    .bind(session.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(Found::Nothing) };
    let Ok(state) = cipher.open(row.try_get("state")?, encrypted::snapshot(&[session.as_str()])) else {
        return Ok(Found::Unusable(Unusable::Damaged));
    };
    let snapshot = Snapshot { fold: row.try_get("fold")?, place: row.try_get("seq")?, state };
    Ok(match () {
        () if snapshot.fold != fold => Found::Unusable(Unusable::AnotherFold),
        () if !row.try_get::<bool, _>("is_of_log")? => Found::Unusable(Unusable::NotOfThisLog),
        () if row.try_get::<String, _>("digest")? != snapshot.digest(session) => Found::Unusable(Unusable::Damaged),
        () => Found::Snapshot(snapshot),
    })
}

impl Snapshot {
    fn digest(&self, session: &SessionId) -> String {
        let place = self.place.to_be_bytes();
        digest(&[session.as_str().as_bytes(), self.fold.as_bytes(), &place, self.state.as_bytes()])
    }
}

#[cfg(test)]
mod tests;
