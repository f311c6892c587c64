//! Searches what a run leaves behind for values that must not be there: in every rendering, inside compressed members
//! and zip entries, and inside base64 text. For the demo, for tests and for `verify`; thorough rather than fast.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::Kind;
use crate::decode::{Decoder, Encoding};
use crate::matcher::Matcher;

/// One needle found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which needle: its position in the list.
    pub needle: usize,
    /// In which form.
    pub kind: Kind,
    /// Where, in the outermost bytes: for a needle inside a wrapping, where that wrapping begins.
    pub offset: usize,
    /// Inside what it was found, from the outside in; empty for one in plain sight.
    pub inside: Vec<Wrapping>,
}

/// What may hide a needle from a plain search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// A compressed member.
    Compressed(Encoding),
    /// Base64 text of another rendering or of a compressed member.
    Base64,
}

/// Every needle in `bytes`, in every rendering. Needles have at least four bytes.
#[must_use]
pub fn search(bytes: &[u8], needles: &[&[u8]]) -> Vec<Found> {
    Canaries::new(needles).search(bytes)
}

/// A list of needles compiled once, for searching many files.
pub struct Canaries {
    matcher: Matcher,
    /// Wrapped text shorter than this holds none of the needles: compression does not halve what is worth searching for.
    shortest_inside: usize,
}

impl Canaries {
    /// Compiles the needles.
    #[must_use]
    pub fn new(needles: &[&[u8]]) -> Self {
        let shortest = needles.iter().map(|needle| needle.len()).min().unwrap_or_default();
        Self { matcher: Matcher::new(needles.iter().copied()), shortest_inside: shortest / 2 }
    }

    /// As [`search`].
    #[must_use]
    pub fn search(&self, bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        self.look(bytes, &mut Vec::new(), &mut |one| found.push(one));
        found
    }

    fn look(&self, bytes: &[u8], inside: &mut Vec<Wrapping>, report: &mut dyn FnMut(Found)) {
        for hit in self.matcher.find_all(bytes) {
            report(Found { needle: hit.index, kind: hit.kind, offset: hit.range.start, inside: inside.clone() });
        }
        if inside.len() == DEEPEST || bytes.len() < self.shortest_inside {
            return;
        }
        for (offset, encoding, content) in compressed(bytes) {
            self.look_inside(offset, Wrapping::Compressed(encoding), &content, inside, report);
        }
        if inside.last() != Some(&Wrapping::Base64) {
            for (offset, content) in base64_texts(bytes, self.shortest_inside) {
                self.look_inside(offset, Wrapping::Base64, &content, inside, report);
            }
        }
    }

    fn look_inside(
        &self,
        at: usize,
        wrapping: Wrapping,
        content: &[u8],
        inside: &mut Vec<Wrapping>,
        report: &mut dyn FnMut(Found),
    ) {
        inside.push(wrapping);
        self.look(content, inside, &mut |found| report(Found { offset: at, ..found }));
        inside.pop();
    }
}

/// Every place where compressed data begins, with what it holds as far as it can be read.
fn compressed(bytes: &[u8]) -> Vec<(usize, Encoding, Vec<u8>)> {
    let mut list: Vec<(usize, Encoding)> = vec![(0, Encoding::Brotli), (0, Encoding::Deflate)];
    for at in 0..bytes.len() {
        list.extend(magic(&bytes[at..]).map(|(skip, encoding)| (at + skip, encoding)));
    }
    let mut budget = TOTAL_CEILING;
    let mut members = Vec::new();
    for (at, encoding) in list {
        let content = as_far_as_possible(encoding, &bytes[at.min(bytes.len())..], budget.min(MEMBER_CEILING));
        budget = budget.saturating_sub(content.len() as u64);
        if !content.is_empty() {
            members.push((at, encoding, content));
        }
    }
    members
}

/// What begins here, and after how many bytes its data does.
fn magic(rest: &[u8]) -> Option<(usize, Encoding)> {
    match rest {
        [0x1F, 0x8B, 8, ..] => Some((0, Encoding::Gzip)),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Some((0, Encoding::Zstd)),
        [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..] => Some((0, Encoding::Deflate)),
        [b'P', b'K', 3, 4, ..] => {
            let length = |at: usize| Some(usize::from(u16::from_le_bytes([*rest.get(at)?, *rest.get(at + 1)?])));
            Some((30 + length(26)? + length(28)?, Encoding::Deflate))
        }
        _ => None,
    }
}

/// What can be read before damage, a foreign byte after the end, or the ceiling: in steps, and byte by byte in the step
/// that fails.
fn as_far_as_possible(encoding: Encoding, encoded: &[u8], ceiling: u64) -> Vec<u8> {
    let mut decoder = Decoder::new(encoding, ceiling);
    let good = encoded.chunks(SMALL_STEP).take_while(|chunk| decoder.push(chunk).is_ok()).count() * SMALL_STEP;
    let (steps, bytes) = encoded.split_at(good.min(encoded.len()));
    let mut decoder = Decoder::new(encoding, ceiling);
    let pieces = steps.chunks(SMALL_STEP).chain(bytes.chunks(1).take(SMALL_STEP));
    pieces.map_while(|piece| decoder.push(piece).ok()).flatten().collect()
}

/// Runs of base64 characters, wrapped or not, of at least `shortest` bytes when decoded from each of the four places where a group may begin.
fn base64_texts(bytes: &[u8], shortest: usize) -> Vec<(usize, Vec<u8>)> {
    let mut texts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|byte| is_base64(**byte) || byte.is_ascii_whitespace()).count();
        let characters: Vec<u8> =
            bytes[at..at + run].iter().copied().filter(|byte| is_base64(*byte)).map(url_safe).collect();
        if characters.len() >= SHORTEST_BASE64.max(shortest * 4 / 3) {
            texts.extend((0..4).filter_map(|start| decode_base64(&characters[start..])).map(|content| (at, content)));
        }
        at += run + 1;
    }
    texts
}

fn decode_base64(characters: &[u8]) -> Option<Vec<u8>> {
    let whole = &characters[..characters.len() / 4 * 4];
    let rest = if characters.len() % 4 >= 2 { characters } else { whole };
    LENIENT.decode(rest).ok()
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
}

fn url_safe(byte: u8) -> u8 {
    match byte {
        b'+' => b'-',
        b'/' => b'_',
        other => other,
    }
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);
/// Compressed data in base64, or the reverse, and no further.
const DEEPEST: usize = 2;
const SHORTEST_BASE64: usize = 16;
const SMALL_STEP: usize = 4096;
const MEMBER_CEILING: u64 = 64 * 1024 * 1024;
const TOTAL_CEILING: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;

    use super::*;

    const NEEDLE: &[u8] = b"canary-4f9a1c77e0b2";

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn kinds(bytes: &[u8]) -> Vec<(Kind, Vec<Wrapping>)> {
        search(bytes, &[b"some-other-needle", NEEDLE])
            .into_iter()
            .inspect(|found| assert_eq!(found.needle, 1))
            .map(|found| (found.kind, found.inside))
            .collect()
    }

    #[test]
    fn every_rendering_is_found_in_the_midst_of_other_bytes() {
        for rendering in crate::renderings::of(NEEDLE) {
            let bytes = [b"\0\x01 before. ".as_slice(), &rendering.bytes, b" after \xff"].concat();
            let found = search(&bytes, &[NEEDLE]);
            assert!(found.iter().any(|found| found.inside.is_empty()), "{:?}: {found:?}", rendering.kind);
        }
    }

    #[test]
    fn compressed_members_are_searched_wherever_they_lie() {
        let body = [b"log line ".as_slice(), NEEDLE, b" end"].concat();
        let zstd = ruzstd::encoding::compress_to_vec(body.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        for (encoding, member) in [(Encoding::Gzip, gzip(&body)), (Encoding::Zstd, zstd)] {
            let bytes = [b"HTTP body: ".as_slice(), &member, b" and more text that belongs to no member"].concat();
            let found = kinds(&bytes);
            assert!(found.contains(&(Kind::Plain, vec![Wrapping::Compressed(encoding)])), "{encoding:?}: {found:?}");
        }
    }

    #[test]
    fn base64_of_a_compressed_member_and_of_another_rendering_are_searched() {
        let compressed = format!("{{\"data\": \"{}\"}}", STANDARD.encode(gzip(NEEDLE)));
        assert!(
            kinds(compressed.as_bytes())
                .contains(&(Kind::Plain, vec![Wrapping::Base64, Wrapping::Compressed(Encoding::Gzip)]))
        );
        let hex = STANDARD.encode(crate::key::hex(NEEDLE));
        assert!(kinds(hex.as_bytes()).contains(&(Kind::Hex, vec![Wrapping::Base64])));
    }

    #[test]
    fn clean_bytes_have_no_finding() {
        let clean =
            [b"canary-4f9a1c77e0b and the rest ".repeat(20), gzip(b"canary-4f9a1c77e0b"), vec![0x78, 0x9C, 1, 2, 3]]
                .concat();
        assert_eq!(kinds(&clean), []);
    }
}
