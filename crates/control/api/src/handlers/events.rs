//! Events of a session (contract 1.5).

use std::collections::HashSet;

use postern_engine::{Author, EventQuery, Of, Sent};
use postern_model::Problem;
use postern_model::event::{ClientEvent, EventBody, Previewable, SendEvents};
use postern_model::ids::WorkspaceId;
use postern_model::page::Order;
use serde_json::json;

use super::sessions::{addressed, visible};
use crate::app::App;
use crate::caller::Kind;
use crate::dispatch::Call;
use crate::query::Query;
use crate::reply::Reply;

const MAX_PREVIEW_VALUES: usize = 100;

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    let asked = event_query(&mut call.query)?;
    call.query.finish()?;
    Reply::json(&call.app.engine.list_events(&call.workspace, &session.id, Of::Session, &asked).await?)
}

pub(crate) async fn send(call: Call) -> Result<Reply, Problem> {
    let session = addressed(&call).await?;
    let SendEvents { events } = call.body()?;
    let author = author(&call);
    call.query.finish()?;
    if author == Author::Worker {
        check_results_only(&events)?;
    }
    let stored = call.app.engine.send_events(&call.workspace, &session, events, author, call.once.as_ref()).await?;
    Reply::json(&json!({ "data": stored }))
}

/// The answer to events that were sent before, from what is kept of it.
pub(crate) async fn told_again(app: &App, workspace: &WorkspaceId, kept: &str) -> Result<Vec<u8>, Problem> {
    let sent: Sent = serde_json::from_str(kept).map_err(|_| Problem::internal())?;
    let stored = app.engine.sent_before(workspace, &sent).await?;
    serde_json::to_vec(&json!({ "data": stored })).map_err(|_| Problem::internal())
}

pub(crate) async fn stream(mut call: Call) -> Result<Reply, Problem> {
    let session = addressed(&call).await?;
    let previews = previews(&mut call.query)?;
    let last_seen = last_seen(&call)?;
    call.query.finish()?;
    let opened = call.app.engine.subscribe(&call.workspace, &session, Of::Session, previews, last_seen).await?;
    Ok(Reply::stream(opened))
}

/// Where a reader that comes back had arrived (`Last-Event-ID`, as every SSE client sends it by itself).
pub(super) fn last_seen(call: &Call) -> Result<Option<i64>, Problem> {
    let Some(sent) = call.headers.get("last-event-id").filter(|sent| !sent.is_empty()) else { return Ok(None) };
    let place = sent.to_str().ok().and_then(|text| text.parse().ok());
    let unreadable =
        || Problem::invalid_at("Last-Event-ID", "must be the `id` of a frame that a stream of this session showed");
    place.map(Some).ok_or_else(unreadable)
}

pub(super) fn previews(query: &mut Query) -> Result<HashSet<Previewable>, Problem> {
    let words = query.array("event_deltas");
    if words.len() > MAX_PREVIEW_VALUES {
        return Err(Problem::invalid_at("event_deltas[]", format!("at most {MAX_PREVIEW_VALUES} values are allowed")));
    }
    words.iter().map(|word| preview(word)).collect()
}

fn preview(word: &str) -> Result<Previewable, Problem> {
    match word {
        "agent.message" => Ok(Previewable::Message),
        "agent.thinking" => Ok(Previewable::Thinking),
        _ => Err(Problem::invalid_at("event_deltas[]", "must be `agent.message` or `agent.thinking`")),
    }
}

fn event_query(query: &mut Query) -> Result<EventQuery, Problem> {
    let types = query.array("types");
    if types.iter().any(|word| !EventBody::TYPES.contains(&word.as_str())) {
        return Err(Problem::invalid_at("types[]", "names a type that no list contains"));
    }
    Ok(EventQuery {
        created_at: query.range("created_at")?,
        limit: query.number("limit", 1, 1000)?.and_then(|limit| u32::try_from(limit).ok()),
        order: query.order(Order::Asc)?,
        page: query.text("page")?,
        types,
    })
}

fn author(call: &Call) -> Author {
    match call.caller.kind() {
        Kind::Operator | Kind::ApiKey => Author::Client,
        Kind::EnvironmentKey | Kind::SessionToken | Kind::EndedSessionToken | Kind::TunnelToken => Author::Worker,
    }
}

/// A worker never confirms and never speaks for the user; the engine adds that the call must be open.
fn check_results_only(events: &[ClientEvent]) -> Result<(), Problem> {
    let is_result = |event: &ClientEvent| {
        matches!(event, ClientEvent::UserToolResult { .. } | ClientEvent::UserCustomToolResult { .. })
    };
    match events.iter().position(|event| !is_result(event)) {
        None => Ok(()),
        Some(index) => Err(Problem::permission(format!(
            "events[{index}]: a worker's credential may send `user.tool_result` and `user.custom_tool_result` only."
        ))),
    }
}
