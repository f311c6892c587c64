//! Perimeters: ours. Which public keys a credential is sealed to.

use postern_model::Problem;
use postern_model::ids::PerimeterId;
use postern_model::perimeter::CreatePerimeter;
use postern_secret::seal::PerimeterPublicKey;
use postern_store::list::page;
use postern_store::perimeters;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "perimeters";

pub(crate) async fn create(call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreatePerimeter>()?.checked()?;
    call.query.finish()?;
    // A key that nothing can be sealed to is refused now, not when a secret arrives.
    let key: Result<PerimeterPublicKey, _> = body.public_key.parse();
    key.map_err(|error| Problem::invalid_at("public_key", error))?;
    let who = call.caller.log_name();
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let perimeter = perimeters::create(&mut tx, &call.workspace, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(perimeter = %perimeter.id, public_key = perimeter.public_key, who, "perimeter registered");
    Reply::json(&perimeter)
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
