//! Phase: sends a permitted, recorded request to its upstream: the body byte for byte, the headers that MCP needs and no
//! others, and the secret. A request is never sent twice.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use postern_net::{TlsError, tls};
use postern_policy::{Denial, DialPermit, Reason, RoutePermit, Scheme};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    address::{self, Way},
    authority::Destination,
    credential::Injected,
    record::Known,
};
use crate::{
    body::{self, Body},
    gateway::Gateway,
    limits,
    pool::Connection,
    sessions::Session,
};

/// An upstream that has the request and began to answer.
pub(crate) struct Sent {
    /// Its answer.
    pub(crate) response: Response<Incoming>,
    /// The connection, to be used again once the answer is read.
    pub(crate) connection: Connection,
}

/// The request as it leaves.
pub(crate) fn request(
    parts: &Parts,
    destination: &Destination,
    permit: &RoutePermit,
    mcp_session: Option<HeaderValue>,
    injected: Option<Injected>,
    body: Bytes,
) -> Result<Request<Body>, Denial> {
    let malformed = || Denial::new(Reason::RequestMalformed);
    let mut request = Request::new(if body.is_empty() { body::empty() } else { body::full(body) });
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = destination.route.path.parse().map_err(|_| malformed())?;
    let headers = request.headers_mut();
    let host = permit.host().authority(permit.scheme(), permit.port());
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| malformed())?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static("postern-gateway"));
    // An encoding would only have to be taken off again to be scrubbed.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    carry_over(&parts.headers, headers)?;
    if let Some(id) = mcp_session {
        headers.insert(MCP_SESSION, id);
    }
    if let Some(Injected { name, value }) = injected {
        headers.insert(name, value);
    }
    Ok(request)
}

fn carry_over(from: &HeaderMap, into: &mut HeaderMap) -> Result<(), Denial> {
    for name in CARRIED {
        let Some(value) = from.get(*name) else { continue };
        if value.len() > limits::HEADER_VALUE_BYTES {
            return Err(Denial::new(Reason::LimitHeaders));
        }
        into.insert(HeaderName::from_static(name), value.clone());
    }
    Ok(())
}

/// Sends it: over the kept connection, or a fresh one to one of the addresses.
pub(crate) async fn send(
    gateway: &Gateway,
    session: &Session,
    permit: &RoutePermit,
    way: Way,
    mut request: Request<Body>,
    known: &mut Known,
) -> Result<Sent, Denial> {
    let mut kept = match way {
        Way::Kept(connection) => Some(connection),
        Way::Addresses(addresses) => return fresh(gateway, permit, &addresses, request, known).await,
    };
    while let Some(mut connection) = kept.take() {
        if connection.sender.ready().await.is_ok() {
            known.sent = true;
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(Sent { response, connection }),
                // Closed while it idled: the request comes back unsent and may go another way.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => (request, known.sent) = (unsent, false),
                    None => return Err(unanswered(known, error.error())),
                },
            }
        }
        kept = session.pool.take(permit, Instant::now());
    }
    let addresses = address::look_up(gateway, permit).await?;
    fresh(gateway, permit, &addresses, request, known).await
}

async fn fresh(
    gateway: &Gateway,
    permit: &RoutePermit,
    addresses: &[DialPermit],
    request: Request<Body>,
    known: &mut Known,
) -> Result<Sent, Denial> {
    let mut connection = connect(gateway, permit, addresses).await?;
    known.address = Some(connection.leads_to.address().to_string());
    known.sent = true;
    let response = connection.sender.send_request(request).await.map_err(|error| unanswered(known, &error))?;
    Ok(Sent { response, connection })
}

/// A fresh connection to one of the addresses, with the TLS that the permit's scheme asks for.
pub(crate) async fn connect(
    gateway: &Gateway,
    permit: &RoutePermit,
    addresses: &[DialPermit],
) -> Result<Connection, Denial> {
    let dialled = tokio::time::timeout(gateway.bounds.dial, gateway.dialer.dial_any(addresses)).await;
    let stream = dialled.map_err(|_| Denial::new(Reason::UpstreamUnreachable))?.map_err(address::not_dialled)?;
    let leads_to = reached(&stream, addresses)?;
    let sender = match permit.scheme() {
        Scheme::Http => speak(stream).await?,
        Scheme::Https => {
            let settings = gateway.trust.settings(permit.ca_pem()).map_err(not_trusted)?;
            let stream = tls::connect(settings, &permit.host().to_string(), stream).await.map_err(not_trusted)?;
            speak(stream).await?
        }
    };
    Ok(Connection { sender, leads_to })
}

/// The permit of the address that answered first.
fn reached(stream: &TcpStream, addresses: &[DialPermit]) -> Result<DialPermit, Denial> {
    let peer: SocketAddr = stream.peer_addr().map_err(|_| Denial::new(Reason::UpstreamUnreachable))?;
    let permit = addresses.iter().find(|one| one.address() == peer).cloned();
    permit.ok_or_else(|| Denial::new(Reason::AddressNotAllowed))
}

async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<SendRequest<Body>, Denial> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(limits::HEADER_LINES)
        .max_header_size(limits::ANSWER_HEAD_BYTES)
        .max_buf_size(limits::ANSWER_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Denial::new(Reason::UpstreamUnreachable))?;
    // Ends with its last user: a pool that is dropped, or an answer that is read or given up.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an MCP server ended");
        }
    });
    Ok(sender)
}

#[expect(clippy::needless_pass_by_value, reason = "the last use of the error, as for its neighbours in map_err")]
fn not_trusted(error: TlsError) -> Denial {
    tracing::info!(error = &error as &dyn std::error::Error, "an MCP server's TLS identity is not accepted");
    match error {
        TlsError::Slow(_) => Denial::new(Reason::UpstreamUnreachable),
        _ => Denial::new(Reason::UpstreamUntrusted),
    }
}

/// The upstream had the request, or some of it.
fn unanswered(known: &Known, error: &hyper::Error) -> Denial {
    tracing::info!(error = error as &dyn std::error::Error, "an MCP server did not answer");
    if error.is_parse() {
        return Denial::new(Reason::UpstreamProtocol);
    }
    broken(known)
}

/// A tool may have run; anything else may be asked again.
pub(crate) fn broken(known: &Known) -> Denial {
    let call = known.asked.as_ref().is_some_and(|asked| asked.call().is_some());
    Denial::new(if call { Reason::OutcomeUnknown } else { Reason::UpstreamUnreachable })
}

/// The header with an MCP session's id.
pub(crate) const MCP_SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// What goes on of the caller's headers, as it is.
const CARRIED: &[&str] = &["accept", "content-type", "mcp-protocol-version", "mcp-method", "mcp-name", "last-event-id"];
