//! Memory stores (contract 1.12).

use postern_model::Problem;
use postern_model::ids::MemoryStoreId;
use postern_model::memory::{Access, Actor, CreateMemoryStore, UpdateMemoryStore, View};
use postern_store::list::{Range, page};
use postern_store::memories::Change;
use postern_store::{Connection, memory_stores};

use super::{Deleted, list_query};
use crate::app::problem;
use crate::caller::Caller;
use crate::dispatch::Call;
use crate::query::Query;
use crate::reply::Reply;

const LIST: &str = "memory_stores";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateMemoryStore>()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let store = memory_stores::create(&mut tx, &call.workspace, body, call.app.now()).await.map_err(problem)?;
    call.created(tx, &store).await
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&memory_stores::required(&mut connection, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let body = call.body::<UpdateMemoryStore>()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let updated = memory_stores::update(&mut tx, &call.workspace, &id, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&updated)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let archived = memory_stores::archive(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(memory_store = %id, who, "memory store archived");
    Reply::json(&archived)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    memory_stores::delete(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(memory_store = %id, who, "memory store deleted");
    Reply::json(&Deleted { id: id.as_str(), kind: "memory_store_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, 100)?;
    query.created_at = created_at(&mut call.query)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = memory_stores::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |store| (store.created_at.as_microsecond(), store.id.to_string())))
}

/// What a caller wants to do with the memories of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

/// The store of the path, when the caller may use it so. A store that a session has not is not there for its workers.
pub(super) async fn usable(call: &Call, connection: &mut Connection, wanted: Use) -> Result<MemoryStoreId, Problem> {
    let id = id(call)?;
    memory_stores::required(connection, &call.workspace, &id).await.map_err(problem)?;
    let Caller::Session(grant) = &call.caller else { return Ok(id) };
    let access = memory_stores::may_session_touch(connection, &id, &grant.session).await.map_err(problem)?;
    match (access, wanted) {
        (Some(Access::ReadWrite), _) | (Some(Access::ReadOnly), Use::Read) => Ok(id),
        (Some(Access::ReadOnly), Use::Write) => {
            Err(Problem::permission(format!("The session has memory store {id} for reading only.")))
        }
        (None, _) => Err(memory_stores::not_found(&id)),
    }
}

/// Who is written down as having made a change.
pub(super) fn actor(caller: &Caller) -> Result<Actor, Problem> {
    match caller {
        Caller::Operator(_) => Ok(Actor::UserActor { user_id: "operator".to_owned() }),
        Caller::ApiKey(grant) => Ok(Actor::ApiActor { api_key_id: grant.key.clone() }),
        Caller::Session(grant) => Ok(Actor::SessionActor { session_id: grant.session.clone() }),
        Caller::Environment(_) | Caller::Tunnel(_) => Err(Problem::permission("This credential may not do this.")),
    }
}

/// A change of the store by the caller, now.
pub(super) fn change<'a>(call: &'a Call, store: &'a MemoryStoreId, by: &'a Actor) -> Change<'a> {
    Change { workspace: &call.workspace, store, by, now: call.app.now() }
}

pub(super) fn id(call: &Call) -> Result<MemoryStoreId, Problem> {
    call.id("memory_store", "Memory store")
}

pub(super) fn view(query: &mut Query, default: View) -> Result<View, Problem> {
    match query.text("view")?.as_deref() {
        None => Ok(default),
        Some("basic") => Ok(View::Basic),
        Some("full") => Ok(View::Full),
        Some(_) => Err(Problem::invalid_at("view", "must be `basic` or `full`")),
    }
}

/// The length of a page: contents are long, so that fewer of them are on one.
pub(super) fn page_length(asked: u32, view: View) -> u32 {
    match view {
        View::Basic => asked,
        View::Full => asked.min(MOST_CONTENTS),
    }
}

pub(super) fn created_at(query: &mut Query) -> Result<Range, Problem> {
    let range = query.range("created_at")?;
    Ok(Range { gt: range.gt, gte: range.gte, lt: range.lt, lte: range.lte })
}

/// The most contents on a page.
const MOST_CONTENTS: u32 = 20;
