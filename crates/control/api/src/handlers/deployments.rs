//! Deployments and their runs (contract 1.13).

use postern_engine::Turn;
use postern_model::Problem;
use postern_model::deployment::{CreateDeployment, DeploymentStatus, UpdateDeployment};
use postern_model::ids::{DeploymentId, DeploymentRunId};
use postern_store::deployments::{DeploymentFilter, runs};
use postern_store::list::{Range, page};

use super::list_query;
use crate::app::problem;
use crate::dispatch::Call;
use crate::query::Query;
use crate::reply::Reply;

const LIST: &str = "deployments";
const RUNS: &str = "deployment_runs";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.confidential_body::<CreateDeployment>()?;
    call.finish_query()?;
    Reply::json(&call.app.engine.create_deployment(&call.workspace, body, call.once.as_ref()).await?)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    call.query.finish()?;
    Reply::json(&call.app.engine.deployment(&call.workspace, &id).await?)
}

pub(crate) async fn update(mut call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let body = call.confidential_body::<UpdateDeployment>()?;
    call.query.finish()?;
    let changed = call.app.engine.update_deployment(&call.workspace, &id, body).await?;
    // Sessions that use a token of it are told of another one, or that it is gone.
    call.app.control.vaults_changed();
    Reply::json(&changed)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, 100)?;
    query.created_at = created_at(&mut call.query)?;
    query.include_archived = call.query.flag("include_archived")?;
    let filter = DeploymentFilter { agent_id: call.query.text("agent_id")?, status: status(&mut call.query)? };
    call.query.finish()?;
    if filter.status.is_some() && query.include_archived {
        return Err(Problem::invalid_at("status", "is not allowed together with `include_archived`"));
    }
    let found = call.app.engine.list_deployments(&call.workspace, &query, &filter).await?;
    let mut page = page(found, query.limit, LIST, |deployment| {
        (deployment.created_at.as_microsecond(), deployment.id.to_string())
    });
    page.data.retain(|deployment| call.caller.may_use(&deployment.vault_ids));
    Reply::json(&page)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    turn(call, Turn::Archive).await
}

pub(crate) async fn pause(call: Call) -> Result<Reply, Problem> {
    turn(call, Turn::Pause).await
}

pub(crate) async fn unpause(call: Call) -> Result<Reply, Problem> {
    turn(call, Turn::Unpause).await
}

pub(crate) async fn run(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let (app, workspace, once) = (call.app.clone(), call.workspace.clone(), call.once.clone());
    call.finish_without_body()?;
    Reply::json(&app.engine.run_deployment(&workspace, &id, once.as_ref()).await?)
}

pub(crate) async fn get_run(call: Call) -> Result<Reply, Problem> {
    let id: DeploymentRunId = call.id("run", "Deployment run")?;
    call.query.finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    Reply::json(&runs::required(&mut reader, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn list_runs(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, RUNS, 1000)?;
    query.created_at = created_at(&mut call.query)?;
    let filter = runs::RunFilter {
        deployment_id: call.query.text("deployment_id")?,
        has_error: call.query.optional_flag("has_error")?,
        trigger_type: trigger(&mut call.query)?,
    };
    call.query.finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let found = runs::list(&mut reader, &call.workspace, &query, &filter).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, RUNS, |run| (run.created_at.as_microsecond(), run.id.to_string())))
}

async fn turn(call: Call, turn: Turn) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let turned = app.engine.turn_deployment(&workspace, &id, turn).await?;
    app.control.vaults_changed();
    Reply::json(&turned)
}

fn id(call: &Call) -> Result<DeploymentId, Problem> {
    call.id("deployment", "Deployment")
}

fn created_at(query: &mut Query) -> Result<Range, Problem> {
    let range = query.range("created_at")?;
    Ok(Range { gt: range.gt, gte: range.gte, lt: range.lt, lte: range.lte })
}

fn status(query: &mut Query) -> Result<Option<DeploymentStatus>, Problem> {
    match query.text("status")?.as_deref() {
        None => Ok(None),
        Some("active") => Ok(Some(DeploymentStatus::Active)),
        Some("paused") => Ok(Some(DeploymentStatus::Paused)),
        Some(_) => Err(Problem::invalid_at("status", "must be `active` or `paused`")),
    }
}

fn trigger(query: &mut Query) -> Result<Option<String>, Problem> {
    let sent = query.text("trigger_type")?;
    match sent.as_deref() {
        None | Some("manual" | "schedule") => Ok(sent),
        Some(_) => Err(Problem::invalid_at("trigger_type", "must be `manual` or `schedule`")),
    }
}
