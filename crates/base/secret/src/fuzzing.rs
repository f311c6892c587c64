//! What scrubber, detector and decoders make of any bytes, as plain functions: the fuzz targets and the tests over their
//! corpora call them. They panic where a promise is broken.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::decode::{DecodeError, Decoder, Encoding};
use crate::detect::{Detector, Watch, Watched};
use crate::scrub::{Plan, Scrubber};
use crate::seal::{Binding, FIRST_VERSION, SealedCredential, SealedVariable, VERSION};
use crate::{Kind, Placeholder, Secret};

/// Whatever the chunks, the answer is the same, as long as what came in and holds no secret; where secrets stand plainly
/// it is what a search for the plain text would give.
///
/// # Panics
/// When one of these does not hold.
pub fn scrub(input: &[u8]) {
    let Some((sizes, text)) = chunks(input) else { return };
    let (whole, replaced) = PLAN.scrub(text);
    let mut scrubber = Scrubber::with(Arc::clone(&PLAN));
    let mut pieces: Vec<u8> = cut(text, sizes).flat_map(|chunk| scrubber.push(chunk)).collect();
    pieces.extend(scrubber.finish());
    assert_eq!((&pieces, scrubber.replaced()), (&whole, replaced), "chunks change nothing");
    assert_eq!((scrubber.held(), whole.len()), (0, text.len()), "nothing is lost or added");
    for secret in SECRETS {
        assert!(!contains(&whole, secret), "a secret came through");
    }
    let hits = DETECTOR.find(text);
    assert_eq!(hits.len() as u64, replaced, "what is found is replaced");
    if hits.iter().all(|hit| hit.kind == Kind::Plain) {
        assert_eq!(whole, replaced_plainly(text), "as a search for the plain text would do it");
    }
}

/// A stream is watched as a text is searched, and nothing of what is found gets by.
///
/// # Panics
/// When one of these does not hold.
pub fn detect(input: &[u8]) {
    let Some((sizes, text)) = chunks(input) else { return };
    let first = DETECTOR.find(text).into_iter().next();
    assert_eq!(DETECTOR.is_in(text), first.is_some());
    assert!(first.is_some() || SECRETS.iter().all(|secret| !contains(text, secret)), "a plain secret is found");
    let mut watch = Watch::new(Arc::clone(&DETECTOR));
    let mut passed = Vec::new();
    let mut found = None;
    for chunk in cut(text, sizes).map(Some).chain([None]) {
        let watched = match chunk {
            Some(chunk) => watch.push(chunk),
            None => watch.finish(),
        };
        match watched {
            Watched::Clear(bytes) => passed.extend(bytes),
            Watched::Found(hit) => {
                found = Some(hit);
                break;
            }
        }
    }
    assert_eq!(found, first, "chunks change nothing");
    match first {
        Some(hit) => assert!(text[..hit.range.start].starts_with(&passed), "nothing of it"),
        None => assert_eq!(passed, text, "all of it"),
    }
}

/// Whatever the chunks, the text is the same, within its bounds; a spent decoder stays spent.
///
/// # Panics
/// When one of these does not hold.
pub fn decode(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    let Some((sizes, encoded)) = chunks(input) else { return };
    let encoding = [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli, Encoding::Zstd][usize::from(*which) % 4];
    let whole = decoded(encoding, std::iter::once(encoded));
    let pieces = decoded(encoding, cut(encoded, sizes));
    // What has come so far decides about the ratio, so there the borders count.
    if ![&whole, &pieces].iter().any(|one| matches!(one, Err(DecodeError::Ratio | DecodeError::Ceiling(_)))) {
        // Which of two refusals of a damaged text comes first may depend on them; that it is refused may not.
        assert_eq!(pieces.map_err(drop), whole.map_err(drop), "{encoding:?}: chunks change nothing");
    }
}

fn decoded<'a>(encoding: Encoding, chunks: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, CEILING);
    let mut text = Vec::new();
    for chunk in chunks {
        match decoder.push(chunk) {
            Ok(more) => text.extend(more),
            Err(error) => {
                assert_eq!((decoder.push(chunk), decoder.finish()), (Err(error), Err(error)), "spent is spent");
                return Err(error);
            }
        }
        assert!(text.len() as u64 <= CEILING, "{encoding:?} gave {}", text.len());
    }
    decoder.finish().map(|()| text)
}

/// The first four bytes say how the rest is cut.
fn chunks(input: &[u8]) -> Option<([u8; 4], &[u8])> {
    input.split_first_chunk::<4>().map(|(sizes, text)| (*sizes, text))
}

fn cut(mut text: &[u8], sizes: [u8; 4]) -> impl Iterator<Item = &[u8]> {
    let mut sizes = sizes.into_iter().cycle();
    std::iter::from_fn(move || {
        let size = usize::from(sizes.next()?) % 64 + 1;
        let (chunk, rest) = text.split_at(size.min(text.len()));
        text = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Left to right, the longest first: what every search and replace does.
fn replaced_plainly(mut text: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    while let Some((first, rest)) = text.split_first() {
        let longest =
            (0..SECRETS.len()).filter(|at| text.starts_with(SECRETS[*at])).max_by_key(|at| SECRETS[*at].len());
        match longest {
            Some(at) => {
                output.extend_from_slice(PLACEHOLDERS[at].as_bytes());
                text = &text[SECRETS[at].len()..];
            }
            None => {
                output.push(*first);
                text = rest;
            }
        }
    }
    output
}

/// What reads as something sealed is written as it was read, and what binds it says in each version what that version knows, as JSON of its own.
///
/// # Panics
/// When it is not, or does not.
pub fn sealed(bytes: &[u8]) {
    let text = URL_SAFE_NO_PAD.encode(bytes);
    assert_eq!(SealedCredential::decode(&text).ok(), serde_json::from_slice(bytes).ok(), "the text is its JSON");
    let variable = SealedVariable::decode(&text).ok();
    if let Some(variable) = &variable {
        assert_eq!(SealedVariable::decode(&variable.encode()).as_ref(), Ok(variable), "it is what was written");
    }
    let credential = SealedCredential::decode(&text).ok().or(variable.map(|variable| variable.credential));
    let Some(credential) = credential else { return };
    assert_eq!(SealedCredential::decode(&credential.encode()).as_ref(), Ok(&credential), "it is what was written");
    for version in FIRST_VERSION..=VERSION {
        let within = credential.binding.in_version(version);
        let bound = within.canonical(version).expect("a version has what is in it");
        assert_eq!(
            serde_json::from_slice::<Binding>(&bound).ok(),
            Some(within.clone()),
            "what is bound is what is said"
        );
        let whole = credential.binding.canonical(version);
        assert_eq!(whole.is_some(), within == credential.binding, "what a version does not bind has no form in it");
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// One begins as the other, one has characters that every form of escape writes otherwise.
const SECRETS: [&[u8]; 3] = [b"sk-live-0123456789", b"sk-live-0123456789-more", b"a\"b/c&d %41\\u<e>+f"];
const PLACEHOLDERS: [&str; 3] = ["pstnAAAAAAAAAAAAAA", "pstnBBBBBBBBBBBBBBBBBBB", "pstnCCCCCCCCCCCCCC"];
const CEILING: u64 = 1 << 20;
static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let pair = |at: usize| (Secret::new(SECRETS[at].to_vec()), Placeholder::from_issued(PLACEHOLDERS[at].to_owned()));
    Plan::new(&[pair(0), pair(1), pair(2)])
});
static DETECTOR: LazyLock<Arc<Detector>> = LazyLock::new(|| Arc::new(Detector::new(SECRETS)));
