//! The journal of MCP calls: which were begun. A mark is committed before its call goes out and is never taken back, so a
//! call whose mark is missing has certainly not run, and one that is marked is never begun again.

use std::collections::HashSet;

use postern_model::Timestamp;
use postern_model::ids::{EventId, SessionId};

use crate::events::Log;
use crate::row::{micros, parsed};
use crate::{Connection, StoreError, Tx};

/// Marks a call as begun.
///
/// # Errors
/// The database failed, or the call is marked already: then it must not be begun.
pub async fn start(tx: &mut Tx, log: &Log, call: &EventId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO mcp_calls (workspace_id, session_id, thread_id, event_id, started_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(log.workspace.as_str())
    .bind(log.session.as_str())
    .bind(log.thread.as_str())
    .bind(call.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Every call of a session that was ever begun.
///
/// # Errors
/// The database failed.
pub async fn started(connection: &mut Connection, session: &SessionId) -> Result<HashSet<EventId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT event_id FROM mcp_calls WHERE session_id = ?1")
        .bind(session.as_str())
        .fetch_all(connection)
        .await?;
    ids.iter().map(|id| parsed(EventId::parse(id), "mcp_calls.event_id")).collect()
}
