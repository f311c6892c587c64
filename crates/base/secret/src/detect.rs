//! Finds placeholders and real values in what a sandbox sends. It never decides what a find means.

use std::sync::Arc;

use zeroize::Zeroizing;

pub use crate::matcher::Hit;
use crate::matcher::{Input, Matcher, Search};

/// Finds a fixed list of values in complete texts and in streams.
pub struct Detector {
    matcher: Matcher,
}

impl Detector {
    /// A detector of `values`: placeholders, real values, or both; hits tell by position in this list.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { matcher: Matcher::new(values) }
    }

    /// Every value in `text`, in any rendering, from left to right.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Vec<Hit> {
        self.matcher.find_all(text)
    }

    /// Whether any value is in `text`.
    #[must_use]
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.matcher.is_in(text)
    }
}

/// Watches one stream for values, across the borders of its chunks.
pub struct Watch {
    detector: Arc<Detector>,
    held: Zeroizing<Vec<u8>>,
    passed: usize,
}

/// What a watch says about the stream so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// These bytes belong to no value and may go on; later ones wait.
    Clear(Vec<u8>),
    /// A value, at this place in the whole stream. Nothing from its first byte on has been given out.
    Found(Hit),
}

impl Watch {
    /// A watch over one stream.
    #[must_use]
    pub fn new(detector: Arc<Detector>) -> Self {
        Self { detector, held: Zeroizing::default(), passed: 0 }
    }

    /// Takes a chunk.
    pub fn push(&mut self, chunk: &[u8]) -> Watched {
        self.advance(chunk, Input::Partial)
    }

    /// Ends the stream.
    pub fn finish(&mut self) -> Watched {
        self.advance(&[], Input::Complete)
    }

    fn advance(&mut self, chunk: &[u8], input: Input) -> Watched {
        self.held.extend_from_slice(chunk);
        let clear = match self.detector.matcher.search(&self.held, 0, input) {
            Search::Found(found) => {
                let mut hit = found.hit();
                hit.range = hit.range.start + self.passed..hit.range.end + self.passed;
                return Watched::Found(hit);
            }
            Search::Open(at) => at,
            Search::Nothing => self.held.len(),
        };
        self.passed += clear;
        Watched::Clear(self.held.drain(..clear).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const VALUES: [&[u8]; 2] = [b"pstnAAAAbbbbCCCCdddd", b"real-secret-value-0123"];

    #[test]
    fn hits_name_value_form_and_place() {
        let detector = Detector::new(VALUES);
        let hits = detector.find(b"x=pstnAAAAbbbbCCCCdddd&y=real%2Dsecret%2dvalue-0123");
        let kinds: Vec<_> = hits.iter().map(|hit| (hit.index, hit.kind, hit.range.clone())).collect();
        assert_eq!(kinds, [(0, Kind::Plain, 2..22), (1, Kind::Percent, 25..51)]);
        assert!(!detector.is_in(b"pstnAAAAbbbbCCCCddd real-secret-value-012"));
    }

    #[test]
    fn a_watch_gives_out_nothing_of_a_value() {
        let text = b"hello real-secret-value-0123 bye";
        for size in 1..text.len() {
            let mut watch = Watch::new(Arc::new(Detector::new(VALUES)));
            let mut passed = Vec::new();
            let found = text.chunks(size).find_map(|chunk| match watch.push(chunk) {
                Watched::Clear(bytes) => {
                    passed.extend(bytes);
                    None
                }
                Watched::Found(hit) => Some(hit),
            });
            assert_eq!(found.map(|hit| (hit.index, hit.range)), Some((1, 6..28)), "chunks of {size}");
            assert!(b"hello ".starts_with(passed.as_slice()), "chunks of {size}: {passed:?}");
        }
    }

    #[test]
    fn a_watch_passes_a_clean_stream_whole() {
        let text = b"real-secret-value-012 and no more of it: real-secret";
        for size in 1..text.len() {
            let mut watch = Watch::new(Arc::new(Detector::new(VALUES)));
            let mut passed = Vec::new();
            let parts = text.chunks(size).map(Some).chain([None]);
            for part in parts {
                let watched = match part {
                    Some(chunk) => watch.push(chunk),
                    None => watch.finish(),
                };
                match watched {
                    Watched::Clear(bytes) => passed.extend(bytes),
                    Watched::Found(hit) => panic!("{hit:?}"),
                }
            }
            assert_eq!(passed, text, "chunks of {size}");
        }
    }
}
