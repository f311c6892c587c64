//! The last bytes of a body that passed, for whoever has to say what was recognised in it. Long pieces are kept as they came, not copied.

use std::collections::VecDeque;

use bytes::Bytes;

/// The last [`RECENT_BYTES`] and little more.
#[derive(Default)]
pub(crate) struct Recent {
    pieces: VecDeque<Bytes>,
    /// Of all pieces together.
    held: usize,
    /// Short ones, put together: each may lie in a buffer of its own that is much larger.
    short: Vec<u8>,
}

impl Recent {
    /// Takes what comes next.
    pub(crate) fn remember(&mut self, text: &Bytes) {
        if text.len() < PIECE_BYTES {
            self.short.extend_from_slice(text);
        }
        let short_ends = text.len() >= PIECE_BYTES && !self.short.is_empty();
        if short_ends || self.short.len() >= PIECE_BYTES {
            let short = std::mem::take(&mut self.short);
            self.keep(short.into());
        }
        if text.len() >= PIECE_BYTES {
            self.keep(text.clone());
        }
    }

    /// All of it, in order.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text: Vec<u8> = self.pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        text.extend_from_slice(&self.short);
        text
    }

    fn keep(&mut self, piece: Bytes) {
        self.held += piece.len();
        self.pieces.push_back(piece);
        while let Some(oldest) = self.pieces.pop_front_if(|oldest| self.held - oldest.len() >= RECENT_BYTES) {
            self.held -= oldest.len();
        }
    }
}

/// More than the longest rendering of a placeholder.
pub(crate) const RECENT_BYTES: usize = 64 * 1024;
/// Where a piece begins to be long.
const PIECE_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_there_whatever_the_pieces() {
        let all: Vec<u8> = (0..400_000u32).map(|at| (at % 251) as u8).collect();
        for sizes in [&[1][..], &[100], &[8_191, 8_192], &[16_384, 3], &[200_000, 1, 70_000]] {
            let (mut recent, mut at) = (Recent::default(), 0);
            for size in sizes.iter().cycle() {
                let end = (at + size).min(all.len());
                recent.remember(&Bytes::copy_from_slice(&all[at..end]));
                at = end;
                if at == all.len() {
                    break;
                }
            }
            let text = recent.text();
            assert!(text.len() >= RECENT_BYTES && all.ends_with(&text), "{sizes:?}: {}", text.len());
            let most = RECENT_BYTES + 2 * PIECE_BYTES + sizes.iter().max().unwrap();
            assert!(text.len() <= most, "{sizes:?}: {}", text.len());
        }
    }
}
