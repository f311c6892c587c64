//! Threads of a session (contract 1.6).

use postern_engine::{EventQuery, Of, ThreadQuery};
use postern_model::Problem;
use postern_model::ids::ThreadId;
use postern_model::session::Thread;

use super::events::{last_seen, previews};
use super::sessions::{statuses, visible};
use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    let asked = ThreadQuery {
        limit: call.query.number("limit", 1, 1000)?.and_then(|limit| u32::try_from(limit).ok()),
        page: call.query.text("page")?,
        statuses: statuses(call.query.array("statuses"))?,
    };
    call.query.finish()?;
    Reply::json(&call.app.engine.list_threads(&call.workspace, &session.id, &asked).await?)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    call.query.finish()?;
    Reply::json(&thread)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    Reply::json(&app.engine.archive_thread(&workspace, &thread.session_id, &thread.id).await?)
}

pub(crate) async fn events(mut call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    let limit = call.query.number("limit", 1, 1000)?.and_then(|limit| u32::try_from(limit).ok());
    let asked = EventQuery { limit, page: call.query.text("page")?, ..EventQuery::default() };
    call.query.finish()?;
    let of = Of::Thread(thread.id);
    Reply::json(&call.app.engine.list_events(&call.workspace, &thread.session_id, of, &asked).await?)
}

pub(crate) async fn stream(mut call: Call) -> Result<Reply, Problem> {
    let thread = thread(&call).await?;
    let previews = previews(&mut call.query)?;
    let last_seen = last_seen(&call)?;
    call.query.finish()?;
    let of = Of::Thread(thread.id);
    let opened = call.app.engine.subscribe(&call.workspace, &thread.session_id, of, previews, last_seen).await?;
    Ok(Reply::stream(opened))
}

async fn thread(call: &Call) -> Result<Thread, Problem> {
    let session = visible(call).await?;
    let unknown = || Problem::not_found("The thread was not found in this session.").with_code("thread_not_found");
    let id: ThreadId = call.id("thread", "Thread").map_err(|_| unknown())?;
    call.app.engine.thread(&call.workspace, &session.id, &id).await
}
