//! Bodies in both directions, whatever their encoding and their chunks.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use postern_policy::Reason;

use super::place::{PLACEHOLDER, SECRET, session};
use crate::phases::{
    inspect::{Reader, Stopped, encodings},
    scrub,
};

/// A request body either goes on whole and unchanged, or is stopped, alike whatever the chunks; what goes on in plain
/// holds nothing of ours.
///
/// # Panics
/// When one of these does not hold.
pub fn http_body(input: &[u8]) {
    let Some((encoding, size, body)) = split(input) else { return };
    let whole = inspected(encoding, body, body.len().max(1));
    let pieces = inspected(encoding, body, size);
    if [&whole, &pieces].iter().any(|one| matches!(one, Err(Some(Reason::LimitDecoded)))) {
        // What has come so far decides about the ratio, so there the borders count.
        return;
    }
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?}, in chunks of {size} {pieces:?}");
    if whole.is_ok() {
        for ours in [SECRET, PLACEHOLDER] {
            assert!(!contains(body, ours.as_bytes()), "{ours} goes on");
        }
    }
}

/// The reason why it stopped, or none where something of ours was recognised.
fn inspected(encoding: u8, body: &[u8], size: usize) -> Result<(), Option<Reason>> {
    let session = session();
    let encodings = encodings(&headers(encoding)).map_err(|denial| Some(denial.reason))?;
    let mut reader = Reader::new(&session.recogniser(), encodings, &session.perimeter.bounds);
    let mut released = Vec::new();
    for chunk in body.chunks(size) {
        released.extend_from_slice(&reader.push(Bytes::copy_from_slice(chunk)).map_err(reason)?);
        assert!(body.starts_with(&released), "unchanged and in order");
    }
    released.extend_from_slice(&reader.finish().map_err(reason)?);
    assert_eq!(released, body, "whole");
    Ok(())
}

fn reason(stopped: Stopped) -> Option<Reason> {
    match stopped {
        Stopped::Denied(denial) => Some(denial.reason),
        Stopped::Recognised(_) | Stopped::Broken => None,
    }
}

/// An answer comes out alike whatever its chunks, as long as it was in plain, and without the secret, in its headers too.
///
/// # Panics
/// When one of these does not hold.
pub fn http_answer(input: &[u8]) {
    let Some((encoding, size, body)) = split(input) else { return };
    let whole = scrubbed(encoding, body, body.len().max(1));
    let pieces = scrubbed(encoding, body, size);
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert_eq!(whole, pieces, "chunks of {size}");
        assert!(!contains(whole, SECRET.as_bytes()), "the secret comes back");
        let decodes = encodings(&headers(encoding)).is_ok_and(|encodings| !encodings.is_empty());
        assert!(decodes || whole.len() == body.len(), "of the same length");
    }
    let in_headers = HeaderValue::from_bytes(body);
    if let Ok(value) = in_headers {
        let mut response = Response::new(());
        response.headers_mut().insert("x-said", value);
        let clean = scrub::head(session(), &"api.test".parse().expect("a host of ours"), &response);
        let head = clean.map(|clean| clean.head).unwrap_or_default();
        assert!(head.headers().values().all(|value| !contains(value.as_bytes(), SECRET.as_bytes())));
    }
}

fn scrubbed(encoding: u8, body: &[u8], size: usize) -> Result<Vec<u8>, ()> {
    let mut response = Response::new(());
    *response.headers_mut() = headers(encoding);
    let clean = scrub::head(session(), &"api.test".parse().expect("a host of ours"), &response).map_err(drop)?;
    let mut cleaner = clean.cleaner;
    let mut passed = Vec::new();
    for chunk in body.chunks(size) {
        for step in cleaner.steps(Bytes::copy_from_slice(chunk)) {
            passed.extend_from_slice(&cleaner.push(&step).map_err(drop)?);
        }
    }
    passed.extend_from_slice(&cleaner.finish().map_err(drop)?);
    Ok(passed)
}

fn headers(encoding: u8) -> HeaderMap {
    let value =
        ["", "gzip", "deflate", "br", "zstd", "gzip, br", "identity", "zstd, deflate"][usize::from(encoding) % 8];
    HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(value))])
}

/// The first byte chooses the encoding, the second the size of the chunks.
fn split(input: &[u8]) -> Option<(u8, usize, &[u8])> {
    input.split_first_chunk::<2>().map(|([encoding, size], body)| (*encoding, usize::from(*size) % 64 + 1, body))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
