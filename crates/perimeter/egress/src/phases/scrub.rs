//! Phase: takes every secret of the session out of an answer, in every rendering: reason phrase and interim answers are
//! dropped, headers, body and trailers scrubbed, encodings taken off first. What cannot be read is not passed on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use postern_policy::{Denial, Host, Reason};
use postern_secret::{
    decode::{Decoders, PIECE},
    scrub::Scrubber,
};

use super::{
    forward::is_hop,
    inspect::{encodings, not_decoded},
};
use crate::{
    messages::{self, End, Messages},
    parts::{ScrubbedParts, Split},
    recognise::{Keyring, joined},
    session::Session,
};

/// Takes secrets out of one body as it streams.
pub(crate) struct Cleaner {
    unwrapping: Decoders,
    scrubber: Body,
    keyring: Arc<Keyring>,
    /// In trailers.
    elsewhere: u64,
    /// Of a body that passes in an encoding, for nothing was to be looked for in it.
    is_opaque: bool,
}

/// How a body is scrubbed.
enum Body {
    /// As one text, with what scrubbers before this one replaced in it.
    Text(Scrubber, u64),
    /// Message by message: none waits for the next.
    Messages(Messages, ScrubbedParts),
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
    if !keyring.is_empty() && messages::compressed(headers) {
        return Err(Denial::new(Reason::EncodingUnsupported));
    }
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
        unwrapping: Decoders::new(&encodings, session.perimeter.bounds.decoded_body_bytes),
        scrubber: match Messages::of(headers).filter(|_| encodings.is_empty()) {
            Some(messages) => Body::Messages(messages, ScrubbedParts::new(keyring.scrub())),
            None => Body::Text(Scrubber::with(keyring.scrub().clone()), 0),
        },
        is_opaque: keyring.is_empty()
            && (messages::compressed(headers) || headers.contains_key(header::CONTENT_ENCODING)),
        keyring,
        elsewhere: 0,
    };
    Ok(CleanHead { head, scrubbed, cleaner })
}

/// The headers of an answer after which another protocol follows, and how many secrets were in them.
pub(crate) fn switching<B>(session: &Session, host: &Host, response: &Response<B>) -> (HeaderMap, u64) {
    let mut headers = HeaderMap::new();
    let scrubbed = clean_headers(&session.keyring(), response.headers(), &mut headers);
    note_cookies(session, host, &headers);
    (headers, scrubbed)
}

impl Cleaner {
    /// Whether nothing is to be taken off the body first, so that what comes out is as long as what went in.
    pub(crate) fn takes_as_it_comes(&self) -> bool {
        self.unwrapping.is_empty()
    }

    /// Takes out from here on what the session knows now: an upstream may reflect a secret of a request that began later
    /// than this answer. Gives what may go on of what was held back; a session that ended and forgot leaves the former
    /// secrets in force.
    pub(crate) fn follow(&mut self, keyring: Arc<Keyring>) -> Result<Bytes, Denial> {
        if Arc::ptr_eq(&self.keyring, &keyring) || keyring.is_empty() {
            return Ok(Bytes::new());
        }
        if self.is_opaque {
            let step = "ask again: the session got a secret while this encoded answer was on its way";
            return Err(Denial::advising(Reason::EncodingUnsupported, step));
        }
        let clean = self.scrubber.follow(&keyring)?;
        self.keyring = keyring;
        Ok(clean)
    }

    /// A chunk in pieces that may be decoded at once.
    pub(crate) fn steps(&self, mut chunk: Bytes) -> Vec<Bytes> {
        let mut steps = Vec::new();
        while !self.unwrapping.is_empty() && chunk.len() > PIECE {
            steps.push(chunk.split_to(PIECE));
        }
        steps.push(chunk);
        steps
    }

    /// What may go on of a chunk.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, Denial> {
        if self.unwrapping.is_empty() {
            return self.scrubber.push(chunk);
        }
        let decoded = self.unwrapping.push(chunk).map_err(not_decoded)?;
        self.scrubber.push(&decoded.into())
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Denial> {
        self.unwrapping.finish().map_err(not_decoded)?;
        Ok(self.scrubber.finish().into())
    }

    /// What may go on of what follows the body.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) -> HeaderMap {
        let mut clean = HeaderMap::new();
        self.elsewhere += clean_headers(&self.keyring, trailers, &mut clean);
        clean
    }

    /// Secrets put back to placeholders so far.
    pub(crate) fn scrubbed(&self) -> u64 {
        self.scrubber.replaced() + self.elsewhere
    }
}

impl Body {
    fn push(&mut self, chunk: &Bytes) -> Result<Bytes, Denial> {
        let (messages, parts) = match self {
            Self::Text(scrubber, _) => {
                let clear = chunk.slice(..scrubber.clear(chunk));
                return Ok(joined(&clear, scrubber.push(&chunk[clear.len()..])));
            }
            Self::Messages(messages, parts) => (messages, parts),
        };
        let mut chunk = &chunk[..];
        let mut clean = Vec::with_capacity(chunk.len());
        while !chunk.is_empty() {
            let (message, after, end) = messages.split(chunk);
            clean.extend(parts.push(message).map_err(|Split| split())?);
            if end == End::Here {
                clean.extend(parts.end());
            }
            chunk = after;
        }
        Ok(clean.into())
    }

    fn follow(&mut self, keyring: &Keyring) -> Result<Bytes, Denial> {
        match self {
            Self::Text(scrubber, by_former) => {
                let held = scrubber.finish();
                *by_former += scrubber.replaced();
                *scrubber = Scrubber::with(keyring.scrub().clone());
                Ok(scrubber.push(&held).into())
            }
            Self::Messages(_, parts) => Ok(parts.follow(keyring.scrub()).map_err(|Split| split())?.into()),
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::Text(scrubber, _) => scrubber.finish(),
            Self::Messages(_, parts) => parts.end(),
        }
    }

    fn replaced(&self) -> u64 {
        match self {
            Self::Text(scrubber, by_former) => scrubber.replaced() + by_former,
            Self::Messages(_, parts) => parts.replaced(),
        }
    }
}

/// Half of a secret may have been read; the whole never is.
pub(crate) fn split() -> Denial {
    let step = "the upstream says a secret in pieces; the connection was ended before the last one";
    Denial::advising(Reason::UpstreamUnreachable, step)
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
        if keyring.scrub().leaves(value.as_bytes()) {
            into.append(name, value.clone());
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

#[cfg(test)]
mod tests {
    use postern_secret::Placeholder;

    use super::*;
    use crate::recognise::tests::recogniser;

    #[test]
    fn an_encoded_answer_that_nothing_was_looked_for_in_ends_when_there_is_something_to_look_for() {
        let nothing = Keyring::empty();
        let one_key = || recogniser(&Placeholder::issue(24, None)).keyring;
        let mut cleaner = Cleaner {
            unwrapping: Decoders::new(&[], 1024),
            scrubber: Body::Text(Scrubber::with(nothing.scrub().clone()), 0),
            keyring: nothing.clone(),
            elsewhere: 0,
            is_opaque: true,
        };
        assert_eq!(cleaner.follow(nothing).unwrap(), Bytes::new());
        let denial = cleaner.follow(one_key()).unwrap_err();
        assert_eq!(denial.reason, Reason::EncodingUnsupported);
        cleaner.is_opaque = false;
        assert!(cleaner.follow(one_key()).is_ok());
    }
}
