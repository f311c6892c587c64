//! One connection from its first byte to its end: TLS 1.3, the upgrade, then a carrying connection until either side ends it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_net::Place;
use postern_tunnel::wire;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cut::Cut;
use crate::directory::TunnelEntry;
use crate::door::{self, CONNECTIONS_FULL, Knock, Refusal, TOKEN_REFUSED};
use crate::edge::Edge;
use crate::limits;
use crate::link::{Entrant, Link};
use crate::serve::Tracked;

/// A connection that was let in.
struct Entrance {
    knock: Knock,
    entry: TunnelEntry,
    io: Upgraded,
}

/// Why a connection ended before it carried anything.
#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error("TLS handshake")]
    Tls(#[source] io::Error),
    #[error("the peer did not negotiate TLS 1.3")]
    OldTls,
    #[error("HTTP upgrade")]
    Http(#[source] hyper::Error),
    #[error("the connection was not let in")]
    Refused,
}

/// Serves one connection to its end. `waiting` counts it among those not let in yet.
pub(crate) async fn connection(
    edge: Edge,
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
    waiting: Place,
    cut: CancellationToken,
    executor: Tracked,
) {
    // Frames are written whole; a socket that refuses the option works all the same.
    let _ = tcp.set_nodelay(true);
    let entered = tokio::select! {
        () = waiting.lost() => return tracing::debug!(%peer, "gave way before it was let in"),
        entered = timeout(edge.limits().head, enter(&edge, Cut::new(tcp, cut.clone()), tls)) => entered,
    };
    drop(waiting);
    let entrance = match entered {
        Ok(Ok(entrance)) => entrance,
        Ok(Err(error)) => return tracing::debug!(%peer, error = &error as &dyn std::error::Error, "not let in"),
        Err(_) => return tracing::debug!(%peer, "took too long to be let in"),
    };
    carry(&edge, entrance, peer, cut, executor).await;
}

async fn enter(edge: &Edge, io: Cut<TcpStream>, tls: Arc<ServerConfig>) -> Result<Entrance, EnterError> {
    let io = TlsAcceptor::from(tls).accept(io).await.map_err(EnterError::Tls)?;
    if io.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(EnterError::OldTls);
    }
    let let_in = Mutex::new(None);
    let service = service_fn(|request| {
        let answer = answer(edge, request, &let_in);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.limits().head)
        .max_buf_size(limits::HEAD_BYTES)
        .max_headers(limits::HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await
        .map_err(EnterError::Http)?;
    let let_in = let_in.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (knock, entry, upgrade) = let_in.ok_or(EnterError::Refused)?;
    let io = upgrade.await.map_err(EnterError::Http)?;
    Ok(Entrance { knock, entry, io })
}

type LetIn = Mutex<Option<(Knock, TunnelEntry, OnUpgrade)>>;

fn answer(edge: &Edge, mut request: Request<Incoming>, let_in: &LetIn) -> Response<Full<Bytes>> {
    let upgrade = hyper::upgrade::on(&mut request);
    match admit(edge, request) {
        Ok((knock, entry)) => {
            let response = welcome(edge, &entry);
            *let_in.lock().unwrap_or_else(PoisonError::into_inner) = Some((knock, entry, upgrade));
            response
        }
        Err(refusal) => refused(refusal),
    }
}

fn admit(edge: &Edge, request: Request<Incoming>) -> Result<(Knock, TunnelEntry), Refusal> {
    let knock = door::read(&request.into_parts().0)?;
    let entry = edge.directory().by_token(&knock.token).ok_or(TOKEN_REFUSED)?;
    if edge.has_room(&entry.id) { Ok((knock, entry)) } else { Err(CONNECTIONS_FULL) }
}

fn welcome(edge: &Edge, entry: &TunnelEntry) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(wire::PROTOCOL));
    let text = edge.welcome(entry).to_header();
    headers.insert(wire::WELCOME, HeaderValue::try_from(text).expect("base64url is a header's value"));
    response
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let kind = match refusal.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::NOT_FOUND => "not_found_error",
        _ => "invalid_request_error",
    };
    let body = serde_json::json!({"type": "error", "error": {"type": kind, "message": refusal.message}});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(wire::REASON, HeaderValue::from_static(refusal.reason));
    response
}

async fn carry(edge: &Edge, entrance: Entrance, peer: SocketAddr, cut: CancellationToken, executor: Tracked) {
    let Entrance { knock, entry, io } = entrance;
    let tunnel = entry.id.clone();
    let entrant = Entrant { id: edge.next_id(), tunnel, connector: knock.connector, lane: knock.lane, peer };
    let (link, driver) = match Link::begin(io, entrant, cut, executor).await {
        Ok(begun) => begun,
        Err(error) => return tracing::debug!(%peer, %error, "the connection ended before it carried anything"),
    };
    // Listed first, looked up again second: a revocation that came in between finds it in the list or is seen here.
    let listed = edge.list(&link);
    if !listed || edge.directory().by_token(&knock.token).is_none_or(|entry| entry.id != link.entrant.tunnel) {
        edge.unlist(&link);
        link.cut.cancel();
        return;
    }
    tracing::info!(tunnel = link.entrant.tunnel, connection = link.entrant.id, lane = %link.entrant.lane, %peer, "connector connected");
    let (ended, ()) = tokio::join!(driver, edge.tell(&link, &entry));
    edge.unlist(&link);
    link.cut.cancel();
    edge.note_end(&link, ended.err());
}
