//! Webhooks. Of an endpoint's secret only its generation is here; who signs derives it from that and the server's key.

use postern_model::ids::{WebhookId, WorkspaceId};
use postern_model::webhook::{CreateWebhook, DisabledReason, UpdateWebhook, Webhook, WebhookState, WebhookTag};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, parsed};
use crate::{Connection, StoreError, Tx};

mod deliveries;
mod sessions;
#[cfg(test)]
mod tests;

pub use deliveries::{
    DeliveryFilter, Due, Outcome, Waiting, announce, claim, deliveries, find_delivery, next_due, replay, replay_dead,
    settle, sweep, waiting,
};
pub(crate) use sessions::announce_events;

/// A statement that reads endpoints, each with how many of its deliveries are in which state.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT w.*, \
             (SELECT COUNT(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending') AS pending, \
             (SELECT COUNT(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'dead') AS dead \
             FROM webhooks w ",
            $rest
        )
    };
}

/// How many endpoints a workspace may have.
pub const MOST_WEBHOOKS: i64 = 32;
/// How long what is posted is signed with the former secret too, after a rotation.
pub const FORMER_SECRET: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Stores a new endpoint, of the secret's generation 1.
///
/// # Errors
/// Refused with 400 (`webhook_limit_reached`); or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &WebhookId,
    body: CreateWebhook,
    now: Timestamp,
) -> Result<Webhook, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM webhooks WHERE workspace_id = ?1")
        .bind(workspace.as_str())
        .fetch_one(&mut **tx)
        .await?;
    if count >= MOST_WEBHOOKS {
        let message = format!("A workspace has at most {MOST_WEBHOOKS} webhooks. Delete one that is not needed.");
        return Err(Problem::invalid(message).with_code("webhook_limit_reached").into());
    }
    sqlx::query(
        "INSERT INTO webhooks (workspace_id, id, url, description, enabled_events, state, secret_generation, created_at, \
         updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?7)",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(&body.url)
    .bind(&body.description)
    .bind(json(&body.enabled_events))
    .bind(word(WebhookState::Enabled))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    subscribe(tx, id, &body.enabled_events).await?;
    required(tx, workspace, id).await
}

/// One endpoint.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &WebhookId,
) -> Result<Webhook, StoreError> {
    let row = sqlx::query(select!("WHERE w.workspace_id = ?1 AND w.id = ?2"))
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    match row {
        Some(row) => webhook(&row),
        None => Err(Problem::not_found(format!("Webhook {id} was not found.")).into()),
    }
}

/// One page of endpoints, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Webhook>, StoreError> {
    let statement = select!(
        "WHERE w.workspace_id = ?1 AND (w.created_at < ?2 OR (w.created_at = ?2 AND w.id < ?3)) \
         ORDER BY w.created_at DESC, w.id DESC LIMIT ?4"
    );
    let rows = query.newest(connection, statement, workspace.as_str()).await?;
    rows.iter().map(webhook).collect()
}

/// Changes an endpoint. What is pending goes to the URL that is written now.
///
/// # Errors
/// Refused with 400 or 404; or the database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &WebhookId,
    body: UpdateWebhook,
    now: Timestamp,
) -> Result<Webhook, StoreError> {
    let stored = required(tx, workspace, id).await?;
    let changed = body.applied_to(&stored)?;
    sqlx::query(
        "UPDATE webhooks SET url = ?2, description = ?3, enabled_events = ?4, state = ?5, disabled_reason = ?6, \
         updated_at = ?7 WHERE id = ?1",
    )
    .bind(id.as_str())
    .bind(&changed.url)
    .bind(&changed.description)
    .bind(json(&changed.enabled_events))
    .bind(word(changed.state))
    .bind(changed.disabled_reason.map(word))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM webhook_subscriptions WHERE webhook_id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    subscribe(tx, id, &changed.enabled_events).await?;
    // An endpoint that was enabled again is told what waited.
    tx.wake_deliverer();
    required(tx, workspace, id).await
}

/// Removes an endpoint with everything it was to be told.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &WebhookId) -> Result<(), StoreError> {
    required(tx, workspace, id).await?;
    sqlx::query("DELETE FROM webhooks WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// Makes another secret the endpoint's. The former one signs along for [`FORMER_SECRET`]. Returns the generation.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn rotate_secret(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &WebhookId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    required(tx, workspace, id).await?;
    let generation: i64 = sqlx::query_scalar(
        "UPDATE webhooks SET secret_generation = secret_generation + 1, former_until = ?2, updated_at = ?3 \
         WHERE id = ?1 RETURNING secret_generation",
    )
    .bind(id.as_str())
    .bind(micros(now.checked_add(FORMER_SECRET).unwrap_or(Timestamp::MAX)))
    .bind(micros(now))
    .fetch_one(&mut **tx)
    .await?;
    parsed(u64::try_from(generation), "webhooks.secret_generation")
}

async fn subscribe(tx: &mut Tx, id: &WebhookId, events: &[String]) -> Result<(), StoreError> {
    for event in events {
        sqlx::query("INSERT INTO webhook_subscriptions (webhook_id, event_type) VALUES (?1, ?2)")
            .bind(id.as_str())
            .bind(event)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

fn webhook(row: &SqliteRow) -> Result<Webhook, StoreError> {
    let disabled_reason: Option<String> = row.try_get("disabled_reason")?;
    let disabled_reason = disabled_reason.map(|word| read_word::<DisabledReason>(&word, "webhooks.disabled_reason"));
    Ok(Webhook {
        id: parsed(WebhookId::parse(row.try_get("id")?), "webhooks.id")?,
        kind: WebhookTag::Webhook,
        url: row.try_get("url")?,
        description: row.try_get("description")?,
        enabled_events: from_json(row.try_get("enabled_events")?, "webhooks.enabled_events")?,
        state: read_word(row.try_get("state")?, "webhooks.state")?,
        disabled_reason: disabled_reason.transpose()?,
        pending: parsed(u64::try_from(row.try_get::<i64, _>("pending")?), "webhook_deliveries")?,
        dead: parsed(u64::try_from(row.try_get::<i64, _>("dead")?), "webhook_deliveries")?,
        created_at: instant(row.try_get("created_at")?, "webhooks.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "webhooks.updated_at")?,
    })
}

/// The word of a state as the wire has it.
fn word<T: serde::Serialize>(value: T) -> String {
    json(&value).trim_matches('"').to_owned()
}

fn read_word<T: serde::de::DeserializeOwned>(word: &str, what: &'static str) -> Result<T, StoreError> {
    from_json(&json(&word), what)
}
