//! Phase: sends a permitted request; what is longer than its beginning streams beside the wait for the answer, and is
//! cut off where something of ours is recognised in it.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, header, request::Parts};
use hyper::body::Incoming;
use postern_policy::{Denial, FoundValue, Permit, Reason};
use tokio::time::{error::Elapsed, timeout};

use super::{
    forward::{self, Dialled, Sent},
    inspect::{Inspection, Stopped, Unread},
    trailers,
};
use crate::{
    body::{self, Piece, Pipe},
    session::Session,
};

/// What is still to be uploaded after the decision.
pub(crate) enum Upload {
    /// All of it, inspected, and what follows it.
    Whole(Bytes, Option<HeaderMap>),
    /// Its inspected beginning, and the rest.
    Begun(Bytes, Box<Inspection>),
}

/// The rest of a long body on its way.
pub(crate) type Uploading = Pin<Box<dyn Future<Output = Result<(), Interrupted>> + Send>>;

/// An upload that ended early, and what of the client's body is unread.
pub(crate) struct Interrupted {
    /// Why.
    pub(crate) stopped: Stopped,
    pub(crate) unread: Option<Incoming>,
}

impl Upload {
    /// What of the client's body is unread.
    pub(crate) fn into_unread(self) -> Option<Unread> {
        match self {
            Self::Whole(..) => None,
            Self::Begun(_, inspection) => inspection.into_unread().map(Unread::Body),
        }
    }
}

/// Sends the request, and the rest of a long body beside waiting for the answer.
pub(crate) async fn send(
    session: &Session,
    permit: &Permit,
    mut head: Parts,
    upload: Upload,
    dialled: &Dialled,
) -> Result<(Sent, Option<Uploading>), (Denial, Option<Unread>)> {
    let (begun, inspection) = match upload {
        Upload::Whole(bytes, trailers) => {
            let body = match trailers.and_then(trailers::passed_on) {
                Some(trailers) => body::followed(bytes, trailers),
                None if bytes.is_empty() => body::empty(),
                None => body::full(bytes),
            };
            keep_length_of_empty(&mut head);
            let sent = forward::send(session, permit, Request::from_parts(head, body), dialled);
            let sent = timeout(session.perimeter.bounds.response_head, sent).await;
            return in_time(sent).map(|sent| (sent, None)).map_err(|denial| (denial, None));
        }
        Upload::Begun(bytes, inspection) => (bytes, inspection),
    };
    let (pipe, body) = body::pipe();
    let mut uploading: Uploading = Box::pin(upload_rest(pipe, begun, inspection));
    let sending = timeout(
        session.perimeter.bounds.response_head,
        forward::send(session, permit, Request::from_parts(head, body), dialled),
    );
    let mut sending = std::pin::pin!(sending);
    tokio::select! {
        // Recognised before the upstream answered: dropping `sending` and the pipe cuts the upstream off.
        uploaded = &mut uploading => {
            match uploaded {
                // An upstream may stop reading and answer all the same; if it does not, `sending` says so.
                Ok(()) => in_time(sending.await).map(|sent| (sent, None)).map_err(|denial| (denial, None)),
                Err(Interrupted { stopped: Stopped::Broken, unread }) => {
                    let unread = unread.map(Unread::Body);
                    in_time(sending.await).map(|sent| (sent, None)).map_err(|denial| (denial, unread))
                }
                Err(Interrupted { stopped, unread }) => Err((refusal(&stopped), unread.map(Unread::Body))),
            }
        }
        sent = &mut sending => match in_time(sent) {
            Ok(sent) => Ok((sent, Some(uploading))),
            Err(denial) => Err((denial, Some(Unread::Upload(uploading)))),
        },
    }
}

fn in_time(sent: Result<Result<Sent, Denial>, Elapsed>) -> Result<Sent, Denial> {
    sent.unwrap_or_else(|_| Err(Denial::new(Reason::LimitTime)))
}

/// A body that was read whole is framed anew; a stated length of zero is kept for methods that expect one.
fn keep_length_of_empty(head: &mut Parts) {
    let zero = head.headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0");
    if !zero {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

async fn upload_rest(pipe: Pipe, begun: Bytes, mut inspection: Box<Inspection>) -> Result<(), Interrupted> {
    match upload_all(pipe, begun, &mut inspection).await {
        Ok(()) => Ok(()),
        Err(stopped) => Err(Interrupted { stopped, unread: inspection.into_unread() }),
    }
}

async fn upload_all(pipe: Pipe, begun: Bytes, inspection: &mut Inspection) -> Result<(), Stopped> {
    let idle = inspection.idle();
    if !begun.is_empty() {
        put(&pipe, Piece::Bytes(begun), idle).await?;
    }
    while let Some(bytes) = inspection.next().await? {
        if !bytes.is_empty() {
            put(&pipe, Piece::Bytes(bytes), idle).await?;
        }
    }
    if let Some(trailers) = inspection.trailers().and_then(trailers::passed_on) {
        put(&pipe, Piece::Trailers(trailers), idle).await?;
    }
    put(&pipe, Piece::End, idle).await
}

async fn put(pipe: &Pipe, piece: Piece, idle: Duration) -> Result<(), Stopped> {
    match timeout(idle, pipe.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Stopped::Broken),
        Err(_) => Err(Stopped::Denied(Denial::new(Reason::LimitTime))),
    }
}

/// What a stopped upload means for its request.
pub(crate) fn refusal(stopped: &Stopped) -> Denial {
    match stopped {
        Stopped::Recognised(found) if found.iter().any(|one| one.value == FoundValue::Secret) => {
            Denial::new(Reason::RealSecretSeen)
        }
        Stopped::Recognised(_) => Denial::new(Reason::PlaceholderWrongLocation),
        Stopped::Denied(denial) => denial.clone(),
        Stopped::Broken => Denial::new(Reason::UpstreamUnreachable),
    }
}
