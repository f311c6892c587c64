//! Perimeters: ours. Which public keys a credential is sealed to.

use postern_engine::control::CommandFailure;
use postern_model::Problem;
use postern_model::control::CommandBody;
use postern_model::ids::{PerimeterId, WorkspaceId};
use postern_model::perimeter::{CreatePerimeter, Perimeter};
use postern_model::problem::Kind;
use postern_secret::seal::{PerimeterPublicKey, Wrap};
use postern_store::list::page;
use postern_store::perimeters;
use postern_store::wraps::{self, SealedPart};
use serde_json::json;

use super::{Deleted, list_query};
use crate::app::{App, problem};
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "perimeters";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreatePerimeter>()?.checked()?;
    call.finish_query()?;
    // A key that nothing can be sealed to is refused now, not when a secret arrives.
    let key: Result<PerimeterPublicKey, _> = body.public_key.parse();
    key.map_err(|error| Problem::invalid_at("public_key", error))?;
    let who = call.caller.log_name();
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let perimeter = perimeters::create(&mut tx, &call.workspace, body, call.app.now()).await.map_err(problem)?;
    let answer = call.created(tx, &perimeter).await?;
    tracing::info!(perimeter = %perimeter.id, public_key = perimeter.public_key, who, "perimeter registered");
    Ok(answer)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = list_query(&mut call.query, LIST, 100)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = perimeters::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |perimeter| {
        (perimeter.created_at.as_microsecond(), perimeter.id.to_string())
    }))
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id: PerimeterId = call.id("perimeter", "Perimeter")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    perimeters::delete(&mut tx, &workspace, &id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(perimeter = %id, who, "perimeter deleted");
    Reply::json(&Deleted { id: id.as_str(), kind: "perimeter_deleted" })
}

/// Has the perimeters that are connected wrap the keys of what is sealed for one that came later. Each decides by what its own operator approved.
pub(crate) async fn rewrap(call: Call) -> Result<Reply, Problem> {
    let id: PerimeterId = call.id("perimeter", "Perimeter")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut connection = app.store.read().await.map_err(problem)?;
    let perimeter = perimeters::required(&mut connection, &workspace, &id).await.map_err(problem)?;
    drop(connection);
    let (mut rewrapped, mut left, mut after) = (0, 0, None);
    loop {
        let mut connection = app.store.read().await.map_err(problem)?;
        let parts = wraps::not_wrapped_for(&mut connection, &workspace, &perimeter.public_key, after.as_ref(), BATCH);
        let parts = parts.await.map_err(problem)?;
        drop(connection);
        let Some(last) = parts.last() else { break };
        after = Some(last.place.clone());
        let done = rewrap_batch(&app, &workspace, &perimeter, &parts).await?;
        rewrapped += done;
        left += parts.len() - done;
    }
    tracing::info!(perimeter = %id, rewrapped, left, who, "sealed values are wrapped for a perimeter");
    app.control.vaults_changed();
    Reply::json(&json!({"id": id, "type": "perimeter_rewrap", "rewrapped": rewrapped, "left": left}))
}

async fn rewrap_batch(
    app: &App,
    workspace: &WorkspaceId,
    perimeter: &Perimeter,
    parts: &[SealedPart],
) -> Result<usize, Problem> {
    let body = CommandBody::Rewrap {
        sealed: parts.iter().map(|part| part.credential.encode()).collect(),
        perimeter_id: perimeter.id.clone(),
        public_key: perimeter.public_key.clone(),
    };
    let answered =
        app.control.rewrap(workspace, &body, parts.len()).await.map_err(|failure| not_rewrapped(&failure))?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let mut done = 0;
    for (part, wrap) in parts.iter().zip(answered) {
        // A stranger's words: taken where they are for this perimeter and nobody else.
        let wrap = wrap.and_then(|text| serde_json::from_str::<Wrap>(&text).ok());
        let ours = |wrap: &Wrap| wrap.perimeter_id == perimeter.id.as_str() && wrap.public_key == perimeter.public_key;
        if let Some(wrap) = wrap.filter(|wrap| ours(wrap) && wrap.enc.len() + wrap.key.len() < WRAP_BYTES) {
            done += usize::from(wraps::add_wrap(&mut tx, part, wrap).await.map_err(problem)?);
        }
    }
    tx.commit().await.map_err(problem)?;
    Ok(done)
}

fn not_rewrapped(failure: &CommandFailure) -> Problem {
    let kind = match failure {
        CommandFailure::Refused(_) => Kind::Conflict,
        _ => Kind::Unavailable,
    };
    let message = format!("Nothing was wrapped: {failure}. Next step: {}.", failure.next_step());
    Problem::new(kind, message).with_code("perimeter_not_rewrapped").with_detail("perimeter_code", failure.code())
}

/// Values of one command: they fit in a frame.
const BATCH: usize = 24;
const WRAP_BYTES: usize = 1024;
