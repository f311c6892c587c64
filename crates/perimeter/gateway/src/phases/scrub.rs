//! Phase: takes every secret of the session out of an answer, in every rendering: headers by an allow-list and scrubbed,
//! the body decoded and scrubbed across the borders of its chunks. What cannot be read is not passed on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use postern_policy::{Denial, Reason};
use postern_secret::{
    decode::{DecodeError, Decoders, Encoding, PIECE},
    scrub::Scrubber,
};

use crate::{keyring::Keyring, limits};

/// Takes secrets out of one body as it comes.
pub(crate) struct Cleaner {
    decoders: Decoders,
    keyring: Arc<Keyring>,
    scrubber: Scrubber,
    /// By scrubbers before this one.
    replaced: u64,
}

impl Cleaner {
    /// For a body that these headers describe. `most` bounds what it decodes to.
    pub(crate) fn new(keyring: Arc<Keyring>, headers: &HeaderMap, most: u64) -> Result<Self, Denial> {
        framing(headers)?;
        let ceiling = most.min(limits::DECODED_BYTES);
        let decoders = Decoders::new(&encodings(headers)?, ceiling);
        let scrubber = Scrubber::with(keyring.plan().clone());
        Ok(Self { decoders, keyring, scrubber, replaced: 0 })
    }

    /// Takes out from here on what the session knows now: a server may reflect a secret of a call that began later than this
    /// answer. Gives what was held back; a session that ended and forgot leaves the former secrets in force.
    pub(crate) fn follow(&mut self, keyring: Arc<Keyring>) -> Vec<u8> {
        if Arc::ptr_eq(&self.keyring, &keyring) || keyring.is_empty() {
            return Vec::new();
        }
        let held = self.scrubber.finish();
        self.replaced += self.scrubber.replaced();
        self.scrubber = Scrubber::with(keyring.plan().clone());
        self.keyring = keyring;
        self.scrubber.push(&held)
    }

    /// What may go on of a chunk.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<Vec<u8>, Denial> {
        if self.decoders.is_empty() {
            return Ok(self.scrubber.push(chunk));
        }
        let mut clean = Vec::new();
        // In small steps: what each decodes to is held in memory.
        for piece in chunk.chunks(PIECE) {
            let decoded = self.decoders.push(piece).map_err(not_decoded)?;
            clean.extend(self.scrubber.push(&decoded));
        }
        Ok(clean)
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, Denial> {
        self.decoders.finish().map_err(not_decoded)?;
        Ok(self.scrubber.finish())
    }

    /// Secrets taken out so far.
    pub(crate) fn scrubbed(&self) -> u64 {
        self.replaced + self.scrubber.replaced()
    }
}

/// The headers that the caller gets, scrubbed; and how many secrets were in them.
pub(crate) fn headers(keyring: &Keyring, from: &HeaderMap) -> (HeaderMap, u64) {
    let (mut into, mut scrubbed) = (HeaderMap::new(), 0);
    for name in CARRIED {
        let Some(value) = from.get(*name) else { continue };
        let (clean, replaced) = keyring.clean(value.as_bytes());
        scrubbed += replaced;
        // Of the value's own length and alphabet; anything else is left out.
        if let Ok(clean) = HeaderValue::from_bytes(&clean) {
            into.insert(HeaderName::from_static(name), clean);
        }
    }
    (into, scrubbed)
}

/// One header's value as text, scrubbed.
pub(crate) fn header_text(keyring: &Keyring, value: &HeaderValue) -> (String, u64) {
    let (clean, replaced) = keyring.clean(value.as_bytes());
    (short(&clean), replaced)
}

/// The beginning of a text of an upstream's, for people: one line, printable.
pub(crate) fn short(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(SHORT).collect();
    line.trim().to_owned()
}

/// An encoding of the transfer other than chunking would stay on the body unseen.
fn framing(headers: &HeaderMap) -> Result<(), Denial> {
    let mut transfers = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (transfers.next(), transfers.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Denial::new(Reason::EncodingUnsupported)),
    }
}

/// The encodings of a body, in the order in which they are to be taken off.
fn encodings(headers: &HeaderMap) -> Result<Vec<Encoding>, Denial> {
    let unsupported = || Denial::new(Reason::EncodingUnsupported);
    let mut found = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for token in value.to_str().map_err(|_| unsupported())?.split(',').map(str::trim) {
            if !token.is_empty() && !token.eq_ignore_ascii_case("identity") {
                found.push(Encoding::from_token(token).ok_or_else(unsupported)?);
            }
        }
    }
    found.reverse();
    if found.len() > limits::ENCODINGS { Err(unsupported()) } else { Ok(found) }
}

fn not_decoded(error: DecodeError) -> Denial {
    Denial::new(match error {
        DecodeError::Ceiling(_) => Reason::ResultTooLarge,
        DecodeError::Ratio | DecodeError::Window => Reason::LimitDecoded,
        DecodeError::Damaged | DecodeError::Truncated => Reason::EncodingUnsupported,
    })
}

/// What goes on of an answer's headers. Lengths and encodings are the gateway's own.
const CARRIED: &[&str] = &["content-type", "mcp-protocol-version", "cache-control", "retry-after", "allow"];
const SHORT: usize = 300;

#[cfg(test)]
mod tests {
    use postern_secret::SecretBytes;

    use super::*;

    #[test]
    fn of_encodings_on_one_another_three_are_taken_off() {
        for (tokens, is_taken) in
            [("gzip, br, zstd", true), ("gzip, identity, br, zstd", true), ("gzip, gzip, gzip, gzip", false)]
        {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(tokens))]);
            let refused = Cleaner::new(Arc::default(), &headers, 1 << 20).err().map(|denial| denial.reason);
            assert_eq!(refused, (!is_taken).then_some(Reason::EncodingUnsupported), "{tokens}");
        }
    }

    #[test]
    fn a_secret_that_becomes_known_on_the_way_is_taken_out_too_and_the_former_one_still() {
        let (old, new) = ("the-f0rmer-secret-0f-the-wiki", "the-rotated-s3cret-of-the-wiki");
        let known = |text: &str| vec![SecretBytes::new(text.as_bytes().to_vec())];
        let first = Arc::new(Keyring::default().with(known(old)).unwrap());
        let both = Arc::new(first.with(known(new)).unwrap());
        let text = format!("data: {old} {new} {old}\n\n");
        for at in 0..text.len() {
            let mut cleaner = Cleaner::new(Arc::clone(&first), &HeaderMap::new(), 1 << 20).unwrap();
            let mut clean = cleaner.push(&Bytes::copy_from_slice(&old.as_bytes()[..at % old.len()])).unwrap();
            clean.extend(cleaner.follow(Arc::clone(&both)));
            for chunk in [&text[..at], &text[at..]] {
                clean.extend(cleaner.push(&Bytes::copy_from_slice(chunk.as_bytes())).unwrap());
                clean.extend(cleaner.follow(Arc::default()));
            }
            clean.extend(cleaner.finish().unwrap());
            let clean = String::from_utf8_lossy(&clean);
            assert!(!clean.contains(old) && !clean.contains(new), "{at}: {clean}");
            assert_eq!(cleaner.scrubbed(), 3, "{at}");
        }
    }
}
