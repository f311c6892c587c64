//! Phase: serves HTTP/2 on an intercepted connection. Every stream is one request that goes through all phases by itself,
//! with its own permit and records; one that fails or is reset ends alone. What a client could do to the connection as a
//! whole is bounded here.

use std::{
    convert::Infallible,
    error::Error as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use postern_net::resets::{self, By, Resets, Seen};
use postern_policy::{Denial, Reason};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, timeout},
};

use super::{
    exchange,
    intercept::{Line, Stream},
    refuse,
};
use crate::{body::Body, limits};

/// A stream for as long as something is done for it. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct Open(#[expect(dead_code, reason = "held for what its end does")] Arc<Held>);

struct Held {
    streams: Arc<Streams>,
    /// Whether the connection stays for it.
    counts: bool,
    _room: OwnedSemaphorePermit,
}

/// What a connection's streams do, all together.
struct Streams {
    open: watch::Sender<usize>,
    given_up: Mutex<GivenUp>,
    /// Said once the client gave up too many.
    overrun: watch::Sender<bool>,
    /// Whether an answer was passed on that says a head is too long.
    passed_too_long: AtomicBool,
    /// When the client was told that the connection ends.
    last_call: OnceLock<Instant>,
}

struct GivenUp {
    since: Instant,
    count: usize,
}

/// Why a connection is ended.
enum Ending {
    /// By the client, or by the library for what the client did.
    Served(hyper::Result<()>),
    /// Nothing was asked for a while.
    Idle,
    /// A head was too long.
    TooLong(By),
    /// Too many requests were given up.
    Overrun,
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn serve<S: Stream>(line: Arc<Line>, stream: S) {
    let streams = Arc::new(Streams::default());
    let (open, left) = (streams.open.subscribe(), streams.open.subscribe());
    let overrun = || overrun_by(streams.overrun.subscribe());
    let service = service_fn({
        let (line, streams) = (line.clone(), streams.clone());
        move |request| respond(line.clone(), streams.clone(), request)
    });
    let (stream, seen) = Resets::on(stream);
    // Ends with the connection, and is waited for: what was reset is on record before the session ends.
    line.session.drain.spawn(record_resets(line.clone(), seen.clone()));
    let connection = bounded(&line).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ending = tokio::select! {
        served = connection.as_mut() => Ending::Served(served),
        () = idle(open, line.session.perimeter.bounds.request_head) => Ending::Idle,
        by = resets::too_long(seen) => Ending::TooLong(by),
        () = overrun() => Ending::Overrun,
    };
    match ending {
        Ending::Served(Ok(())) => {}
        Ending::Served(Err(error)) => unserved(&line, &error).await,
        Ending::Idle | Ending::TooLong(_) => {
            // What comes after it would be refused unseen, so nothing does. Without content it may be an upstream's too.
            let is_ours = !streams.passed_too_long.load(Ordering::Relaxed);
            if matches!(ending, Ending::TooLong(By::Library)) && is_ours {
                refused(&line, Reason::LimitHeaders).await;
            }
            connection.as_mut().graceful_shutdown();
            streams.last_call.get_or_init(Instant::now);
            tokio::select! {
                _ended = connection => {}
                // What was asked before the client heard of it is answered. One that does not say goodbye is left without.
                () = idle(left, limits::FAREWELL) => {}
                () = overrun() => refused(&line, Reason::LimitRate).await,
            }
        }
        Ending::Overrun => refused(&line, Reason::LimitRate).await,
    }
}

fn bounded(line: &Line) -> http2::Builder<crate::session::Tasks> {
    let mut builder = http2::Builder::new(line.session.tasks());
    builder
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_header_list_size(u32::try_from(limits::REQUEST_HEAD_BYTES).unwrap_or(u32::MAX))
        .header_table_size(limits::HPACK_TABLE_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::STREAMS_WINDOW_BYTES)
        .max_send_buf_size(limits::STREAM_SEND_BYTES)
        .max_pending_accept_reset_streams(limits::STREAM_ERRORS)
        .max_local_error_reset_streams(limits::STREAM_ERRORS)
        // So that what asks for another protocol gets to read why not.
        .enable_connect_protocol();
    builder
}

async fn respond(
    line: Arc<Line>,
    streams: Arc<Streams>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Ok(room) = line.session.streams.clone().try_acquire_owned() else {
        return Ok(Box::pin(exchange::refuse(&line, request, Denial::new(Reason::LimitConnections))).await);
    };
    let answering = Answering(Some(streams.clone()));
    let open = Streams::begin(&streams, room);
    // Boxed: the library moves what it is given several times.
    let response = Box::pin(exchange::exchange(&line, request, Some(open))).await;
    answering.done();
    if response.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        streams.passed_too_long.store(true, Ordering::Relaxed);
    }
    Ok(response)
}

/// What the library refused by itself is recorded like any other refusal; what the network did is not.
async fn unserved(line: &Line, error: &hyper::Error) {
    let Some(error) = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>()) else { return };
    if error.is_io() || error.is_remote() {
        return;
    }
    match error.reason() {
        Some(h2::Reason::NO_ERROR) | None => {}
        Some(h2::Reason::ENHANCE_YOUR_CALM) => refused(line, Reason::LimitRate).await,
        Some(_) => refused(line, Reason::RequestMalformed).await,
    }
}

/// A stream that the library reset for its head never was a request.
async fn record_resets(line: Arc<Line>, mut seen: watch::Receiver<Seen>) {
    let mut recorded = 0;
    while seen.changed().await.is_ok() {
        let malformed = seen.borrow_and_update().malformed;
        for _ in recorded..malformed {
            refused(&line, Reason::RequestMalformed).await;
        }
        recorded = malformed;
    }
}

async fn refused(line: &Line, reason: Reason) {
    refuse::connection(&line.session, &line.at, line.scheme.as_str(), &Denial::new(reason)).await;
}

/// Completes once no stream was open, and none began, for `patience`. Whatever else the client sends is no request.
async fn idle(mut open: watch::Receiver<usize>, patience: Duration) {
    loop {
        if open.wait_for(|open| *open == 0).await.is_err() {
            return;
        }
        match timeout(patience, open.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn overrun_by(mut overrun: watch::Receiver<bool>) {
    if overrun.wait_for(|overrun| *overrun).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(0),
            given_up: Mutex::new(GivenUp { since: Instant::now(), count: 0 }),
            overrun: watch::Sender::new(false),
            passed_too_long: AtomicBool::new(false),
            last_call: OnceLock::new(),
        }
    }
}

impl Streams {
    fn begin(streams: &Arc<Self>, room: OwnedSemaphorePermit) -> Open {
        // What comes when the client must have heard, or does not want to, does not keep the connection.
        let counts = streams.last_call.get().is_none_or(|told| told.elapsed() < limits::FAREWELL);
        if counts {
            streams.open.send_modify(|open| *open += 1);
        }
        Open(Arc::new(Held { streams: streams.clone(), counts, _room: room }))
    }

    fn given_up(&self) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up.since.elapsed() >= limits::GIVEN_UP_WINDOW {
            *given_up = GivenUp { since: Instant::now(), count: 0 };
        }
        given_up.count += 1;
        if given_up.count > limits::STREAMS_GIVEN_UP {
            self.overrun.send_replace(true);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counts {
            self.streams.open.send_modify(|open| *open -= 1);
        }
    }
}

/// A request that has no answer yet: what is dropped before it has one was given up by the client.
struct Answering(Option<Arc<Streams>>);

impl Answering {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(streams) = self.0.take() {
            streams.given_up();
        }
    }
}
