//! Notices what the HTTP/2 library refuses by itself before there is a request, for nothing else says so: a head that is malformed has its stream reset, a
//! head that is too long is answered 431. Reads the frames that leave by their heads and the first bytes behind them.

use tokio::sync::watch;

use crate::tap::{Tap, Tapped};

/// Counts them as they leave.
pub struct Resets {
    leaving: Frames,
    seen: watch::Sender<Seen>,
}

/// What was seen on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Streams that were reset for an error of protocol.
    pub malformed: u64,
    /// A head was too long: by whose word it was refused.
    pub too_long: Option<By>,
}

/// Who refused a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The library, without content: nobody knows of it.
    Library,
    /// Ourselves, in words and on record.
    Us,
}

impl Resets {
    /// Counts on a stream; the count ends with it.
    pub fn on<S>(stream: S) -> (Tapped<S, Self>, watch::Receiver<Seen>) {
        let (seen, count) = watch::channel(Seen::default());
        (Tapped::new(stream, Self { leaving: Frames::default(), seen }), count)
    }
}

/// Waits until a head was refused for its length; for ever where the connection ends first.
pub async fn too_long(mut seen: watch::Receiver<Seen>) -> By {
    match seen.wait_for(|seen| seen.too_long.is_some()).await.map(|seen| seen.too_long) {
        Ok(Some(by)) => by,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

impl Tap for Resets {
    fn left(&mut self, bytes: &[u8]) {
        let Seen { malformed, too_long } = self.leaving.look(bytes);
        if malformed > 0 || too_long.is_some() {
            self.seen.send_modify(|seen| {
                seen.malformed += malformed;
                seen.too_long = seen.too_long.or(too_long);
            });
        }
    }
}

/// Where in the frames the bytes are (RFC 9113, section 4.1).
#[derive(Debug, Default)]
struct Frames {
    /// A frame's head and, of one that resets, its code; of one that answers, its status.
    head: Vec<u8>,
    /// Bytes of the frame that are passed over.
    left: usize,
}

impl Frames {
    /// What these bytes refuse.
    fn look(&mut self, mut bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        while !bytes.is_empty() {
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = &bytes[passed..];
            if self.left > 0 {
                break;
            }
            let taken = (self.wanted() - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == self.wanted() {
                seen.malformed += u64::from(self.is_reset() && self.head[HEAD..] == PROTOCOL_ERROR);
                seen.too_long = seen.too_long.or(self.too_long());
                self.left = self.length() - (self.head.len() - HEAD);
                self.head.clear();
            }
        }
        seen
    }

    /// How much of the frame is read.
    fn wanted(&self) -> usize {
        match self.head.get(3) {
            Some(&RST_STREAM) if self.is_reset() => HEAD + PROTOCOL_ERROR.len(),
            Some(&HEADERS) if self.head.len() >= HEAD => HEAD + self.length().min(STATUS_WITHIN),
            _ => HEAD,
        }
    }

    /// Whether the frame is an answer 431. The first on a connection is written out (RFC 7541, section 6.2), behind what may resize the table.
    fn too_long(&self) -> Option<By> {
        if self.head[3] != HEADERS {
            return None;
        }
        let resizes = |byte: &&u8| **byte & 0xe0 == 0x20;
        let fields = &self.head[HEAD..];
        let fields = &fields[fields.iter().take_while(resizes).count()..];
        let by = if self.head[4] & END_STREAM == 0 { By::Us } else { By::Library };
        let status = |name: &u8| [0x48, 0x08, 0x18].contains(name) && fields[1..].starts_with(&HUFFMAN_431);
        fields.first().filter(|name| status(name)).map(|_| by)
    }

    fn is_reset(&self) -> bool {
        self.head.len() >= HEAD && self.head[3] == RST_STREAM && self.length() == PROTOCOL_ERROR.len()
    }

    fn length(&self) -> usize {
        self.head[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    }
}

/// Bytes of a frame's head.
const HEAD: usize = 9;
/// The type of a frame that resets a stream (RFC 9113, section 6.4).
const RST_STREAM: u8 = 3;
/// The type of a frame that begins an answer, and its flag where nothing follows (RFC 9113, section 6.2).
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
/// Within so many bytes its status stands.
const STATUS_WITHIN: usize = 16;
/// The text "431", compressed, behind its length (RFC 7541, appendix B).
const HUFFMAN_431: [u8; 4] = [0x83, 0x69, 0x90, 0xff];
/// Its code (RFC 9113, section 7).
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn resets_for_an_error_of_protocol_are_counted_whatever_the_pieces() {
        let reset = frame(RST_STREAM, &PROTOCOL_ERROR);
        let frames = [
            frame(4, &[]),
            reset.clone(),
            frame(0, &[RST_STREAM; 300]),
            frame(0, &reset),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(RST_STREAM, &[0, 0, 0, 0, 1]),
            reset,
            frame(8, &[0, 0, 0, 1]),
        ];
        let bytes = frames.concat();
        for size in 1..=bytes.len() {
            let mut reading = Frames::default();
            let resets: u64 = bytes.chunks(size).map(|chunk| reading.look(chunk).malformed).sum();
            assert_eq!(resets, 2, "pieces of {size}");
        }
    }

    #[test]
    fn an_answer_431_is_seen_whatever_the_pieces_and_whoever_gives_it() {
        let answer = |flags: u8, fields: &[u8]| {
            let mut frame = frame(HEADERS, fields);
            frame[4] = flags;
            frame
        };
        let refused = [&[0x48][..], &HUFFMAN_431, &[0x0f, 0x0d, 0x01, 0x30]].concat();
        let resized = [&[0x20, 0x3f][..], &refused].concat();
        let table = [
            (answer(5, &refused), Some(By::Library)),
            (answer(4, &refused), Some(By::Us)),
            (answer(5, &resized), Some(By::Library)),
            (answer(5, &[0x88]), None),
            (answer(5, &[]), None),
            (answer(5, &[0x48, 0x83, 0x69, 0x90]), None),
            (frame(0, &refused), None),
        ];
        for (bytes, by) in table {
            for size in 1..=bytes.len() {
                let mut reading = Frames::default();
                let seen = bytes.chunks(size).find_map(|chunk| reading.look(chunk).too_long);
                assert_eq!(seen, by, "{bytes:x?} in pieces of {size}");
            }
        }
    }
}
