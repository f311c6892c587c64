//! Work items that no worker will end any more, and those whose end no session was told of: asked for at every poll and by
//! the clock, since an environment that nobody polls any more has sessions too.

use std::sync::Arc;

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, SessionId, WorkId};
use postern_model::work::{Work, WorkError, WorkState};
use postern_store::sessions::{self, Overdue};
use postern_store::work::{self, Lost, LostCause};
use postern_store::{Jump, StoreError};
use tracing::{error, warn};

use crate::command::Command;
use crate::create::now;
use crate::problem;
use crate::shared::Shared;

/// How many sessions are woken before others get their turn.
const OVERDUE_AT_ONCE: u32 = 50;

/// Settles what is lost anywhere until the engine drains, and says when the wall clock was set.
pub(crate) async fn keep_settled(shared: Arc<Shared>) {
    let drain = shared.drain.clone();
    let mut woken = None;
    loop {
        if let Some(jump) = shared.store.clock().jump() {
            say_jump(jump);
        }
        if let Err(error) = work::note_time(&shared.store).await {
            warn!(error = &error as &dyn std::error::Error, "the lease clock was not noted; it is tried again");
        }
        if let Err(problem) = settle(&shared, None).await {
            warn!(%problem, "lost work items could not be settled; it is tried again");
        }
        if let Err(error) = wake_overdue(&shared, &mut woken).await {
            warn!(
                error = &error as &dyn std::error::Error,
                "sessions with overdue runs were not woken; it is tried again"
            );
        }
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = tokio::time::sleep(shared.settings.settle_every) => {}
        }
    }
}

/// Wakes sessions with a run of a workflow whose lifetime is over: one in which nothing goes on is in nobody's memory. A look
/// goes on behind those that the one before it woke: some stay, because their logs do not read, and hold up no other.
async fn wake_overdue(shared: &Arc<Shared>, woken: &mut Option<Overdue>) -> Result<(), StoreError> {
    let mut reader = shared.store.read().await?;
    let overdue = sessions::overdue(&mut reader, now(), woken.as_ref(), OVERDUE_AT_ONCE).await?;
    drop(reader);
    overdue.iter().for_each(|overdue| shared.wake(&overdue.session));
    *woken = overdue.into_iter().nth(OVERDUE_AT_ONCE as usize - 1);
    Ok(())
}

/// Ends items that no worker will end, of one environment or of all, and tells the sessions of these and of those whose end
/// nobody was told of.
pub(crate) async fn settle(shared: &Arc<Shared>, environment: Option<&EnvironmentId>) -> Result<(), Problem> {
    let mut reader = shared.store.read().await.map_err(problem)?;
    let lost = work::lost(&mut reader, environment).await.map_err(problem)?;
    drop(reader);
    for Lost { environment, work, session, cause } in lost {
        warn!(%work, %session, ?cause, "no worker ended this work item");
        let (is_stopped, failure) = match cause {
            LostCause::Unreported(failure) => (true, failure),
            LostCause::StopUnconfirmed => (false, None),
            LostCause::Attempts => (false, Some(worker_lost())),
        };
        if !is_stopped {
            match stop(shared, &environment, &work, true, failure.as_ref()).await {
                // Somebody else was faster.
                Err(problem) if problem.status() == 409 => continue,
                other => other?,
            };
        }
        // A session that cannot be told, for instance because its log does not read, holds up no other. The next look
        // tries again.
        if let Err(problem) = report(shared, &work, &session, failure.as_ref()).await {
            error!(%work, %session, %problem, "a session could not be told that its work item ended");
        }
    }
    Ok(())
}

/// Stops an item and has the engine look at what its session still waits for, once it has stopped.
pub(crate) async fn end(
    shared: &Arc<Shared>,
    environment: &EnvironmentId,
    id: &WorkId,
    force: bool,
    failure: Option<&WorkError>,
) -> Result<Work, Problem> {
    let stopped = stop(shared, environment, id, force, failure).await?;
    if stopped.state == WorkState::Stopped {
        report(shared, &stopped.id, stopped.data.session(), failure).await?;
    }
    Ok(stopped)
}

async fn stop(
    shared: &Shared,
    environment: &EnvironmentId,
    id: &WorkId,
    force: bool,
    failure: Option<&WorkError>,
) -> Result<Work, Problem> {
    let mut tx = shared.store.write().await.map_err(problem)?;
    let stopped = work::stop(&mut tx, environment, id, force).await.map_err(problem)?;
    if let Some(failure) = failure {
        work::note_failure(&mut tx, id, failure).await.map_err(problem)?;
    }
    tx.commit().await.map_err(problem)?;
    Ok(stopped)
}

/// Tells the session of a stopped item. Until that is noted it is told again, so that a server that dies in between leaves
/// no session waiting for nobody.
async fn report(
    shared: &Arc<Shared>,
    id: &WorkId,
    session: &SessionId,
    failure: Option<&WorkError>,
) -> Result<(), Problem> {
    let told = match failure.cloned() {
        Some(WorkError { code, message }) => {
            shared.ask(None, session, |reply| Command::FailWork { code, message, reply }).await
        }
        None => shared.ask(None, session, |reply| Command::WorkEnded { reply }).await,
    };
    match told {
        // The session is gone: nobody is left to tell.
        Err(problem) if problem.status() == 404 => {}
        other => other?,
    }
    let mut tx = shared.store.write().await.map_err(problem)?;
    work::reported(&mut tx, id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)
}

fn say_jump(Jump { by }: Jump) {
    warn!(
        code = "clock_jumped",
        by_seconds = by.as_secs(),
        "the wall clock was set, or this host slept: leases are kept as before, schedules, webhooks and expiry follow the clock"
    );
}

fn worker_lost() -> WorkError {
    let message = "Every worker that took this session was lost before it could serve it. Look at the workers' logs, then \
                   send another message.";
    WorkError { code: "worker_lost".to_owned(), message: message.to_owned() }
}
