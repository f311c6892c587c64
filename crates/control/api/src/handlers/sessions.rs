//! Sessions (contract 1.4).

use postern_engine::SessionQuery;
use postern_model::Problem;
use postern_model::ids::SessionId;
use postern_model::page::Order;
use postern_model::session::{CreateSession, Session, SessionStatus, UpdateSession};

use super::Deleted;
use crate::caller::{Kind, unknown_session};
use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.confidential_body::<CreateSession>()?;
    call.finish_query()?;
    Reply::json(&call.app.engine.create_session(&call.workspace, body, call.once.as_ref()).await?)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    call.query.finish()?;
    Reply::json(&session)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    let body = call.body::<UpdateSession>()?;
    call.query.finish()?;
    Reply::json(&call.app.engine.update_session(&call.workspace, &id, body).await?)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    Reply::json(&app.engine.archive_session(&workspace, &id).await?)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    app.engine.delete_session(&workspace, &id).await?;
    Reply::json(&Deleted { id: id.as_str(), kind: "session_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = &mut call.query;
    let asked = SessionQuery {
        agent_id: query.text("agent_id")?,
        agent_version: query.number("agent_version", 1, u64::from(u32::MAX))?,
        created_at: query.range("created_at")?,
        deployment_id: query.text("deployment_id")?,
        memory_store_id: query.text("memory_store_id")?,
        include_archived: query.flag("include_archived")?,
        limit: query.number("limit", 1, 1000)?.and_then(|limit| u32::try_from(limit).ok()),
        order: query.order(Order::Desc)?,
        page: query.text("page")?,
        statuses: statuses(query.array("statuses"))?,
    };
    call.query.finish()?;
    if asked.agent_version.is_some() && asked.agent_id.is_none() {
        return Err(Problem::invalid_at("agent_version", "is only allowed together with `agent_id`"));
    }
    let mut page = call.app.engine.list_sessions(&call.workspace, &asked).await?;
    page.data.retain(|session| call.caller.may_use(&session.vault_ids));
    Reply::json(&page)
}

/// The session of the path, when the caller may know it.
pub(super) async fn visible(call: &Call) -> Result<Session, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    call.caller.check_session(&id)?;
    let session = call.app.engine.session(&call.workspace, &id).await?;
    call.caller.check_environment(&session.environment_id).map_err(|_| unknown_session(&id))?;
    Ok(session)
}

/// The id of the session of the path, when the caller may know it: read only where it takes that to tell. Whether there is
/// such a session in the workspace, its task says.
pub(super) async fn addressed(call: &Call) -> Result<SessionId, Problem> {
    match call.caller.kind() {
        Kind::EnvironmentKey => Ok(visible(call).await?.id),
        Kind::Operator | Kind::ApiKey | Kind::SessionToken | Kind::EndedSessionToken | Kind::TunnelToken => {
            let id: SessionId = call.id("session", "Session")?;
            call.caller.check_session(&id)?;
            Ok(id)
        }
    }
}

pub(super) fn statuses(words: Vec<String>) -> Result<Vec<SessionStatus>, Problem> {
    let parse = |word: &String| {
        SessionStatus::parse(word).ok_or_else(|| {
            Problem::invalid_at("statuses[]", "must be `idle`, `running`, `rescheduling` or `terminated`")
        })
    };
    words.iter().map(parse).collect()
}
