//! The frame that all our processes speak: a little-endian `u32` header, then that many bytes of JSON.
//! The header's low 27 bits are the length; its top five bits count the descriptors that travel with the header's first byte (a frame without
//! descriptors is thus a plain length prefix). Pure: bytes and descriptors come in, whole frames or typed errors go out.
//!
//! Buffers are zeroed when dropped, and errors carry positions, never contents: custody's answers pass here.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Serialize, de::Deserialize};
use zeroize::{Zeroize, Zeroizing};

/// Why a channel cannot deliver or take a message; after one of these the connection is of no further use, except for [`ChannelError::Serialize`].
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer announced a frame longer than the receiver's limit.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The announced length in bytes.
        length: usize,
        /// The receiver's limit in bytes.
        limit: usize,
    },
    /// The connection ended in the middle of a frame.
    #[error("the connection ended {missing} bytes before the end of a frame")]
    Truncated {
        /// Bytes that were announced and did not come.
        missing: usize,
    },
    /// The bytes are not the JSON that was expected. The text of the message is left out on purpose: it may be a secret.
    #[error("a message does not read as expected ({problem}) at line {line}, column {column}")]
    Garbled {
        /// `syntax`, `data`, `eof` or `io`.
        problem: &'static str,
        /// Line of the JSON text, from 1.
        line: usize,
        /// Column of the JSON text, from 1.
        column: usize,
    },
    /// Fewer or more descriptors arrived than the frame announced.
    #[error("a frame announced {announced} descriptors and {received} arrived")]
    Descriptors {
        /// What the header says.
        announced: usize,
        /// What came with it.
        received: usize,
    },
    /// More descriptors than one frame can carry.
    #[error("{count} descriptors are more than a frame carries ({MAX_DESCRIPTORS})")]
    TooManyDescriptors {
        /// How many were given.
        count: usize,
    },
    /// The message cannot be written as JSON.
    #[error("a message cannot be serialized")]
    Serialize,
    /// An earlier send was abandoned in the middle of a frame, so nothing more can be sent.
    #[error("an earlier message was cut short on this connection")]
    Broken,
    /// The socket itself failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

/// One whole message: its JSON text and the descriptors that came with it.
pub struct Frame {
    body: Zeroizing<Vec<u8>>,
    /// Descriptors that travelled with this frame, in the sender's order.
    pub descriptors: Vec<OwnedFd>,
}

/// What stands before every message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// Of the message, in bytes.
    pub(crate) length: usize,
    /// How many travel with it.
    pub(crate) descriptors: usize,
}

impl Header {
    pub(crate) fn read(bytes: [u8; HEADER]) -> Self {
        let header = u32::from_le_bytes(bytes);
        Self { length: (header & MAX_LENGTH as u32) as usize, descriptors: (header >> LENGTH_BITS) as usize }
    }
}

impl Frame {
    pub(crate) fn new(body: Zeroizing<Vec<u8>>, descriptors: Vec<OwnedFd>) -> Self {
        Self { body, descriptors }
    }

    /// Reads the message; the value may borrow from the frame.
    ///
    /// # Errors
    /// [`ChannelError::Garbled`] if the text is not JSON of this type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ChannelError> {
        serde_json::from_slice(&self.body).map_err(|error| garbled(&error))
    }
}

/// Writes a message with its header; the descriptors themselves are sent beside these bytes.
///
/// # Errors
/// [`ChannelError::Serialize`], [`ChannelError::TooManyDescriptors`], or [`ChannelError::TooLong`] over [`MAX_LENGTH`].
pub fn encode<T: Serialize + ?Sized>(message: &T, descriptors: usize) -> Result<Zeroizing<Vec<u8>>, ChannelError> {
    if descriptors > MAX_DESCRIPTORS {
        return Err(ChannelError::TooManyDescriptors { count: descriptors });
    }
    let mut buffer = Growing(Zeroizing::new(Vec::with_capacity(512)));
    buffer.append(&[0; HEADER]);
    serde_json::to_writer(&mut buffer, message).map_err(|_| ChannelError::Serialize)?;
    let mut bytes = buffer.0;
    let length = bytes.len() - HEADER;
    if length > MAX_LENGTH {
        return Err(ChannelError::TooLong { length, limit: MAX_LENGTH });
    }
    let header = (length as u32) | ((descriptors as u32) << LENGTH_BITS);
    bytes[..HEADER].copy_from_slice(&header.to_le_bytes());
    Ok(bytes)
}

/// Puts a frame together from whatever pieces the socket gives. It asks for exactly the bytes of one frame, never more, so that descriptors stay with theirs.
#[derive(Default)]
pub struct Assembler {
    header: [u8; HEADER],
    header_filled: usize,
    body: Option<Zeroizing<Vec<u8>>>,
    body_filled: usize,
    announced: usize,
    descriptors: Vec<OwnedFd>,
}

impl Assembler {
    /// Where the next bytes go: never empty while a frame is incomplete.
    pub fn space(&mut self) -> &mut [u8] {
        match &mut self.body {
            None => &mut self.header[self.header_filled..],
            Some(body) => {
                let end = body.len().min(self.body_filled + LARGEST_READ);
                &mut body[self.body_filled..end]
            }
        }
    }

    /// Whether the next bytes may bring descriptors: only a header does.
    pub fn at_header(&self) -> bool {
        self.body.is_none()
    }

    /// Notes that `count` bytes were put into [`Assembler::space`], with these descriptors; answers the frame once it is whole.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`] over `limit`, [`ChannelError::Descriptors`] when they are not as many as announced.
    pub fn advance(
        &mut self,
        count: usize,
        descriptors: Vec<OwnedFd>,
        limit: usize,
    ) -> Result<Option<Frame>, ChannelError> {
        self.descriptors.extend(descriptors);
        match &self.body {
            None => self.header_filled += count,
            Some(_) => self.body_filled += count,
        }
        if self.body.is_none() {
            if self.header_filled < HEADER {
                return Ok(None);
            }
            self.begin_body(limit)?;
        }
        Ok(self.take_whole())
    }

    /// The end of the stream: fine between frames, an error within one.
    ///
    /// # Errors
    /// [`ChannelError::Truncated`] in the middle of a frame.
    pub fn end(&self) -> Result<(), ChannelError> {
        let missing = match &self.body {
            None if self.header_filled == 0 => return Ok(()),
            None => HEADER - self.header_filled,
            Some(body) => body.len() - self.body_filled,
        };
        Err(ChannelError::Truncated { missing })
    }

    /// What was received of a frame that is not whole.
    pub(crate) fn into_received(self) -> (Zeroizing<Vec<u8>>, Vec<OwnedFd>) {
        let mut bytes = Zeroizing::new(self.header[..self.header_filled].to_vec());
        if let Some(body) = &self.body {
            bytes.reserve_exact(body.len());
            bytes.extend_from_slice(&body[..self.body_filled]);
        }
        (bytes, self.descriptors)
    }

    fn begin_body(&mut self, limit: usize) -> Result<(), ChannelError> {
        let Header { length, descriptors } = Header::read(self.header);
        self.announced = descriptors;
        if length > limit {
            return Err(ChannelError::TooLong { length, limit });
        }
        if self.announced != self.descriptors.len() {
            return Err(ChannelError::Descriptors { announced: self.announced, received: self.descriptors.len() });
        }
        self.body = Some(Zeroizing::new(vec![0; length]));
        self.body_filled = 0;
        Ok(())
    }

    fn take_whole(&mut self) -> Option<Frame> {
        if self.body.as_ref().is_none_or(|body| self.body_filled < body.len()) {
            return None;
        }
        let body = self.body.take()?;
        let descriptors = std::mem::take(&mut self.descriptors);
        *self = Self::default();
        Some(Frame { body, descriptors })
    }
}

pub(crate) fn garbled(error: &serde_json::Error) -> ChannelError {
    let problem = match error.classify() {
        serde_json::error::Category::Io => "io",
        serde_json::error::Category::Syntax => "syntax",
        serde_json::error::Category::Data => "data",
        serde_json::error::Category::Eof => "eof",
    };
    ChannelError::Garbled { problem, line: error.line(), column: error.column() }
}

/// A buffer that zeroes what it leaves behind when it grows.
struct Growing(Zeroizing<Vec<u8>>);

impl Growing {
    fn append(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let mut larger = Vec::with_capacity((self.0.capacity() * 2).max(self.0.len() + bytes.len()));
            larger.extend_from_slice(&self.0);
            let mut smaller = std::mem::replace(&mut *self.0, larger);
            smaller.zeroize();
        }
        self.0.extend_from_slice(bytes);
    }
}

impl io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of the header.
pub const HEADER: usize = 4;
/// The longest body a header can announce: 128 MiB less one byte.
pub const MAX_LENGTH: usize = (1 << LENGTH_BITS) - 1;
/// The most descriptors one frame carries (the header could say 31).
pub const MAX_DESCRIPTORS: usize = 28;
const LENGTH_BITS: u32 = 27;
const LARGEST_READ: usize = 1 << 20;

#[cfg(test)]
mod tests;
