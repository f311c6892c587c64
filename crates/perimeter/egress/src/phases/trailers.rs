//! What follows a request's body (RFC 9110, section 6.5). Read like the head, and stricter: nothing of ours is replaced
//! here, no credential of others belongs here, and what steers the request was to stand in its head.

use std::collections::BTreeSet;

use http::HeaderMap;
use postern_policy::{Denial, Found, Place, Reason, foreign, overrides};

use super::{forward::is_hop, inspect::Stopped};
use crate::{limits, recognise::Recogniser};

/// Looks through a request's trailers.
pub(crate) fn inspect(recogniser: &Recogniser, trailers: &HeaderMap) -> Result<(), Stopped> {
    let found: Vec<Found> = trailers
        .iter()
        .flat_map(|(name, value)| {
            recogniser.find(value.as_bytes()).into_iter().chain(recogniser.find_in_name(name.as_str()))
        })
        .map(|sighting| Found { credential: sighting.credential, value: sighting.value, place: Place::Elsewhere })
        .collect();
    if !found.is_empty() {
        return Err(Stopped::Recognised(found));
    }
    denial(trailers).map_or(Ok(()), |denial| Err(Stopped::Denied(denial)))
}

/// What goes on of them, if anything.
pub(crate) fn passed_on(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let of_the_hop: Vec<_> = trailers.keys().filter(|name| is_hop(name, &trailers)).cloned().collect();
    for name in of_the_hop {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

fn denial(trailers: &HeaderMap) -> Option<Denial> {
    if trailers.len() > limits::HEADER_LINES {
        return Some(Denial::new(Reason::LimitHeaders));
    }
    let evidence = foreign::Evidence {
        headers: trailers,
        query: None,
        form: None,
        userinfo: false,
        ours: &[],
        cookies: &BTreeSet::new(),
    };
    if !foreign::find(&evidence).is_empty() {
        return Some(Denial::advising(Reason::ForeignCredential, "credentials stand in the head of a request only"));
    }
    if !overrides::find(trailers, None).is_empty() {
        return Some(Denial::new(Reason::OverrideRefused));
    }
    let steers = trailers.keys().find(|name| HEAD_ONLY.contains(&name.as_str()));
    steers.map(|name| Denial::advising(Reason::RequestMalformed, format!("send {name} before the body, not after it")))
}

/// Fields that say whose a request is, how it is read or where it goes, empty ones too: an upstream that merges trailers into the head would read
/// another request than the one decided on.
const HEAD_ONLY: &[&str] = &[
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-range",
    "proxy-authorization",
    "range",
    "transfer-encoding",
    "upgrade",
];
