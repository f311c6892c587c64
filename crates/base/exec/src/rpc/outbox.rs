//! What goes out over one connection, in order: at once where the socket takes it, else when it does. Nobody waits for another
//! task to have it sent.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use zeroize::Zeroizing;

use crate::asynchronous::{Pushed, Sender};
use crate::frame::ChannelError;

/// One encoded frame and the descriptors that go with it.
pub(super) struct Outgoing {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Frames on their way out.
pub(super) struct Outbox {
    sender: Sender,
    waiting: VecDeque<Outgoing>,
    /// Bytes of the first one that are out.
    sent: usize,
}

impl Outbox {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender, waiting: VecDeque::new(), sent: 0 }
    }

    /// Adds a frame after those that wait. Its owner bounds how many.
    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.waiting.push_back(outgoing);
    }

    /// How many frames are not out yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Sends what the socket takes now; [`Outbox::len`] says what is left.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is of no use afterwards.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(first) = self.waiting.front() {
            let borrowed: Vec<_> = match self.sent {
                0 => first.descriptors.iter().map(AsFd::as_fd).collect(),
                _ => Vec::new(),
            };
            match self.sender.push(&first.bytes[self.sent..], &borrowed)? {
                Pushed::Full => return Ok(()),
                Pushed::Bytes(count) => self.sent += count,
            }
            if self.sent >= first.bytes.len() {
                self.waiting.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more.
    pub(super) fn writable(&self) -> impl Future<Output = Result<(), ChannelError>> + Send + use<> {
        self.sender.writable()
    }
}
