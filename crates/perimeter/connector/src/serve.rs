//! One carrying connection: HTTP/2 with the connector as server. Each CONNECT becomes a stream to the gateway; everything else is refused.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_net::Drain;
use postern_net::resets::{self, Resets};
use postern_tunnel::handover::{FromConnector, Refusal};
use postern_tunnel::wire::{self, Lane, Welcome, reason};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::dial::Carrying;
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::limits;
use crate::pump::pump;
use crate::refusals;
use crate::status::Place;

/// Serves a connection until it ends, and says why it did. It stands in `place` from the edge's word on. When the drain starts, no new streams
/// are taken and it ends with its last. What is refused on it the gateway hears of.
pub(crate) async fn connection(
    carrying: Carrying,
    lane: Lane,
    gateway: Gateway,
    place: Place,
    drain: Drain,
) -> Failure {
    let (io, seen) = Resets::on(TokioIo::new(carrying.io));
    // Ends with the connection, and is waited for.
    drop(drain.spawn(refusals::tell(seen.clone(), gateway.clone())));
    let served = Arc::new(Served {
        lane,
        gateway: gateway.clone(),
        place,
        drain: drain.clone(),
        welcome: RwLock::new(carrying.welcome),
    });
    let service = service_fn(move |request| {
        let served = Arc::clone(&served);
        async move { Ok::<_, Infallible>(served.answer(request).await) }
    });
    let connection = http2::Builder::new(Draining(drain.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(wire::PING_EVERY)
        .keep_alive_timeout(wire::PING_PATIENCE)
        .initial_stream_window_size(lane.stream_window())
        .initial_connection_window_size(lane.connection_window())
        .max_concurrent_streams(u32::try_from(lane.streams()).expect("a lane has few hundred streams"))
        .max_header_list_size(limits::REQUEST_HEAD_BYTES)
        .header_table_size(0)
        .auto_date_header(false)
        // Calls are cancelled by hundreds when a session ends: that is no attack, and the edge can ask for nothing worse than a new connection.
        .max_pending_accept_reset_streams(lane.streams())
        .max_local_error_reset_streams(None)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let mut too_long = std::pin::pin!(resets::too_long(seen));
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return lost(ended, &gateway).await,
            // After it the library refuses what cannot be seen from here, and no edge of ours has anything so long to say.
            _ = too_long.as_mut() => break,
            () = drain.started(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _late = timeout(limits::FAREWELL, connection).await;
    Failure::Protocol
}

async fn lost(ended: hyper::Result<()>, gateway: &Gateway) -> Failure {
    if let Err(error) = ended {
        tracing::debug!(%error, "the connection to the edge ended");
        if let Some(refusal) = refusals::ending(&error) {
            gateway.refused(refusal, 1).await;
            // Too much at once is what an edge of ours may come to as well.
            return if refusal == Refusal::TooMuch { Failure::Lost } else { Failure::Protocol };
        }
    }
    Failure::Lost
}

/// Runs the connection's tasks where the drain waits for them.
#[derive(Clone)]
struct Draining(Drain);

impl<F> hyper::rt::Executor<F> for Draining
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn(task));
    }
}

struct Served {
    lane: Lane,
    gateway: Gateway,
    place: Place,
    drain: Drain,
    welcome: RwLock<Welcome>,
}

impl Served {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = if request.method() == Method::CONNECT {
            self.connect(request).await
        } else if request.method() == Method::POST && request.uri().path() == wire::WELCOME_PATH {
            self.welcome(request).await
        } else {
            Err(reason::REQUEST_MALFORMED)
        };
        match answered {
            Ok(response) => response,
            Err(reason) => {
                if let Some(refusal) = refusals::of(reason) {
                    self.gateway.refused(refusal, 1).await;
                }
                refused(reason)
            }
        }
    }

    async fn connect(&self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let host = self.host(&request)?;
        if self.drain.is_started() {
            return Err(reason::DRAINING);
        }
        let socket = self.gateway.hand(&host, self.lane).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        drop(self.drain.spawn(async move {
            match upgrade.await {
                Ok(upgraded) => pump::<_, UnixStream>(TokioIo::new(upgraded), socket).await,
                Err(error) => tracing::debug!(%error, "a stream ended before it began"),
            }
        }));
        Ok(Response::new(Full::default()))
    }

    /// The host of a CONNECT: of this tunnel, in its one spelling, and nowhere contradicted.
    fn host(&self, request: &Request<Incoming>) -> Result<String, &'static str> {
        let (uri, headers) = (request.uri(), request.headers());
        let plain = uri.scheme().is_none() && uri.path_and_query().is_none() && headers.is_empty();
        let authority = uri.authority().filter(|_| plain).ok_or(reason::REQUEST_MALFORMED)?;
        let name = wire::connect_authority(authority.as_str()).ok_or(reason::REQUEST_MALFORMED)?;
        if name.domain != self.welcome.read().unwrap_or_else(PoisonError::into_inner).domain {
            return Err(reason::HOST_FOREIGN);
        }
        Ok(format!("{}.{}", name.route, name.domain))
    }

    /// The edge's word that streams may come, perhaps with other keys, never for another tunnel.
    async fn welcome(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let body = Limited::new(request.into_body(), wire::WELCOME_BYTES).collect().await;
        let body = body.map_err(|_| reason::REQUEST_MALFORMED)?.to_bytes();
        let fresh = Welcome::from_json(&body).map_err(|_| reason::REQUEST_MALFORMED)?;
        if self.learn(&fresh)? {
            self.gateway.tell(FromConnector::Welcome(fresh)).await?;
        }
        self.place.connected().await;
        Ok(Response::builder()
            .status(StatusCode::NO_CONTENT)
            .body(Full::default())
            .expect("a status alone is a response"))
    }

    /// Whether this welcome says anything new.
    fn learn(&self, fresh: &Welcome) -> Result<bool, &'static str> {
        let mut known = self.welcome.write().unwrap_or_else(PoisonError::into_inner);
        if fresh.tunnel_id != known.tunnel_id || fresh.domain != known.domain {
            return Err(reason::HOST_FOREIGN);
        }
        Ok(std::mem::replace(&mut *known, fresh.clone()) != *fresh)
    }
}

fn refused(reason: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = match reason {
        reason::REQUEST_MALFORMED => StatusCode::BAD_REQUEST,
        reason::HOST_FOREIGN => StatusCode::MISDIRECTED_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    response.headers_mut().insert(wire::REASON, HeaderValue::from_static(reason));
    response
}
