//! What a session is given (contract 1.7).

use postern_model::Problem;
use postern_model::ids::{ResourceId, SessionId};
use postern_model::page::{Cursor, Direction, Order, Page};
use postern_model::resource::{MAX_RESOURCES, Resource, ResourceParam};
use serde::Deserialize;

use super::Deleted;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "session_resources";

/// What may be changed of a resource.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(rename = "authorization_token")]
    _authorization_token: String,
}

pub(crate) async fn create(call: Call) -> Result<Reply, Problem> {
    let session = session(&call)?;
    let body = call.body::<ResourceParam>()?;
    call.query.finish()?;
    Reply::json(&call.app.engine.add_resource(&call.workspace, &session, body).await?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let session = session(&call)?;
    let most = u32::try_from(MAX_RESOURCES).unwrap_or(u32::MAX);
    let limit = call.query.limit(most, 1000)?;
    let cursor = call.query.text("page")?;
    let cursor = cursor.map(|text| Cursor::decode(&text, LIST, Order::Asc, session.as_str())).transpose()?;
    call.query.finish()?;
    let resources = call.app.engine.session(&call.workspace, &session).await?.resources;
    let from = cursor.map_or(0, |cursor| usize::try_from(cursor.key).unwrap_or(usize::MAX));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = from.saturating_add(limit);
    let next_page = (next < resources.len()).then(|| {
        let (list, filters) = (LIST.to_owned(), session.to_string());
        let key = i64::try_from(next).unwrap_or(i64::MAX);
        Cursor { list, order: Order::Asc, direction: Direction::Next, key, id: String::new(), filters }.encode()
    });
    let data: Vec<Resource> = resources.into_iter().skip(from).take(limit).collect();
    Reply::json(&Page { data, next_page })
}

pub(crate) async fn get(mut call: Call) -> Result<Reply, Problem> {
    let (session, id) = (session(&call)?, id(&call)?);
    std::mem::take(&mut call.query).finish()?;
    Reply::json(&required(&call, &session, &id).await?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let (session, id) = (session(&call)?, id(&call)?);
    call.body::<Update>()?;
    required(&call, &session, &id).await?;
    call.query.finish()?;
    Err(Problem::invalid_at("authorization_token", "this resource has none: only a repository's token can be replaced"))
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let (session, id) = (session(&call)?, id(&call)?);
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    app.engine.remove_resource(&workspace, &session, id.clone()).await?;
    Reply::json(&Deleted { id: id.as_str(), kind: "session_resource_deleted" })
}

async fn required(call: &Call, session: &SessionId, id: &ResourceId) -> Result<Resource, Problem> {
    let found = call.app.engine.session(&call.workspace, session).await?;
    let found = found.resources.into_iter().find(|resource| resource.id() == Some(id));
    found.ok_or_else(|| Problem::not_found(format!("Session resource {id} was not found.")))
}

fn session(call: &Call) -> Result<SessionId, Problem> {
    call.id("session", "Session")
}

fn id(call: &Call) -> Result<ResourceId, Problem> {
    call.id("resource", "Session resource")
}
