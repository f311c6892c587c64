//! Phase: takes every secret of the session out of an answer, in every rendering: reason phrase, interim answers and
//! trailers are dropped, headers and body scrubbed, encodings taken off first. What cannot be read is not passed on.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use postern_policy::{Denial, Host, Reason};
use postern_secret::{decode::DecodeError, scrub::Scrubber};

use super::{
    forward::is_hop,
    inspect::{STEP_BYTES, Unwrapping, encodings},
};
use crate::{recognise::Keyring, session::Session};

/// Takes secrets out of one body as it streams.
pub(crate) struct Cleaner {
    unwrapping: Unwrapping,
    scrubber: Scrubber,
}

/// An answer's head as the sandbox gets it.
pub(crate) struct CleanHead {
    /// The head; status and headers only.
    pub(crate) head: Response<()>,
    /// Secrets put back to placeholders in it.
    pub(crate) scrubbed: u64,
    /// For its body.
    pub(crate) cleaner: Cleaner,
}

/// Scrubs the head and prepares for the body.
pub(crate) fn head<B>(session: &Session, host: &Host, response: &Response<B>) -> Result<CleanHead, Denial> {
    let keyring = session.keyring();
    let headers = response.headers();
    let encodings = if keyring.is_empty() { Vec::new() } else { encodings(headers)? };
    framing(headers)?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Denial::new(Reason::UpgradeRefused));
    }
    let mut head = Response::new(());
    *head.status_mut() = response.status();
    let scrubbed = clean_headers(&keyring, headers, head.headers_mut());
    // As the sandbox sees them: that is how they come back.
    note_cookies(session, host, head.headers());
    if !encodings.is_empty() {
        for about_the_encoded in [header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
            head.headers_mut().remove(about_the_encoded);
        }
        head.headers_mut().remove("content-digest");
        head.headers_mut().remove("content-md5");
    }
    let cleaner = Cleaner {
        unwrapping: Unwrapping::new(&encodings, session.perimeter.bounds.decoded_body_bytes),
        scrubber: Scrubber::with(keyring.scrub().clone()),
    };
    Ok(CleanHead { head, scrubbed, cleaner })
}

impl Cleaner {
    /// A chunk in pieces that may be decoded at once.
    pub(crate) fn steps(&self, mut chunk: Bytes) -> Vec<Bytes> {
        let mut steps = Vec::new();
        while !self.unwrapping.is_empty() && chunk.len() > STEP_BYTES {
            steps.push(chunk.split_to(STEP_BYTES));
        }
        steps.push(chunk);
        steps
    }

    /// What may go on of a chunk.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, DecodeError> {
        let scrubbed = if self.unwrapping.is_empty() {
            self.scrubber.push(chunk)
        } else {
            let decoded = self.unwrapping.push(chunk)?;
            self.scrubber.push(&decoded)
        };
        Ok(scrubbed.into())
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Result<Bytes, DecodeError> {
        self.unwrapping.finish()?;
        Ok(self.scrubber.finish().into())
    }

    /// Secrets put back to placeholders so far.
    pub(crate) fn scrubbed(&self) -> u64 {
        self.scrubber.replaced()
    }
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

fn clean_headers(keyring: &Keyring, from: &HeaderMap, into: &mut HeaderMap) -> u64 {
    let mut scrubbed = 0;
    for (name, value) in from {
        // Alternative services would lead around the redirect; their protocol does not leave anyway.
        if is_hop(name, from) || *name == header::ALT_SVC {
            continue;
        }
        if keyring.named(name.as_str()).is_some() {
            scrubbed += 1;
            continue;
        }
        let (clean, replaced) = keyring.scrub().scrub(value.as_bytes());
        scrubbed += replaced;
        // Of the value's own length and alphabet; anything else is left out.
        if let Ok(clean) = HeaderValue::from_bytes(&clean) {
            into.append(name, clean);
        }
    }
    scrubbed
}

fn note_cookies(session: &Session, host: &Host, headers: &HeaderMap) {
    for cookie in headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
        let pair = cookie.split(';').next().unwrap_or_default().trim();
        session.note_cookie(host, pair);
    }
}
