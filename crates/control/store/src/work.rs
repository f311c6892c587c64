//! The work queue: one live item for each session that needs a worker (contract 1.3 and 4.4).
//!
//! An item is handed out under a lease. While the lease lives nobody else gets it; when it ends without a stop the item
//! goes back to the queue. Never says *what* there is to do: the session's log does.

mod lease;
#[cfg(test)]
mod properties;
mod read;
#[cfg(test)]
mod tests;

pub use lease::{Beat, acknowledge, heartbeat, stop};
pub use read::{HandedOut, ended_in_vain, find, handed_out, list, live, stats};

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::{EnvironmentId, SessionId, WorkId, WorkspaceId};
use postern_model::metadata::MetadataPatch;
use postern_model::work::{Work, WorkError, WorkState};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{from_json, json, micros, parsed};
use crate::{Connection, StoreError, Tx};

/// How often in a row an item may be handed out and lost before its session is told so.
pub const MAX_ATTEMPTS: i64 = 10;

/// Longer than the server that stopped an item takes to tell its session.
const REPORT_TIME: Duration = Duration::from_secs(5);

/// What a poller asks for.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Whose queue.
    pub environment: &'a EnvironmentId,
    /// An item that was handed out this long ago and never acknowledged is handed out again.
    pub reclaim_older_than: Duration,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// Digest of the session token made for this hand-out.
    pub token_digest: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// An item that no worker will end any more, or whose end nobody was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The item.
    pub work: WorkId,
    /// The session it was for.
    pub session: SessionId,
    /// What happened.
    pub cause: LostCause,
}

/// Why an item needs the server's attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostCause {
    /// It was handed out [`MAX_ATTEMPTS`] times in a row and lost each time.
    Attempts,
    /// A stop was asked for and the lease ended before the worker confirmed it.
    StopUnconfirmed,
    /// It stopped, for this reason if there was one, and the server died before the session was told.
    Unreported(Option<WorkError>),
}

/// Queues work for a session, unless an item that will still be served exists; the commit wakes the pollers.
/// Returns the live item.
///
/// # Errors
/// The database failed.
pub async fn enqueue(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    session: &SessionId,
    now: Timestamp,
) -> Result<WorkId, StoreError> {
    if let Some(existing) = live(tx, session).await? {
        return Ok(existing);
    }
    let id = WorkId::generate();
    sqlx::query(
        "INSERT INTO work (workspace_id, id, environment_id, session_id, state, metadata, created_at, queued_at, attempts, \
           reported) VALUES (?1, ?2, ?3, ?4, 'queued', '{}', ?5, ?5, 0, FALSE)",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(environment.as_str())
    .bind(session.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    tx.wake_pollers();
    Ok(id)
}

/// Ends every item of a session, as when the session is archived or deleted.
///
/// # Errors
/// The database failed.
pub async fn stop_all(tx: &mut Tx, session: &SessionId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE work SET state = 'stopped', stopped_at = ?2, stop_requested_at = COALESCE(stop_requested_at, ?2), \
           reported = TRUE WHERE session_id = ?1 AND state <> 'stopped'",
    )
    .bind(session.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether [`claim`] would find something. Runs on a reader, so that idle polling writes nothing.
///
/// # Errors
/// The database failed.
pub async fn claimable(
    connection: &mut Connection,
    environment: &EnvironmentId,
    reclaim_older_than: Duration,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let found = sqlx::query(
        "SELECT 1 FROM work WHERE environment_id = ?1 AND attempts < ?4 AND (\
           (state = 'queued' AND (polled_at IS NULL OR polled_at <= ?2)) \
           OR (state IN ('starting', 'active') AND lease_expires_at <= ?3)) \
           AND session_id NOT IN (SELECT session_id FROM session_holds WHERE frozen_at IS NOT NULL) LIMIT 1",
    )
    .bind(environment.as_str())
    .bind(before(now, reclaim_older_than))
    .bind(micros(now))
    .bind(MAX_ATTEMPTS)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Items that no worker will end any more, and stopped ones that were not [`reported`]. The caller [`stop`]s the former,
/// tells the sessions of all and notes that; until then they are found again.
///
/// # Errors
/// The database failed.
pub async fn lost(
    connection: &mut Connection,
    environment: &EnvironmentId,
    now: Timestamp,
) -> Result<Vec<Lost>, StoreError> {
    let expired = sqlx::query(
        "SELECT id, session_id, state, failure FROM work WHERE environment_id = ?1 AND lease_expires_at <= ?3 \
         AND (state = 'stopping' OR (attempts >= ?2 AND state IN ('queued', 'starting', 'active')))",
    )
    .bind(environment.as_str())
    .bind(MAX_ATTEMPTS)
    .bind(micros(now))
    .fetch_all(&mut *connection)
    .await?;
    let unreported = sqlx::query(
        "SELECT id, session_id, state, failure FROM work \
         WHERE environment_id = ?1 AND state = 'stopped' AND NOT reported AND stopped_at <= ?2",
    )
    .bind(environment.as_str())
    .bind(before(now, REPORT_TIME))
    .fetch_all(connection)
    .await?;
    expired.iter().chain(&unreported).map(lost_item).collect()
}

/// Notes why a worker could not serve an item; part of the transaction that stops it.
///
/// # Errors
/// The database failed.
pub async fn note_failure(tx: &mut Tx, id: &WorkId, failure: &WorkError) -> Result<(), StoreError> {
    let statement = sqlx::query("UPDATE work SET failure = ?2 WHERE id = ?1").bind(id.as_str()).bind(json(failure));
    statement.execute(&mut **tx).await?;
    Ok(())
}

/// Notes that the session of a stopped item has been told.
///
/// # Errors
/// The database failed.
pub async fn reported(tx: &mut Tx, id: &WorkId) -> Result<(), StoreError> {
    sqlx::query("UPDATE work SET reported = TRUE WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// Hands out the oldest item that waits, under a fresh lease and token. Items whose lease ended go back to the queue first.
/// One of a frozen session stays there until the thaw, so that no worker serves what nobody told it to hold.
///
/// # Errors
/// The database failed.
pub async fn claim(tx: &mut Tx, claim: &Claim<'_>) -> Result<Option<Work>, StoreError> {
    requeue_expired(tx, claim.environment, claim.now).await?;
    let row = sqlx::query(
        "UPDATE work SET polled_at = ?3, lease_expires_at = ?4, attempts = attempts + 1 WHERE id = (\
           SELECT id FROM work WHERE environment_id = ?1 AND state = 'queued' AND attempts < ?5 \
             AND (polled_at IS NULL OR polled_at <= ?2) \
             AND session_id NOT IN (SELECT session_id FROM session_holds WHERE frozen_at IS NOT NULL) \
           ORDER BY queued_at, id LIMIT 1) \
         RETURNING *",
    )
    .bind(claim.environment.as_str())
    .bind(before(claim.now, claim.reclaim_older_than))
    .bind(micros(claim.now))
    .bind(after(claim.now, claim.ttl))
    .bind(MAX_ATTEMPTS)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let work = read::work(&row)?;
    issue_token(tx, &row, &work, claim).await?;
    Ok(Some(work))
}

/// Merges pairs into an item's metadata.
///
/// # Errors
/// Refused with 404 or 400; or the database failed.
pub async fn update(
    tx: &mut Tx,
    environment: &EnvironmentId,
    id: &WorkId,
    patch: &MetadataPatch,
) -> Result<Work, StoreError> {
    let mut work = read::required(tx, environment, id).await?;
    work.metadata = work.metadata.merged(patch)?;
    sqlx::query("UPDATE work SET metadata = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(json(&work.metadata))
        .execute(&mut **tx)
        .await?;
    Ok(work)
}

fn lost_item(row: &SqliteRow) -> Result<Lost, StoreError> {
    let state = WorkState::parse(row.try_get("state")?).ok_or(StoreError::Corrupt { what: "work.state" })?;
    let failure: Option<String> = row.try_get("failure")?;
    let failure = failure.map(|text| from_json(&text, "work.failure")).transpose()?;
    Ok(Lost {
        work: parsed(WorkId::parse(row.try_get("id")?), "work.id")?,
        session: parsed(SessionId::parse(row.try_get("session_id")?), "work.session_id")?,
        cause: match state {
            WorkState::Stopped => LostCause::Unreported(failure),
            WorkState::Stopping => LostCause::StopUnconfirmed,
            WorkState::Queued | WorkState::Starting | WorkState::Active => LostCause::Attempts,
        },
    })
}

async fn requeue_expired(tx: &mut Tx, environment: &EnvironmentId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE work SET state = 'queued', queued_at = ?2, polled_at = NULL, acknowledged_at = NULL, started_at = NULL, \
           latest_heartbeat_at = NULL, last_heartbeat = NULL \
         WHERE environment_id = ?1 AND state IN ('starting', 'active') AND lease_expires_at <= ?2",
    )
    .bind(environment.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn issue_token(tx: &mut Tx, row: &SqliteRow, work: &Work, claim: &Claim<'_>) -> Result<(), StoreError> {
    sqlx::query("UPDATE session_tokens SET superseded = TRUE WHERE work_id = ?1")
        .bind(work.id.as_str())
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO session_tokens (workspace_id, digest, work_id, session_id, created_at, superseded) \
         VALUES (?1, ?2, ?3, ?4, ?5, FALSE)",
    )
    .bind(row.try_get::<String, _>("workspace_id")?)
    .bind(claim.token_digest)
    .bind(work.id.as_str())
    .bind(work.data.session().as_str())
    .bind(micros(claim.now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn before(now: Timestamp, span: Duration) -> i64 {
    micros(now).saturating_sub(span_micros(span))
}

fn after(now: Timestamp, span: Duration) -> i64 {
    micros(now).saturating_add(span_micros(span))
}

fn span_micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
