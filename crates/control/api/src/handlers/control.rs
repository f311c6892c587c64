//! Control streams: a worker's or gateway's request is switched to the stream and handed to the hub, and ended within a
//! second once its credential would not open it any more.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use postern_engine::control::{Owner, Seat};
use postern_model::control::PROTOCOL;
use postern_model::problem::Kind as ProblemKind;
use postern_model::{Problem, Timestamp};
use postern_store::{environments, tunnels};
use tokio::time::timeout;

use crate::app::{App, problem};
use crate::caller::{Caller, authenticate, unknown_environment};
use crate::dispatch::Call;
use crate::reply::Reply;

/// Switches the connection to a control stream.
pub(crate) async fn connect(mut call: Call) -> Result<Reply, Problem> {
    let upgrade = call.upgrade.take().filter(|_| asks_for_it(&call.headers)).ok_or_else(not_asked_for)?;
    if announces_a_body(&call.headers) {
        return Err(with_a_body());
    }
    let owner = owner(&call.app, &call.caller).await?;
    let seat = call.app.control.seat(&call.workspace, &owner).ok_or_else(no_seat)?;
    let (app, headers) = (call.app.clone(), call.headers.clone());
    call.finish_without_body()?;
    // Owned by the hub, which counts its seat and awaits it when it drains.
    tokio::spawn(serve(app, headers, owner, seat, upgrade));
    Ok(Reply::Switch(PROTOCOL))
}

async fn serve(app: App, headers: HeaderMap, owner: Owner, seat: Seat, upgrade: OnUpgrade) {
    match timeout(SWITCH, upgrade).await {
        Ok(Ok(switched)) => {
            let ends = until_refused(app.clone(), headers, owner);
            app.control.attach(seat, TokioIo::new(switched), ends).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a control stream was not taken up"),
        Err(_) => tracing::debug!("a control stream was not taken up in time"),
    }
}

/// Completes when the credential would not open this stream any more: its key was revoked, its environment archived.
async fn until_refused(app: App, headers: HeaderMap, owner: Owner) {
    loop {
        tokio::time::sleep(RECHECK).await;
        match still(&app, &headers, &owner).await {
            Ok(true) => {}
            // Trouble of our own is not the caller's.
            Err(problem) if problem.kind == ProblemKind::Internal => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Whether the stream may stay. A tunnel's rotated token opens nothing new, and what stands stays until a revocation.
async fn still(app: &App, headers: &HeaderMap, was: &Owner) -> Result<bool, Problem> {
    match was {
        Owner::Environment(_) => Ok(owner(app, &authenticate(app, headers).await?).await? == *was),
        Owner::Tunnel(tunnel) => {
            let mut connection = app.store.read().await.map_err(problem)?;
            let now = tunnels::entry(&mut connection, tunnel).await.map_err(problem)?;
            Ok(now.is_some_and(|now| !now.archived && now.token_digest.is_some()))
        }
    }
}

/// Whose stream this is, where it may be one now.
async fn owner(app: &App, caller: &Caller) -> Result<Owner, Problem> {
    let grant = match caller {
        Caller::Environment(grant) => grant,
        Caller::Tunnel(grant) => return Ok(Owner::Tunnel(grant.tunnel.clone())),
        Caller::Operator(_) | Caller::ApiKey(_) | Caller::Session(_) => {
            return Err(Problem::permission("A control stream takes an environment key or a tunnel token."));
        }
    };
    let mut connection = app.store.read().await.map_err(problem)?;
    let found = environments::find(&mut connection, &grant.workspace, &grant.environment).await.map_err(problem)?;
    let found = found.ok_or_else(|| unknown_environment(&grant.environment))?;
    match found.archived_at {
        Some(at) => Err(archived(at)),
        None => Ok(Owner::Environment(grant.environment.clone())),
    }
}

fn archived(at: Timestamp) -> Problem {
    Problem::invalid(format!("The environment was archived at {at} and is not served any more."))
        .with_code("environment_archived")
}

fn asks_for_it(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).and_then(|value| value.to_str().ok()).is_some_and(|token| token.eq_ignore_ascii_case(PROTOCOL))
}

/// Where a body ends and the stream begins, a proxy may see otherwise than this server: there is none.
fn announces_a_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn with_a_body() -> Problem {
    Problem::invalid("A control stream is asked for without a body.").with_code("body_not_allowed")
}

fn not_asked_for() -> Problem {
    Problem::invalid(format!(
        "Send `connection: upgrade` and `upgrade: {PROTOCOL}` over HTTP/1.1; workers and gateways do."
    ))
    .with_code("upgrade_required")
}

fn no_seat() -> Problem {
    Problem::new(ProblemKind::RateLimited, "There are as many control streams as this credential or server may have.")
        .with_code("limit_control_streams")
}

/// How soon a revoked credential is noticed: its streams end within a second.
const RECHECK: Duration = Duration::from_millis(250);
/// How long a client may take to take up what it asked for.
const SWITCH: Duration = Duration::from_secs(10);
