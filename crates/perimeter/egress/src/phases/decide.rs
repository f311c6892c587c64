//! Phase: collects the facts of a request and asks the zone. The answer is a permit or a denial; nothing here acts.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header, request::Parts};
use postern_policy::{
    BasicPart, Denial, ForeignCredential, Found, Location, Permit, Place, Reason, Request, foreign, overrides,
};

use super::{identify::Asked, places};
use crate::{
    basic,
    recognise::{Recogniser, Sighting},
    session::Session,
};

/// A body as a form.
pub(crate) enum Form {
    /// It is none, or it is not known yet.
    None,
    /// As its reader will see it.
    Text(Bytes),
    /// It is one, longer than what is looked through.
    TooLong,
}

/// Asks the zone about a request. `body` is what was found in its body so far.
pub(crate) fn decide(
    session: &Session,
    recogniser: &Recogniser,
    asked: &Asked,
    parts: &Parts,
    body: &[Found],
    form: &Form,
) -> Result<Permit, Denial> {
    let query = asked.query.as_deref().map(str::as_bytes);
    let placeholders: Vec<&str> = session.placeholders.iter().map(|(_, placeholder)| placeholder.as_str()).collect();
    let cookies = session.cookies(&asked.named.host);
    let mut present = head(recogniser, asked, parts);
    present.extend_from_slice(body);
    let text = if let Form::Text(text) = form { Some(&**text) } else { None };
    let mut others = foreign::find(&foreign::Evidence {
        headers: &parts.headers,
        query,
        form: text,
        userinfo: asked.userinfo,
        ours: &placeholders,
        cookies: &cookies,
    });
    if matches!(form, Form::TooLong) {
        others.push(ForeignCredential::Form("beyond what is looked through".to_owned()));
    }
    let permit = session.in_force().request(&Request {
        host: asked.named.host.clone(),
        port: asked.named.port,
        scheme: asked.scheme,
        method: asked.method.clone(),
        path: asked.path.clone(),
        query: asked.query.clone(),
        upgrade: asked.upgrade,
        credentials_present: present,
        foreign: others,
        overrides: overrides::find(&parts.headers, query),
    })?;
    still_granted(session, permit)
}

/// Without its grants a session uses no credential, and hears no host that could say a secret back which nobody here
/// would recognise any more.
fn still_granted(session: &Session, permit: Permit) -> Result<Permit, Denial> {
    let Some(denial) = session.halt.without_grants() else { return Ok(permit) };
    if !permit.injections().is_empty() || permit.client_certificate().is_some() {
        return Err(Denial { alarm: true, ..denial }.by(permit.rule()));
    }
    if session.was_injected(permit.host()) { Err(denial.by(permit.rule())) } else { Ok(permit) }
}

/// A length beside chunks, or an encoding of the transfer besides chunking, can be read in two ways (RFC 9112,
/// section 6.1), and the encoding would stay on the body unseen.
pub(crate) fn framed_once(headers: &http::HeaderMap) -> Result<(), Denial> {
    let mut transfers = headers.get_all(header::TRANSFER_ENCODING).iter();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    match (transfers.next(), transfers.next()) {
        (None, _) if lengths <= 1 => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") && lengths == 0 => Ok(()),
        _ => Err(Denial::advising(
            Reason::RequestMalformed,
            "send one content-length or transfer-encoding: chunked, nothing else",
        )),
    }
}

/// Everything of ours in a request's head, with its place.
fn head(recogniser: &Recogniser, asked: &Asked, parts: &Parts) -> Vec<Found> {
    let mut found = Vec::new();
    note(&mut found, recogniser.find(parts.method.as_str().as_bytes()), &Place::Elsewhere);
    // Looked up, sent as TLS name and as Host: in lower case.
    note(&mut found, recogniser.find_in_name(&asked.named.host.to_string()), &Place::Elsewhere);
    found.extend(places::in_path(recogniser, asked, parts.uri.path()));
    if let Some(query) = parts.uri.query() {
        found.extend(places::in_query(recogniser, query));
    }
    if let Some(authority) = parts.uri.authority() {
        note(&mut found, recogniser.find(authority.as_str().as_bytes()), &Place::Elsewhere);
    }
    for (name, value) in &parts.headers {
        note(&mut found, recogniser.find_in_name(name.as_str()), &Place::Elsewhere);
        found.extend(in_header(recogniser, name, value));
    }
    only_first_of_each_place(found)
}

/// What a header holds. A second copy beside the first is somewhere else.
fn in_header(recogniser: &Recogniser, name: &HeaderName, value: &HeaderValue) -> Vec<Found> {
    if name == header::AUTHORIZATION
        && let Some(pair) = basic::parse(value.as_bytes())
    {
        let mut found = in_basic(recogniser, &pair);
        // What decodes as Basic by chance can be something of ours as it stands.
        let as_it_stands = recogniser.find(value.as_bytes()).into_iter().filter(|sighting| sighting.plain);
        note(&mut found, as_it_stands.collect(), &Place::Elsewhere);
        return found;
    }
    let mut found = Vec::new();
    let place = Place::At(Location::Header(name.as_str().to_owned()));
    for sighting in recogniser.find(value.as_bytes()) {
        let place = if stands_alone(value.as_bytes(), &sighting) { &place } else { &Place::Elsewhere };
        note(&mut found, vec![sighting], place);
    }
    found
}

fn in_basic(recogniser: &Recogniser, pair: &basic::Pair) -> Vec<Found> {
    let mut found = Vec::new();
    for (part, text) in [(BasicPart::Username, &pair.username), (BasicPart::Password, &pair.password)] {
        for sighting in recogniser.find(text) {
            let whole = sighting.plain && sighting.range == (0..text.len());
            let place = if whole { Place::At(Location::Basic(part)) } else { Place::Elsewhere };
            note(&mut found, vec![sighting], &place);
        }
    }
    found
}

/// The value alone, or after one scheme word and one space: `Bearer X`, `token X`.
fn stands_alone(value: &[u8], sighting: &Sighting) -> bool {
    let before = &value[..sighting.range.start];
    let word = before.strip_suffix(b" ").unwrap_or(before);
    let is_word = !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    sighting.plain
        && sighting.range.end == value.len()
        && (before.is_empty() || (before.len() == word.len() + 1 && is_word))
}

fn note(found: &mut Vec<Found>, sightings: Vec<Sighting>, place: &Place) {
    found.extend(sightings.into_iter().map(|sighting| Found {
        credential: sighting.credential,
        value: sighting.value,
        place: place.clone(),
    }));
}

/// A header that occurs twice with a placeholder in each is one place too many.
fn only_first_of_each_place(mut found: Vec<Found>) -> Vec<Found> {
    for at in 1..found.len() {
        let (earlier, rest) = found.split_at_mut(at);
        let one = &mut rest[0];
        if matches!(one.place, Place::At(_)) && earlier.iter().any(|other| other.place == one.place) {
            one.place = Place::Elsewhere;
        }
    }
    found
}
