//! Bodies that flow through a task: pieces come over a bounded channel, and the end must be said. A body whose task
//! stops without saying so is an error for its reader, never a short body that looks whole.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Every body that this crate sends, in either direction.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A piece of a piped body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes.
    Bytes(Bytes),
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

/// These bytes, with their places in memory until the caller has them.
pub(crate) fn held(bytes: Vec<u8>, places: Vec<OwnedSemaphorePermit>) -> Body {
    struct Held(Vec<u8>, #[expect(dead_code, reason = "given back when it is dropped")] Vec<OwnedSemaphorePermit>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    full(Bytes::from_owner(Held(bytes, places)))
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
