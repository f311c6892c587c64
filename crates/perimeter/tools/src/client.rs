//! The worker's end of a tool channel. What comes out of a sandbox is hostile: frames are bounded, ids and shapes checked, waits limited;
//! a peer that breaks a rule is not spoken to again. Never reads a file or runs a program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use postern_exec::ChannelError;
use postern_exec::asynchronous::Channel;
use serde_json::{Map, Value};

use crate::relay;
use crate::wire::{Block, CALL_DEADLINE_MS, CallTool, Configuration, FRAME_LIMIT_BYTES, Request, Source, ToolOutcome};

/// How long one call may take (contract section 4.5).
pub const CALL_DEADLINE: Duration = Duration::from_millis(CALL_DEADLINE_MS);

/// The server enforces a call's deadline itself, and keeps its shell apart from the timed-out command; only one that does not answer is given up so much
/// later.
pub const GRACE: Duration = Duration::from_secs(5);

const MEDIA_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// A connection to one sandbox's tool server; one call at a time.
pub struct ToolClient {
    channel: Option<Channel>,
    grace: Duration,
}

/// Why a call has no outcome. The sandbox behind it must be replaced, since nobody knows what it still does.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server did not answer within the deadline.
    #[error("tool '{name}' timed out")]
    TimedOut {
        /// The tool.
        name: String,
    },
    /// The channel closed: the sandbox has ended.
    #[error("the sandbox ended during the call")]
    Gone,
    /// The channel failed or its framing was broken.
    #[error("the tool channel failed")]
    Channel(#[source] ChannelError),
    /// The answer is not one that a tool server gives.
    #[error("the sandbox answered with {what}")]
    Hostile {
        /// What is wrong with it.
        what: &'static str,
    },
}

impl ToolClient {
    /// Takes over the worker's end of a tool channel. No descriptor from inside arrives in the runtime: the kernel refuses whoever sends one, or threads of
    /// their own close it.
    ///
    /// # Errors
    /// The socket cannot be used with this runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = match postern_sandbox::refuse_descriptors(socket.as_fd()) {
            Ok(()) => socket,
            Err(_older_kernel) => relay::of(socket)?,
        };
        Ok(Self { channel: Some(Channel::new(socket)?), grace: GRACE })
    }

    /// Moves the working directory or adds roots; takes effect for the calls that follow.
    ///
    /// # Errors
    /// [`CallError::Gone`] or [`CallError::Channel`].
    pub async fn configure(&mut self, configure: Configuration) -> Result<(), CallError> {
        let channel = self.channel.as_mut().ok_or(CallError::Gone)?;
        channel.send(&Request::Configure { configure }, &[]).await.map_err(CallError::Channel)
    }

    /// Runs one tool. Dropping the future leaves the call running and this client unusable.
    ///
    /// # Errors
    /// [`CallError`]; every further call is then [`CallError::Gone`].
    pub async fn call(
        &mut self,
        id: &str,
        name: &str,
        input: Map<String, Value>,
        deadline: Duration,
    ) -> Result<ToolOutcome, CallError> {
        let over = tokio::time::sleep(deadline + self.grace);
        self.call_until(id, name, input, deadline, over).await
    }

    /// The same, given up when `over` completes: the caller's own clock, which may stand still while the sandbox does.
    ///
    /// # Errors
    /// As [`ToolClient::call`].
    pub async fn call_until(
        &mut self,
        id: &str,
        name: &str,
        input: Map<String, Value>,
        deadline: Duration,
        over: impl Future<Output = ()>,
    ) -> Result<ToolOutcome, CallError> {
        let mut channel = self.channel.take().ok_or(CallError::Gone)?;
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(CALL_DEADLINE_MS);
        let call = CallTool { id: id.to_owned(), name: name.to_owned(), input, deadline_ms };
        let outcome = tokio::select! {
            outcome = exchange(&mut channel, call) => outcome?,
            () = over => return Err(CallError::TimedOut { name: name.to_owned() }),
        };
        check(&outcome, id).map_err(|what| CallError::Hostile { what })?;
        self.channel = Some(channel);
        Ok(outcome)
    }
}

async fn exchange(channel: &mut Channel, call: CallTool) -> Result<ToolOutcome, CallError> {
    channel.send(&Request::Call(call), &[]).await.map_err(gone_or_failed)?;
    match channel.receive::<ToolOutcome>(FRAME_LIMIT_BYTES).await {
        Ok(Some((outcome, descriptors))) if descriptors.is_empty() => Ok(outcome),
        Ok(Some(_)) => Err(CallError::Hostile { what: "a descriptor" }),
        Ok(None) => Err(CallError::Gone),
        Err(error) => Err(gone_or_failed(error)),
    }
}

/// A peer that died in the middle is gone, whichever call noticed it.
fn gone_or_failed(error: ChannelError) -> CallError {
    match &error {
        ChannelError::Truncated { .. } => CallError::Gone,
        ChannelError::Io(source)
            if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            CallError::Gone
        }
        _ => CallError::Channel(error),
    }
}

pub(crate) fn check(outcome: &ToolOutcome, id: &str) -> Result<(), &'static str> {
    if outcome.id != id {
        return Err("the outcome of another call");
    }
    if outcome.content.len() != 1 {
        return Err("no block or several");
    }
    outcome.content.iter().try_for_each(check_block)
}

fn check_block(block: &Block) -> Result<(), &'static str> {
    match block {
        Block::Text { text } if text.is_empty() => Err("an empty text"),
        Block::Text { .. } => Ok(()),
        Block::Image { source: Source::Base64 { media_type, data } } => {
            if !MEDIA_TYPES.contains(&media_type.as_str()) {
                return Err("an image of an unknown type");
            }
            check_base64(data)
        }
        Block::Document { source: Source::Base64 { media_type, data } } => {
            if media_type != "application/pdf" {
                return Err("a document of an unknown type");
            }
            check_base64(data)
        }
    }
}

fn check_base64(data: &str) -> Result<(), &'static str> {
    let body = data.trim_end_matches('=');
    let alphabet = body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    if alphabet && data.len().is_multiple_of(4) && data.len() - body.len() <= 2 {
        Ok(())
    } else {
        Err("media that is not base64")
    }
}

#[cfg(test)]
mod tests;
