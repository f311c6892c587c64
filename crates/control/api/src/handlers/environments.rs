//! Environments (contract 1.2).

use postern_model::Problem;
use postern_model::environment::{CreateEnvironment, UpdateEnvironment};
use postern_model::ids::EnvironmentId;
use postern_store::environments;
use postern_store::list::page;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::caller::unknown_environment;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "environments";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateEnvironment>()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let environment = environments::create(&mut tx, &call.workspace, body, call.app.now()).await.map_err(problem)?;
    call.created(tx, &environment).await
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id: EnvironmentId = call.id("environment", "Environment")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let environment = environments::find(&mut connection, &call.workspace, &id).await.map_err(problem)?;
    Reply::json(&environment.ok_or_else(|| unknown_environment(&id))?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id: EnvironmentId = call.id("environment", "Environment")?;
    let body = call.body::<UpdateEnvironment>()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let updated = environments::update(&mut tx, &call.workspace, &id, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&updated)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id: EnvironmentId = call.id("environment", "Environment")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let archived = environments::archive(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&archived)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id: EnvironmentId = call.id("environment", "Environment")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    environments::delete(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Deleted { id: id.as_str(), kind: "environment_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, 100)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = environments::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |environment| {
        (environment.created_at.as_microsecond(), environment.id.to_string())
    }))
}
