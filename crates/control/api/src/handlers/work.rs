//! The work queue (contract 1.3 and 4.4).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::USER_AGENT;
use postern_engine::control::variables;
use postern_engine::{Lacking, Missing};
use postern_model::Problem;
use postern_model::ids::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId};
use postern_model::work::{StopWork, UpdateWork, Work, WorkError};
use postern_secret::key::SessionToken;
use postern_store::environments;
use postern_store::keys::{EnvironmentGrant, Lease, SessionGrant};
use postern_store::list::page;
use postern_store::skills;
use postern_store::work::{self, Beat, Claim, Claimed, Poll};
use postern_store::{StoreError, Tx};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::list_query;
use crate::app::{App, problem};
use crate::caller::{Caller, unknown_environment};
use crate::dispatch::Call;
use crate::reply::Reply;
use crate::scope::Known;

const DEFAULT_RECLAIM_MS: u64 = 5000;
const MAX_RECLAIM_MS: u64 = 24 * 60 * 60 * 1000;
const MAX_ERROR_CODE: usize = 64;
const MAX_ERROR_MESSAGE: usize = 2000;

/// Hands out one item, or null. Waits up to `block_ms` for one to arrive.
pub(crate) async fn poll(mut call: Call) -> Result<Reply, Problem> {
    let environment = environment(&call).await?;
    let Caller::Environment(EnvironmentGrant { key, .. }) = call.caller.clone() else {
        return Err(Problem::permission("Work is handed out to environment keys."));
    };
    let block = call.query.number("block_ms", 1, 999)?;
    let reclaim = call.query.number("reclaim_older_than_ms", 0, MAX_RECLAIM_MS)?.unwrap_or(DEFAULT_RECLAIM_MS);
    call.query.finish()?;
    let _share = call.app.shares.take_poll(&call.caller)?;
    let brings = Brings::of(&call.headers);
    let worker = call.headers.get("anthropic-worker-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let worker = call.app.pollers.note(&environment, worker, Instant::now().into_std());
    let deadline = Instant::now() + Duration::from_millis(block.unwrap_or(0));
    let reclaim = Duration::from_millis(reclaim);
    loop {
        // Enabled before looking, so that an item queued in between still ends the wait.
        let mut arrived = std::pin::pin!(call.app.store.work_arrived());
        arrived.as_mut().enable();
        call.app.engine.settle_lost(&environment).await?;
        let poll = Polled { environment: &environment, key: &key, worker, reclaim, brings };
        if let Some(work) = claim(&call.app, poll).await? {
            return Reply::json(&work);
        }
        if timeout_at(deadline, arrived).await.is_err() {
            return Reply::json(&());
        }
    }
}

pub(crate) async fn acknowledge(call: Call) -> Result<Reply, Problem> {
    let (environment, id) = item(&call).await?;
    let app = call.app.clone();
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let taken = work::acknowledge(&mut tx, &environment, &id, app.limits.lease_ttl).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&taken)
}

pub(crate) async fn heartbeat(mut call: Call) -> Result<Reply, Problem> {
    let (environment, id) = item(&call).await?;
    let expected = call.query.text("expected_last_heartbeat")?;
    let desired = call.query.number("desired_ttl_seconds", 1, 24 * 60 * 60)?;
    let superseded = lost(&call.caller).is_some();
    let app = call.app.clone();
    call.finish_without_body()?;
    let beat = Beat {
        expected: expected.as_deref(),
        desired_ttl: desired.map(Duration::from_secs),
        ttl: app.limits.lease_ttl,
        superseded,
    };
    let mut tx = app.store.write().await.map_err(problem)?;
    let answer = work::heartbeat(&mut tx, &environment, &id, &beat).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&answer)
}

/// Stops an item and has the engine look at what its session still waits for.
pub(crate) async fn stop(call: Call) -> Result<Reply, Problem> {
    let (environment, id) = item(&call).await?;
    let body: StopWork = call.optional_body()?;
    if let Some(error) = &body.error {
        check_error(error)?;
    }
    if let Some(why) = lost(&call.caller) {
        return Err(Problem::conflict(format!("Work item {id} {why}.")));
    }
    let app = call.app;
    call.query.finish()?;
    let force = body.force.unwrap_or(false) || body.error.is_some();
    Reply::json(&app.engine.end_work(&environment, &id, force, body.error.as_ref()).await?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let environment = environment(&call).await?;
    let list = format!("work:{environment}");
    let query = list_query(&mut call.query, &list, 100)?;
    call.finish_query()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let items = work::list(&mut connection, &environment, &query).await.map_err(problem)?;
    drop(connection);
    let named = items.iter().map(|item| item.data.session());
    let known = Known::of(&call.app, &call.caller, &call.workspace, named).await?;
    let mut page = page(items, query.limit, &list, |item| (item.created_at.as_microsecond(), item.id.to_string()));
    page.data.retain(|item| known.has(item.data.session()));
    Reply::json(&page)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let (environment, id) = item(&call).await?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = work::find(&mut connection, &environment, &id).await.map_err(problem)?;
    Reply::json(&found.ok_or_else(|| Problem::not_found(format!("Work item {id} was not found in this environment.")))?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let (environment, id) = item(&call).await?;
    let body: UpdateWork = call.body()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let updated = work::update(&mut tx, &environment, &id, &body.metadata).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&updated)
}

pub(crate) async fn stats(call: Call) -> Result<Reply, Problem> {
    let environment = environment(&call).await?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let mut stats = work::stats(&mut connection, &environment).await.map_err(problem)?;
    stats.workers_polling = Some(call.app.pollers.count(&environment, Instant::now().into_std()));
    Reply::json(&stats)
}

/// The environment of the path, when the caller may know it.
async fn environment(call: &Call) -> Result<EnvironmentId, Problem> {
    let environment = call.id("environment", "Environment")?;
    call.caller.check_environment(&environment)?;
    // A worker's credential names its environment; a key of the API names only a workspace.
    if matches!(call.caller, Caller::Operator(_) | Caller::ApiKey(_)) {
        let mut connection = call.app.store.read().await.map_err(problem)?;
        let found = environments::find(&mut connection, &call.workspace, &environment).await.map_err(problem)?;
        found.ok_or_else(|| unknown_environment(&environment))?;
    }
    Ok(environment)
}

/// The item of the path, when the caller may know it.
async fn item(call: &Call) -> Result<(EnvironmentId, WorkId), Problem> {
    let environment = environment(call).await?;
    let id = call.id("work", "Work item")?;
    call.caller.check_work(&id)?;
    Ok((environment, id))
}

/// Why the item of a session token is its caller's no more, though the item goes on.
fn lost(caller: &Caller) -> Option<&'static str> {
    match caller {
        Caller::Session(SessionGrant { lease: Lease::Superseded, .. }) => Some("was handed to another worker"),
        Caller::Session(SessionGrant { lease: Lease::Revoked, .. }) => {
            Some("was handed out to an environment key that was revoked")
        }
        _ => None,
    }
}

/// What a worker brings to a sandbox besides its tools.
#[derive(Clone, Copy)]
enum Brings {
    /// As the official ones.
    Nothing,
    /// The variables of the session's vaults and its repositories, as ours.
    Variables,
}

impl Brings {
    /// A worker's own word: one that says too much gets ciphertext that it cannot open.
    fn of(headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if agent.starts_with("postern/") { Self::Variables } else { Self::Nothing }
    }

    /// What a session goes without that comes to another worker than before. Ours looks for its files and says so itself.
    fn left_behind(self, worker: &str) -> Option<Missing> {
        match self {
            Self::Variables => None,
            Self::Nothing => Some(Missing {
                code: "workspace_elsewhere",
                message: format!(
                    "the worker that had this session asks for no work any more, and {} took it. Unless both share a \
                     directory, the files of earlier tool uses are not there. Next step: start the former worker again \
                     under its name, or start a new session",
                    shown(worker)
                ),
                lacking: Lacking::Something,
            }),
        }
    }
}

/// Who asks for work.
struct Polled<'a> {
    environment: &'a EnvironmentId,
    key: &'a EnvironmentKeyId,
    worker: &'a str,
    reclaim: Duration,
    brings: Brings,
}

async fn claim(app: &App, polled: Polled<'_>) -> Result<Option<Work>, Problem> {
    let Polled { environment, key, worker, reclaim, brings } = polled;
    let present = app.pollers.present(environment, Instant::now().into_std());
    let poll = Poll { environment, worker, present: present.as_deref(), reclaim_older_than: reclaim };
    let mut connection = app.store.read().await.map_err(problem)?;
    if !work::claimable(&mut connection, &poll).await.map_err(problem)? {
        return Ok(None);
    }
    drop(connection);
    let token = SessionToken::issue();
    let digest = token.digest();
    let ask = Claim { poll, ttl: app.limits.lease_ttl, token_digest: digest.as_str(), key };
    let mut tx = app.store.write().await.map_err(problem)?;
    let claimed = work::claim(&mut tx, &ask).await.map_err(problem)?;
    let Some(Claimed { work, has_moved }) = claimed else { return Ok(None) };
    let (sealed, mut missing) = brought(&mut tx, environment, work.data.session(), brings).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    if has_moved {
        missing.extend(brings.left_behind(worker));
    }
    if let Err(problem) = app.engine.missing(work.data.session(), missing).await {
        tracing::warn!(session = %work.data.session(), %problem, "a session could not be told what it does not get");
    }
    Ok(Some(Work { secret: Some(payload(&token, &sealed)), ..work }))
}

/// What goes along sealed, and what the session is to be told that it goes without.
async fn brought(
    tx: &mut Tx,
    environment: &EnvironmentId,
    session: &SessionId,
    brings: Brings,
) -> Result<(Vec<String>, Vec<Missing>), StoreError> {
    match brings {
        Brings::Nothing => {
            let mut missing = variables::not_brought(tx, environment, session).await?;
            let unshown = skills::of_roster_alone(tx, session).await?;
            missing.extend((unshown > 0).then(|| variables::roster_skills_not_brought(unshown)));
            Ok((Vec::new(), missing))
        }
        Brings::Variables => Ok(variables::of_session(tx, environment, session).await?.unwrap_or_default()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the token is handed to the worker once, in the answer to its poll")]
fn payload(token: &SessionToken, variables: &[String]) -> String {
    let mut payload = json!({ "sessions_token": token.secret().expose() });
    if !variables.is_empty() {
        payload["variables"] = json!(variables);
    }
    URL_SAFE_NO_PAD.encode(payload.to_string())
}

/// A worker's own word for itself, made fit for a sentence.
fn shown(worker: &str) -> String {
    let name: String = worker.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
    if name.is_empty() { "another worker".to_owned() } else { format!("`{name}`") }
}

fn check_error(error: &WorkError) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if error.code.is_empty() || error.code.len() > MAX_ERROR_CODE || !error.code.bytes().all(plain) {
        return Err(Problem::invalid_at("error.code", "must be 1 to 64 of a-z, 0-9 and `_`"));
    }
    if error.message.chars().count() > MAX_ERROR_MESSAGE {
        return Err(Problem::invalid_at("error.message", format!("must have at most {MAX_ERROR_MESSAGE} characters")));
    }
    Ok(())
}
