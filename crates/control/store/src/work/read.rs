//! Looking at the queue without changing it.

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, SessionId, WorkId};
use postern_model::work::{QueueStats, QueueStatsTag, Work, WorkData, WorkState, WorkTag};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest};
use crate::row::{from_json, instant, optional_instant, parsed};
use crate::{Connection, StoreError};

/// One item of an environment's queue.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    environment: &EnvironmentId,
    id: &WorkId,
) -> Result<Option<Work>, StoreError> {
    let row = sqlx::query("SELECT * FROM work WHERE environment_id = ?1 AND id = ?2")
        .bind(environment.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(work).transpose()
}

/// The item of a session that a worker serves or will serve: queued, starting or active.
///
/// # Errors
/// The database failed.
pub async fn live(connection: &mut Connection, session: &SessionId) -> Result<Option<WorkId>, StoreError> {
    let id: Option<String> = sqlx::query_scalar(
        "SELECT id FROM work WHERE session_id = ?1 AND state IN ('queued', 'starting', 'active') LIMIT 1",
    )
    .bind(session.as_str())
    .fetch_optional(connection)
    .await?;
    id.map(|id| parsed(WorkId::parse(&id), "work.id")).transpose()
}

/// Who may have a session: whether a lease on it lives at this moment, and whether it was ever handed out.
///
/// # Errors
/// The database failed.
pub async fn handed_out(connection: &mut Connection, session: &SessionId) -> Result<HandedOut, StoreError> {
    let now = connection.clock().tick();
    let row = sqlx::query(
        "SELECT COUNT(CASE WHEN state <> 'stopped' AND lease_end_tick > ?2 THEN 1 END) AS living, \
                COUNT(lease_end_tick) AS ever FROM work WHERE session_id = ?1",
    )
    .bind(session.as_str())
    .bind(now.micros())
    .fetch_one(connection)
    .await?;
    let any = |column| Ok::<_, StoreError>(row.try_get::<i64, _>(column)? > 0);
    Ok(HandedOut { now: any("living")?, ever: any("ever")? })
}

/// Who may have a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOut {
    /// Somebody's lease lives.
    pub now: bool,
    /// Somebody had one.
    pub ever: bool,
}

/// How many items of a session ended since its calls last came further: since one was made, confirmed or answered. By the
/// order of the log, not by the clock.
///
/// # Errors
/// The database failed.
pub async fn ended_in_vain(connection: &mut Connection, session: &SessionId) -> Result<u32, StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM work WHERE session_id = ?1 AND state = 'stopped' AND stopped_place >= COALESCE((\
           SELECT MAX(seq) FROM session_events WHERE session_id = ?1 \
             AND type IN ('agent.tool_use', 'user.tool_confirmation', 'user.tool_result')), 0)",
    )
    .bind(session.as_str())
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// One page of an environment's items, newest first, and one item more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    environment: &EnvironmentId,
    query: &ListQuery,
) -> Result<Vec<Work>, StoreError> {
    let rows = query.newest(connection, newest!("work", "environment_id"), environment.as_str()).await?;
    rows.iter().map(work).collect()
}

/// The state of a queue. `workers_polling` is the caller's to fill: pollers are not in the database.
///
/// # Errors
/// The database failed.
pub async fn stats(connection: &mut Connection, environment: &EnvironmentId) -> Result<QueueStats, StoreError> {
    let now = connection.clock().tick();
    let row = sqlx::query(
        "SELECT COUNT(CASE WHEN state = 'queued' AND polled_tick IS NOT NULL THEN 1 END) AS pending, \
                COUNT(CASE WHEN (state = 'queued' AND polled_tick IS NULL) \
                             OR (state <> 'queued' AND lease_end_tick <= ?2) THEN 1 END) AS depth, \
                MIN(queued_at) AS oldest \
         FROM work WHERE environment_id = ?1 AND (state = 'queued' \
           OR (state IN ('starting', 'active') AND lease_end_tick <= ?2))",
    )
    .bind(environment.as_str())
    .bind(now.micros())
    .fetch_one(connection)
    .await?;
    let count = |column| Ok::<_, StoreError>(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0));
    Ok(QueueStats {
        kind: QueueStatsTag::WorkQueueStats,
        depth: count("depth")?,
        pending: count("pending")?,
        oldest_queued_at: optional_instant(row.try_get("oldest")?, "work.queued_at")?,
        workers_polling: None,
    })
}

pub(super) async fn required(
    connection: &mut Connection,
    environment: &EnvironmentId,
    id: &WorkId,
) -> Result<Work, StoreError> {
    let found = find(connection, environment, id).await?;
    found.ok_or_else(|| Problem::not_found(format!("Work item {id} was not found in this environment.")).into())
}

pub(super) fn work(row: &SqliteRow) -> Result<Work, StoreError> {
    let optional = |column: &'static str| optional_instant(row.try_get(column)?, column);
    Ok(Work {
        id: parsed(WorkId::parse(row.try_get("id")?), "work.id")?,
        kind: WorkTag::Work,
        environment_id: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "work.environment_id")?,
        data: WorkData::Session { id: parsed(SessionId::parse(row.try_get("session_id")?), "work.session_id")? },
        state: WorkState::parse(row.try_get("state")?).ok_or(StoreError::Corrupt { what: "work.state" })?,
        metadata: from_json(row.try_get("metadata")?, "work.metadata")?,
        secret: None,
        created_at: instant(row.try_get("created_at")?, "work.created_at")?,
        acknowledged_at: optional("acknowledged_at")?,
        started_at: optional("started_at")?,
        latest_heartbeat_at: optional("latest_heartbeat_at")?,
        stop_requested_at: optional("stop_requested_at")?,
        stopped_at: optional("stopped_at")?,
    })
}
