//! Threads of a session: the primary one (contract 1.6).

use postern_engine::EventQuery;
use postern_model::Problem;
use postern_model::ids::ThreadId;
use postern_model::page::Page;
use postern_model::session::Thread;

use super::events::{last_seen, previews};
use super::sessions::{statuses, visible};
use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    let wanted = statuses(call.query.array("statuses"))?;
    call.query.limit(1000, 1000)?;
    if call.query.text("page")?.is_some() {
        return Err(Problem::invalid_at("page", "this is not a cursor of this server"));
    }
    call.query.finish()?;
    let mut threads = call.app.engine.list_threads(&call.workspace, &session.id).await?;
    threads.retain(|thread| wanted.is_empty() || wanted.contains(&thread.status));
    Reply::json(&Page { data: threads, next_page: None })
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    call.query.finish()?;
    Reply::json(&thread)
}

pub(crate) async fn events(mut call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    let limit = call.query.number("limit", 1, 1000)?.and_then(|limit| u32::try_from(limit).ok());
    let asked = EventQuery { limit, page: call.query.text("page")?, ..EventQuery::default() };
    call.query.finish()?;
    Reply::json(&call.app.engine.list_events(&call.workspace, &thread.session_id, &asked).await?)
}

pub(crate) async fn stream(mut call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    let previews = previews(&mut call.query)?;
    let last_seen = last_seen(&call)?;
    call.query.finish()?;
    Ok(Reply::stream(call.app.engine.subscribe(&call.workspace, &thread.session_id, previews, last_seen).await?))
}

async fn thread(call: &Call) -> Result<Thread, Problem> {
    let session = visible(call).await?;
    let unknown = || Problem::not_found("The thread was not found in this session.").with_code("thread_not_found");
    let id: ThreadId = call.id("thread", "Thread").map_err(|_| unknown())?;
    call.app.engine.thread(&call.workspace, &session.id, &id).await
}
