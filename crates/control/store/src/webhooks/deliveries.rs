//! What endpoints are still to be told, and what became of it.

use std::collections::HashMap;

use postern_model::ids::{WebhookEventId, WebhookId, WorkspaceId};
use postern_model::webhook::{
    self, Delivery, DeliveryError, DeliveryState, DeliveryTag, DisabledReason, Subject, WebhookEvent, WebhookState,
};
use postern_model::{Problem, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::word;
use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx};

/// How long delivered ones are listed.
const KEEP_DELIVERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);
/// How long dead ones can be replayed.
const KEEP_DEAD: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);
/// How many rows one sweep removes.
const SWEEP: i64 = 500;

/// Notes for every enabled endpoint of the workspace that wants it what happens in this transaction.
///
/// # Errors
/// The database failed.
pub async fn announce(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    subject: Subject,
    now: Timestamp,
) -> Result<(), StoreError> {
    let kind = subject.happening.as_str();
    let event = webhook::event(WebhookEventId::generate(), workspace, subject, now);
    let noted = sqlx::query(
        "INSERT INTO webhook_deliveries (workspace_id, webhook_id, event_id, payload, state, attempts, next_at, created_at, \
         updated_at) SELECT w.workspace_id, w.id, ?3, ?4, 'pending', 0, ?5, ?5, ?5 FROM webhooks w \
         WHERE w.workspace_id = ?1 AND w.state = 'enabled' AND EXISTS ( \
           SELECT 1 FROM webhook_subscriptions s WHERE s.webhook_id = w.id AND s.event_type IN (?2, '*'))",
    )
    .bind(workspace.as_str())
    .bind(kind)
    .bind(event.id.as_str())
    .bind(json(&event))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    if noted.rows_affected() > 0 {
        tx.wake_deliverer();
    }
    Ok(())
}

/// Which deliveries a list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// Only those in this state.
    pub state: Option<DeliveryState>,
}

/// One page of an endpoint's deliveries, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn deliveries(
    connection: &mut Connection,
    webhook: &WebhookId,
    query: &ListQuery,
    filter: DeliveryFilter,
) -> Result<Vec<Delivery>, StoreError> {
    let (key, id) = query.below();
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM webhook_deliveries WHERE webhook_id = ");
    sql.push_bind(webhook.as_str());
    if let Some(state) = filter.state {
        sql.push(" AND state = ").push_bind(state.as_str());
    }
    sql.push(" AND (created_at < ").push_bind(key).push(" OR (created_at = ").push_bind(key);
    sql.push(" AND event_id < ").push_bind(id).push("))");
    sql.push(" ORDER BY created_at DESC, event_id DESC LIMIT ").push_bind(query.limit_plus_one());
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(delivery).collect()
}

/// One delivery.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn find_delivery(
    connection: &mut Connection,
    webhook: &WebhookId,
    event: &WebhookEventId,
) -> Result<Delivery, StoreError> {
    let row = sqlx::query("SELECT * FROM webhook_deliveries WHERE webhook_id = ?1 AND event_id = ?2")
        .bind(webhook.as_str())
        .bind(event.as_str())
        .fetch_optional(connection)
        .await?;
    match row {
        Some(row) => delivery(&row),
        None => Err(Problem::not_found(format!("Webhook {webhook} has no delivery of {event}.")).into()),
    }
}

/// A statement that makes deliveries pending, due at the second parameter.
macro_rules! replay {
    ($which:literal) => {
        concat!(
            "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, next_at = ?2, updated_at = ?2 WHERE webhook_id = ?1 \
             AND ",
            $which
        )
    };
}

/// Has an event posted again, whatever became of it before.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn replay(
    tx: &mut Tx,
    webhook: &WebhookId,
    event: &WebhookEventId,
    now: Timestamp,
) -> Result<Delivery, StoreError> {
    find_delivery(tx, webhook, event).await?;
    sqlx::query(replay!("event_id = ?3"))
        .bind(webhook.as_str())
        .bind(micros(now))
        .bind(event.as_str())
        .execute(&mut **tx)
        .await?;
    tx.wake_deliverer();
    find_delivery(tx, webhook, event).await
}

/// Has all that was given up posted again. Returns how many.
///
/// # Errors
/// The database failed.
pub async fn replay_dead(tx: &mut Tx, webhook: &WebhookId, now: Timestamp) -> Result<u64, StoreError> {
    let done =
        sqlx::query(replay!("state = 'dead'")).bind(webhook.as_str()).bind(micros(now)).execute(&mut **tx).await?;
    tx.wake_deliverer();
    Ok(done.rows_affected())
}

/// A delivery that was claimed: nobody else tries it until the claim ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The endpoint.
    pub webhook: WebhookId,
    /// The event.
    pub event: WebhookEventId,
    /// Where to.
    pub url: String,
    /// What.
    pub payload: String,
    /// Which secret signs.
    pub generation: u64,
    /// Whether the secret before signs too.
    pub former: bool,
    /// The number of this attempt, from 1.
    pub attempt: u32,
}

/// A delivery that is due, as a reader saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    webhook: WebhookId,
    event: WebhookEventId,
}

/// What is due and may be claimed, the longest overdue first: at most `most` in all, and so many of one endpoint that with
/// what is `under_way` to it no more than `at_once` are. Looks at the first few of each endpoint, however long its backlog.
///
/// # Errors
/// The database failed.
pub async fn waiting(
    connection: &mut Connection,
    now: Timestamp,
    under_way: &HashMap<WebhookId, u32>,
    at_once: u32,
    most: u32,
) -> Result<Vec<Waiting>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("");
    push_waiting(&mut sql, now, under_way, at_once);
    let rows = sql.build().fetch_all(connection).await?;
    let mut places = under_way.clone();
    let mut found = Vec::new();
    for row in &rows {
        let webhook = parsed(WebhookId::parse(row.try_get("webhook_id")?), "webhook_deliveries.webhook_id")?;
        let taken = places.entry(webhook.clone()).or_default();
        *taken += 1;
        if *taken <= at_once {
            let event = parsed(WebhookEventId::parse(row.try_get("event_id")?), "webhook_deliveries.event_id")?;
            found.push(Waiting { webhook, event });
        }
    }
    found.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(found)
}

fn push_waiting(sql: &mut QueryBuilder<Sqlite>, now: Timestamp, under_way: &HashMap<WebhookId, u32>, at_once: u32) {
    // Not a plain join: each endpoint's few are found in order by themselves.
    sql.push(
        "SELECT d.webhook_id, d.event_id FROM webhooks w CROSS JOIN webhook_deliveries d WHERE d.webhook_id = w.id \
         AND d.event_id IN (SELECT o.event_id FROM webhook_deliveries o WHERE o.webhook_id = w.id AND o.state = 'pending' \
           AND o.next_at <= ",
    );
    sql.push_bind(micros(now))
        .push(" ORDER BY o.next_at, o.created_at, o.event_id LIMIT ")
        .push_bind(i64::from(at_once));
    sql.push(") AND w.state = 'enabled'");
    push_has_room(sql, under_way, at_once);
    sql.push(" ORDER BY d.next_at, d.event_id");
}

/// Of endpoints `w`, those to which fewer than `at_once` are under way.
fn push_has_room(sql: &mut QueryBuilder<Sqlite>, under_way: &HashMap<WebhookId, u32>, at_once: u32) {
    for (webhook, _) in under_way.iter().filter(|(_, count)| **count >= at_once) {
        sql.push(" AND w.id <> ").push_bind(webhook.to_string());
    }
}

/// Claims what was found waiting, as far as it still is. The claim ends at `until`.
///
/// # Errors
/// The database failed.
pub async fn claim(tx: &mut Tx, waiting: &[Waiting], now: Timestamp, until: Timestamp) -> Result<Vec<Due>, StoreError> {
    let mut claimed = Vec::with_capacity(waiting.len());
    for Waiting { webhook, event } in waiting {
        let row = sqlx::query(
            "SELECT d.webhook_id, d.event_id, d.payload, d.attempts, w.url, w.secret_generation, w.former_until \
             FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id WHERE d.webhook_id = ?1 AND d.event_id = ?2 \
             AND d.state = 'pending' AND d.next_at <= ?3 AND w.state = 'enabled'",
        )
        .bind(webhook.as_str())
        .bind(event.as_str())
        .bind(micros(now))
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { continue };
        let due = due(&row, now)?;
        sqlx::query(
            "UPDATE webhook_deliveries SET attempts = ?3, next_at = ?4, updated_at = ?5 \
             WHERE webhook_id = ?1 AND event_id = ?2",
        )
        .bind(webhook.as_str())
        .bind(event.as_str())
        .bind(i64::from(due.attempt))
        .bind(micros(until))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
        claimed.push(due);
    }
    Ok(claimed)
}

/// When the next pending delivery of an enabled endpoint is due to which fewer than `at_once` are under way.
///
/// # Errors
/// The database failed.
pub async fn next_due(
    connection: &mut Connection,
    under_way: &HashMap<WebhookId, u32>,
    at_once: u32,
) -> Result<Option<Timestamp>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("");
    push_next_due(&mut sql, under_way, at_once);
    let next: Option<i64> = sql.build_query_scalar().fetch_one(connection).await?;
    optional_instant(next, "webhook_deliveries.next_at")
}

fn push_next_due(sql: &mut QueryBuilder<Sqlite>, under_way: &HashMap<WebhookId, u32>, at_once: u32) {
    sql.push(
        "SELECT MIN((SELECT d.next_at FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending' \
           ORDER BY d.next_at LIMIT 1)) FROM webhooks w WHERE w.state = 'enabled'",
    );
    push_has_room(sql, under_way, at_once);
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint took it.
    Delivered,
    /// It is tried again at this time.
    Again(DeliveryError, Timestamp),
    /// It is given up.
    Dead(DeliveryError),
    /// The endpoint wants no more: it is disabled, and what is pending waits.
    Gone(DeliveryError),
}

/// Notes what came of an attempt. One that was replayed or deleted meanwhile stays as it is.
///
/// # Errors
/// The database failed.
pub async fn settle(tx: &mut Tx, due: &Due, outcome: Outcome, now: Timestamp) -> Result<(), StoreError> {
    let (state, next, error) = match &outcome {
        Outcome::Delivered => (DeliveryState::Delivered, None, None),
        Outcome::Again(error, at) => (DeliveryState::Pending, Some(*at), Some(error)),
        Outcome::Dead(error) => (DeliveryState::Dead, None, Some(error)),
        Outcome::Gone(error) => (DeliveryState::Pending, Some(now), Some(error)),
    };
    sqlx::query(
        "UPDATE webhook_deliveries SET state = ?4, next_at = ?5, last_error = ?6, updated_at = ?7 \
         WHERE webhook_id = ?1 AND event_id = ?2 AND state = 'pending' AND attempts = ?3",
    )
    .bind(due.webhook.as_str())
    .bind(due.event.as_str())
    .bind(i64::from(due.attempt))
    .bind(state.as_str())
    .bind(next.map(micros))
    .bind(error.map(json))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    if matches!(outcome, Outcome::Gone(_)) {
        // Unless it was given another URL meanwhile.
        sqlx::query("UPDATE webhooks SET state = ?3, disabled_reason = ?4, updated_at = ?5 WHERE id = ?1 AND url = ?2")
            .bind(due.webhook.as_str())
            .bind(&due.url)
            .bind(word(WebhookState::Disabled))
            .bind(word(DisabledReason::Gone))
            .bind(micros(now))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Removes a number of deliveries that were settled long ago. Returns whether there may be more.
///
/// # Errors
/// The database failed.
pub async fn sweep(tx: &mut Tx, now: Timestamp) -> Result<bool, StoreError> {
    let before = |age: jiff::SignedDuration| micros(now.checked_sub(age).unwrap_or(Timestamp::MIN));
    let done = sqlx::query(
        "DELETE FROM webhook_deliveries WHERE (webhook_id, event_id) IN ( \
           SELECT webhook_id, event_id FROM webhook_deliveries \
           WHERE (state = 'delivered' AND updated_at < ?1) OR (state = 'dead' AND updated_at < ?2) LIMIT ?3)",
    )
    .bind(before(KEEP_DELIVERED))
    .bind(before(KEEP_DEAD))
    .bind(SWEEP)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() >= SWEEP.unsigned_abs())
}

fn due(row: &SqliteRow, now: Timestamp) -> Result<Due, StoreError> {
    let former_until: Option<i64> = row.try_get("former_until")?;
    let attempts: i64 = row.try_get("attempts")?;
    Ok(Due {
        webhook: parsed(WebhookId::parse(row.try_get("webhook_id")?), "webhook_deliveries.webhook_id")?,
        event: parsed(WebhookEventId::parse(row.try_get("event_id")?), "webhook_deliveries.event_id")?,
        url: row.try_get("url")?,
        payload: row.try_get("payload")?,
        generation: parsed(u64::try_from(row.try_get::<i64, _>("secret_generation")?), "webhooks.secret_generation")?,
        former: former_until.is_some_and(|until| until > micros(now)),
        attempt: parsed(u32::try_from(attempts.saturating_add(1)), "webhook_deliveries.attempts")?,
    })
}

fn delivery(row: &SqliteRow) -> Result<Delivery, StoreError> {
    let state: String = row.try_get("state")?;
    let last_error: Option<String> = row.try_get("last_error")?;
    let event: WebhookEvent = from_json(row.try_get("payload")?, "webhook_deliveries.payload")?;
    Ok(Delivery {
        webhook_id: parsed(WebhookId::parse(row.try_get("webhook_id")?), "webhook_deliveries.webhook_id")?,
        kind: DeliveryTag::Delivery,
        event,
        state: DeliveryState::parse(&state).ok_or(StoreError::Corrupt { what: "webhook_deliveries.state" })?,
        attempts: parsed(u32::try_from(row.try_get::<i64, _>("attempts")?), "webhook_deliveries.attempts")?,
        next_attempt_at: optional_instant(row.try_get("next_at")?, "webhook_deliveries.next_at")?,
        last_error: last_error.map(|text| from_json(&text, "webhook_deliveries.last_error")).transpose()?,
        created_at: instant(row.try_get("created_at")?, "webhook_deliveries.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "webhook_deliveries.updated_at")?,
    })
}

#[cfg(test)]
pub(super) mod plans {
    use super::*;

    /// How the database goes about looking for what is due.
    pub(crate) async fn of_looking(connection: &mut Connection, now: Timestamp) -> Vec<String> {
        let busy = HashMap::from([(WebhookId::generate(), 4)]);
        let mut steps = Vec::new();
        for look in [true, false] {
            let mut sql = QueryBuilder::<Sqlite>::new("EXPLAIN QUERY PLAN ");
            match look {
                true => push_waiting(&mut sql, now, &busy, 4),
                false => push_next_due(&mut sql, &busy, 4),
            }
            let rows = sql.build().fetch_all(&mut *connection).await.unwrap();
            steps.extend(rows.iter().map(|row| row.get::<String, _>("detail")));
        }
        steps
    }
}
