//! One carrying connection after it was let in: HTTP/2 with the edge as client. Opens streams on it and counts what they carry.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioTimer;
use postern_tunnel::wire::{self, Lane, Welcome};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::serve::Tracked;
use crate::status::ConnectionStatus;
use crate::stream::Carried;

/// What is known of a connection when it was let in.
pub(crate) struct Entrant {
    pub(crate) id: u64,
    pub(crate) tunnel: String,
    pub(crate) connector: String,
    pub(crate) lane: Lane,
    pub(crate) peer: SocketAddr,
}

/// A live carrying connection.
pub(crate) struct Link {
    pub(crate) entrant: Entrant,
    pub(crate) cut: CancellationToken,
    /// Held while the connector is told something.
    pub(crate) turn: Mutex<()>,
    since: SystemTime,
    sender: SendRequest<Full<Bytes>>,
    slots: Arc<Semaphore>,
    lost: AtomicBool,
    carried: AtomicU64,
}

/// Why this connection opened no stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The connection is ending.
    Lost,
    /// Every slot is taken.
    Full,
    /// The connector said no, for this reason.
    Refused(String),
}

/// What drives a connection; it ends when the connection does.
pub(crate) type Driver = Connection<Upgraded, Full<Bytes>, Tracked>;

impl Link {
    /// Begins HTTP/2 on an upgraded connection. The driver must be awaited.
    pub(crate) async fn begin(
        io: Upgraded,
        entrant: Entrant,
        cut: CancellationToken,
        executor: Tracked,
    ) -> hyper::Result<(Arc<Self>, Driver)> {
        let lane = entrant.lane;
        let (sender, driver) = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(wire::PING_EVERY)
            .keep_alive_timeout(wire::PING_PATIENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(lane.stream_window())
            .initial_connection_window_size(lane.connection_window())
            .max_header_list_size(limits::ANSWER_HEAD_BYTES)
            .header_table_size(0)
            .max_concurrent_streams(0)
            .max_concurrent_reset_streams(lane.streams())
            .handshake(io)
            .await?;
        let link = Self {
            entrant,
            cut,
            turn: Mutex::new(()),
            since: SystemTime::now(),
            sender,
            slots: Arc::new(Semaphore::new(lane.streams())),
            lost: AtomicBool::new(false),
            carried: AtomicU64::new(0),
        };
        Ok((Arc::new(link), driver))
    }

    /// Opens a stream to this host. Cancelling resets it.
    pub(crate) async fn open(self: &Arc<Self>, host: &str) -> Result<Carried, OpenError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| OpenError::Full)?;
        let authority: Uri =
            wire::authority_of(host).parse().map_err(|_| OpenError::Refused(wire::reason::HOST_FOREIGN.to_owned()))?;
        let request = request(Method::CONNECT, authority, Bytes::new());
        let response = self.sender.clone().send_request(request).await.map_err(|error| self.gone(&error))?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Refused(refusal(&response)));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.gone(&error))?;
        Ok(Carried::new(upgraded, Arc::clone(self), slot))
    }

    /// Tells the connector a welcome.
    pub(crate) async fn tell(&self, welcome: &Welcome) -> Result<(), OpenError> {
        let request =
            request(Method::POST, Uri::from_static("https://connector/welcome"), Bytes::from(welcome.to_json()));
        let response = self.sender.clone().send_request(request).await.map_err(|error| self.gone(&error))?;
        if response.status().is_success() { Ok(()) } else { Err(OpenError::Refused(refusal(&response))) }
    }

    /// Whether new streams may be tried on it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.lost.load(Ordering::Relaxed) && !self.cut.is_cancelled() && !self.sender.is_closed()
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.entrant.lane.streams() - self.slots.available_permits()
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> ConnectionStatus {
        ConnectionStatus {
            id: self.entrant.id,
            connector: self.entrant.connector.clone(),
            lane: self.entrant.lane,
            since: self.since,
            peer: self.entrant.peer,
            open_streams: self.open_streams(),
            carried_bytes: self.carried.load(Ordering::Relaxed),
        }
    }

    fn gone(&self, error: &hyper::Error) -> OpenError {
        tracing::debug!(tunnel = self.entrant.tunnel, connection = self.entrant.id, %error, "no stream on this connection");
        self.lost.store(true, Ordering::Relaxed);
        OpenError::Lost
    }
}

fn request(method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
}

/// The connector's word for its refusal, if it is a word.
fn refusal<B>(response: &http::Response<B>) -> String {
    let reason = response.headers().get(wire::REASON).and_then(|value| value.to_str().ok());
    reason.filter(|reason| wire::is_reason(reason)).unwrap_or("unnamed").to_owned()
}
