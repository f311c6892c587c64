//! Phase: brings a scrubbed answer to the sandbox in a task of its own, and records how it ended before its end is said.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_audit::{Destination, Kind};
use postern_policy::{Denial, Reason};
use tokio::time::timeout;

use super::{
    forward::Sent,
    identify::Asked,
    inspect::{self, Stopped},
    record::{self, Outcome},
    refuse,
    scrub::{self, Cleaner},
    upload::{self, Interrupted, Uploading},
};
use crate::{
    body::{self, Body, Piece, Pipe},
    limits,
    session::Session,
};

/// Begins the answer; a task brings its body and records the end.
pub(crate) fn answer(
    session: &Arc<Session>,
    destination: &Destination,
    asked: &Asked,
    sent: Sent,
    upload: Option<Uploading>,
    allowed: u64,
) -> Result<Response<Body>, Denial> {
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
    let (named, destination) = (asked.named.clone(), destination.clone());
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
                let kind = Kind::EgressOutcome;
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
    async fn run(mut self, session: &Session, upload: Option<Uploading>, allowed: u64) -> (Ended, Outcome) {
        let brought = match upload {
            None => self.bring(session, allowed).await,
            Some(mut upload) => {
                let mut bringing = Box::pin(self.bring(session, allowed));
                tokio::select! {
                    brought = &mut bringing => brought,
                    uploaded = &mut upload => match uploaded {
                        // An upstream may answer without reading on.
                        Ok(()) | Err(Interrupted { stopped: Stopped::Broken, .. }) => bringing.await,
                        Err(interrupted) => Err(upload::refusal(&interrupted.stopped)),
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
    async fn bring(&mut self, session: &Session, allowed: u64) -> Result<bool, Denial> {
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
    async fn end(&mut self, session: &Session, allowed: u64, last: Bytes) -> Result<bool, Denial> {
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
