//! Reads one direction of a WebSocket: pieces of messages and control frames, in the order the RFC allows and within the
//! bounds. A long frame is read in pieces, so that its length is no claim on memory.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::frame::{self, HEAD_BYTES, Head, Malformed, Opcode};

/// Whose frames are read. Those of a client are masked, those of a server are not (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The sandbox.
    Client,
    /// The upstream.
    Server,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Some bytes of a message.
    Data {
        /// Text or binary, where the message begins with them.
        begins: Option<Opcode>,
        /// The bytes, unmasked.
        bytes: Bytes,
        /// Whether the message ends with them.
        last: bool,
    },
    /// A close, ping or pong with its payload.
    Control(Opcode, Bytes),
}

/// Why no more comes.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The connection ended, orderly or not, without a close frame.
    Gone,
    /// The sender broke the protocol.
    Malformed(Malformed),
    /// A message is longer than the bound.
    TooLong,
}

/// One direction.
pub(crate) struct Reader<S> {
    stream: S,
    side: Side,
    buffer: BytesMut,
    /// The frame whose payload is being read, and how much of it was.
    frame: Option<(Head, u64)>,
    /// Bytes of the message so far, where one has begun.
    message: Option<u64>,
    message_bytes: u64,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// Reads what `side` sends; no message may have more than `message_bytes`.
    pub(crate) fn new(stream: S, side: Side, message_bytes: u64) -> Self {
        Self { stream, side, buffer: BytesMut::new(), frame: None, message: None, message_bytes }
    }

    /// What comes next. To be called again only after it returned.
    ///
    /// # Errors
    /// When nothing more can come.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        let (head, done) = match self.frame {
            Some(begun) => begun,
            None => (self.head().await?, 0),
        };
        if head.opcode.is_control() {
            let length = usize::try_from(head.length).unwrap_or_default();
            let payload = self.exactly(length).await?;
            return Ok(Event::Control(head.opcode, unmasked(&head, 0, payload)));
        }
        let begins = (done == 0 && head.opcode != Opcode::Continuation).then_some(head.opcode);
        let left = head.length - done;
        let piece = if left == 0 { BytesMut::new() } else { self.some(left).await? };
        let read = piece.len() as u64;
        let bytes = unmasked(&head, done, piece);
        let ends = read == left;
        self.frame = (!ends).then_some((head, done + read));
        let last = ends && head.last;
        if last {
            self.message = None;
        }
        Ok(Event::Data { begins, bytes, last })
    }

    async fn head(&mut self) -> Result<Head, Ended> {
        let head = loop {
            match Head::parse(&self.buffer).map_err(Ended::Malformed)? {
                Some((head, taken)) => {
                    let _head = self.buffer.split_to(taken);
                    break head;
                }
                None => self.fill().await?,
            }
        };
        self.in_order(&head).map_err(Ended::Malformed)?;
        if !head.opcode.is_control() {
            let length = self.message.unwrap_or_default().saturating_add(head.length);
            if length > self.message_bytes {
                return Err(Ended::TooLong);
            }
            self.message = Some(length);
        }
        Ok(head)
    }

    fn in_order(&self, head: &Head) -> Result<(), Malformed> {
        match (self.side, head.mask) {
            (Side::Client, None) => return Err(Malformed("a client's frame without a mask")),
            (Side::Server, Some(_)) => return Err(Malformed("a server's frame with a mask")),
            (Side::Client, Some(_)) | (Side::Server, None) => {}
        }
        match (head.opcode, self.message) {
            (Opcode::Continuation, None) => Err(Malformed("more of a message that has not begun")),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(Malformed("a message within a message")),
            _ => Ok(()),
        }
    }

    async fn some(&mut self, most: u64) -> Result<BytesMut, Ended> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(self.buffer.split_to(most))
    }

    async fn exactly(&mut self, length: usize) -> Result<BytesMut, Ended> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length))
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        self.buffer.reserve(PIECE_BYTES);
        let read: io::Result<usize> = (&mut self.stream).take(PIECE_BYTES as u64).read_buf(&mut self.buffer).await;
        match read {
            Ok(0) | Err(_) => Err(Ended::Gone),
            Ok(_) => Ok(()),
        }
    }
}

fn unmasked(head: &Head, offset: u64, mut payload: BytesMut) -> Bytes {
    if let Some(mask) = head.mask {
        frame::apply(mask, offset, &mut payload);
    }
    payload.freeze()
}

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 * 1024;
const _: () = assert!(PIECE_BYTES > HEAD_BYTES + 125, "a control frame fits");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn read_all(side: Side, most: u64, bytes: &[u8]) -> (Vec<Event>, Ended) {
        let mut reader = Reader::new(bytes, side, most);
        let mut events = Vec::new();
        loop {
            match reader.next().await {
                Ok(event) => events.push(event),
                Err(ended) => return (events, ended),
            }
        }
    }

    fn ended(side: Side, most: u64, bytes: &[u8]) -> Ended {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read_all(side, most, bytes)).1
    }

    #[test]
    fn frames_come_in_the_order_that_the_rfc_allows() {
        let table: &[(Side, &[u8], bool)] = &[
            (Side::Server, b"\x01\x01a\x00\x01b\x80\x01c\x82\x00", true),
            (Side::Server, b"\x01\x01a\x89\x00\x80\x01c", true),
            (Side::Server, b"\x80\x01c", false),
            (Side::Server, b"\x01\x01a\x81\x01b", false),
            (Side::Server, b"\x81\x01a\x80\x01b", false),
            (Side::Server, b"\x81\x81\0\0\0\0a", false),
            (Side::Client, b"\x81\x81\0\0\0\0a", true),
            (Side::Client, b"\x81\x01a", false),
            (Side::Client, b"\x88\x00", false),
        ];
        for (side, bytes, sound) in table {
            let ended = ended(*side, 100, bytes);
            assert_eq!(matches!(ended, Ended::Gone), *sound, "{bytes:x?}: {ended:?}");
        }
    }

    #[test]
    fn a_message_beyond_the_bound_ends_the_reading_before_its_payload_in_one_frame_or_many() {
        let one = [b"\x82\x7f", &(1_u64 << 40).to_be_bytes()[..]].concat();
        assert!(matches!(ended(Side::Server, 100, &one), Ended::TooLong));
        let many = [&b"\x02\x32"[..], &[0; 50], b"\x00\x32", &[0; 50], b"\x80\x01x"].concat();
        assert!(matches!(ended(Side::Server, 100, &many), Ended::TooLong));
        assert!(matches!(ended(Side::Server, 101, &many), Ended::Gone));
    }

    proptest! {
        #[test]
        fn messages_are_read_whole_however_they_are_cut(
            message in prop::collection::vec(any::<u8>(), 0..40_000),
            cuts in prop::collection::vec(1_usize..20_000, 0..6),
            mask: [u8; 4],
        ) {
            let mut frames = Vec::new();
            let mut rest = &message[..];
            let mut opcode = Opcode::Binary;
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                frames.extend(frame::render(opcode, false, Some(mask), piece));
                frames.extend(frame::render(Opcode::Ping, true, Some(mask), b"?"));
                (rest, opcode) = (more, Opcode::Continuation);
            }
            frames.extend(frame::render(opcode, true, Some(mask), rest));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (events, ended) = runtime.block_on(read_all(Side::Client, 1 << 20, &frames));
            prop_assert!(matches!(ended, Ended::Gone));
            let (mut read, mut begun, mut whole) = (Vec::new(), 0, 0);
            for event in events {
                match event {
                    Event::Data { begins, bytes, last } => {
                        begun += usize::from(begins == Some(Opcode::Binary));
                        whole += usize::from(last);
                        read.extend_from_slice(&bytes);
                    }
                    Event::Control(opcode, payload) => prop_assert_eq!((opcode, &payload[..]), (Opcode::Ping, &b"?"[..])),
                }
            }
            prop_assert_eq!((read, begun, whole), (message, 1, 1));
        }
    }
}
