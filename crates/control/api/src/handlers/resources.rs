//! What a session is given (contract 1.7).

use postern_engine::{Lacking, Missing};
use postern_model::Problem;
use postern_model::ids::{ResourceId, SessionId};
use postern_model::page::{Cursor, Direction, Order, Page};
use postern_model::resource::{AuthorizationToken, MAX_RESOURCES, RepositoryFault, Resource, ResourceParam};
use serde::Deserialize;

use super::Deleted;
use super::sessions::visible;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "session_resources";
/// A message is longer only when somebody made it so.
const MESSAGE_CHARACTERS: usize = 2000;

/// What may be changed of a resource.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    authorization_token: AuthorizationToken,
}

/// How bringing a repository failed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    #[serde(rename = "type")]
    kind: RepositoryFault,
    message: String,
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let session = session(&call)?;
    let body = call.confidential_body::<ResourceParam>()?;
    call.finish_query()?;
    Reply::json(&call.app.engine.add_resource(&call.workspace, &session, body, call.once.clone()).await?)
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

pub(crate) async fn update(mut call: Call) -> Result<Reply, Problem> {
    let (session, id) = (session(&call)?, id(&call)?);
    let Update { authorization_token } = call.confidential_body()?;
    required(&call, &session, &id).await?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.query.finish()?;
    let changed = app.engine.rotate_token(&workspace, &session, id.clone(), authorization_token).await?;
    app.control.vaults_changed();
    tracing::info!(%session, resource = %id, who, "the token of a repository is another");
    Reply::json(&changed)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let (session, id) = (session(&call)?, id(&call)?);
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    app.engine.remove_resource(&workspace, &session, id.clone()).await?;
    app.control.vaults_changed();
    Reply::json(&Deleted { id: id.as_str(), kind: "session_resource_deleted" })
}

/// A worker's word of a repository that it could not bring: an addition to the contract, whose workers bring none.
pub(crate) async fn fail(mut call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    let id = id(&call)?;
    let Failure { kind, message } = call.body()?;
    std::mem::take(&mut call.query).finish()?;
    let found = session.resources.into_iter().find(|resource| resource.id() == Some(&id));
    let found = found.ok_or_else(|| not_found(&id))?;
    let Resource::GithubRepository(repository) = &found else {
        return Err(Problem::invalid("Only of a repository is said that it could not be brought."));
    };
    // A stranger's words, as long as those of our own workers are.
    let message: String =
        message.chars().filter(|character| !character.is_control()).take(MESSAGE_CHARACTERS).collect();
    let lacking = Lacking::Repository(kind, repository.url.clone());
    let missing = Missing { code: "repository_not_brought", message, lacking };
    call.app.engine.missing(&session.id, vec![missing]).await?;
    Reply::json(&found)
}

async fn required(call: &Call, session: &SessionId, id: &ResourceId) -> Result<Resource, Problem> {
    let found = call.app.engine.session(&call.workspace, session).await?;
    let found = found.resources.into_iter().find(|resource| resource.id() == Some(id));
    found.ok_or_else(|| not_found(id))
}

fn not_found(id: &ResourceId) -> Problem {
    Problem::not_found(format!("Session resource {id} was not found."))
}

fn session(call: &Call) -> Result<SessionId, Problem> {
    call.id("session", "Session")
}

fn id(call: &Call) -> Result<ResourceId, Problem> {
    call.id("resource", "Session resource")
}
