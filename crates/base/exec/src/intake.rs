//! Frames out of reads that take whatever the socket has: many small messages for one system call, where an [`Assembler`] makes two for each. For a
//! connection that is read to its end by whoever began to. Pure, as the assembler is.
//!
//! The kernel lets no read go on behind bytes that descriptors came with, and their frame begins with those bytes: so descriptors are taken in the order of
//! the frames that announce them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use zeroize::{Zeroize, Zeroizing};

use crate::frame::{Assembler, ChannelError, Frame, HEADER, Header, MAX_DESCRIPTORS};

/// Bytes that were read, of frames that were not taken yet.
#[derive(Default)]
pub(crate) struct Intake {
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl From<Assembler> for Intake {
    /// Goes on where an assembler stopped.
    fn from(assembler: Assembler) -> Self {
        let (bytes, descriptors) = assembler.into_received();
        Self { start: 0, end: bytes.len(), bytes, descriptors: descriptors.into() }
    }
}

impl Intake {
    /// Where the next bytes go; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let begun = self.end - self.start;
        if self.end == self.bytes.len() {
            // Filled to its end: who sends so much at once is read with a larger one.
            self.move_to((self.bytes.len() * 2).clamp(LEAST_READ, MOST_KEPT.max(begun + LEAST_READ)));
        } else if begun == 0 {
            (self.start, self.end) = (0, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that `count` bytes were put into [`Intake::space`], with these descriptors.
    ///
    /// # Errors
    /// [`ChannelError::Descriptors`] when more wait than two frames can have announced: one that is incomplete, and the next.
    pub(crate) fn advance(&mut self, count: usize, descriptors: Vec<OwnedFd>) -> Result<(), ChannelError> {
        self.end += count;
        self.descriptors.extend(descriptors);
        if self.descriptors.len() > 2 * MAX_DESCRIPTORS { Err(self.unannounced()) } else { Ok(()) }
    }

    /// The next frame, if it is whole.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`] over `limit`, [`ChannelError::Descriptors`] when they are not as many as announced.
    pub(crate) fn take(&mut self, limit: usize) -> Result<Option<Frame>, ChannelError> {
        let Some(header) = self.bytes[self.start..self.end].first_chunk::<HEADER>() else {
            // Those that came belong to a frame that began, and none did.
            let none_began = self.start == self.end && !self.descriptors.is_empty();
            return if none_began { Err(self.unannounced()) } else { Ok(None) };
        };
        let Header { length, descriptors } = Header::read(*header);
        if length > limit {
            return Err(ChannelError::TooLong { length, limit });
        }
        if self.end - self.start < HEADER + length {
            self.room_for(HEADER + length);
            return Ok(None);
        }
        if self.descriptors.len() < descriptors {
            return Err(ChannelError::Descriptors { announced: descriptors, received: self.descriptors.len() });
        }
        let text = &mut self.bytes[self.start + HEADER..self.start + HEADER + length];
        let frame = Frame::new(Zeroizing::new(text.to_vec()), self.descriptors.drain(..descriptors).collect());
        text.zeroize();
        self.start += HEADER + length;
        if self.start == self.end && self.bytes.len() > MOST_KEPT {
            (self.bytes, self.start, self.end) = (Zeroizing::default(), 0, 0);
        }
        Ok(Some(frame))
    }

    /// The end of the stream: fine between frames, an error within one.
    ///
    /// # Errors
    /// [`ChannelError::Truncated`] in the middle of a frame.
    pub(crate) fn end(&self) -> Result<(), ChannelError> {
        let begun = &self.bytes[self.start..self.end];
        let whole = begun.first_chunk().map_or(HEADER, |header| HEADER + Header::read(*header).length);
        if begun.is_empty() { Ok(()) } else { Err(ChannelError::Truncated { missing: whole - begun.len() }) }
    }

    fn unannounced(&self) -> ChannelError {
        ChannelError::Descriptors { announced: 0, received: self.descriptors.len() }
    }

    fn room_for(&mut self, frame: usize) {
        if self.start + frame > self.bytes.len() {
            // As in `space`, where the end of what was read is no frame's end.
            let filled = self.end == self.bytes.len();
            let larger = if filled { (self.bytes.len() * 2).min(MOST_KEPT) } else { self.bytes.len() };
            self.move_to(larger.max(frame));
        }
    }

    /// Begins anew at the front of a buffer of this size; what is left behind is zeroed.
    fn move_to(&mut self, size: usize) {
        let begun = self.end - self.start;
        if size > self.bytes.len() {
            let mut larger = Zeroizing::new(vec![0; size]);
            larger[..begun].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = larger;
        } else {
            self.bytes.copy_within(self.start..self.end, 0);
            self.bytes[begun..self.end].zeroize();
        }
        (self.start, self.end) = (0, begun);
    }
}

/// Read at a time in the beginning.
const LEAST_READ: usize = 2 << 10;
/// A buffer for one long frame is given back after it.
const MOST_KEPT: usize = 64 << 10;

#[cfg(test)]
mod tests;
