//! The answering side: reads questions, runs the handler for many of them at once, writes answers as they come.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::{Answered, AskedText, IN_FLIGHT};
use crate::asynchronous::{Channel, Receiver, Sender};
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

type Outgoing = (Zeroizing<Vec<u8>>, Vec<OwnedFd>);

/// Serves questions of at most `limit` bytes until the peer closes. Questions are handled concurrently, [`IN_FLIGHT`] at most: then reading waits.
/// When the peer closes, handlers still running are dropped at their next await. Dropping this future does the same and closes the connection.
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
    let (answers, queue) = mpsc::channel(IN_FLIGHT);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    let mut sending = std::pin::pin!(send_all(sender, queue));
    loop {
        tokio::select! {
            sent = &mut sending => return Ok(sent?),
            Some(ended) = running.join_next() => if ended.is_err() { return Err(ServeError::Panicked) },
            question = next_question(&mut receiver, &room, limit) => {
                let Some((frame, permit)) = question? else { return Ok(()) };
                let AskedText { id, ask } = frame.read()?;
                match serde_json::from_str::<Q>(ask.get()) {
                    Err(error) => {
                        let misread = frame::garbled(&error).to_string();
                        let bytes = frame::encode(&Answered::<()> { id, answer: None, misread: Some(misread) }, 0)?;
                        running.spawn(answer(answers.clone(), (bytes, Vec::new()), permit));
                    }
                    Ok(question) => {
                        let work = handler(question, frame.descriptors);
                        let answers = answers.clone();
                        running.spawn(async move {
                            let (reply, descriptors) = work.await;
                            answer(answers, encode(id, reply, descriptors), permit).await;
                        });
                    }
                }
            }
        }
    }
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
        Ok(bytes) => (bytes, descriptors),
        Err(error) => {
            let misread = Some(format!("the answer could not be written: {error}"));
            let refusal = Answered::<()> { id, answer: None, misread };
            (frame::encode(&refusal, 0).expect("a number and a short text are JSON"), Vec::new())
        }
    }
}

async fn answer(answers: mpsc::Sender<Outgoing>, outgoing: Outgoing, permit: tokio::sync::OwnedSemaphorePermit) {
    // The connection may have ended meanwhile: then nobody waits for this answer.
    let _ended = answers.send(outgoing).await;
    drop(permit);
}

async fn send_all(mut sender: Sender, mut queue: mpsc::Receiver<Outgoing>) -> Result<(), ChannelError> {
    while let Some((bytes, descriptors)) = queue.recv().await {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        sender.send_encoded(&bytes, &borrowed).await?;
    }
    Ok(())
}
