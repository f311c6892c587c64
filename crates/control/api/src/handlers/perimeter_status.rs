//! What the control plane may ask of the perimeters that serve it: freeze, thaw and revoke a session's grants, and how
//! each process stands. Each perimeter decides for itself; here its verdicts become an answer.

use std::time::Duration;

use postern_engine::control::{CommandFailure, Owner, Peer, Told, Verdict};
use postern_model::Problem;
use postern_model::control::{CommandRefusal, PerimeterStatus};
use postern_model::ids::{EnvironmentId, SessionId};
use postern_model::problem::Kind;
use postern_store::holds::{Hold, Saying};
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;
use crate::scope::Known;

/// Nothing of the session runs or leaves any more.
pub(crate) async fn freeze(call: Call) -> Result<Reply, Problem> {
    command(call, "freeze", Saying::Freeze).await
}

/// A frozen session goes on.
pub(crate) async fn thaw(call: Call) -> Result<Reply, Problem> {
    command(call, "thaw", Saying::Thaw).await
}

/// The session's secrets are dropped for good.
pub(crate) async fn revoke_grants(call: Call) -> Result<Reply, Problem> {
    command(call, "revoke_grants", Saying::RevokeGrants).await
}

async fn command(call: Call, word: &'static str, saying: Saying) -> Result<Reply, Problem> {
    let id: SessionId = call.id("session", "Session")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let session = app.engine.session(&workspace, &id).await?;
    let environment = &session.environment_id;
    let told = app.control.say(&workspace, environment, &id, saying, PATIENCE).await.map_err(problem)?;
    tracing::info!(session = %id, word, who, told = told.verdicts.len(), "a session is held or let go");
    let perimeters: Vec<Value> = told.verdicts.iter().map(verdict).collect();
    if let Some(failure) = failure(&told, saying, environment) {
        return Err(refused(word, &failure, &told.hold, perimeters));
    }
    Reply::json(&Obeyed { kind: "session_control", session_id: &id, command: word, hold: held(&told.hold), perimeters })
}

#[derive(Serialize)]
struct Obeyed<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    session_id: &'a SessionId,
    command: &'static str,
    hold: Value,
    perimeters: Vec<Value>,
}

fn held(hold: &Hold) -> Value {
    json!({"frozen": hold.frozen, "grants_revoked": hold.grants_revoked})
}

/// Why the command is not in effect everywhere where the session is or may be. A process that does not have it does not
/// count; but where a worker may have it, one has to have obeyed.
fn failure(told: &Told, saying: Saying, environment: &EnvironmentId) -> Option<CommandFailure> {
    let failures = || told.verdicts.iter().filter_map(|verdict| verdict.result.as_ref().err());
    let real = failures().find(|failure| !failure.is_not_held());
    let a_worker_obeyed = || {
        let is_worker = |verdict: &&Verdict| matches!(verdict.peer.owner, Owner::Environment(_));
        told.verdicts.iter().filter(is_worker).any(|verdict| verdict.result.is_ok())
    };
    let somebody_may_have_it = match saying {
        Saying::Freeze | Saying::RevokeGrants => told.handed_out.now,
        // Who had it once may still hold it.
        Saying::Thaw => told.handed_out.ever,
    };
    match real {
        Some(failure) => Some(failure.clone()),
        None if somebody_may_have_it && !a_worker_obeyed() => {
            let not_held = failures().next().cloned();
            Some(not_held.unwrap_or_else(|| CommandFailure::NobodyConnected(Owner::Environment(environment.clone()))))
        }
        None => None,
    }
}

/// 409 where the same command will be refused again, 503 where it may be in effect by then.
fn refused(word: &str, failure: &CommandFailure, hold: &Hold, perimeters: Vec<Value>) -> Problem {
    let kind = match failure {
        CommandFailure::Refused(_) | CommandFailure::TooLarge => Kind::Conflict,
        CommandFailure::NobodyConnected(_)
        | CommandFailure::NoWorker
        | CommandFailure::Busy
        | CommandFailure::Late(_)
        | CommandFailure::Gone
        | CommandFailure::Misanswered => Kind::Unavailable,
    };
    let message = format!(
        "{word} is kept here, but is not in effect: {failure}. Whoever has the session is told when it connects or reports \
         the session. Next step: {}.",
        failure.next_step()
    );
    Problem::new(kind, message)
        .with_code(code(failure))
        .with_detail("perimeter_code", failure.code())
        .with_detail("hold", held(hold))
        .with_detail("perimeters", perimeters)
}

/// The API's own word; a perimeter's stands beside it.
fn code(failure: &CommandFailure) -> &'static str {
    match failure {
        CommandFailure::NobodyConnected(Owner::Environment(_)) | CommandFailure::NoWorker => "worker_none",
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

/// How everyone stands who is connected now, with those of their sessions that the caller may know.
pub(crate) async fn status(call: Call) -> Result<Reply, Problem> {
    let (app, workspace, caller) = (call.app.clone(), call.workspace.clone(), call.caller.clone());
    call.finish_without_body()?;
    let mut statuses = app.control.statuses(&workspace, PATIENCE).await;
    statuses.sort_by_key(|(peer, _)| peer.since);
    let named: Vec<SessionId> = statuses.iter().flat_map(|(peer, status)| held_by(peer, status)).cloned().collect();
    let known = Known::of(&app, &caller, &workspace, &named).await?;
    for (peer, status) in &mut statuses {
        peer.sessions.retain(|session| known.has(session));
        if let Ok(status) = status {
            status.sessions.retain(|standing| known.has(&standing.session));
        }
    }
    let data: Vec<Value> = statuses.iter().map(|(peer, status)| standing(peer, status)).collect();
    Reply::json(&json!({"data": data}))
}

fn held_by<'a>(
    peer: &'a Peer,
    status: &'a Result<PerimeterStatus, CommandFailure>,
) -> impl Iterator<Item = &'a SessionId> {
    let reported = status.iter().flat_map(|status| &status.sessions).map(|standing| &standing.session);
    peer.sessions.iter().chain(reported)
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
