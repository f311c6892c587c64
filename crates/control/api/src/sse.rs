//! Server-sent events: frames with an `event:` line, and a comment whenever the stream is quiet (contract 0.6).
//!
//! The queue behind a stream is the engine's and bounded; a reader that is too slow loses its stream, never the server
//! its memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use postern_engine::{Frame, Subscription};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Sent at once, so that a client and every proxy between see the stream open.
const OPEN: &str = ": open\n\n";
const PING: &str = ": ping\n\n";

type Next = Pin<Box<dyn Future<Output = (Subscription, Option<Frame>)> + Send>>;

/// Completes when the stream must end although its events go on.
pub(crate) type Ends = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a stream.
pub(crate) struct EventStream {
    /// `None` when the stream is over.
    next: Option<Next>,
    ends: Ends,
    ping: Interval,
    opened: bool,
}

impl EventStream {
    pub(crate) fn new(events: Subscription, ends: Ends, ping_every: Duration) -> Self {
        let mut ping = interval_at(Instant::now() + ping_every, ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { next: Some(next(events)), ends, ping, opened: false }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if !self.opened {
            self.opened = true;
            return ready(Bytes::from_static(OPEN.as_bytes()));
        }
        if self.next.is_some() && self.ends.as_mut().poll(cx).is_ready() {
            self.next = None;
        }
        let Some(future) = self.next.as_mut() else { return Poll::Ready(None) };
        match future.as_mut().poll(cx) {
            Poll::Ready((events, Some(frame))) => {
                postern_danger::point!("frame.before");
                self.next = Some(next(events));
                self.ping.reset();
                ready(render(&frame))
            }
            Poll::Ready((_, None)) => {
                self.next = None;
                Poll::Ready(None)
            }
            Poll::Pending => match self.ping.poll_tick(cx) {
                Poll::Ready(_) => ready(Bytes::from_static(PING.as_bytes())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

fn next(mut events: Subscription) -> Next {
    Box::pin(async move {
        // Asked for again once the frame before was taken.
        postern_danger::point!("frame.after");
        let frame = events.next().await;
        (events, frame)
    })
}

fn ready(bytes: Bytes) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
    Poll::Ready(Some(Ok(BodyFrame::data(bytes))))
}

/// JSON escapes every line break, so one `data:` line holds it whole.
fn render(Frame { id, event, data }: &Frame) -> Bytes {
    debug_assert!(!data.contains(['\n', '\r']), "JSON on one line");
    match id {
        Some(id) => format!("id: {id}\nevent: {event}\ndata: {data}\n\n").into(),
        None => format!("event: {event}\ndata: {data}\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, render};

    #[test]
    fn a_frame_has_its_event_line_and_one_data_line() {
        let frame = Frame { id: None, event: "a.b", data: "{\"type\":\"a.b\"}".into() };
        assert_eq!(render(&frame), "event: a.b\ndata: {\"type\":\"a.b\"}\n\n");
        assert_eq!(render(&Frame { id: Some(7), ..frame }), "id: 7\nevent: a.b\ndata: {\"type\":\"a.b\"}\n\n");
    }
}
