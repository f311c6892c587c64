//! The life of one hand-out: acknowledged, kept alive by heartbeats, stopped.

use std::time::Duration;

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, WorkId};
use postern_model::problem::Kind;
use postern_model::work::{Heartbeat, HeartbeatTag, LeaseState, Work, WorkState};

use super::read;
use crate::clock::noted;
use crate::events::WAITING;
use crate::row::micros;
use crate::{StoreError, Tx};

/// What a worker says with its first heartbeat.
const NO_HEARTBEAT: &str = "NO_HEARTBEAT";
/// The longest lease a worker may ask for.
const MAX_TTL: Duration = Duration::from_secs(300);
/// The shortest.
const MIN_TTL: Duration = Duration::from_secs(5);

/// Longer than any one tool may take: what kills its worker does so sooner.
const LASTING: Duration = Duration::from_secs(600);

/// A heartbeat.
#[derive(Clone, Debug)]
pub struct Beat<'a> {
    /// What the worker holds for the stored heartbeat: `NO_HEARTBEAT`, or the echo of the last answer.
    pub expected: Option<&'a str>,
    /// The lease the worker asks for.
    pub desired_ttl: Option<Duration>,
    /// The lease it gets otherwise.
    pub ttl: Duration,
    /// The caller's token belongs to an earlier hand-out of this item, or to a revoked key: the lease is not its own any more.
    pub superseded: bool,
}

/// A worker takes the item it was handed: queued -> starting. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404, or 409 when the item is not handed out or over; or the database failed.
pub async fn acknowledge(
    tx: &mut Tx,
    environment: &EnvironmentId,
    id: &WorkId,
    ttl: Duration,
) -> Result<Work, StoreError> {
    let work = read::required(tx, environment, id).await?;
    match work.state {
        WorkState::Starting | WorkState::Active | WorkState::Stopping => return Ok(work),
        WorkState::Stopped => return Err(Problem::conflict(format!("Work item {id} has stopped.")).into()),
        WorkState::Queued => {}
    }
    let now = noted(tx).await?;
    let taken = sqlx::query(
        "UPDATE work SET state = 'starting', acknowledged_at = ?2, lease_end_tick = ?3, home = worker \
         WHERE id = ?1 AND polled_tick IS NOT NULL",
    )
    .bind(id.as_str())
    .bind(micros(tx.clock().wall()))
    .bind(now.after(ttl))
    .execute(&mut **tx)
    .await?;
    if taken.rows_affected() == 0 {
        return Err(Problem::conflict(format!("Work item {id} is not handed out. Poll for it first.")).into());
    }
    read::required(tx, environment, id).await
}

/// A worker keeps its lease alive. A stopping or stopped item answers with that state and is not prolonged.
///
/// # Errors
/// Refused with 404, or 412 `heartbeat_precondition_failed` when the lease is not the caller's; or the database failed.
pub async fn heartbeat(
    tx: &mut Tx,
    environment: &EnvironmentId,
    id: &WorkId,
    beat: &Beat<'_>,
) -> Result<Heartbeat, StoreError> {
    let work = read::required(tx, environment, id).await?;
    let stored: Option<String> = sqlx::query_scalar("SELECT last_heartbeat FROM work WHERE id = ?1")
        .bind(id.as_str())
        .fetch_one(&mut **tx)
        .await?;
    let ttl = beat.desired_ttl.map_or(beat.ttl, |wish| wish.clamp(MIN_TTL, MAX_TTL));
    match work.state {
        WorkState::Stopping | WorkState::Stopped => {
            Ok(answer(stored.unwrap_or_default(), Extended::No, work.state, ttl))
        }
        WorkState::Queued => Err(lease_lost(stored, work.state, ttl).into()),
        WorkState::Starting | WorkState::Active if beat.superseded || !matches(beat.expected, stored.as_deref()) => {
            Err(lease_lost(stored, work.state, ttl).into())
        }
        WorkState::Starting | WorkState::Active => prolong(tx, id, ttl).await,
    }
}

/// Ends an item: at once with `force`, else when its worker sees the request. Returns the item afterwards.
///
/// # Errors
/// Refused with 404, or 409 when it has stopped; or the database failed.
pub async fn stop(tx: &mut Tx, environment: &EnvironmentId, id: &WorkId, force: bool) -> Result<Work, StoreError> {
    let work = read::required(tx, environment, id).await?;
    let next = match work.state {
        WorkState::Stopped => return Err(Problem::conflict(format!("Work item {id} has already stopped.")).into()),
        // Nobody serves a queued item, so nobody could confirm the stop.
        WorkState::Queued => WorkState::Stopped,
        WorkState::Starting | WorkState::Active | WorkState::Stopping if force => WorkState::Stopped,
        WorkState::Starting | WorkState::Active | WorkState::Stopping => WorkState::Stopping,
    };
    let now = noted(tx).await?;
    sqlx::query(
        "UPDATE work SET state = ?2, stop_requested_at = COALESCE(stop_requested_at, ?3), \
           stopped_at = CASE WHEN ?2 = 'stopped' THEN ?3 END, stopped_tick = CASE WHEN ?2 = 'stopped' THEN ?4 END, \
           stopped_place = CASE WHEN ?2 = 'stopped' THEN (\
             SELECT COALESCE(MAX(e.seq), 0) FROM session_events e WHERE e.session_id = work.session_id AND e.seq < ?5) END \
         WHERE id = ?1",
    )
    .bind(id.as_str())
    .bind(next.as_str())
    .bind(micros(tx.clock().wall()))
    .bind(now.micros())
    .bind(WAITING)
    .execute(&mut **tx)
    .await?;
    read::required(tx, environment, id).await
}

async fn prolong(tx: &mut Tx, id: &WorkId, ttl: Duration) -> Result<Heartbeat, StoreError> {
    let (now, wall) = (noted(tx).await?, tx.clock().wall());
    // Microseconds, so that two beats of two workers never read the same. A worker that lasted this long was not lost to
    // what it was given, so only hand-outs lost sooner count towards giving up.
    let text = format!("{wall:.6}");
    sqlx::query(
        "UPDATE work SET state = 'active', last_heartbeat = ?2, latest_heartbeat_at = ?3, lease_end_tick = ?4, \
           started_at = COALESCE(started_at, ?3), started_tick = COALESCE(started_tick, ?5), \
           attempts = CASE WHEN started_tick <= ?6 THEN 1 ELSE attempts END WHERE id = ?1",
    )
    .bind(id.as_str())
    .bind(&text)
    .bind(micros(wall))
    .bind(now.after(ttl))
    .bind(now.micros())
    .bind(now.before(LASTING))
    .execute(&mut **tx)
    .await?;
    Ok(answer(text, Extended::Yes, WorkState::Active, ttl))
}

#[derive(PartialEq, Eq)]
enum Extended {
    Yes,
    No,
}

fn answer(last_heartbeat: String, extended: Extended, state: WorkState, ttl: Duration) -> Heartbeat {
    Heartbeat {
        kind: HeartbeatTag::WorkHeartbeat,
        last_heartbeat,
        lease_extended: extended == Extended::Yes,
        state,
        ttl_seconds: ttl.as_secs().max(1),
    }
}

fn matches(expected: Option<&str>, stored: Option<&str>) -> bool {
    match expected {
        None => true,
        Some(NO_HEARTBEAT) => stored.is_none(),
        Some(text) => stored == Some(text),
    }
}

fn lease_lost(last_heartbeat: Option<String>, state: WorkState, ttl: Duration) -> Problem {
    let current = LeaseState { last_heartbeat, lease_extended: false, state, ttl_seconds: ttl.as_secs().max(1) };
    let current = serde_json::to_value(current).expect("a lease state has string keys and no failing serializer");
    Problem::new(Kind::PreconditionFailed, "The stored heartbeat is another one: this lease is no longer yours.")
        .with_code("heartbeat_precondition_failed")
        .with_detail("current_state", current)
}
