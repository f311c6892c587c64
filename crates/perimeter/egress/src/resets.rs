//! Notices how often the HTTP/2 library resets a stream for what the client did wrong on it: a head that is malformed is reset before there is a request,
//! and nothing else says so. Reads the frames that leave by their heads alone.

use tokio::sync::watch;

use crate::tap::{Tap, Tapped};

/// Counts them as they leave.
pub(crate) struct Resets {
    leaving: Frames,
    seen: watch::Sender<u64>,
}

impl Resets {
    /// Counts on a stream; the count ends with it.
    pub(crate) fn on<S>(stream: S) -> (Tapped<S, Self>, watch::Receiver<u64>) {
        let (seen, count) = watch::channel(0);
        (Tapped::new(stream, Self { leaving: Frames::default(), seen }), count)
    }
}

impl Tap for Resets {
    fn left(&mut self, bytes: &[u8]) {
        let resets = self.leaving.resets(bytes);
        if resets > 0 {
            self.seen.send_modify(|seen| *seen += resets);
        }
    }
}

/// Where in the frames the bytes are (RFC 9113, section 4.1).
#[derive(Debug, Default)]
struct Frames {
    /// A frame's head and, of one that resets, its code.
    head: Vec<u8>,
    /// Bytes of the frame that are passed over.
    left: usize,
}

impl Frames {
    /// Streams that these bytes reset for an error of protocol.
    fn resets(&mut self, mut bytes: &[u8]) -> u64 {
        let mut resets = 0;
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
                resets += u64::from(self.is_reset() && self.head[HEAD..] == PROTOCOL_ERROR);
                self.left = self.length() - (self.head.len() - HEAD);
                self.head.clear();
            }
        }
        resets
    }

    /// How much of the frame is read.
    fn wanted(&self) -> usize {
        if self.is_reset() { HEAD + PROTOCOL_ERROR.len() } else { HEAD }
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
            let resets: u64 = bytes.chunks(size).map(|chunk| reading.resets(chunk)).sum();
            assert_eq!(resets, 2, "pieces of {size}");
        }
    }
}
