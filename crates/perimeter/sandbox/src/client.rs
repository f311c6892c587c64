//! The worker's side of the spawner: asks for sandboxes and hears when they end.
//! Never builds anything itself: the worker holds secrets and threads, the spawner neither.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_exec::asynchronous::{Channel, Receiver, Sender};
use postern_exec::role::{self, Starter};
use tokio::sync::{oneshot, watch};

use crate::control::ControlStatus;
use crate::error::BuildError;
use crate::sandbox::{Exit, Network, Sandbox};
use crate::spec::{Settings, Spec};
use crate::wire::{Answer, Ask, Asked, MESSAGE_LIMIT, Ready, Told};

/// The spawner process. Clones talk to the same one; it ends, with every sandbox, when its socket closes.
#[derive(Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

/// Why there is no spawner.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process could not be started or said nothing.
    #[error("start the spawner")]
    Role(#[from] role::StartError),
    /// It started and refused to serve.
    #[error("prepare the spawner")]
    Refused(#[source] BuildError),
}

/// The spawner has ended, and every sandbox with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the spawner process has ended; every sandbox it held is gone with it")]
pub struct SpawnerGone;

struct Shared {
    sender: tokio::sync::Mutex<Sender>,
    waiting: Mutex<Waiting>,
    gone: watch::Sender<bool>,
    id: u32,
    /// Kept so that the runtime reaps the process; it ends when our sender closes.
    _child: role::Child,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, Waiter>,
    exits: HashMap<String, watch::Sender<Option<Exit>>>,
}

struct Waiter {
    session: Option<String>,
    answer: oneshot::Sender<(Answer, Vec<OwnedFd>)>,
}

impl Spawner {
    /// Starts the spawner role of this very binary. Call it before any secret is opened: sandboxes are forked from that process.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(starter: &Starter, settings: &Settings) -> Result<Self, StartError> {
        let (child, channel, ready) = role::start_and_wait::<_, Ready>("spawner", settings, starter, &[]).await?;
        ready.map_err(StartError::Refused)?;
        Ok(Self::over(child, channel))
    }

    fn over(child: role::Child, channel: Channel) -> Self {
        let (sender, receiver) = channel.split();
        let shared = Arc::new(Shared {
            sender: tokio::sync::Mutex::new(sender),
            waiting: Mutex::default(),
            gone: watch::Sender::new(false),
            id: child.id(),
            _child: child,
        });
        // The task ends with the connection, which ends when the last clone drops its sender or the spawner dies.
        tokio::spawn(listen(Arc::downgrade(&shared), receiver));
        Self { shared }
    }

    /// Builds a sandbox. When the caller gives up waiting, what was built is destroyed again.
    ///
    /// # Errors
    /// [`BuildError`] with the step, the cause and what to do; nothing of the sandbox is left.
    pub async fn build(&self, spec: Spec) -> Result<Sandbox, BuildError> {
        let session = spec.session.clone();
        let exit = self.shared.expect_exit(&session)?;
        let (answer, mut descriptors) = match self.shared.ask(Ask::Build(Box::new(spec)), Some(session.clone())).await {
            Ok(answered) => answered,
            Err(SpawnerGone) => return Err(BuildError::spawner_gone()),
        };
        match answer {
            Answer::Built { pid, controls } if descriptors.len() > Network::SOCKETS => {
                let tools = descriptors.remove(0);
                let network = Network::from_descriptors(descriptors).expect("the count was checked in this match arm");
                Ok(Sandbox { session, tools, network, controls, pid, exit })
            }
            Answer::NotBuilt(error) => {
                self.shared.waiting().exits.remove(&session);
                Err(error)
            }
            _ => Err(BuildError::refused(
                "read the spawner's answer",
                "it does not fit the question",
                "report this as a defect",
            )),
        }
    }

    /// Ends a session's sandbox and everything in it; an unknown session is already as wanted. Returns when no process of it is left.
    ///
    /// # Errors
    /// [`SpawnerGone`]: then no sandbox is left either.
    pub async fn destroy(&self, session: &str) -> Result<(), SpawnerGone> {
        self.shared.ask(Ask::Destroy { session: session.to_owned() }, None).await.map(|_destroyed| ())
    }

    /// Stops every process of a session's sandbox; answers whether it has one. None of them runs until [`Spawner::resume`].
    ///
    /// # Errors
    /// [`SpawnerGone`]: then no sandbox is left either.
    pub async fn pause(&self, session: &str) -> Result<bool, SpawnerGone> {
        self.signal(Ask::Pause { session: session.to_owned() }).await
    }

    /// Lets a paused sandbox go on; answers whether there is one.
    ///
    /// # Errors
    /// [`SpawnerGone`]: then no sandbox is left either.
    pub async fn resume(&self, session: &str) -> Result<bool, SpawnerGone> {
        self.signal(Ask::Resume { session: session.to_owned() }).await
    }

    async fn signal(&self, ask: Ask) -> Result<bool, SpawnerGone> {
        match self.shared.ask(ask, None).await? {
            (Answer::Signalled { found }, _) => Ok(found),
            _ => Err(SpawnerGone),
        }
    }

    /// What this machine and this user can do about each control, measured by the spawner.
    ///
    /// # Errors
    /// [`SpawnerGone`].
    pub async fn controls(&self) -> Result<Vec<ControlStatus>, SpawnerGone> {
        match self.shared.ask(Ask::Controls, None).await? {
            (Answer::Controls(controls), _) => Ok(controls),
            _ => Err(SpawnerGone),
        }
    }

    /// Waits until the spawner has ended.
    pub async fn gone(&self) {
        let mut gone = self.shared.gone.subscribe();
        // The sender lives as long as `self`.
        let _closed = gone.wait_for(|gone| *gone).await;
    }

    /// The spawner's process, for reports and tests.
    pub fn id(&self) -> u32 {
        self.shared.id
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_exit(&self, session: &str) -> Result<watch::Receiver<Option<Exit>>, BuildError> {
        let mut waiting = self.waiting();
        if waiting.exits.contains_key(session) {
            return Err(BuildError::refused(
                "find a free name",
                format!("session {session} has a sandbox already"),
                "destroy it first",
            ));
        }
        let (sender, receiver) = watch::channel(None);
        waiting.exits.insert(session.to_owned(), sender);
        Ok(receiver)
    }

    async fn ask(&self, ask: Ask, session: Option<String>) -> Result<(Answer, Vec<OwnedFd>), SpawnerGone> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            let id = waiting.next_id;
            waiting.next_id += 1;
            waiting.answers.insert(id, Waiter { session, answer });
            id
        };
        // Checked after the waiter stands: whichever comes second, the listener's end or this line, sees the other.
        if *self.gone.borrow() {
            self.waiting().answers.remove(&id);
            return Err(SpawnerGone);
        }
        if self.sender.lock().await.send(&Asked { id, ask }, &[]).await.is_err() {
            self.waiting().answers.remove(&id);
            return Err(SpawnerGone);
        }
        answered.await.map_err(|_| SpawnerGone)
    }

    /// Hands an answer over; a built sandbox whose asker is gone is named, to be destroyed.
    fn deliver(&self, id: u64, answer: Answer, descriptors: Vec<OwnedFd>) -> Option<String> {
        let waiter = self.waiting().answers.remove(&id)?;
        match waiter.answer.send((answer, descriptors)) {
            Ok(()) => None,
            Err((Answer::Built { .. }, _)) => waiter.session,
            Err((Answer::NotBuilt(_), _)) => {
                if let Some(session) = waiter.session {
                    self.waiting().exits.remove(&session);
                }
                None
            }
            Err(_) => None,
        }
    }

    fn ended(&self, session: &str, exit: Exit) {
        if let Some(sender) = self.waiting().exits.remove(session) {
            sender.send_replace(Some(exit));
        }
    }

    fn closed(&self) {
        self.gone.send_replace(true);
        let mut waiting = self.waiting();
        waiting.answers.clear();
        waiting.exits.clear();
    }
}

async fn listen(shared: std::sync::Weak<Shared>, mut receiver: Receiver) {
    while let Ok(Some((told, descriptors))) = receiver.receive::<Told>(MESSAGE_LIMIT).await {
        let Some(shared) = shared.upgrade() else { return };
        match told {
            Told::Ended { session, exit } => shared.ended(&session, exit),
            Told::Answer { id, answer } => {
                if let Some(session) = shared.deliver(id, answer, descriptors) {
                    destroy_unwanted(&shared, session).await;
                }
            }
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.closed();
    }
}

async fn destroy_unwanted(shared: &Arc<Shared>, session: String) {
    let id = {
        let mut waiting = shared.waiting();
        waiting.next_id += 1;
        waiting.next_id - 1
    };
    // Nobody waits for the answer; a spawner that is gone has destroyed it already.
    let _gone = shared.sender.lock().await.send(&Asked { id, ask: Ask::Destroy { session } }, &[]).await;
}
