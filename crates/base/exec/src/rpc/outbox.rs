//! What goes out over one connection, in order: at once where the socket takes it, else when it does. Nobody waits for another
//! task to have it sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
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

    /// Sends what the socket takes now, as much as goes together by one system call; [`Outbox::len`] says what is left.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is of no use afterwards.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(first) = self.waiting.front() {
            let pushed = if first.descriptors.is_empty() {
                self.push_together()?
            } else {
                let descriptors: Vec<_> = first.descriptors.iter().map(AsFd::as_fd).collect();
                let with_the_first = if self.sent == 0 { &descriptors[..] } else { &[] };
                self.sender.push(&first.bytes[self.sent..], with_the_first)?
            };
            match pushed {
                Pushed::Full => return Ok(()),
                Pushed::Bytes(count) => self.note_sent(count),
            }
        }
        Ok(())
    }

    /// The first frames, up to one that has descriptors: those go with the first byte of theirs.
    fn push_together(&self) -> io::Result<Pushed> {
        let plain = self.waiting.iter().take_while(|frame| frame.descriptors.is_empty()).take(TOGETHER);
        let mut pieces: Vec<_> = plain.map(|frame| IoSlice::new(&frame.bytes)).collect();
        if let Some(first) = pieces.first_mut() {
            first.advance(self.sent);
        }
        match &pieces[..] {
            [only] => self.sender.push(only, &[]),
            many => self.sender.push_pieces(many),
        }
    }

    fn note_sent(&mut self, mut count: usize) {
        while let Some(first) = self.waiting.front() {
            let left = first.bytes.len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.waiting.pop_front();
            self.sent = 0;
        }
    }

    /// Waits until the socket takes more.
    pub(super) fn writable(&self) -> impl Future<Output = Result<(), ChannelError>> + Send + use<> {
        self.sender.writable()
    }
}

/// Frames that go out by one system call.
const TOGETHER: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asynchronous::Channel;

    #[tokio::test]
    async fn so_many_frames_go_out_by_one_send() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let (sender, _receiver) = ours.split();
        let mut outbox = Outbox::new(sender);
        outbox.writable().await.unwrap();
        for _ in 0..100 {
            outbox.push(Outgoing { bytes: Zeroizing::new(vec![b'x'; 10]), descriptors: Vec::new() });
        }
        assert!(matches!(outbox.push_together().unwrap(), Pushed::Bytes(640)));
    }
}
