//! Deployments: creating, changing and running them (contract 1.13). What a session would be refused for is refused when the
//! deployment is made: a session is begun and taken back.

mod clock;
mod definition;
mod tokens;

use std::sync::Arc;

use postern_model::deployment::{
    CreateDeployment, Deployment, DeploymentRun, DeploymentRunTag, DeploymentStatus, PausedError, PausedReason,
    RunError, RunErrorType, Trigger, UpdateDeployment,
};
use postern_model::ids::{DeploymentId, DeploymentRunId, SessionId, WorkspaceId};
use postern_model::webhook::Happening;
use postern_model::{Problem, Timestamp};
use postern_secret::seal::session_of_run;
use postern_store::Tx;
use postern_store::answers::Once;
use postern_store::deployments::{self, DeploymentFilter, Next, Record, runs};
use postern_store::list::ListQuery;
use serde_json::json;

#[cfg(test)]
pub(crate) use clock::fire;
pub(crate) use clock::keep_time;
use tokens::Tokens;

use crate::create::{self, Begins, Begun, now};
use crate::problem;
use crate::schedule::Cron;
use crate::shared::Shared;

/// How many of the next times a deployment shows.
const UPCOMING: usize = 5;
/// How many deployments of a workspace may have a schedule.
const MOST_SCHEDULED: u64 = 1000;

/// A run of a deployment, as the session that it begins is made from it.
pub(crate) struct Run {
    /// Of which deployment.
    pub(crate) deployment: DeploymentId,
    /// The run.
    pub(crate) id: DeploymentRunId,
}

impl Run {
    /// The id of its session, which no other run comes to: by it a perimeter knows that the deployment's tokens are for that session.
    pub(crate) fn session(&self) -> SessionId {
        let id = session_of_run(self.deployment.as_str(), self.id.as_str());
        SessionId::parse(&id).expect("it is made as ids of sessions are")
    }
}

pub(crate) async fn create(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    body: CreateDeployment,
    once: Option<&Once>,
) -> Result<Deployment, Problem> {
    let definition = definition::created(body)?;
    let (deployment, tokens) = rehearse(shared, workspace, definition).await?;
    let mut tx = shared.store.write().await.map_err(problem)?;
    let record = Record { workspace_id: workspace.clone(), next: next_time(&deployment, now())?, deployment };
    check_count(&mut tx, &record, false).await?;
    deployments::create(&mut tx, &record).await.map_err(problem)?;
    keep(&mut tx, &record, tokens).await?;
    let deployment = rendered(record)?;
    create::remember(&mut tx, once, &deployment).await?;
    tx.commit().await.map_err(problem)?;
    shared.deployments_changed.notify_one();
    Ok(deployment)
}

pub(crate) async fn find(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
) -> Result<Deployment, Problem> {
    let mut reader = shared.store.read().await.map_err(problem)?;
    rendered(deployments::required(&mut reader, workspace, id).await.map_err(problem)?)
}

/// A page, and one more when another follows.
pub(crate) async fn list(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    query: &ListQuery,
    filter: &DeploymentFilter,
) -> Result<Vec<Deployment>, Problem> {
    let mut reader = shared.store.read().await.map_err(problem)?;
    let records = deployments::list(&mut reader, workspace, query, filter).await.map_err(problem)?;
    records.into_iter().map(rendered).collect()
}

pub(crate) async fn update(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
    body: UpdateDeployment,
) -> Result<Deployment, Problem> {
    let mut reader = shared.store.read().await.map_err(problem)?;
    let stored = active(deployments::required(&mut reader, workspace, id).await.map_err(problem)?)?;
    drop(reader);
    let definition = definition::updated(stored.deployment.clone(), body)?;
    let (deployment, tokens) = rehearse(shared, workspace, definition).await?;
    if deployment == stored.deployment && !tokens.as_ref().is_some_and(Tokens::brings) {
        return rendered(stored);
    }
    let mut tx = shared.store.write().await.map_err(problem)?;
    // Whoever changed it meanwhile, or let it run, is not overwritten.
    if deployments::required(&mut tx, workspace, id).await.map_err(problem)? != stored {
        return Err(Problem::conflict(format!(
            "Deployment {id} was changed meanwhile. Read it again and repeat the change."
        )));
    }
    let now = now();
    let rescheduled = schedule_param(&deployment) != schedule_param(&stored.deployment);
    let next = if rescheduled { next_time(&deployment, now)? } else { stored.next };
    let had_schedule = stored.deployment.schedule.is_some();
    let record = Record { deployment: Deployment { updated_at: now, ..deployment }, next, ..stored };
    check_count(&mut tx, &record, had_schedule).await?;
    keep(&mut tx, &record, tokens).await?;
    save(shared, tx, record, Happening::DeploymentUpdated).await
}

/// Archives, pauses or unpauses; what it is already changes nothing.
pub(crate) async fn turn(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
    turn: Turn,
) -> Result<Deployment, Problem> {
    let mut tx = shared.store.write().await.map_err(problem)?;
    let stored = deployments::required(&mut tx, workspace, id).await.map_err(problem)?;
    if turn == Turn::Archive && stored.deployment.archived_at.is_some() {
        return rendered(stored);
    }
    let Record { workspace_id, deployment, .. } = active(stored.clone())?;
    let now = now();
    let deployment = match (turn, deployment.status) {
        (Turn::Archive, _) => Deployment { archived_at: Some(now), ..started(deployment) },
        (Turn::Pause, DeploymentStatus::Active) => paused(deployment, PausedReason::Manual),
        (Turn::Unpause, DeploymentStatus::Paused) => started(deployment),
        (Turn::Pause | Turn::Unpause, _) => return rendered(stored),
    };
    let deployment = Deployment { updated_at: now, ..deployment };
    let next = next_time(&deployment, now)?;
    let happening = match turn {
        Turn::Archive => Happening::DeploymentArchived,
        Turn::Pause => Happening::DeploymentPaused,
        Turn::Unpause => Happening::DeploymentUnpaused,
    };
    save(shared, tx, Record { workspace_id, deployment, next }, happening).await
}

/// What may be done to a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// For good.
    Archive,
    /// It no longer runs by itself.
    Pause,
    /// It does again; times that passed meanwhile are not made up for.
    Unpause,
}

/// Runs a deployment now, paused or not.
pub(crate) async fn run_now(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &DeploymentId,
    once: Option<&Once>,
) -> Result<DeploymentRun, Problem> {
    let run = run(shared, (workspace, id), Trigger::Manual, once).await?;
    run.ok_or_else(Problem::internal)
}

/// Begins a session and records the run with it, or records why none began. None when somebody else acted on the scheduled time.
async fn run(
    shared: &Arc<Shared>,
    which: (&WorkspaceId, &DeploymentId),
    trigger: Trigger,
    once: Option<&Once>,
) -> Result<Option<DeploymentRun>, Problem> {
    let (workspace, id) = which;
    let Some((mut tx, record)) = claimed(shared, which, trigger).await? else { return Ok(None) };
    let begun = Run { deployment: id.clone(), id: DeploymentRunId::generate() };
    let new = |session_id, error| DeploymentRun {
        id: begun.id.clone(),
        kind: DeploymentRunTag::DeploymentRun,
        deployment_id: id.clone(),
        agent: record.deployment.agent.clone(),
        trigger_context: trigger,
        session_id,
        error,
        created_at: now(),
    };
    match begin(shared, &mut tx, &record, &begun).await {
        Ok(begun) => {
            let run = new(Some(begun.actor.record.id.clone()), None);
            runs::create(&mut tx, workspace, &run).await.map_err(problem)?;
            create::remember(&mut tx, once, &run).await?;
            tx.commit().await.map_err(problem)?;
            begun.adopt(shared);
            Ok(Some(run))
        }
        Err(refused) => {
            drop(tx);
            let kind = RunErrorType::of(&refused);
            tracing::warn!(deployment = %id, reason = %refused, "a deployment's run began no session");
            let run = new(None, Some(RunError { kind, message: refused.message }));
            let Some(mut tx) = note_failed(shared, &record, &run).await? else { return Ok(None) };
            create::remember(&mut tx, once, &run).await?;
            tx.commit().await.map_err(problem)?;
            Ok(Some(run))
        }
    }
}

/// Notes that a run of this deployment began no session; the transaction is the caller's to commit. Where no later run could
/// better, the deployment is paused: as it was then, and not as somebody has corrected it since.
pub(crate) async fn note_failed(
    shared: &Arc<Shared>,
    record: &Record,
    run: &DeploymentRun,
) -> Result<Option<Tx>, Problem> {
    let which = (&record.workspace_id, &run.deployment_id);
    let Some((mut tx, present)) = claimed(shared, which, run.trigger_context).await? else { return Ok(None) };
    runs::create(&mut tx, &record.workspace_id, run).await.map_err(problem)?;
    let kind = run.error.as_ref().map(|error| error.kind).filter(|kind| kind.pauses());
    if let Some(kind) = kind
        && run.trigger_context != Trigger::Manual
        && present.deployment == record.deployment
    {
        pause_for(&mut tx, record, kind).await?;
    }
    Ok(Some(tx))
}

/// A transaction in which the scheduled time is this caller's, and the deployment as it is then: whatever change of it was
/// acknowledged holds.
async fn claimed(
    shared: &Arc<Shared>,
    (workspace, id): (&WorkspaceId, &DeploymentId),
    trigger: Trigger,
) -> Result<Option<(Tx, Record)>, Problem> {
    let mut tx = shared.store.write().await.map_err(problem)?;
    let record = deployments::required(&mut tx, workspace, id).await.map_err(problem)?;
    let Trigger::Schedule { scheduled_at } = trigger else { return Ok(Some((tx, active(record)?))) };
    let next = next_time(&record.deployment, now())?;
    let is_ours = deployments::claim(&mut tx, id, scheduled_at, next).await.map_err(problem)?;
    Ok(is_ours.then_some((tx, record)))
}

async fn pause_for(tx: &mut Tx, record: &Record, kind: RunErrorType) -> Result<(), Problem> {
    let Record { workspace_id, deployment, .. } = record;
    let stored = deployments::required(tx, workspace_id, &deployment.id).await.map_err(problem)?;
    let deployment = paused(stored.deployment.clone(), PausedReason::Error { error: PausedError { kind } });
    let deployment = Deployment { updated_at: now(), ..deployment };
    let record = Record { deployment, next: None, ..stored };
    deployments::save(tx, &record, Happening::DeploymentPaused).await.map_err(problem)
}

/// Stores what an update or a new deployment says of tokens; where it says nothing of repositories, those stay that are there.
async fn keep(tx: &mut Tx, record: &Record, tokens: Option<Tokens>) -> Result<(), Problem> {
    match tokens {
        Some(tokens) => {
            tokens.keep(tx, &record.workspace_id, &record.deployment.id, record.deployment.updated_at).await
        }
        None => Ok(()),
    }
}

/// Begins a session and takes it back: the deployment with its agent pinned, and what it says of tokens, or why no session can begin.
async fn rehearse(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    definition: definition::Definition,
) -> Result<(Deployment, Option<Tokens>), Problem> {
    let mut tx = shared.store.write().await.map_err(problem)?;
    let request = definition.session()?;
    let Begun { actor, .. } = create::begin(shared, &mut tx, workspace, request, (Begins::Deployment, None)).await?;
    Ok(definition.pinned(actor.record.agent.version))
}

async fn begin(shared: &Arc<Shared>, tx: &mut Tx, record: &Record, run: &Run) -> Result<Begun, Problem> {
    let Record { workspace_id, deployment, .. } = record;
    let agent = json!({"type": "agent", "id": deployment.agent.id, "version": deployment.agent.version});
    let request = definition::session(deployment, &agent)?;
    create::begin(shared, tx, workspace_id, request, (Begins::Deployment, Some(run))).await
}

async fn save(shared: &Arc<Shared>, mut tx: Tx, record: Record, happening: Happening) -> Result<Deployment, Problem> {
    deployments::save(&mut tx, &record, happening).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    shared.deployments_changed.notify_one();
    rendered(record)
}

async fn check_count(tx: &mut Tx, record: &Record, had_schedule: bool) -> Result<(), Problem> {
    if record.deployment.schedule.is_none() || had_schedule {
        return Ok(());
    }
    if deployments::scheduled(tx, &record.workspace_id).await.map_err(problem)? >= MOST_SCHEDULED {
        let message =
            format!("{MOST_SCHEDULED} deployments have a schedule already; archive one, or run this one by hand");
        return Err(Problem::invalid_at("schedule", message));
    }
    Ok(())
}

fn active(record: Record) -> Result<Record, Problem> {
    match record.deployment.archived_at {
        None => Ok(record),
        Some(_) => {
            let message =
                format!("Deployment {} is archived for good and cannot be changed or run.", record.deployment.id);
            Err(Problem::invalid(message))
        }
    }
}

fn paused(deployment: Deployment, reason: PausedReason) -> Deployment {
    Deployment { status: DeploymentStatus::Paused, paused_reason: Some(reason), ..deployment }
}

fn started(deployment: Deployment) -> Deployment {
    Deployment { status: DeploymentStatus::Active, paused_reason: None, ..deployment }
}

fn schedule_param(deployment: &Deployment) -> Option<&postern_model::deployment::ScheduleParam> {
    deployment.schedule.as_ref().map(|schedule| &schedule.param)
}

/// When it runs by itself next.
fn next_time(deployment: &Deployment, now: Timestamp) -> Result<Option<Next>, Problem> {
    let rests = deployment.status == DeploymentStatus::Paused || deployment.archived_at.is_some();
    let Some(param) = schedule_param(deployment).filter(|_| !rests) else { return Ok(None) };
    let cron = Cron::read(param)?;
    let scheduled_at = cron.after(now, 1).first().copied();
    Ok(scheduled_at
        .map(|scheduled_at| Next { scheduled_at, fires_at: cron.with_jitter(scheduled_at, deployment.id.as_str()) }))
}

/// As it is shown, with the next times.
fn rendered(record: Record) -> Result<Deployment, Problem> {
    let mut deployment = record.deployment;
    if let Some(schedule) = deployment.schedule.as_mut().filter(|_| deployment.archived_at.is_none()) {
        schedule.upcoming_runs_at = Cron::read(&schedule.param)?.after(now(), UPCOMING);
    }
    Ok(deployment)
}
