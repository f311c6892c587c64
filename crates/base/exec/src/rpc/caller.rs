//! The asking side. One task per connection owns the socket; a call that is dropped leaves no half-written frame behind.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use zeroize::Zeroizing;

use super::{AnsweredText, Asked, IN_FLIGHT};
use crate::asynchronous::{Channel, Receiver, Sender};
use crate::frame::{self, ChannelError};

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
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared<A>>,
    deadline: Duration,
    asks: PhantomData<fn(Q)>,
}

struct Outgoing {
    bytes: Zeroizing<Vec<u8>>,
    descriptors: Vec<OwnedFd>,
}

type Answer<A> = Result<(A, Vec<OwnedFd>), CallError>;

struct Shared<A> {
    next: AtomicU64,
    room: Arc<Semaphore>,
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
            outgoing: self.outgoing.clone(),
            shared: Arc::clone(&self.shared),
            deadline: self.deadline,
            asks: PhantomData,
        }
    }
}

impl<Q: Serialize, A: DeserializeOwned + Send + 'static> Caller<Q, A> {
    /// Starts asking over this channel; answers longer than `limit` bytes end the connection. Must be called inside a runtime.
    pub fn new(channel: Channel, limit: usize) -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
        let shared = Arc::new(Shared {
            next: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        tokio::spawn(converse(channel, limit, queue, Arc::clone(&shared)));
        Self { outgoing, shared, deadline: DEADLINE, asks: PhantomData }
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

    /// Asks with descriptors, which are closed here once sent; the answer may bring some too.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_with_fds(&self, question: Q, descriptors: Vec<OwnedFd>) -> Answer<A> {
        match tokio::time::timeout(self.deadline, self.ask(question, descriptors)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(CallError::Late(self.deadline)),
        }
    }

    /// Waits until the connection ended, for a caller who must end with its service.
    pub async fn gone(&self) {
        self.outgoing.closed().await;
    }

    async fn ask(&self, question: Q, descriptors: Vec<OwnedFd>) -> Answer<A> {
        let room = Arc::clone(&self.shared.room).acquire_owned().await.map_err(|_| CallError::Gone)?;
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let bytes = frame::encode(&Asked { id, ask: &question }, descriptors.len())?;
        drop(question);
        let (answer, answered) = oneshot::channel();
        self.shared.expect(id, Waiting { answer, _room: room })?;
        self.outgoing.send(Outgoing { bytes, descriptors }).await.map_err(|_| CallError::Gone)?;
        answered.await.unwrap_or(Err(CallError::Gone))
    }
}

impl<A> Shared<A> {
    fn expect(&self, id: u64, waiting: Waiting<A>) -> Result<(), CallError> {
        let mut table = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        table.as_mut().ok_or(CallError::Gone)?.insert(id, waiting);
        Ok(())
    }

    fn settle(&self, id: u64, answer: Answer<A>) {
        let mut table = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = table.as_mut().and_then(|table| table.remove(&id)) {
            // A caller that stopped waiting wants no answer.
            let _unwanted = waiting.answer.send(answer);
        }
    }
}

/// Owns the connection until either side ends it, then tells everybody who still waits.
async fn converse<A: DeserializeOwned>(
    channel: Channel,
    limit: usize,
    queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared<A>>,
) {
    let (sender, receiver) = channel.split();
    let ended = tokio::select! {
        ended = send_all(sender, queue) => ended,
        ended = receive_all(receiver, limit, &shared) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection between our processes failed");
    }
    // Dropping the table drops every waiting answer: each caller gets `Gone`.
    shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    shared.room.close();
}

async fn send_all(mut sender: Sender, mut queue: mpsc::Receiver<Outgoing>) -> Result<(), ChannelError> {
    while let Some(Outgoing { bytes, descriptors }) = queue.recv().await {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        sender.send_encoded(&bytes, &borrowed).await?;
    }
    Ok(())
}

async fn receive_all<A: DeserializeOwned>(
    mut receiver: Receiver,
    limit: usize,
    shared: &Shared<A>,
) -> Result<(), ChannelError> {
    while let Some(frame) = receiver.receive_frame(limit).await? {
        let AnsweredText { id, answer, misread } = frame.read()?;
        let answer = match (answer, misread) {
            (Some(text), _) => {
                serde_json::from_str(text.get()).map_err(|error| CallError::Channel(frame::garbled(&error)))
            }
            (None, why) => Err(CallError::Misread(why.unwrap_or_default())),
        };
        shared.settle(id, answer.map(|answer| (answer, frame.descriptors)));
    }
    Ok(())
}

const OUTGOING_QUEUE: usize = 64;
const DEADLINE: Duration = Duration::from_secs(30);
