//! One request and its answer, phase by phase: identify, inspect, decide, grant, record, forward, scrub. Every refusal
//! of every phase comes back to one place, where it is recorded and answered.

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use postern_audit::Destination;
use postern_policy::{BodyKind, Denial, Found, Permit, Place, Reason, Upgrade};

use super::{
    decide::{self, Form},
    download,
    forward::{self, Dialled},
    identify::{self, Asked},
    inject::{self, Grants},
    inspect::{self, Preview, Unread},
    intercept::Line,
    record, refuse,
    streams::Open,
    upgrade::{self, Wanted},
    upload::{self, Upload},
};
use crate::{
    body::Body,
    limits,
    recognise::{Keyring, Recogniser},
    websocket::handshake,
};

/// Why there is no answer of the upstream, how far the request had come, and what of its body is unread.
struct Refused {
    denial: Denial,
    destination: Destination,
    caused_by: Option<u64>,
    unread: Option<Unread>,
}

/// Answers a request: with the upstream's scrubbed answer, or with a recorded refusal.
pub(crate) async fn exchange(line: &Line, request: Request<Incoming>, open: Option<Open>) -> Response<Body> {
    let shows = refuse::Shows::of(request.headers());
    match carry(line, request, open).await {
        Ok(response) => response,
        Err(refused) => {
            let Refused { denial, destination, caused_by, unread } = *refused;
            if let Some(unread) = unread {
                // Beside the answer: a client that is still sending gets to read it.
                line.session.spawn(inspect::discard(unread, line.session.perimeter.bounds.refused_body));
            }
            shows.shown(refuse::request(&line.session, destination, denial, caused_by).await)
        }
    }
}

/// Refuses a request before anything of it is looked at.
pub(crate) async fn refuse(line: &Line, request: Request<Incoming>, denial: Denial) -> Response<Body> {
    let (parts, unread) = request.into_parts();
    line.session.spawn(inspect::discard(Unread::Body(unread), line.session.perimeter.bounds.refused_body));
    let shows = refuse::Shows::of(&parts.headers);
    shows.shown(refuse::request(&line.session, outline(line, &parts), denial, None).await)
}

async fn carry(
    line: &Line,
    mut request: Request<Incoming>,
    open: Option<Open>,
) -> Result<Response<Body>, Box<Refused>> {
    let session = &line.session;
    // Nothing, unless another protocol is asked for.
    let agent = hyper::upgrade::on(&mut request);
    let (parts, incoming) = request.into_parts();
    let recogniser = session.recogniser();
    let asked = match admit(line, &parts) {
        Ok(asked) => asked,
        Err(denial) => return Err(refused(denial, outline(line, &parts), None, Some(Unread::Body(incoming)))),
    };
    let destination = record::of_request(&asked);
    postern_danger::when_off!("late-names", {
        session.perimeter.dialer.look_up_early(&asked.named.host.to_string(), asked.named.port.number()).await;
    });
    // Decided once on the head alone: a refused request is not asked for its body.
    let under = session.changes();
    let first = match decide::decide(session, &recogniser, &asked, &parts, &[], &Form::None) {
        Ok(permit) => First { permit, under },
        Err(denial) => return Err(refused(denial, destination, None, Some(Unread::Body(incoming)))),
    };
    let kind = BodyKind::stated(&parts.headers).filter(|kind| session.zone.injects_into(&asked.named.host, *kind));
    let preview = inspect::preview(&recogniser, &parts.headers, incoming, &session.perimeter.bounds, kind)
        .await
        .map_err(|(denial, unread)| refused(denial, destination.clone(), None, unread.map(Unread::Body)))?;
    let (permit, upload) = with_body(line, &recogniser, &asked, &parts, first, preview)
        .map_err(|(denial, unread)| refused(denial, destination.clone(), None, unread.map(Unread::Body)))?;
    let handshake = match handshake::handshake(&parts) {
        Ok(handshake) => handshake.filter(|_| permit.upgrade() == Upgrade::WebSocket),
        Err(denial) => return Err(refused(denial, destination, None, upload.into_unread())),
    };
    let grants = match inject::grant(session, &permit).await {
        Ok(grants) => grants,
        Err(denial) => return Err(refused(denial, destination, None, upload.into_unread())),
    };
    if !permit.injections().is_empty() {
        session.note_injected(permit.host());
    }
    let (request, upload) = outgoing(line, &parts, &asked, &permit, &grants, upload)
        .map_err(|denial| refused(denial, destination.clone(), None, None))?;
    let destination = record::of_permitted(session, &asked, &permit);
    let dialled = Dialled::default();
    let mut pending = match record::allowed(session, &destination, &permit, &grants, &dialled).await {
        Ok(pending) => pending,
        Err(denial) => return Err(refused(denial, destination, None, upload.into_unread())),
    };
    let allowed = pending.allowed();
    let late = |(denial, unread)| refused(denial, dialled.note(destination.clone()), Some(allowed), unread);
    if let Err(denial) = grants.in_force() {
        pending.forget();
        return Err(late((denial, upload.into_unread())));
    }
    drop(grants);
    let answered = match handshake {
        Some(handshake) => {
            let wanted = Wanted { handshake, agent, open };
            let answer = upgrade::answer(line, &mut pending, &asked, &permit, request, wanted, &dialled).await;
            answer.map_err(|denial| late((denial, None)))
        }
        None => match upload::send(session, &permit, request, upload, &dialled).await {
            Ok((sent, upload)) => {
                let answer = download::answer(&mut pending, &asked, sent, upload, session, open).await;
                answer.map_err(|denial| late((denial, None)))
            }
            Err(refusal) => Err(late(refusal)),
        },
    };
    // Answered by another task, which has taken it over, or refused below.
    pending.forget();
    answered
}

/// What the connection, the protocol and the names say, before the zone is asked.
fn admit(line: &Line, parts: &Parts) -> Result<Asked, Denial> {
    if let Some(denial) = &line.refused {
        return Err(denial.clone());
    }
    if parts.headers.len() > limits::HEADER_LINES {
        // HTTP/1.1 bounds the lines while it reads them; HTTP/2 only their bytes.
        return Err(Denial::new(Reason::LimitHeaders));
    }
    decide::framed_once(&parts.headers)?;
    identify::request(&line.expected, line.scheme, parts)
}

/// The record's destination for a request whose own names do not agree.
fn outline(line: &Line, parts: &Parts) -> Destination {
    let mut destination = match &line.expected {
        identify::Expected::Named(named) => record::of_connection(named, line.scheme.as_str()),
        identify::Expected::Stated => Destination {
            scheme: Some(line.scheme.as_str().to_owned()),
            host: parts.uri.host().map(str::to_owned),
            port: parts.uri.port_u16(),
            ..Destination::default()
        },
    };
    destination.method = Some(parts.method.as_str().to_owned());
    destination.path = Some(parts.uri.path().to_owned());
    destination
}

fn refused(denial: Denial, destination: Destination, caused_by: Option<u64>, unread: Option<Unread>) -> Box<Refused> {
    Box::new(Refused { denial, destination, caused_by, unread })
}

/// The word on a request's head.
struct First {
    permit: Permit,
    /// After how many changes of the zone it was given. A body can be a long time on its way.
    under: u64,
}

impl First {
    /// The same, if the zone is still the one that gave it; otherwise the word of the one that is in force.
    fn still(self, line: &Line, recogniser: &Recogniser, asked: &Asked, parts: &Parts) -> Result<Permit, Denial> {
        if line.session.changes() == self.under {
            return Ok(self.permit);
        }
        decide::decide(&line.session, recogniser, asked, parts, &[], &Form::None)
    }
}

/// Decides again with what the body holds, where that can change anything, and where the zone has changed meanwhile.
fn with_body(
    line: &Line,
    recogniser: &Recogniser,
    asked: &Asked,
    parts: &Parts,
    first: First,
    preview: Preview,
) -> Result<(Permit, Upload), (Denial, Option<Incoming>)> {
    match preview {
        Preview::Recognised(found, unread) => Err((recognised(line, recogniser, asked, parts, &found), unread)),
        Preview::Begun(bytes, inspection) if inspect::is_form(&parts.headers) => {
            match decide::decide(&line.session, recogniser, asked, parts, &[], &Form::TooLong) {
                Ok(permit) => Ok((permit, Upload::Begun(bytes, inspection))),
                Err(denial) => Err((denial, inspection.into_unread())),
            }
        }
        Preview::Begun(bytes, inspection) => match first.still(line, recogniser, asked, parts) {
            Ok(permit) => Ok((permit, Upload::Begun(bytes, inspection))),
            Err(denial) => Err((denial, inspection.into_unread())),
        },
        Preview::Held(bytes, trailers, found) => {
            let form = inspect::form(&parts.headers, &bytes);
            let permit = decide::decide(&line.session, recogniser, asked, parts, &found, &form);
            permit.map(|permit| (permit, Upload::Whole(bytes, trailers))).map_err(|denial| (denial, None))
        }
        Preview::Whole(bytes, trailers) => match inspect::form(&parts.headers, &bytes) {
            Form::None => first.still(line, recogniser, asked, parts),
            form => decide::decide(&line.session, recogniser, asked, parts, &[], &form),
        }
        .map(|permit| (permit, Upload::Whole(bytes, trailers)))
        .map_err(|denial| (denial, None)),
    }
}

/// The zone's word on what a body holds; should it have none, the body does not leave all the same.
fn recognised(line: &Line, recogniser: &Recogniser, asked: &Asked, parts: &Parts, found: &[Found]) -> Denial {
    debug_assert!(found.iter().all(|one| !matches!(one.place, Place::At(_))), "nothing is replaced in a body");
    decide::decide(&line.session, recogniser, asked, parts, found, &Form::None)
        .err()
        .unwrap_or_else(|| Denial::new(Reason::PlaceholderWrongLocation))
}

/// What leaves, with secrets in place of placeholders.
fn outgoing(
    line: &Line,
    parts: &Parts,
    asked: &Asked,
    permit: &Permit,
    grants: &Grants,
    upload: Upload,
) -> Result<(Parts, Upload), Denial> {
    let session = &line.session;
    let mut head = forward::head(parts, asked.query.as_deref(), permit, !session.keyring().is_empty())?;
    let upload = inject::inject(grants, permit, &mut head, upload)?;
    let catalogue_only = Recogniser { keyring: Keyring::empty(), ..session.recogniser() };
    inject::nothing_left(&catalogue_only, &head)?;
    Ok((head, upload))
}
