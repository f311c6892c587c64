//! Agents (contract 1.1).

use postern_model::Problem;
use postern_model::agent::{CreateAgent, UpdateAgent};
use postern_model::ids::AgentId;
use postern_store::agents::roster;
use postern_store::list::{Range, page};
use postern_store::{agents, skills};

use super::list_query;
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "agents";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateAgent>()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let skills = body.skills.clone().unwrap_or_default();
    let skills = skills::pin(&mut tx, &call.workspace, skills).await.map_err(problem)?;
    let roster = match &body.multiagent {
        Some(sent) => Some(roster::pin(&mut tx, &call.workspace, None, sent).await.map_err(problem)?),
        None => None,
    };
    let definition = body.resolve(skills, roster)?;
    call.app.engine.web_tools().check(&definition.tools)?;
    let agent = agents::create(&mut tx, &call.workspace, definition, call.app.now()).await.map_err(problem)?;
    call.created(tx, &agent).await
}

pub(crate) async fn get(mut call: Call) -> Result<Reply, Problem> {
    let id: AgentId = call.id("agent", "Agent")?;
    let version = call.query.number("version", 1, u64::from(u32::MAX))?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let agent = agents::find(&mut connection, &call.workspace, &id, version).await.map_err(problem)?;
    Reply::json(&agent.ok_or_else(|| unknown(&id, version))?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id: AgentId = call.id("agent", "Agent")?;
    let update = call.body::<UpdateAgent>()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let names_tools = !update.tools.is_absent();
    let agent = agents::update(&mut tx, &call.workspace, &id, update, call.app.now()).await.map_err(problem)?;
    if names_tools {
        call.app.engine.web_tools().check(&agent.definition.tools)?;
    }
    tx.commit().await.map_err(problem)?;
    Reply::json(&agent)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id: AgentId = call.id("agent", "Agent")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let agent = agents::archive(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    // Its deployments went with it, and their tokens with them.
    app.control.vaults_changed();
    Reply::json(&agent)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, 100)?;
    let range = call.query.range("created_at")?;
    query.created_at = Range { gt: range.gt, gte: range.gte, lt: range.lt, lte: range.lte };
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let agents = agents::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(agents, query.limit, LIST, |agent| (agent.created_at.as_microsecond(), agent.id.to_string())))
}

pub(crate) async fn versions(mut call: Call) -> Result<Reply, Problem> {
    let id: AgentId = call.id("agent", "Agent")?;
    let list = format!("versions:{id}");
    let query = list_query(&mut call.query, &list, 100)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = agents::find(&mut connection, &call.workspace, &id, None).await.map_err(problem)?;
    found.ok_or_else(|| unknown(&id, None))?;
    let versions = agents::versions(&mut connection, &call.workspace, &id, &query).await.map_err(problem)?;
    Reply::json(&page(versions, query.limit, &list, |agent| {
        (i64::try_from(agent.version).unwrap_or(i64::MAX), String::new())
    }))
}

fn unknown(id: &AgentId, version: Option<u64>) -> Problem {
    match version {
        None => Problem::not_found(format!("Agent {id} was not found.")),
        Some(version) => Problem::not_found(format!("Agent {id} has no version {version}, or does not exist.")),
    }
}
