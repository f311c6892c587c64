//! Phase: brings a scrubbed answer to the sandbox in a task of its own, and records how it ended before its end is said.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_policy::{Denial, Reason};
use tokio::time::timeout;

use super::{
    forward::Sent,
    identify::Asked,
    inspect::{self, Stopped},
    record::{Outcome, Pending},
    refuse,
    scrub::{self, Cleaner},
    upload::{self, Interrupted, Uploading},
};
use crate::{
    body::{self, Body, Piece, Pipe},
    session::Session,
};

/// Begins the answer; a task brings its body and records the end.
pub(crate) fn answer(
    pending: &mut Pending,
    asked: &Asked,
    sent: Sent,
    upload: Option<Uploading>,
    session: &Arc<Session>,
) -> Result<Response<Body>, Denial> {
    let Sent { response, connection, key, leads_to } = sent;
    let clean = scrub::head(session, &asked.named.host, &response)?;
    let (pipe, body) = body::pipe();
    pending.outcome =
        Outcome { status: Some(response.status().as_u16()), scrubbed: clean.scrubbed, ..Outcome::default() };
    let mut download = Download {
        cleaner: clean.cleaner,
        incoming: response.into_body(),
        pipe,
        pending: pending.hand_over(),
        idle: session.perimeter.bounds.body_idle,
    };
    let (task_session, named) = (session.clone(), asked.named.clone());
    session.spawn(async move {
        match download.run(upload).await {
            Ok(true) => {
                task_session.pool.put(key, connection, leads_to, Instant::now());
                // A client that is gone does not miss the end.
                let _gone = download.pipe.send(Piece::End).await;
            }
            Ok(false) => download.pending.ended().await,
            Err(denial) => {
                download.pending.refused(&denial).await;
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
            let frame = timeout(self.idle, self.incoming.frame());
            let Ok(frame) = frame.await else { return Err(Denial::new(Reason::LimitTime)) };
            match frame {
                None => return self.end(Bytes::new()).await,
                Some(Err(_)) => {
                    self.pending.outcome.ended = "cut short by the upstream";
                    return Ok(false);
                }
                Some(Ok(frame)) => {
                    // Trailers are dropped.
                    let Ok(chunk) = frame.into_data() else { continue };
                    self.pending.outcome.received_bytes += chunk.len() as u64;
                    let mut steps = self.cleaner.steps(chunk).into_iter();
                    let last = steps.next_back();
                    for step in steps {
                        let clean = self.cleaner.push(&step).map_err(inspect::not_decoded)?;
                        if self.put(clean).await.is_err() {
                            return Ok(self.abandoned());
                        }
                    }
                    let clean = self.cleaner.push(&last.unwrap_or_default()).map_err(inspect::not_decoded)?;
                    if self.incoming.is_end_stream() {
                        return self.end(clean).await;
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

    /// The last bytes go out after the record: whoever has the whole answer can find its record.
    async fn end(&mut self, last: Bytes) -> Result<bool, Denial> {
        let held = self.cleaner.finish().map_err(inspect::not_decoded)?;
        self.pending.outcome.ended = "answered";
        self.pending.outcome.scrubbed += self.cleaner.scrubbed();
        self.pending.ended().await;
        for bytes in [last, held] {
            // Recorded as answered: the upstream did, and the client no longer reads.
            let _gone = self.put(bytes).await;
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
