//! What all sessions share, and finding the task of one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_model::Problem;
use postern_model::ids::{SessionId, WorkspaceId};
use postern_session::{Counsellor, Deed};
use postern_store::Store;
use postern_upstream::Model;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::{self, Actor};
use crate::command::{Command, Envelope, Reply};
use crate::oauth::Renewing;
use crate::{Settings, Surroundings};

/// How many commands may wait for one session; whoever sends more waits.
const WAITING_COMMANDS: usize = 64;

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) surroundings: Surroundings,
    pub(crate) settings: Settings,
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Something about the times of deployments changed.
    pub(crate) deployments_changed: Notify,
    /// There may be bytes that nothing names any more.
    pub(crate) litter: Notify,
    sessions: Mutex<HashMap<SessionId, mpsc::Sender<Envelope>>>,
    /// OAuth credentials whose tokens are being renewed.
    pub(crate) renewing: Renewing,
    /// Lets a test end everything right after the n-th commit, as a crash would.
    #[cfg(test)]
    pub(crate) fuse: Mutex<Option<u32>>,
}

impl Shared {
    pub(crate) fn new(store: Store, model: Arc<dyn Model>, surroundings: Surroundings, settings: Settings) -> Self {
        let mut settings = settings;
        settings.limits.judge = settings.judge.as_ref().map_or(Counsellor::Absent, |_| Counsellor::Present);
        Self {
            store,
            model,
            surroundings,
            settings,
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            deployments_changed: Notify::new(),
            litter: Notify::new(),
            sessions: Mutex::default(),
            renewing: Renewing::default(),
            #[cfg(test)]
            fuse: Mutex::new(None),
        }
    }

    /// Has the session's task do something, and waits for its answer.
    pub(crate) async fn ask<T>(
        self: &Arc<Self>,
        workspace: Option<&WorkspaceId>,
        id: &SessionId,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.send(id, Envelope { workspace: workspace.cloned(), command: command(reply) }).await?;
        // The task is gone without an answer only when the store failed or the engine drains.
        answer.await.unwrap_or_else(|_| Err(self.unavailable()))
    }

    /// Makes sure that the session's task is there.
    pub(crate) fn wake(self: &Arc<Self>, id: &SessionId) {
        // A queue that is full belongs to a task that is there.
        let _ = self.task(id).try_send(Envelope { workspace: None, command: Command::Wake });
    }

    /// Has a session whose log could not be read or written go on when the store may have recovered.
    pub(crate) fn wake_later(self: &Arc<Self>, id: &SessionId) {
        let (shared, id) = (Arc::clone(self), id.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shared.drain.cancelled() => {}
                () = tokio::time::sleep(shared.settings.recovery) => shared.wake(&id),
            }
        });
    }

    pub(crate) async fn send(self: &Arc<Self>, id: &SessionId, mut envelope: Envelope) -> Result<(), Problem> {
        while !self.drain.is_cancelled() {
            match self.task(id).send(envelope).await {
                Ok(()) => return Ok(()),
                // The task ended between the look-up and the send: the next look-up finds or starts another.
                Err(mpsc::error::SendError(unsent)) => envelope = unsent,
            }
        }
        Err(self.unavailable())
    }

    /// What the session's task is sent commands by; it is started where it is not there.
    pub(crate) fn task(self: &Arc<Self>, id: &SessionId) -> mpsc::Sender<Envelope> {
        let mut sessions = self.sessions();
        if let Some(commands) = sessions.get(id)
            && !commands.is_closed()
        {
            return commands.clone();
        }
        let (sender, commands) = mpsc::channel(WAITING_COMMANDS);
        sessions.insert(id.clone(), sender.clone());
        self.tasks.spawn(actor::load_and_run(Arc::clone(self), id.clone(), commands));
        sender
    }

    /// Starts the task of a session that was just created, and what its first events come to.
    pub(crate) fn adopt(self: &Arc<Self>, mut actor: Actor, deeds: Vec<Deed>) {
        let (sender, commands) = mpsc::channel(WAITING_COMMANDS);
        {
            let mut sessions = self.sessions();
            if sessions.get(actor.id()).is_some_and(|there| !there.is_closed()) {
                // Whoever knows its id has it from the commit: that task has read the log, and does all of this itself.
                return;
            }
            sessions.insert(actor.id().clone(), sender);
        }
        actor.show_and_begin(deeds);
        self.tasks.spawn(actor.run(commands));
    }

    /// Ends a task's membership. What was sent to it and not done goes to its successor.
    pub(crate) fn retire(self: &Arc<Self>, id: &SessionId, commands: &mut mpsc::Receiver<Envelope>) {
        let mut left = Vec::new();
        {
            let mut sessions = self.sessions();
            commands.close();
            while let Ok(envelope) = commands.try_recv() {
                left.push(envelope);
            }
            if sessions.get(id).is_some_and(mpsc::Sender::is_closed) {
                sessions.remove(id);
            }
        }
        for envelope in left {
            if self.drain.is_cancelled() {
                envelope.command.refuse(self.unavailable());
            } else {
                let (shared, id) = (Arc::clone(self), id.clone());
                self.tasks.spawn(async move { drop(shared.send(&id, envelope).await) });
            }
        }
    }

    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.drain.cancel();
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }

    pub(crate) fn unavailable(&self) -> Problem {
        if self.drain.is_cancelled() {
            let message = "The server is shutting down. Try again in a moment.";
            return Problem::new(postern_model::problem::Kind::Unavailable, message);
        }
        Problem::internal()
    }

    pub(crate) fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, mpsc::Sender<Envelope>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
