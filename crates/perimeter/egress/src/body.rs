//! Bodies that flow through a task: pieces come over a bounded channel, and the end must be said. A body whose task
//! stops without saying so is an error for its reader, never a short body that looks whole.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;

/// Every body that this crate sends, in either direction.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A piece of a piped body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// What follows the body; the end is still to be said.
    Trailers(HeaderMap),
    /// The body is whole.
    End,
}

/// The writing end of a piped body.
pub(crate) type Pipe = mpsc::Sender<Piece>;

/// No bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// These bytes and these trailers.
pub(crate) fn followed(bytes: Bytes, trailers: HeaderMap) -> Body {
    full(bytes).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync()
}

/// A pipe and the body at its other end.
pub(crate) fn pipe() -> (Pipe, Body) {
    let (pipe, pieces) = mpsc::channel(PIECES);
    (pipe, Piped { pieces, ended: false }.boxed_unsync())
}

struct Piped {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl http_body::Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body was cut short"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Pieces in flight: the reader's pace is the writer's.
const PIECES: usize = 2;
