//! The work queue: one live item for each session that needs a worker (contract 1.3 and 4.4).
//!
//! An item is handed out under a lease. While the lease lives nobody else gets it; when it ends without a stop the item
//! goes back to the queue. Whatever is decided by time is decided on the lease clock, columns `_tick`; the wall's time, columns
//! `_at`, is only shown. Never says *what* there is to do: the session's log does.

pub(crate) mod gone;
mod lease;
#[cfg(test)]
mod properties;
mod read;
#[cfg(test)]
mod tests;

pub use gone::sweep;
pub use lease::{Beat, acknowledge, heartbeat, stop};
pub use read::{HandedOut, ended_in_vain, find, handed_out, list, live, stats};

use std::time::Duration;

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId, WorkspaceId};
use postern_model::metadata::MetadataPatch;
use postern_model::work::{Work, WorkError, WorkState};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::clock::{Tick, noted};
use crate::row::{from_json, json, micros, parsed};
use crate::{Connection, Store, StoreError, Tx};

/// How often in a row an item may be handed out and lost before its session is told so.
pub const MAX_ATTEMPTS: i64 = 10;

/// Longer than the server that stopped an item takes to tell its session.
const REPORT_TIME: Duration = Duration::from_secs(5);

/// Who asks for an item, and who else could.
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    /// Whose queue.
    pub environment: &'a EnvironmentId,
    /// The name that the worker gives itself; empty where it gives none.
    pub worker: &'a str,
    /// Workers that asked a moment ago: sessions whose files they have wait for them. `None` while nobody can tell, which
    /// is when all of them may come.
    pub present: Option<&'a [String]>,
    /// An item that was handed out this long ago and never acknowledged is handed out again.
    pub reclaim_older_than: Duration,
}

/// What an item is handed out with.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Who asks.
    pub poll: Poll<'a>,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// Digest of the session token made for this hand-out.
    pub token_digest: &'a str,
    /// The key that the item is asked for with: the token ends with it.
    pub key: &'a EnvironmentKeyId,
}

/// An item that was handed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The item.
    pub work: Work,
    /// Whether another worker took the session before, and is gone.
    pub has_moved: bool,
}

/// An item that no worker will end any more, or whose end nobody was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose queue it is in.
    pub environment: EnvironmentId,
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
) -> Result<WorkId, StoreError> {
    if let Some(existing) = live(tx, session).await? {
        return Ok(existing);
    }
    let (id, tick) = (WorkId::generate(), noted(tx).await?);
    sqlx::query(
        "INSERT INTO work (workspace_id, id, environment_id, session_id, state, metadata, created_at, queued_at, queued_tick, \
           attempts, reported, home) VALUES (?1, ?2, ?3, ?4, 'queued', '{}', ?5, ?5, ?6, 0, FALSE, \
           (SELECT home FROM work WHERE session_id = ?4 ORDER BY created_at DESC, id DESC LIMIT 1))",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(environment.as_str())
    .bind(session.as_str())
    .bind(micros(tx.clock().wall()))
    .bind(tick.micros())
    .execute(&mut **tx)
    .await?;
    tx.wake_pollers();
    Ok(id)
}

/// Ends every item of a session, as when the session is archived or deleted.
///
/// # Errors
/// The database failed.
pub async fn stop_all(tx: &mut Tx, session: &SessionId) -> Result<(), StoreError> {
    let tick = noted(tx).await?;
    sqlx::query(
        "UPDATE work SET state = 'stopped', stopped_at = ?2, stopped_tick = ?3, \
           stop_requested_at = COALESCE(stop_requested_at, ?2), reported = TRUE \
         WHERE session_id = ?1 AND state <> 'stopped'",
    )
    .bind(session.as_str())
    .bind(micros(tx.clock().wall()))
    .bind(tick.micros())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether [`claim`] would find something. Runs on a reader, so that idle polling writes nothing.
///
/// # Errors
/// The database failed.
pub async fn claimable(connection: &mut Connection, poll: &Poll<'_>) -> Result<bool, StoreError> {
    let now = connection.clock().tick();
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT 1 FROM work w WHERE ");
    poll.push_takes(&mut sql, now);
    sql.push(" AND (");
    poll.push_waits(&mut sql, now);
    sql.push(" OR (w.state IN ('starting', 'active') AND w.lease_end_tick <= ").push_bind(now.micros());
    sql.push(")) LIMIT 1");
    Ok(sql.build().fetch_optional(connection).await?.is_some())
}

impl Poll<'_> {
    /// Of the items of the queue, those that this worker may have: what a session's files are needed for is kept for the
    /// worker that has them, while that one asks too or has something else in its hands.
    fn push_takes(&self, sql: &mut QueryBuilder<Sqlite>, now: Tick) {
        sql.push("w.environment_id = ").push_bind(self.environment.to_string());
        sql.push(" AND w.attempts < ").push_bind(MAX_ATTEMPTS);
        sql.push(" AND w.session_id NOT IN (SELECT session_id FROM session_holds WHERE frozen_at IS NOT NULL)");
        sql.push(" AND (w.home IS NULL OR w.home = ").push_bind(self.worker.to_owned());
        if let Some(present) = self.present {
            sql.push(" OR NOT (w.home IN (");
            let mut names = sql.separated(", ");
            // No worker has this name: a list is never empty.
            names.push("''");
            for name in present {
                names.push_bind(name.clone());
            }
            sql.push(
                ") OR EXISTS (SELECT 1 FROM work o WHERE o.environment_id = w.environment_id AND o.worker = w.home \
                   AND o.id <> w.id AND o.state <> 'stopped' AND o.lease_end_tick > ",
            );
            sql.push_bind(now.micros()).push("))");
        }
        sql.push(")");
    }

    /// Of the items of the queue, those that wait for a worker.
    fn push_waits(&self, sql: &mut QueryBuilder<Sqlite>, now: Tick) {
        sql.push("(w.state = 'queued' AND (w.polled_tick IS NULL OR w.polled_tick <= ");
        sql.push_bind(now.before(self.reclaim_older_than)).push("))");
    }
}

/// Items of an environment, or of all, that no worker will end any more, and stopped ones that were not [`reported`]. The
/// caller [`stop`]s the former, tells the sessions of all and notes that; until then they are found again.
///
/// # Errors
/// The database failed.
pub async fn lost(connection: &mut Connection, environment: Option<&EnvironmentId>) -> Result<Vec<Lost>, StoreError> {
    let now = connection.clock().tick();
    let select = |from: &str| {
        let mut sql =
            QueryBuilder::<Sqlite>::new("SELECT environment_id, id, session_id, state, failure FROM work WHERE ");
        if let Some(environment) = environment {
            sql.push("environment_id = ").push_bind(environment.to_string()).push(" AND ");
        }
        sql.push(from);
        sql
    };
    let mut sql = select("state <> 'stopped' AND lease_end_tick <= ");
    sql.push_bind(now.micros()).push(" AND (state = 'stopping' OR attempts >= ").push_bind(MAX_ATTEMPTS).push(")");
    let expired = sql.build().fetch_all(&mut *connection).await?;
    let mut sql = select("state = 'stopped' AND NOT reported AND stopped_tick <= ");
    sql.push_bind(now.before(REPORT_TIME));
    let unreported = sql.build().fetch_all(connection).await?;
    expired.iter().chain(&unreported).map(lost_item).collect()
}

/// Notes the lease clock while leases are out, as every change of one does too: a server that dies again and again then
/// holds what a lost worker had no longer than one that lives.
///
/// # Errors
/// The database failed.
pub async fn note_time(store: &Store) -> Result<(), StoreError> {
    let mut reader = store.read().await?;
    let out = "SELECT 1 FROM work WHERE state <> 'stopped' AND polled_tick IS NOT NULL LIMIT 1";
    let are_out = sqlx::query(out).fetch_optional(&mut *reader).await?.is_some();
    drop(reader);
    if are_out {
        let mut tx = store.write().await?;
        noted(&mut tx).await?;
        tx.commit().await?;
    }
    Ok(())
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

/// Hands out the oldest item that waits for this worker, under a fresh lease and token. Items whose lease ended go back to
/// the queue first. One of a frozen session stays there until the thaw, so that no worker serves what nobody told it to
/// hold.
///
/// # Errors
/// The database failed.
pub async fn claim(tx: &mut Tx, claim: &Claim<'_>) -> Result<Option<Claimed>, StoreError> {
    let (poll, now) = (&claim.poll, noted(tx).await?);
    requeue_expired(tx, poll.environment, now).await?;
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT w.id, w.home FROM work w WHERE ");
    poll.push_takes(&mut sql, now);
    sql.push(" AND ");
    poll.push_waits(&mut sql, now);
    sql.push(" ORDER BY w.queued_tick, w.id LIMIT 1");
    let Some(found) = sql.build().fetch_optional(&mut **tx).await? else { return Ok(None) };
    let home: Option<String> = found.try_get("home")?;
    let row = sqlx::query(
        "UPDATE work SET polled_tick = ?2, lease_end_tick = ?3, attempts = attempts + 1, worker = NULLIF(?4, '') \
         WHERE id = ?1 RETURNING *",
    )
    .bind(found.try_get::<String, _>("id")?)
    .bind(now.micros())
    .bind(now.after(claim.ttl))
    .bind(poll.worker)
    .fetch_one(&mut **tx)
    .await?;
    let work = read::work(&row)?;
    issue_token(tx, &row, &work, claim).await?;
    Ok(Some(Claimed { work, has_moved: home.is_some_and(|home| home != poll.worker) }))
}

/// Merges pairs into an item's metadata.
///
/// # Errors
/// Refused with 404, with 400, with 409 when the item's session was deleted; or the database failed.
pub async fn update(
    tx: &mut Tx,
    environment: &EnvironmentId,
    id: &WorkId,
    patch: &MetadataPatch,
) -> Result<Work, StoreError> {
    let mut work = read::required(tx, environment, id).await?;
    work.metadata = work.metadata.merged(patch)?;
    let updated = sqlx::query("UPDATE work SET metadata = ?2 WHERE id = ?1 AND gone_at IS NULL")
        .bind(id.as_str())
        .bind(json(&work.metadata))
        .execute(&mut **tx)
        .await?;
    if updated.rows_affected() == 0 {
        let message = format!("The session of work item {id} was deleted. Nothing is written about it any more.");
        return Err(Problem::conflict(message).into());
    }
    Ok(work)
}

fn lost_item(row: &SqliteRow) -> Result<Lost, StoreError> {
    let state = WorkState::parse(row.try_get("state")?).ok_or(StoreError::Corrupt { what: "work.state" })?;
    let failure: Option<String> = row.try_get("failure")?;
    let failure = failure.map(|text| from_json(&text, "work.failure")).transpose()?;
    Ok(Lost {
        environment: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "work.environment_id")?,
        work: parsed(WorkId::parse(row.try_get("id")?), "work.id")?,
        session: parsed(SessionId::parse(row.try_get("session_id")?), "work.session_id")?,
        cause: match state {
            WorkState::Stopped => LostCause::Unreported(failure),
            WorkState::Stopping => LostCause::StopUnconfirmed,
            WorkState::Queued | WorkState::Starting | WorkState::Active => LostCause::Attempts,
        },
    })
}

async fn requeue_expired(tx: &mut Tx, environment: &EnvironmentId, now: Tick) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE work SET state = 'queued', queued_at = ?3, queued_tick = ?2, polled_tick = NULL, acknowledged_at = NULL, \
           started_at = NULL, started_tick = NULL, latest_heartbeat_at = NULL, last_heartbeat = NULL \
         WHERE environment_id = ?1 AND state IN ('starting', 'active') AND lease_end_tick <= ?2",
    )
    .bind(environment.as_str())
    .bind(now.micros())
    .bind(micros(tx.clock().wall()))
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
        "INSERT INTO session_tokens (workspace_id, digest, work_id, session_id, created_at, superseded, environment_key_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, FALSE, ?6)",
    )
    .bind(row.try_get::<String, _>("workspace_id")?)
    .bind(claim.token_digest)
    .bind(work.id.as_str())
    .bind(work.data.session().as_str())
    .bind(micros(tx.clock().wall()))
    .bind(claim.key.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
