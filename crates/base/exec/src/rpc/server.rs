//! The answering side: reads questions, runs the handler for many of them at once, writes answers as they come.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::outbox::{Outbox, Outgoing};
use super::{Answered, AskedText, Heard, IN_FLIGHT};
use crate::asynchronous::{Channel, Frames};
use crate::frame::{self, ChannelError, Frame};

/// Why serving a connection ended otherwise than by the peer closing it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection failed or the peer broke the framing.
    #[error("the connection failed")]
    Channel(#[from] ChannelError),
    /// A handler panicked: its question can have no answer, so the connection ends.
    #[error("a handler panicked")]
    Panicked,
}

/// Serves questions of at most `limit` bytes until the peer closes. What a handler can answer without waiting is answered in the order of the questions;
/// the others are handled concurrently, [`IN_FLIGHT`] at most: then reading waits. When the peer closes, handlers still running are dropped at their next
/// await. Dropping this future does the same and closes the connection.
///
/// # Errors
/// [`ServeError`]; the peer closing between frames is `Ok`.
pub async fn serve<Q, A, H, F>(channel: Channel, limit: usize, handler: H) -> Result<(), ServeError>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(Q, Vec<OwnedFd>) -> F,
    F: Future<Output = (A, Vec<OwnedFd>)> + Send + 'static,
{
    let each = |questions: Vec<(Q, Vec<OwnedFd>)>| {
        questions.into_iter().map(|(question, descriptors)| handler(question, descriptors)).collect()
    };
    serve_together(channel, limit, each).await
}

/// As [`serve`], with a handler that is given together what came together, for it to do something once for all of them: it answers with as many futures
/// as it was given questions, in their order. What it does before it returns is done before the next questions are read.
///
/// # Errors
/// As [`serve`].
pub async fn serve_together<Q, A, H, F>(channel: Channel, limit: usize, handler: H) -> Result<(), ServeError>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(Vec<(Q, Vec<OwnedFd>)>) -> Vec<F>,
    F: Future<Output = (A, Vec<OwnedFd>)> + Send + 'static,
{
    let (sender, receiver) = channel.split();
    let mut frames = receiver.into_frames();
    let mut outbox = Outbox::new(sender);
    let (answers, mut answered) = mpsc::channel(IN_FLIGHT);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    loop {
        // Questions first: what was asked together is answered together.
        tokio::select! {
            biased;
            first = next_question(&mut frames, &room, limit), if outbox.len() < IN_FLIGHT => {
                let Some(first) = first? else { return Ok(()) };
                let mut together = Together::default();
                together.add(first, &mut outbox)?;
                // No more at a time than there is room for answers.
                while outbox.len() + together.permits.len() < IN_FLIGHT
                    && let Some(next) = question_here(&mut frames, &room, limit)?
                {
                    together.add(next, &mut outbox)?;
                }
                let works = catch_unwind(AssertUnwindSafe(|| handler(together.questions))).map_err(|_| ServeError::Panicked)?;
                for ((id, permit), work) in together.permits.into_iter().zip(works) {
                    let mut work = Box::pin(work);
                    match begin(&mut work).await? {
                        Poll::Ready((reply, descriptors)) => outbox.push(encode(id, reply, descriptors)),
                        Poll::Pending => {
                            let answers = answers.clone();
                            running.spawn(async move {
                                let (reply, descriptors) = work.await;
                                // The connection may have ended meanwhile: then nobody waits for this answer.
                                let _ended = answers.send(encode(id, reply, descriptors)).await;
                                drop(permit);
                            });
                        }
                    }
                }
            }
            sent = send(&mut outbox), if outbox.len() > 0 => sent?,
            Some(answer) = answered.recv(), if outbox.len() < IN_FLIGHT => outbox.push(answer),
            Some(ended) = running.join_next() => if ended.is_err() { return Err(ServeError::Panicked) },
        }
    }
}

/// A question, unread, and its place among those in flight.
type Question = (Frame, OwnedSemaphorePermit);

/// Questions that came together.
struct Together<Q> {
    questions: Vec<(Q, Vec<OwnedFd>)>,
    /// Of each of them.
    permits: Vec<(u64, OwnedSemaphorePermit)>,
}

impl<Q> Default for Together<Q> {
    fn default() -> Self {
        Self { questions: Vec::new(), permits: Vec::new() }
    }
}

impl<Q: DeserializeOwned> Together<Q> {
    /// Adds a question; one that cannot be read is answered.
    fn add(&mut self, (frame, permit): Question, outbox: &mut Outbox) -> Result<(), ServeError> {
        match read(&frame)? {
            Ok(Heard { id, ask }) => {
                self.questions.push((ask, frame.descriptors));
                self.permits.push((id, permit));
            }
            Err(refusal) => outbox.push(refusal),
        }
        Ok(())
    }
}

/// The question in a frame, or the answer to what is none of this type.
fn read<Q: DeserializeOwned>(frame: &Frame) -> Result<Result<Heard<Q>, Outgoing>, ChannelError> {
    if let Ok(heard) = frame.read() {
        return Ok(Ok(heard));
    }
    let AskedText { id, ask } = frame.read()?;
    match serde_json::from_str(ask.get()) {
        Ok(ask) => Ok(Ok(Heard { id, ask })),
        Err(error) => Ok(Err(misread(id, frame::garbled(&error).to_string()))),
    }
}

/// As far as a handler comes without waiting. It must be polled again by whoever is to be woken for it.
async fn begin<F: Future>(work: &mut Pin<Box<F>>) -> Result<Poll<F::Output>, ServeError> {
    poll_fn(|context| {
        let begun = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        Poll::Ready(begun.map_err(|_| ServeError::Panicked))
    })
    .await
}

/// Sends what the socket takes; waits only where it takes nothing. Cancel-safe.
async fn send(outbox: &mut Outbox) -> Result<(), ChannelError> {
    let before = outbox.len();
    outbox.flush()?;
    if outbox.len() == before { outbox.writable().await } else { Ok(()) }
}

/// Waits for room first, then for a question. Cancel-safe: a frame that is complete is returned at once.
async fn next_question(
    frames: &mut Frames,
    room: &Arc<Semaphore>,
    limit: usize,
) -> Result<Option<Question>, ChannelError> {
    let Ok(permit) = Arc::clone(room).acquire_owned().await else { return Ok(None) };
    Ok(frames.next(limit).await?.map(|frame| (frame, permit)))
}

/// A question that came along with the one before, where there is room for it.
fn question_here(frames: &mut Frames, room: &Arc<Semaphore>, limit: usize) -> Result<Option<Question>, ChannelError> {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return Ok(None) };
    Ok(frames.here(limit)?.map(|frame| (frame, permit)))
}

fn encode<A: Serialize>(id: u64, answer: A, descriptors: Vec<OwnedFd>) -> Outgoing {
    match frame::encode(&Answered { id, answer: Some(answer), misread: None }, descriptors.len()) {
        Ok(bytes) => Outgoing { bytes, descriptors },
        Err(error) => misread(id, format!("the answer could not be written: {error}")),
    }
}

fn misread(id: u64, why: String) -> Outgoing {
    let refusal = Answered::<()> { id, answer: None, misread: Some(why) };
    let bytes = frame::encode(&refusal, 0).expect("a number and a short text are JSON");
    Outgoing { bytes, descriptors: Vec::new() }
}
