//! Phase: brings a scrubbed answer to the sandbox, a longer one in a task of its own, and has how it ended recorded before its end is said.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body as _;
use postern_policy::{Denial, Reason};
use tokio::time::timeout;

use super::{
    arrived::{Arriving, Whole},
    forward::Sent,
    identify::Asked,
    inspect::Stopped,
    record::{Outcome, Pending},
    refuse,
    scrub::{self, Cleaner},
    streams::Open,
    upload::{self, Interrupted, Uploading},
};
use crate::{
    body::{self, Body, Piece, Pipe},
    session::Session,
};

/// Begins the answer; a task brings its body and records the end. One without a body has ended already. `open` ends with
/// whichever is last.
pub(crate) async fn answer(
    pending: &mut Pending,
    asked: &Asked,
    sent: Sent,
    upload: Option<Uploading>,
    session: &Arc<Session>,
    open: Option<Open>,
) -> Result<Response<Body>, Denial> {
    let Sent { response, connection, key, leads_to } = sent;
    let clean = scrub::head(session, &asked.named.host, &response)?;
    pending.outcome =
        Outcome { status: Some(response.status().as_u16()), scrubbed: clean.scrubbed, ..Outcome::default() };
    let (parts, ()) = clean.head.into_parts();
    if upload.is_none() && response.body().is_end_stream() {
        // Said with the head: what gRPC has to say without an answer's body counts only so.
        pending.outcome.ended = ANSWERED;
        pending.ended();
        session.pool.put(key, connection, leads_to, Instant::now());
        return Ok(Response::from_parts(parts, body::empty()));
    }
    let (mut cleaner, mut arriving) = (clean.cleaner, Arriving::new(response.into_body()));
    if upload.is_none() && cleaner.takes_as_it_comes() && arriving.is_here().await {
        let body = at_once(pending, arriving, &mut cleaner)?;
        session.pool.put(key, connection, leads_to, Instant::now());
        return Ok(Response::from_parts(parts, body));
    }
    let (pipe, body) = body::pipe();
    let idle = session.perimeter.bounds.body_idle;
    let mut download =
        Download { session: session.clone(), cleaner, arriving, pipe, pending: pending.hand_over(), idle };
    let (task_session, named) = (session.clone(), asked.named.clone());
    session.spawn(async move {
        let _open = open;
        match download.run(upload).await {
            Ok(true) => {
                task_session.pool.put(key, connection, leads_to, Instant::now());
                // A client that is gone does not miss the end.
                let _gone = download.pipe.send(Piece::End).await;
            }
            Ok(false) => download.pending.ended(),
            Err(denial) => {
                download.pending.refused(&denial).await;
                refuse::unanswered(&task_session, &named, &denial);
            }
        }
    });
    Ok(Response::from_parts(parts, body))
}

/// A body that is there whole.
fn at_once(pending: &mut Pending, arriving: Arriving, cleaner: &mut Cleaner) -> Result<Body, Denial> {
    let Whole { bytes, trailers, received_bytes } = arriving.scrubbed(cleaner)?;
    pending.outcome.ended = ANSWERED;
    pending.outcome.received_bytes = received_bytes;
    pending.outcome.scrubbed += cleaner.scrubbed();
    pending.ended();
    Ok(match trailers {
        Some(trailers) => body::followed(bytes, trailers),
        None => body::full(bytes),
    })
}

/// A response body on its way to the sandbox.
struct Download {
    session: Arc<Session>,
    cleaner: Cleaner,
    arriving: Arriving,
    pipe: Pipe,
    pending: Pending,
    idle: Duration,
}

impl Download {
    /// Whether the answer is whole; a whole one is recorded before its end is said.
    async fn run(&mut self, upload: Option<Uploading>) -> Result<bool, Denial> {
        let Some(mut upload) = upload else { return self.bring().await };
        let mut bringing = Box::pin(self.bring());
        tokio::select! {
            brought = &mut bringing => brought,
            uploaded = &mut upload => match uploaded {
                // An upstream may answer without reading on.
                Ok(()) | Err(Interrupted { stopped: Stopped::Broken, .. }) => bringing.await,
                Err(interrupted) => Err(upload::refusal(&interrupted.stopped)),
            },
        }
    }

    /// Brings the body; whether it is whole.
    async fn bring(&mut self) -> Result<bool, Denial> {
        loop {
            let frame = timeout(self.idle, self.arriving.frame());
            let Ok(frame) = frame.await else { return Err(Denial::new(Reason::LimitTime)) };
            let held = self.cleaner.follow(self.session.keyring())?;
            if self.put(held).await.is_err() {
                return Ok(self.abandoned());
            }
            match frame {
                None => return self.end(Bytes::new(), None).await,
                Some(Err(_)) => {
                    self.pending.outcome.ended = "cut short by the upstream";
                    return Ok(false);
                }
                Some(Ok(frame)) => {
                    let chunk = match frame.into_data() {
                        Ok(chunk) => chunk,
                        Err(frame) => match frame.into_trailers() {
                            Ok(trailers) => return self.end(Bytes::new(), Some(trailers)).await,
                            Err(_) => continue,
                        },
                    };
                    self.pending.outcome.received_bytes += chunk.len() as u64;
                    let mut steps = self.cleaner.steps(chunk).into_iter();
                    let last = steps.next_back();
                    for step in steps {
                        let clean = self.cleaner.push(&step)?;
                        if self.put(clean).await.is_err() {
                            return Ok(self.abandoned());
                        }
                    }
                    let clean = self.cleaner.push(&last.unwrap_or_default())?;
                    if self.arriving.is_at_end() {
                        return self.end(clean, None).await;
                    }
                    if self.put(clean).await.is_err() {
                        return Ok(self.abandoned());
                    }
                }
            }
        }
    }

    fn abandoned(&mut self) -> bool {
        self.pending.outcome.ended = "cut short by the client";
        false
    }

    /// The last bytes go out after the record was handed over.
    async fn end(&mut self, last: Bytes, trailers: Option<HeaderMap>) -> Result<bool, Denial> {
        let held = self.cleaner.finish()?;
        let trailers = trailers.map(|trailers| self.cleaner.trailers(&trailers));
        self.pending.outcome.ended = ANSWERED;
        self.pending.outcome.scrubbed += self.cleaner.scrubbed();
        self.pending.ended();
        for bytes in [last, held] {
            // Recorded as answered: the upstream did, and the client no longer reads.
            let _gone = self.put(bytes).await;
        }
        if let Some(trailers) = trailers {
            let _gone = timeout(self.idle, self.pipe.send(Piece::Trailers(trailers))).await;
        }
        Ok(true)
    }

    async fn put(&self, bytes: Bytes) -> Result<(), ()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match timeout(self.idle, self.pipe.send(Piece::Bytes(bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }
}

/// How a request ended whose answer was brought whole.
const ANSWERED: &str = "answered";
