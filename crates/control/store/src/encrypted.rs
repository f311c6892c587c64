//! Which columns are encrypted where the operator gave keys, and whether the keys are there that what is stored needs.

use postern_model::ids::{EventId, SessionId, WorkspaceId};

use crate::cipher::{Cell, prefix_of};
use crate::row::micros;
use crate::{Store, StoreError};

/// Every encrypted column with its table.
const COLUMNS: &[(&str, &str)] = &[
    ("session_events", "body"),
    ("model_blocks", "blocks"),
    ("session_snapshots", "state"),
    ("sessions", "outcome_evaluations"),
    ("request_answers", "answer"),
];

/// The names of whose content an encrypted text is, for as long as the row lives.
pub(crate) fn event<'a>(row: &'a [&'a str; 2]) -> Cell<'a> {
    Cell { column: "session_events.body", row }
}

/// The model's blocks beside an event.
pub(crate) fn blocks<'a>(row: &'a [&'a str; 2]) -> Cell<'a> {
    Cell { column: "model_blocks.blocks", row }
}

/// What names an event's row: its session and its id. Its place is not among them, which changes when it takes effect.
pub(crate) fn of_event<'a>(session: &'a SessionId, id: &'a EventId) -> [&'a str; 2] {
    [session.as_str(), id.as_str()]
}

/// A session's snapshot.
pub(crate) fn snapshot<'a>(row: &'a [&'a str; 1]) -> Cell<'a> {
    Cell { column: "session_snapshots.state", row }
}

/// A session's outcomes.
pub(crate) fn outcomes<'a>(row: &'a [&'a str; 1]) -> Cell<'a> {
    Cell { column: "sessions.outcome_evaluations", row }
}

/// The answer to a request with a key.
pub(crate) fn answer<'a>(row: &'a [&'a str; 2]) -> Cell<'a> {
    Cell { column: "request_answers.answer", row }
}

/// What names an answer's row.
pub(crate) fn of_answer<'a>(workspace: &'a WorkspaceId, scope: &'a str) -> [&'a str; 2] {
    [workspace.as_str(), scope]
}

/// Sees that no stored text needs a key that was not given, and notes the one that is used from now on before it is.
///
/// # Errors
/// [`StoreError::EventKeyMissing`], or the database failed.
pub(crate) async fn check(store: &Store) -> Result<(), StoreError> {
    let mut reader = store.read().await?;
    let noted: Vec<String> = sqlx::query_scalar("SELECT id FROM event_keys ORDER BY id").fetch_all(&mut reader).await?;
    let given: Vec<&str> = store.cipher().keys().into_iter().flat_map(|keys| keys.ids()).collect();
    let missing: Vec<&String> = noted.iter().filter(|id| !given.contains(&id.as_str())).collect();
    for id in &missing {
        if is_needed(&mut reader, id).await? {
            return Err(StoreError::EventKeyMissing { id: (*id).clone() });
        }
    }
    drop(reader);
    let new = given.first().filter(|id| !noted.iter().any(|noted| noted == *id));
    if missing.is_empty() && new.is_none() {
        return Ok(());
    }
    let mut tx = store.write().await?;
    for id in missing {
        sqlx::query("DELETE FROM event_keys WHERE id = ?1").bind(id).execute(&mut *tx).await?;
    }
    if let Some(id) = new {
        let now = micros(postern_model::Timestamp::now());
        sqlx::query("INSERT INTO event_keys (id, created_at) VALUES (?1, ?2)")
            .bind(id)
            .bind(now)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// Whether any stored text is encrypted under this key. Reads everything: asked only where a key was taken away.
async fn is_needed(reader: &mut crate::Connection, id: &str) -> Result<bool, StoreError> {
    for (table, column) in COLUMNS {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {column} LIKE ?1)");
        let is_found: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(format!("{}%", prefix_of(id)))
            .fetch_one(&mut *reader)
            .await?;
        if is_found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
