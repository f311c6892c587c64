//! Workspaces: ours, and the operator's. Making them, for how long they keep sessions, erasing all they have.

use postern_model::Problem;
use postern_model::ids::WorkspaceId;
use postern_model::workspace::{CreateWorkspace, UpdateWorkspace};
use postern_store::list::page;
use postern_store::workspaces;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "workspaces";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateWorkspace>()?.checked()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let made = workspaces::create(&mut tx, body, call.app.now()).await.map_err(problem)?;
    let answer = call.created(tx, &made).await?;
    tracing::info!(workspace = %made.id, "workspace made");
    Ok(answer)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = list_query(&mut call.query, LIST, 100)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = workspaces::list(&mut connection, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |one| (one.created_at.as_microsecond(), one.id.to_string())))
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&workspaces::required(&mut connection, &id).await.map_err(problem)?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let body = call.body::<UpdateWorkspace>()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let changed = workspaces::update(&mut tx, &id, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    call.app.engine.look_for_litter();
    tracing::info!(workspace = %id, retention_days = changed.retention_days, "workspace changed");
    Reply::json(&changed)
}

/// Erases: sessions first, each by its own task, then the rest in one commit.
pub(crate) async fn erase(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let app = call.app.clone();
    call.finish_without_body()?;
    if id == WorkspaceId::default_workspace() {
        let message = "The operator's own workspace cannot be erased. Remove the data directory instead.";
        return Err(Problem::invalid(message));
    }
    app.engine.erase_workspace(&id).await?;
    if let Ok(service) = app.tunnels() {
        service.forget(&id).await;
    }
    tracing::info!(workspace = %id, "workspace erased");
    Reply::json(&Deleted { id: id.as_str(), kind: "workspace_deleted" })
}

fn id(call: &Call) -> Result<WorkspaceId, Problem> {
    call.id("workspace", "Workspace")
}
