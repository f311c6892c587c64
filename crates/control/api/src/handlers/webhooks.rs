//! Webhooks: ours. Who is told of events, what became of each, and telling it again.

use postern_model::Problem;
use postern_model::ids::{WebhookEventId, WebhookId};
use postern_model::webhook::{CreateWebhook, DeliveryState, UpdateWebhook, Webhook};
use postern_secret::key::WebhookSecret;
use postern_store::list::page;
use postern_store::webhooks::{self, DeliveryFilter};
use serde::Serialize;
use serde_json::json;

use super::{Deleted, list_query};
use crate::app::{App, problem};
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "webhooks";
/// The most that a page of webhooks or deliveries holds.
const MOST: u32 = 100;

/// A webhook with the secret that its payloads are signed with: shown when it is made, by creation and rotation alone.
#[derive(Serialize)]
struct WithSecret<'a> {
    #[serde(flatten)]
    webhook: &'a Webhook,
    signing_secret: String,
}

impl<'a> WithSecret<'a> {
    #[expect(clippy::disallowed_methods, reason = "the secret is what the caller asked for")]
    fn of(app: &App, webhook: &'a Webhook, generation: u64) -> Result<Self, Problem> {
        let server_key = &app.tunnels()?.parts.server_key;
        let secret = WebhookSecret::derive(server_key, webhook.id.as_str(), generation);
        Ok(Self { webhook, signing_secret: secret.text().expose().clone() })
    }
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateWebhook>()?.checked()?;
    call.finish_query()?;
    let who = call.caller.log_name();
    let id = WebhookId::generate();
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let webhook = webhooks::create(&mut tx, &call.workspace, &id, body, call.app.now()).await.map_err(problem)?;
    let shown = Reply::json(&WithSecret::of(&call.app, &webhook, 1)?)?;
    call.remember(&mut tx, &webhook).await?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(webhook = %id, who, "webhook made");
    Ok(shown)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = list_query(&mut call.query, LIST, MOST)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = webhooks::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |webhook| {
        (webhook.created_at.as_microsecond(), webhook.id.to_string())
    }))
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&webhooks::required(&mut connection, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    let body = call.body::<UpdateWebhook>()?;
    call.query.finish()?;
    let who = call.caller.log_name();
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let changed = webhooks::update(&mut tx, &call.workspace, &id, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(webhook = %id, who, "webhook changed");
    Reply::json(&changed)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    webhooks::delete(&mut tx, &workspace, &id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(webhook = %id, who, "webhook deleted");
    Reply::json(&Deleted { id: id.as_str(), kind: "webhook_deleted" })
}

pub(crate) async fn rotate_secret(call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let generation = webhooks::rotate_secret(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    let webhook = webhooks::required(&mut tx, &workspace, &id).await.map_err(problem)?;
    let shown = Reply::json(&WithSecret::of(&app, &webhook, generation)?)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(webhook = %id, who, "webhook's secret rotated");
    Ok(shown)
}

pub(crate) async fn deliveries(mut call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    let state = call.query.text("state")?.map(|word| {
        DeliveryState::parse(&word)
            .ok_or_else(|| Problem::invalid_at("state", "must be `pending`, `delivered` or `dead`"))
    });
    let state = state.transpose()?;
    let list = format!("deliveries:{id}:{}", state.map_or("", DeliveryState::as_str));
    let query = list_query(&mut call.query, &list, MOST)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    webhooks::required(&mut connection, &call.workspace, &id).await.map_err(problem)?;
    let filter = DeliveryFilter { state };
    let found = webhooks::deliveries(&mut connection, &id, &query, filter).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, &list, |one| (one.created_at.as_microsecond(), one.event.id.to_string())))
}

pub(crate) async fn delivery(call: Call) -> Result<Reply, Problem> {
    let (id, event) = (webhook_id(&call)?, event_id(&call)?);
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    webhooks::required(&mut connection, &call.workspace, &id).await.map_err(problem)?;
    Reply::json(&webhooks::find_delivery(&mut connection, &id, &event).await.map_err(problem)?)
}

pub(crate) async fn replay(call: Call) -> Result<Reply, Problem> {
    let (id, event) = (webhook_id(&call)?, event_id(&call)?);
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    webhooks::required(&mut tx, &workspace, &id).await.map_err(problem)?;
    let replayed = webhooks::replay(&mut tx, &id, &event, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&replayed)
}

pub(crate) async fn replay_dead(call: Call) -> Result<Reply, Problem> {
    let id = webhook_id(&call)?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    webhooks::required(&mut tx, &workspace, &id).await.map_err(problem)?;
    let count = webhooks::replay_dead(&mut tx, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&json!({ "id": id.as_str(), "type": "webhook_replay", "replayed": count }))
}

fn webhook_id(call: &Call) -> Result<WebhookId, Problem> {
    call.id("webhook", "Webhook")
}

fn event_id(call: &Call) -> Result<WebhookEventId, Problem> {
    call.id("event", "Delivery")
}
