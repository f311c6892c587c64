//! The worker's side of the spawner: asks for sandboxes and hears when they end.
//! Never builds anything itself: the worker holds secrets and threads, the spawner neither.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_exec::asynchronous::{Channel, Receiver, Sender};
use postern_exec::role::{self, Starter};
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::ControlStatus;
use crate::error::BuildError;
use crate::sandbox::{Exit, Network, Sandbox};
use crate::spec::{Settings, Spec};
use crate::wire::{Answer, Ask, Asked, MESSAGE_LIMIT, Ready, Told};

/// The spawner process. Clones talk to the same one; it ends, with every sandbox, when its socket closes.
#[derive(Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
    /// Kept so that the runtime reaps the process; it ends when our sender closes.
    child: Arc<role::Child>,
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
    /// What one task sends, in this order: whoever asks may give up at any time, and a message that was begun goes whole.
    outgoing: mpsc::Sender<Asked>,
    waiting: Mutex<Waiting>,
    gone: watch::Sender<bool>,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, Waiter>,
    exits: HashMap<String, watch::Sender<Option<Exit>>>,
}

struct Waiter {
    session: Option<String>,
    answer: oneshot::Sender<Answered>,
}

type Answered = (Answer, Vec<OwnedFd>);

/// How many questions wait to be sent; whoever asks one more waits.
const OUTGOING: usize = 64;

impl Spawner {
    /// Starts the spawner role of this very binary. Call it before any secret is opened: sandboxes are forked from that process.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(starter: &Starter, settings: &Settings) -> Result<Self, StartError> {
        let (child, channel, ready) = role::start_and_wait::<_, Ready>("spawner", settings, starter, &[]).await?;
        ready.map_err(StartError::Refused)?;
        Ok(Self { shared: Shared::over(channel), child: Arc::new(child) })
    }

    /// Builds a sandbox. When the caller gives up waiting, what was built is destroyed again.
    ///
    /// # Errors
    /// [`BuildError`] with the step, the cause and what to do; nothing of the sandbox is left.
    pub async fn build(&self, spec: Spec) -> Result<Sandbox, BuildError> {
        self.shared.build(spec).await
    }

    /// Ends a session's sandbox and everything in it; an unknown session is already as wanted. Returns when no process of it is left.
    ///
    /// # Errors
    /// [`SpawnerGone`]: then no sandbox is left either.
    pub async fn destroy(&self, session: &str) -> Result<(), SpawnerGone> {
        self.shared.ask(Ask::Destroy { session: session.to_owned() }).await.map(|_destroyed| ())
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
        match self.shared.ask(ask).await? {
            (Answer::Signalled { found }, _) => Ok(found),
            _ => Err(SpawnerGone),
        }
    }

    /// What this machine and this user can do about each control, measured by the spawner.
    ///
    /// # Errors
    /// [`SpawnerGone`].
    pub async fn controls(&self) -> Result<Vec<ControlStatus>, SpawnerGone> {
        match self.shared.ask(Ask::Controls).await? {
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
        self.child.id()
    }
}

impl Shared {
    fn over(channel: Channel) -> Arc<Self> {
        let (sender, receiver) = channel.split();
        let (outgoing, questions) = mpsc::channel(OUTGOING);
        let shared = Arc::new(Self { outgoing, waiting: Mutex::default(), gone: watch::Sender::new(false) });
        // The one ends when the last clone is dropped or the socket takes nothing, the other with the connection, which the spawner closes then.
        tokio::spawn(say(Arc::downgrade(&shared), sender, questions));
        tokio::spawn(listen(Arc::downgrade(&shared), receiver));
        shared
    }

    async fn build(&self, spec: Spec) -> Result<Sandbox, BuildError> {
        let session = spec.session.clone();
        let place = self.outgoing.reserve().await.map_err(|_| BuildError::spawner_gone())?;
        let exit = self.expect_exit(&session)?;
        // Asked as soon as its exit is expected: whoever gives up waiting leaves an answer behind, and that takes both away.
        let answered = self.put(place, Ask::Build(Box::new(spec)), Some(session.clone()));
        let Ok((answer, mut descriptors)) = answered.await else {
            self.waiting().exits.remove(&session);
            return Err(BuildError::spawner_gone());
        };
        match answer {
            Answer::Built { pid, controls, open } if descriptors.len() > Network::SOCKETS => {
                let tools = descriptors.remove(0);
                let network = Network::from_descriptors(descriptors).expect("the count was checked in this match arm");
                Ok(Sandbox { session, tools, network, controls, open, pid, exit })
            }
            Answer::NotBuilt(error) => {
                self.waiting().exits.remove(&session);
                Err(error)
            }
            _ => Err(BuildError::refused(
                "read the spawner's answer",
                "it does not fit the question",
                "report this as a defect",
            )),
        }
    }

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

    async fn ask(&self, ask: Ask) -> Result<Answered, SpawnerGone> {
        let place = self.outgoing.reserve().await.map_err(|_| SpawnerGone)?;
        self.put(place, ask, None).await.map_err(|_| SpawnerGone)
    }

    /// Puts a question where it is sent from, whoever waits for its answer. Nothing answers once the spawner is gone.
    fn put(&self, place: mpsc::Permit<'_, Asked>, ask: Ask, session: Option<String>) -> oneshot::Receiver<Answered> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            let id = waiting.next_id;
            waiting.next_id += 1;
            waiting.answers.insert(id, Waiter { session, answer });
            id
        };
        // Checked after the waiter stands: whichever comes second, the spawner's end or this line, sees the other.
        if *self.gone.borrow() {
            self.waiting().answers.remove(&id);
        } else {
            place.send(Asked { id, ask });
        }
        answered
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

/// Sends questions whole, one after the other. A socket that takes no more of them is the spawner's end: nothing reaches it.
async fn say(shared: std::sync::Weak<Shared>, mut sender: Sender, mut questions: mpsc::Receiver<Asked>) {
    while let Some(asked) = questions.recv().await {
        if sender.send(&asked, &[]).await.is_err() {
            break;
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.closed();
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
    let _gone = shared.outgoing.send(Asked { id, ask: Ask::Destroy { session } }).await;
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::spec::{Root, Trust};

    fn spec(session: &str, certificate_bytes: usize) -> Spec {
        Spec {
            session: session.to_owned(),
            workspace: "/nowhere".into(),
            kernel_uid: None,
            memory_bytes: 64 << 20,
            cpus: 1.0,
            processes: 64,
            disk_bytes: 1 << 30,
            system: Root::default(),
            packages: None,
            given: None,
            outputs: None,
            memories: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            kept: Vec::new(),
            environment: Vec::new(),
            ca_certificate_pem: "x".repeat(certificate_bytes),
            trust: Trust::default(),
            require: Vec::new(),
        }
    }

    /// Asks, and gives up at the first wait.
    async fn give_up<T>(asking: impl Future<Output = T>) {
        let mut asking = pin!(asking);
        std::future::poll_fn(|context| {
            assert!(asking.as_mut().poll(context).is_pending(), "nobody answered");
            Poll::Ready(())
        })
        .await;
    }

    /// A spawner that builds nothing, and says so to whoever asks.
    async fn refuse_all(mut channel: Channel) {
        while let Ok(Some((Asked { id, .. }, _))) = channel.receive::<Asked>(MESSAGE_LIMIT).await {
            let answer = Answer::NotBuilt(BuildError::refused("build", "it never does", "nothing"));
            channel.send(&Told::Answer { id, answer }, &[]).await.expect("it listens");
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_asking_leaves_neither_half_a_question_nor_an_exit_that_nobody_tells() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let shared = Shared::over(ours);
        // More than the socket takes: the first is half-way, the second behind it.
        give_up(shared.build(spec("sesn_1", 2 << 20))).await;
        tokio::task::yield_now().await;
        give_up(shared.build(spec("sesn_2", 1))).await;
        tokio::spawn(refuse_all(Channel::new(theirs).expect("registered")));
        for session in ["sesn_3", "sesn_1", "sesn_2"] {
            let error = shared.build(spec(session, 1)).await.expect_err("it never builds");
            assert_eq!(error.cause, "it never does", "{session}");
        }
        assert!(shared.waiting().exits.is_empty() && shared.waiting().answers.is_empty());
    }

    #[tokio::test]
    async fn sixty_four_questions_wait_to_be_sent_and_whoever_asks_another_waits() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let shared = Shared::over(ours);
        // More than the socket takes: it is on its way, and all others are behind it.
        give_up(shared.build(spec("sesn_long", 2 << 20))).await;
        tokio::task::yield_now().await;
        for _ in 0..64 {
            give_up(shared.ask(Ask::Controls)).await;
        }
        let asked = || shared.waiting().answers.len();
        assert_eq!(asked(), 65);
        let mut one_more = pin!(shared.ask(Ask::Controls));
        give_up(one_more.as_mut()).await;
        assert_eq!(asked(), 65, "it is not a question yet");
        tokio::spawn(refuse_all(Channel::new(theirs).expect("registered")));
        assert!(matches!(one_more.await, Ok((Answer::NotBuilt(_), _))), "it is asked when there is room");
    }

    #[tokio::test]
    async fn a_spawner_that_takes_no_questions_is_gone() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let shared = Shared::over(ours);
        rustix::net::shutdown(theirs.as_fd(), rustix::net::Shutdown::Read).expect("shuts");
        let error = shared.build(spec("sesn_1", 1)).await.expect_err("nobody reads it");
        assert_eq!(error, BuildError::spawner_gone());
        let mut gone = shared.gone.subscribe();
        let told = tokio::time::timeout(Duration::from_secs(10), gone.wait_for(|gone| *gone)).await;
        assert!(told.is_ok_and(|told| told.is_ok()), "whoever waits for its end is told");
        assert!(shared.waiting().exits.is_empty());
        assert_eq!(shared.build(spec("sesn_1", 1)).await.expect_err("it is gone"), BuildError::spawner_gone());
    }
}
