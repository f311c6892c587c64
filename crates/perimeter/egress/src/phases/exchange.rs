//! One request and its answer, phase by phase: identify, inspect, decide, grant, record, forward, scrub. Every refusal
//! of every phase comes back to one place, where it is recorded and answered.

use std::{pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{Request, Response, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_audit::Destination;
use postern_policy::{Denial, Found, Permit, Place, Reason};
use tokio::time::timeout;

use super::{
    decide,
    forward::{self, Sent},
    identify::{self, Asked},
    inject,
    inspect::{self, Inspection, Preview, Stopped},
    intercept::Line,
    record::{self, Outcome},
    refuse,
    scrub::{self, Cleaner},
};
use crate::{
    body::{self, Body, Piece, Pipe},
    limits,
    recognise::Recogniser,
};

/// Why there is no answer of the upstream, how far the request had come, and what of its body is unread.
struct Refused {
    denial: Denial,
    destination: Destination,
    caused_by: Option<u64>,
    unread: Option<Incoming>,
}

/// Answers a request: with the upstream's scrubbed answer, or with a recorded refusal.
pub(crate) async fn exchange(line: &Line, request: Request<Incoming>) -> Response<Body> {
    match carry(line, request).await {
        Ok(response) => response,
        Err(refused) => {
            let Refused { denial, destination, caused_by, unread } = *refused;
            let answer = refuse::request(&line.session, destination, denial, caused_by).await;
            if let Some(unread) = unread {
                inspect::discard(unread).await;
            }
            answer
        }
    }
}

async fn carry(line: &Line, request: Request<Incoming>) -> Result<Response<Body>, Box<Refused>> {
    let session = &line.session;
    let (parts, incoming) = request.into_parts();
    let recogniser = session.recogniser();
    let asked = match admit(line, &parts) {
        Ok(asked) => asked,
        Err(denial) => return Err(refused(denial, outline(line, &parts), None, Some(incoming))),
    };
    let destination = record::of_request(&asked);
    // Decided once on the head alone: a refused request is not asked for its body.
    let first = match decide::decide(session, &recogniser, &asked, &parts, &[], None) {
        Ok(permit) => permit,
        Err(denial) => return Err(refused(denial, destination, None, Some(incoming))),
    };
    let preview = inspect::preview(&recogniser, &parts.headers, incoming, session.perimeter.patience.body_idle)
        .await
        .map_err(|denial| refused(denial, destination.clone(), None, None))?;
    let (permit, upload) = with_body(line, &recogniser, &asked, &parts, first, preview)
        .map_err(|(denial, unread)| refused(denial, destination.clone(), None, unread))?;
    let early = |denial| refused(denial, destination.clone(), None, None);
    inject::grant(session, &permit).await.map_err(early)?;
    let request = outgoing(line, &parts, &asked, &permit).map_err(early)?;
    let allowed = record::allowed(session, &asked, &permit).await.map_err(early)?;
    let late = |denial| refused(denial, destination.clone(), Some(allowed), None);
    let (sent, upload) = send(line, &permit, request, upload).await.map_err(late)?;
    answer(line, &asked, sent, upload, allowed).map_err(late)
}

/// What the connection, the protocol and the names say, before the zone is asked.
fn admit(line: &Line, parts: &Parts) -> Result<Asked, Denial> {
    if let Some(denial) = &line.refused {
        return Err(denial.clone());
    }
    decide::carried(parts)?;
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

fn refused(denial: Denial, destination: Destination, caused_by: Option<u64>, unread: Option<Incoming>) -> Box<Refused> {
    Box::new(Refused { denial, destination, caused_by, unread })
}

/// What is still to be uploaded after the decision.
enum Upload {
    Whole(Bytes),
    Begun(Bytes, Box<Inspection>),
}

/// Decides again with what the body holds, where that can change anything.
fn with_body(
    line: &Line,
    recogniser: &Recogniser,
    asked: &Asked,
    parts: &Parts,
    first: Permit,
    preview: Preview,
) -> Result<(Permit, Upload), (Denial, Option<Incoming>)> {
    match preview {
        Preview::Recognised(found, unread) => Err((recognised(line, recogniser, asked, parts, &found), unread)),
        Preview::Begun(bytes, inspection) => Ok((first, Upload::Begun(bytes, inspection))),
        Preview::Whole(bytes) if is_form(parts) && !bytes.is_empty() => {
            let again = decide::decide(&line.session, recogniser, asked, parts, &[], Some(&bytes));
            again.map(|permit| (permit, Upload::Whole(bytes))).map_err(|denial| (denial, None))
        }
        Preview::Whole(bytes) => Ok((first, Upload::Whole(bytes))),
    }
}

/// The zone's word on what a body holds; should it have none, the body does not leave all the same.
fn recognised(line: &Line, recogniser: &Recogniser, asked: &Asked, parts: &Parts, found: &[Found]) -> Denial {
    debug_assert!(found.iter().all(|one| one.place == Place::Body), "a body holds things in the body");
    decide::decide(&line.session, recogniser, asked, parts, found, None)
        .err()
        .unwrap_or_else(|| Denial::new(Reason::PlaceholderWrongLocation))
}

fn is_form(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The head that leaves, with secrets in place of placeholders.
fn outgoing(line: &Line, parts: &Parts, asked: &Asked, permit: &Permit) -> Result<Parts, Denial> {
    let session = &line.session;
    let mut head = forward::head(parts, asked.query.as_deref(), permit, !session.keyring().is_empty())?;
    inject::inject(session, permit, &mut head.headers)?;
    let catalogue_only = Recogniser { keyring: Arc::default(), ..session.recogniser() };
    inject::nothing_left(&catalogue_only, &head.headers)?;
    Ok(head)
}

type Uploading = Pin<Box<dyn Future<Output = Result<(), Stopped>> + Send>>;

/// Sends the request, and the rest of a long body beside waiting for the answer.
async fn send(
    line: &Line,
    permit: &Permit,
    mut head: Parts,
    upload: Upload,
) -> Result<(Sent, Option<Uploading>), Denial> {
    let session = &line.session;
    let (begun, inspection) = match upload {
        Upload::Whole(bytes) => {
            let body = if bytes.is_empty() { body::empty() } else { body::full(bytes) };
            keep_length_of_empty(&mut head);
            let sent = forward::send(session, permit, Request::from_parts(head, body));
            let sent = timeout(limits::RESPONSE_HEAD, sent).await.map_err(|_| Denial::new(Reason::LimitTime))??;
            return Ok((sent, None));
        }
        Upload::Begun(bytes, inspection) => (bytes, inspection),
    };
    let (pipe, body) = body::pipe();
    let mut uploading: Uploading = Box::pin(upload_rest(pipe, begun, inspection));
    let sending = timeout(limits::RESPONSE_HEAD, forward::send(session, permit, Request::from_parts(head, body)));
    let mut sending = std::pin::pin!(sending);
    let late = |_| Denial::new(Reason::LimitTime);
    tokio::select! {
        // Recognised before the upstream answered: dropping `sending` and the pipe cuts the upstream off.
        uploaded = &mut uploading => {
            match uploaded {
                // An upstream may stop reading and answer all the same; if it does not, `sending` says so.
                Ok(()) | Err(Stopped::Broken) => {}
                Err(stopped) => return Err(stopped_upload(stopped)),
            }
            Ok((sending.await.map_err(late)??, None))
        }
        sent = &mut sending => Ok((sent.map_err(late)??, Some(uploading))),
    }
}

/// A body that was read whole is framed anew; a stated length of zero is kept for methods that expect one.
fn keep_length_of_empty(head: &mut Parts) {
    let zero = head.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0");
    if !zero {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

async fn upload_rest(pipe: Pipe, begun: Bytes, mut inspection: Box<Inspection>) -> Result<(), Stopped> {
    put(&pipe, Piece::Bytes(begun)).await?;
    while let Some(bytes) = inspection.next().await? {
        if !bytes.is_empty() {
            put(&pipe, Piece::Bytes(bytes)).await?;
        }
    }
    put(&pipe, Piece::End).await
}

async fn put(pipe: &Pipe, piece: Piece) -> Result<(), Stopped> {
    match timeout(limits::BODY_IDLE, pipe.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Stopped::Broken),
        Err(_) => Err(Stopped::Denied(Denial::new(Reason::LimitTime))),
    }
}

fn stopped_upload(stopped: Stopped) -> Denial {
    match stopped {
        Stopped::Recognised(found) if found.iter().any(|one| one.value == postern_policy::FoundValue::Secret) => {
            Denial::new(Reason::RealSecretSeen)
        }
        Stopped::Recognised(_) => Denial::new(Reason::PlaceholderWrongLocation),
        Stopped::Denied(denial) => denial,
        Stopped::Broken => Denial::new(Reason::UpstreamUnreachable),
    }
}

/// Begins the answer; a task brings its body and records the end.
fn answer(
    line: &Line,
    asked: &Asked,
    sent: Sent,
    upload: Option<Uploading>,
    allowed: u64,
) -> Result<Response<Body>, Denial> {
    let session = &line.session;
    let Sent { response, connection, key } = sent;
    let clean = scrub::head(session, &asked.named.host, &response)?;
    let (pipe, body) = body::pipe();
    let outcome = Outcome {
        ended: "cut short by the client",
        status: Some(response.status().as_u16()),
        received_bytes: 0,
        scrubbed: clean.scrubbed,
    };
    let download = Download { cleaner: clean.cleaner, incoming: response.into_body(), pipe, outcome };
    let task_session = session.clone();
    let named = asked.named.clone();
    session.drain.spawn_until_drain(async move {
        let (ended, outcome) = download.run(&task_session, upload, allowed).await;
        match ended {
            Ended::Whole(pipe) => {
                task_session.pool.put(key, connection, Instant::now());
                // A client that is gone does not miss the end.
                let _gone = pipe.send(Piece::End).await;
            }
            Ended::Short => record::ended(&task_session, allowed, &outcome).await,
            Ended::Refused(denial) => {
                let destination = record::of_connection(&named, "http");
                let kind = postern_audit::Kind::EgressOutcome;
                let _unrecorded = record::refused(&task_session, kind, destination, &denial, Some(allowed)).await;
                refuse::unanswered(&task_session, &named, &denial);
            }
        }
    });
    let (parts, ()) = clean.head.into_parts();
    Ok(Response::from_parts(parts, body))
}

/// A response body on its way to the sandbox.
struct Download {
    cleaner: Cleaner,
    incoming: Incoming,
    pipe: Pipe,
    outcome: Outcome,
}

/// How a download ended. A whole one is recorded before its end is said.
enum Ended {
    Whole(Pipe),
    Short,
    Refused(Denial),
}

impl Download {
    async fn run(
        mut self,
        session: &crate::session::Session,
        upload: Option<Uploading>,
        allowed: u64,
    ) -> (Ended, Outcome) {
        let brought = match upload {
            None => self.bring(session, allowed).await,
            Some(upload) => {
                let mut upload = upload;
                let mut bringing = Box::pin(self.bring(session, allowed));
                tokio::select! {
                    brought = &mut bringing => brought,
                    uploaded = &mut upload => match uploaded {
                        // An upstream may answer without reading on.
                        Ok(()) | Err(Stopped::Broken) => bringing.await,
                        Err(stopped) => Err(stopped_upload(stopped)),
                    },
                }
            }
        };
        match brought {
            Ok(true) => (Ended::Whole(self.pipe), self.outcome),
            Ok(false) => (Ended::Short, self.outcome),
            Err(denial) => (Ended::Refused(denial), self.outcome),
        }
    }

    /// Brings the body; whether it is whole.
    async fn bring(&mut self, session: &crate::session::Session, allowed: u64) -> Result<bool, Denial> {
        loop {
            let frame = timeout(limits::BODY_IDLE, self.incoming.frame());
            let Ok(frame) = frame.await else {
                self.outcome.ended = "silent for too long";
                return Err(Denial::new(Reason::LimitTime));
            };
            match frame {
                None => return self.end(session, allowed, Bytes::new()).await,
                Some(Err(_)) => {
                    self.outcome.ended = "cut short by the upstream";
                    return Ok(false);
                }
                Some(Ok(frame)) => {
                    // Trailers are dropped.
                    let Ok(chunk) = frame.into_data() else { continue };
                    self.outcome.received_bytes += chunk.len() as u64;
                    let clean = self.cleaner.push(&chunk).map_err(inspect::not_decoded)?;
                    if self.incoming.is_end_stream() {
                        return self.end(session, allowed, clean).await;
                    }
                    if !clean.is_empty() && self.put(clean).await.is_err() {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// The last bytes go out after the record: whoever has the whole answer can find its record.
    async fn end(&mut self, session: &crate::session::Session, allowed: u64, last: Bytes) -> Result<bool, Denial> {
        let held = self.cleaner.finish().map_err(inspect::not_decoded)?;
        self.outcome.ended = "answered";
        self.outcome.scrubbed += self.cleaner.scrubbed();
        record::ended(session, allowed, &self.outcome).await;
        for bytes in [last, held] {
            if !bytes.is_empty() {
                // Recorded as answered: the upstream did, and the client no longer reads.
                let _gone = self.put(bytes).await;
            }
        }
        Ok(true)
    }

    async fn put(&self, bytes: Bytes) -> Result<(), ()> {
        match timeout(limits::BODY_IDLE, self.pipe.send(Piece::Bytes(bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }
}
