//! The answering side: reads questions, runs the handler for many of them at once, writes answers as they come.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::outbox::{Outbox, Outgoing};
use super::{Answered, AskedText, IN_FLIGHT};
use crate::asynchronous::{Channel, Receiver};
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
    let (sender, mut receiver) = channel.split();
    let mut outbox = Outbox::new(sender);
    let (answers, mut answered) = mpsc::channel(IN_FLIGHT);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    loop {
        // Questions first: what was asked together is answered together.
        tokio::select! {
            biased;
            question = next_question(&mut receiver, &room, limit), if outbox.len() < IN_FLIGHT => {
                let Some((frame, permit)) = question? else { return Ok(()) };
                let AskedText { id, ask } = frame.read()?;
                let question = match serde_json::from_str::<Q>(ask.get()) {
                    Ok(question) => question,
                    Err(error) => {
                        outbox.push(misread(id, frame::garbled(&error).to_string()));
                        continue;
                    }
                };
                let mut work = Box::pin(handler(question, frame.descriptors));
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
            sent = send(&mut outbox), if outbox.len() > 0 => sent?,
            Some(answer) = answered.recv(), if outbox.len() < IN_FLIGHT => outbox.push(answer),
            Some(ended) = running.join_next() => if ended.is_err() { return Err(ServeError::Panicked) },
        }
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
    receiver: &mut Receiver,
    room: &Arc<Semaphore>,
    limit: usize,
) -> Result<Option<(Frame, tokio::sync::OwnedSemaphorePermit)>, ChannelError> {
    let Ok(permit) = Arc::clone(room).acquire_owned().await else { return Ok(None) };
    Ok(receiver.receive_frame(limit).await?.map(|frame| (frame, permit)))
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
