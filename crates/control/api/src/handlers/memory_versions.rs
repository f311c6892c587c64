//! The versions of a store's memories (contract 1.12).

use postern_model::Problem;
use postern_model::ids::MemoryVersionId;
use postern_model::memory::{MemoryVersion, Operation, View};
use postern_store::list::page;
use postern_store::memories::versions::{self, VersionFilter};

use super::list_query;
use super::memory_stores::{Use, actor, change, created_at, page_length, usable, view};
use crate::app::problem;
use crate::dispatch::Call;
use crate::query::Query;
use crate::reply::Reply;
use crate::scope::Known;

pub(crate) async fn get(mut call: Call) -> Result<Reply, Problem> {
    let view = view(&mut call.query, View::Full)?;
    call.finish_query()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let store = usable(&call, &mut connection, Use::Read).await?;
    let id = id(&call)?;
    Reply::json(&versions::required(&mut connection, &store, &id, view).await.map_err(problem)?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let list = format!("memory_versions:{}", super::memory_stores::id(&call)?);
    let view = view(&mut call.query, View::Basic)?;
    let mut query = list_query(&mut call.query, &list, 100)?;
    query.limit = page_length(query.limit, view);
    query.created_at = created_at(&mut call.query)?;
    let filter = filter(&mut call.query)?;
    call.finish_query()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let store = usable(&call, &mut connection, Use::Read).await?;
    let found = versions::list(&mut connection, &store, &query, &filter, view).await.map_err(problem)?;
    drop(connection);
    let mut page =
        page(found, query.limit, &list, |version| (version.created_at.as_microsecond(), version.id.to_string()));
    let named = page.data.iter().filter_map(MemoryVersion::session);
    let known = Known::of(&call.app, &call.caller, &call.workspace, named).await?;
    page.data.retain(|version| version.session().is_none_or(|session| known.has(session)));
    Reply::json(&page)
}

pub(crate) async fn redact(mut call: Call) -> Result<Reply, Problem> {
    let by = actor(&call.caller)?;
    call.expect_no_body()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let store = usable(&call, &mut tx, Use::Write).await?;
    let id = id(&call)?;
    let redacted = versions::redact(&mut tx, change(&call, &store, &by), &id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    tracing::info!(memory_version = %id, who = call.caller.log_name(), "memory version redacted");
    Reply::json(&redacted)
}

fn filter(query: &mut Query) -> Result<VersionFilter, Problem> {
    Ok(VersionFilter {
        memory_id: query.text("memory_id")?,
        api_key_id: query.text("api_key_id")?,
        session_id: query.text("session_id")?,
        service_account_id: query.text("service_account_id")?,
        operation: operation(query)?,
    })
}

fn operation(query: &mut Query) -> Result<Option<Operation>, Problem> {
    let Some(word) = query.text("operation")? else { return Ok(None) };
    let operation = Operation::parse(&word);
    operation.map(Some).ok_or_else(|| Problem::invalid_at("operation", "must be `created`, `modified` or `deleted`"))
}

fn id(call: &Call) -> Result<MemoryVersionId, Problem> {
    call.id("memory_version", "Memory version")
}
