//! The body of an answer, with what of it came along with its head. A short one that is there whole goes on in one piece with the head, without a task
//! and a pipe of its own.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, task::Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_policy::Denial;

use super::scrub::Cleaner;
use crate::limits;

/// A body, and its frames that were read already.
pub(crate) struct Arriving {
    incoming: Incoming,
    arrived: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    ended: bool,
}

/// A whole body, scrubbed.
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// Before scrubbing.
    pub(crate) received_bytes: u64,
}

impl Arriving {
    /// Reads nothing yet.
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, arrived: VecDeque::new(), ended: false }
    }

    /// Takes what is there; waits for nothing. Whether that is all of it.
    pub(crate) async fn is_here(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < limits::AT_ONCE_BYTES {
            if self.incoming.is_end_stream() {
                self.ended = true;
                return true;
            }
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut self.incoming).poll_frame(context))).await;
            let frame = match polled {
                Poll::Pending => return false,
                Poll::Ready(None) => {
                    self.ended = true;
                    return true;
                }
                Poll::Ready(Some(frame)) => frame,
            };
            bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            let broken = frame.is_err();
            self.arrived.push_back(frame);
            if broken {
                return false;
            }
        }
        false
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        match self.arrived.pop_front() {
            Some(frame) => Some(frame),
            None if self.ended => None,
            None => self.incoming.frame().await,
        }
    }

    /// Whether it is known that nothing follows.
    pub(crate) fn is_at_end(&self) -> bool {
        self.arrived.is_empty() && (self.ended || self.incoming.is_end_stream())
    }

    /// All of a body that is here.
    ///
    /// # Errors
    /// What may not go on.
    pub(crate) fn scrubbed(self, cleaner: &mut Cleaner) -> Result<Whole, Denial> {
        let (mut clean, mut trailers, mut received_bytes) = (BytesMut::new(), None, 0);
        for frame in self.arrived.into_iter().flatten() {
            match frame.into_data() {
                Ok(chunk) => {
                    received_bytes += chunk.len() as u64;
                    clean.extend_from_slice(&cleaner.push(&chunk)?);
                }
                Err(frame) => trailers = frame.into_trailers().ok().map(|trailers| cleaner.trailers(&trailers)),
            }
        }
        clean.extend_from_slice(&cleaner.finish()?);
        Ok(Whole { bytes: clean.freeze(), trailers, received_bytes })
    }
}
