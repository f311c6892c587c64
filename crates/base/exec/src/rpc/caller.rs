//! The asking side. A question is written by whoever asks it; one task per connection writes what the socket did not take at once and what may go out
//! with others, and reads the answers. A call that is dropped leaves no half-written frame behind.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::outbox::{Outbox, Outgoing};
use super::{AnsweredText, Asked, IN_FLIGHT, Told};
use crate::asynchronous::{Channel, Receiver};
use crate::frame::{self, ChannelError, Frame};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other process closed the connection or died; whether it acted on the question is unknown.
    #[error("the other process is gone")]
    Gone,
    /// No answer within the caller's deadline; whether the other process acted is unknown.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The other process could not read the question.
    #[error("the other process could not read the question: {0}")]
    Misread(String),
    /// The question could not be written, or the answer not be read.
    #[error("the message could not cross")]
    Channel(#[from] ChannelError),
}

/// Asks questions of type `Q` and gets answers of type `A`. Clones share the connection, which closes when the last of them is dropped.
pub struct Caller<Q, A> {
    /// Wakes the connection's task where something waits to be written; closed when the connection ended.
    unsent: mpsc::Sender<()>,
    shared: Arc<Shared<A>>,
    deadline: Duration,
    asks: PhantomData<fn(Q)>,
}

type Answer<A> = Result<(A, Vec<OwnedFd>), CallError>;

struct Shared<A> {
    next: AtomicU64,
    room: Arc<Semaphore>,
    /// `None` once the connection ended.
    outbox: Mutex<Option<Outbox>>,
    /// `None` once the connection ended: nobody waits for an answer that cannot come.
    waiting: Mutex<Option<HashMap<u64, Waiting<A>>>>,
}

struct Waiting<A> {
    answer: oneshot::Sender<Answer<A>>,
    _room: OwnedSemaphorePermit,
}

impl<Q, A> Clone for Caller<Q, A> {
    fn clone(&self) -> Self {
        Self {
            unsent: self.unsent.clone(),
            shared: Arc::clone(&self.shared),
            deadline: self.deadline,
            asks: PhantomData,
        }
    }
}

impl<Q: Serialize, A: DeserializeOwned + Send + 'static> Caller<Q, A> {
    /// Starts asking over this channel; answers longer than `limit` bytes end the connection. Must be called inside a runtime.
    pub fn new(channel: Channel, limit: usize) -> Self {
        let (unsent, wakes) = mpsc::channel(1);
        let (sender, receiver) = channel.split();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
            outbox: Mutex::new(Some(Outbox::new(sender))),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        tokio::spawn(converse(receiver, limit, wakes, Arc::clone(&shared)));
        Self { unsent, shared, deadline: DEADLINE, asks: PhantomData }
    }

    /// The same connection with another deadline per call (30 s unless said).
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks, and waits for the answer. Dropping the future gives up on the answer, not on the question once it was sent.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, question: Q) -> Result<A, CallError> {
        self.call_with_fds(question, Vec::new()).await.map(|(answer, _)| answer)
    }

    /// As [`Caller::call`], for one question of many: while others have no answer yet it goes out with those that are asked in the same moment, by one
    /// send, and at the latest with the next that does not wait for others. Alone it goes out at once.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with_others(&self, question: Q) -> Result<A, CallError> {
        self.in_time(self.ask(question, Vec::new(), Leaves::WithOthers)).await.map(|(answer, _)| answer)
    }

    /// Asks with descriptors, which are closed here once sent; the answer may bring some too.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with_fds(&self, question: Q, descriptors: Vec<OwnedFd>) -> Answer<A> {
        self.in_time(self.ask(question, descriptors, Leaves::AtOnce)).await
    }

    async fn in_time(&self, asking: impl Future<Output = Answer<A>>) -> Answer<A> {
        tokio::time::timeout(self.deadline, asking).await.unwrap_or(Err(CallError::Late(self.deadline)))
    }

    /// Waits until the connection ended, for a caller who must end with its service.
    pub async fn gone(&self) {
        self.unsent.closed().await;
    }

    async fn ask(&self, question: Q, descriptors: Vec<OwnedFd>, leaves: Leaves) -> Answer<A> {
        let room = Arc::clone(&self.shared.room).acquire_owned().await.map_err(|_| CallError::Gone)?;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let bytes = frame::encode(&Asked { id, ask: &question }, descriptors.len())?;
        drop(question);
        let (answer, answered) = oneshot::channel();
        let in_flight = self.shared.expect(id, Waiting { answer, _room: room })?;
        let leaves = if in_flight < MANY { Leaves::AtOnce } else { leaves };
        if self.shared.send(Outgoing { bytes, descriptors }, leaves)? == Left::Some {
            // A wake that is on its way already will do; without a task the answer says so.
            let _woken = self.unsent.try_send(());
        }
        answered.await.unwrap_or(Err(CallError::Gone))
    }
}

/// When a question goes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    AtOnce,
    /// When all who are about to ask have asked.
    WithOthers,
}

/// Whether something waits to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    None,
    Some,
}

impl<A> Shared<A> {
    /// Writes a question after those that wait, as far as the socket takes it.
    fn send(&self, outgoing: Outgoing, leaves: Leaves) -> Result<Left, CallError> {
        self.with_outbox(|outbox| {
            outbox.push(outgoing);
            if leaves == Leaves::AtOnce { outbox.flush() } else { Ok(()) }
        })
    }

    /// Writes what waited.
    fn flush(&self) -> Result<Left, CallError> {
        self.with_outbox(Outbox::flush)
    }

    fn with_outbox(&self, act: impl FnOnce(&mut Outbox) -> Result<(), ChannelError>) -> Result<Left, CallError> {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let open = outbox.as_mut().ok_or(CallError::Gone)?;
        match act(open) {
            Ok(()) => Ok(if open.len() == 0 { Left::None } else { Left::Some }),
            Err(error) => {
                tracing::debug!(%error, "a connection between our processes failed");
                // Half a frame may be out: nothing can follow it.
                *outbox = None;
                Err(CallError::Gone)
            }
        }
    }

    fn writable(&self) -> Result<impl Future<Output = Result<(), ChannelError>> + Send + use<A>, CallError> {
        let outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.as_ref().map(Outbox::writable).ok_or(CallError::Gone)
    }

    /// Answers how many are waited for now.
    fn expect(&self, id: u64, waiting: Waiting<A>) -> Result<usize, CallError> {
        let mut table = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let table = table.as_mut().ok_or(CallError::Gone)?;
        table.insert(id, waiting);
        Ok(table.len())
    }

    fn settle(&self, id: u64, answer: Answer<A>) {
        let mut table = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = table.as_mut().and_then(|table| table.remove(&id)) {
            // A caller that stopped waiting wants no answer.
            let _unwanted = waiting.answer.send(answer);
        }
    }
}

/// Serves the connection until either side ends it, then tells everybody who still waits.
async fn converse<A: DeserializeOwned>(
    receiver: Receiver,
    limit: usize,
    wakes: mpsc::Receiver<()>,
    shared: Arc<Shared<A>>,
) {
    let ended = tokio::select! {
        ended = send_all(wakes, &shared) => ended,
        ended = receive_all(receiver, limit, &shared) => ended.map_err(CallError::from),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection between our processes ended");
    }
    shared.outbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Dropping the table drops every waiting answer: each caller gets `Gone`.
    shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    shared.room.close();
}

/// Writes what the socket did not take at once and what leaves with others, until the last caller is gone.
async fn send_all<A>(mut wakes: mpsc::Receiver<()>, shared: &Shared<A>) -> Result<(), CallError> {
    while let Some(()) = wakes.recv().await {
        // Whoever is about to ask does so first.
        tokio::task::yield_now().await;
        while shared.flush()? == Left::Some {
            shared.writable()?.await?;
        }
    }
    Ok(())
}

async fn receive_all<A: DeserializeOwned>(
    receiver: Receiver,
    limit: usize,
    shared: &Shared<A>,
) -> Result<(), ChannelError> {
    let mut frames = receiver.into_frames();
    while let Some(frame) = frames.next(limit).await? {
        let (id, answer) = match frame.read() {
            Ok(Told { id, answer }) => (id, Ok(answer)),
            Err(_) => unanswered(&frame)?,
        };
        shared.settle(id, answer.map(|answer| (answer, frame.descriptors)));
    }
    Ok(())
}

/// Whose answer it is, and why it is none.
fn unanswered<A: DeserializeOwned>(frame: &Frame) -> Result<(u64, Result<A, CallError>), ChannelError> {
    let AnsweredText { id, answer, misread } = frame.read()?;
    let answer = match (answer, misread) {
        (Some(text), _) => serde_json::from_str(text.get()).map_err(|error| CallError::Channel(frame::garbled(&error))),
        (None, why) => Err(CallError::Misread(why.unwrap_or_default())),
    };
    Ok((id, answer))
}

const DEADLINE: Duration = Duration::from_secs(30);
/// So many questions in flight are many: one that is asked after the other, with the outcome of the one before under way, is not.
const MANY: usize = 4;
