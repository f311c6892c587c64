//! What the control plane may ask of the perimeters that serve it: freeze, thaw and revoke a session's grants, and how
//! each process stands. Each perimeter decides for itself; here its verdicts become an answer.

use std::time::Duration;

use postern_engine::control::{CommandFailure, Owner, Peer, Verdict};
use postern_model::Problem;
use postern_model::control::{CommandBody, CommandRefusal, PerimeterStatus};
use postern_model::ids::SessionId;
use postern_model::problem::Kind;
use serde::Serialize;
use serde_json::{Value, json};

use crate::dispatch::Call;
use crate::reply::Reply;

/// Nothing of the session runs or leaves any more.
pub(crate) async fn freeze(call: Call) -> Result<Reply, Problem> {
    command(call, |session| CommandBody::Freeze { session }).await
}

/// A frozen session goes on.
pub(crate) async fn thaw(call: Call) -> Result<Reply, Problem> {
    command(call, |session| CommandBody::Thaw { session }).await
}

/// The session's secrets are dropped for good.
pub(crate) async fn revoke_grants(call: Call) -> Result<Reply, Problem> {
    command(call, |session| CommandBody::RevokeGrants { session }).await
}

async fn command(call: Call, body: fn(SessionId) -> CommandBody) -> Result<Reply, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let session = app.engine.session(&workspace, &id).await?;
    let body = body(id.clone());
    let word = body.name();
    let environment = &session.environment_id;
    let verdicts = app.control.command_all(&workspace, environment, &id, body, PATIENCE).await;
    let perimeters: Vec<Value> = verdicts.iter().map(verdict).collect();
    match failure(&verdicts) {
        _ if verdicts.is_empty() => {
            Err(refused(word, &CommandFailure::NobodyConnected(Owner::Environment(environment.clone())), perimeters))
        }
        Some(failure) => Err(refused(word, failure, perimeters)),
        None => Reply::json(&Obeyed { kind: "session_control", session_id: &id, command: word, perimeters }),
    }
}

#[derive(Serialize)]
struct Obeyed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    session_id: &'a SessionId,
    command: &'static str,
    perimeters: Vec<Value>,
}

/// Why the command is not in effect everywhere where the session is. A process that does not have it does not count
/// beside one that has.
fn failure(verdicts: &[Verdict]) -> Option<&CommandFailure> {
    let mut failures = verdicts.iter().filter_map(|verdict| verdict.result.as_ref().err());
    let anyone_obeyed = verdicts.iter().any(|verdict| verdict.result.is_ok());
    let real = failures.clone().find(|failure| !failure.is_not_held());
    real.or_else(|| failures.next().filter(|_| !anyone_obeyed))
}

/// 409 where the same command will be refused again, 503 where it may be in effect by then.
fn refused(word: &str, failure: &CommandFailure, perimeters: Vec<Value>) -> Problem {
    let kind = match failure {
        CommandFailure::Refused(_) | CommandFailure::TooLarge => Kind::Conflict,
        CommandFailure::NobodyConnected(_)
        | CommandFailure::Busy
        | CommandFailure::Late(_)
        | CommandFailure::Gone
        | CommandFailure::Misanswered => Kind::Unavailable,
    };
    let message = format!("{word} is not in effect: {failure}. Next step: {}.", failure.next_step());
    Problem::new(kind, message)
        .with_code(code(failure))
        .with_detail("perimeter_code", failure.code())
        .with_detail("perimeters", perimeters)
}

/// The API's own word; a perimeter's stands beside it.
fn code(failure: &CommandFailure) -> &'static str {
    match failure {
        CommandFailure::NobodyConnected(Owner::Environment(_)) => "worker_none",
        CommandFailure::NobodyConnected(Owner::Tunnel(_)) => "gateway_none",
        CommandFailure::Refused(refusal) if refusal.code == CommandRefusal::NOT_HELD => "session_not_held",
        CommandFailure::Refused(_) => "perimeter_refused",
        CommandFailure::Busy => "perimeter_busy",
        CommandFailure::Late(_) => "perimeter_late",
        CommandFailure::Gone => "perimeter_gone",
        CommandFailure::TooLarge => "file_too_large",
        CommandFailure::Misanswered => "perimeter_misanswered",
    }
}

fn verdict(verdict: &Verdict) -> Value {
    let mut value = who(&verdict.peer);
    match &verdict.result {
        Ok(_) => value["obeyed"] = true.into(),
        Err(failure) => {
            value["obeyed"] = false.into();
            value["error"] = because(failure);
        }
    }
    value
}

/// How everyone stands who is connected now.
pub(crate) async fn status(call: Call) -> Result<Reply, Problem> {
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut statuses = app.control.statuses(&workspace, PATIENCE).await;
    statuses.sort_by_key(|(peer, _)| peer.since);
    let data: Vec<Value> = statuses.iter().map(|(peer, status)| standing(peer, status)).collect();
    Reply::json(&json!({"data": data}))
}

fn standing(peer: &Peer, status: &Result<PerimeterStatus, CommandFailure>) -> Value {
    let mut value = who(peer);
    value["version"] = peer.version.clone().into();
    value["connected_at"] = json!(peer.since);
    value["sessions_held"] = peer.sessions.len().into();
    match status {
        Ok(status) => value["status"] = json!(status),
        Err(failure) => value["error"] = because(failure),
    }
    value
}

fn who(peer: &Peer) -> Value {
    let mut value = json!({"type": "perimeter_process", "role": peer.role, "name": peer.name});
    match &peer.owner {
        Owner::Environment(environment) => value["environment_id"] = json!(environment),
        Owner::Tunnel(tunnel) => value["tunnel_id"] = json!(tunnel),
    }
    value
}

fn because(failure: &CommandFailure) -> Value {
    json!({"code": failure.code(), "message": failure.to_string(), "next_step": failure.next_step()})
}

/// A perimeter that takes longer than this is reported as late.
const PATIENCE: Duration = Duration::from_secs(5);
