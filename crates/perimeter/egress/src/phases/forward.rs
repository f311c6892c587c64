//! Phase: brings a permitted request to its upstream: resolves after the permit, dials only what the permit allows,
//! verifies the upstream's TLS identity for the decided host, and sends what is needed and nothing of the hop.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use postern_audit::Destination;
use postern_net::{DialError, TlsError, dial::Dialable, tls};
use postern_policy::{Denial, DialPermit, Permit, Port, Reason, Scheme};
use tokio::{io::BufReader, net::TcpStream, time::timeout};

use super::intercept::Stream;
use crate::{body::Body, limits, messages, pool::PoolKey, sender::Sender, session::Session, trust::Speaks};

/// An upstream that has the whole or the beginning of a request.
pub(crate) struct Sent {
    /// Its answer.
    pub(crate) response: Response<Incoming>,
    /// The connection, to be used again once the answer is read.
    pub(crate) connection: Sender,
    /// What it may be used for.
    pub(crate) key: PoolKey,
    /// Whom it leads to.
    pub(crate) leads_to: DialPermit,
}

/// The address that a request went to, or was not allowed to go to, once it is known; for the records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dialled(Arc<OnceLock<SocketAddr>>);

impl Dialled {
    /// The destination with the address.
    pub(crate) fn note(&self, mut destination: Destination) -> Destination {
        destination.address = self.0.get().map(ToString::to_string);
        destination
    }

    fn at(&self, address: SocketAddr) {
        let _known = self.0.set(address);
    }
}

/// The head that goes out, before injection: the decided target, and no header of the hop.
pub(crate) fn head(parts: &Parts, query: Option<&str>, permit: &Permit, scrubs: bool) -> Result<Parts, Denial> {
    let malformed = || Denial::new(Reason::RequestMalformed);
    let mut target = permit.path().as_str().to_owned();
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(permit.method().as_str().as_bytes()).map_err(|_| malformed())?;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| malformed())?;
    *request.headers_mut() = end_to_end(&parts.headers);
    let headers = request.headers_mut();
    if takes_trailers(&parts.headers) {
        // Of the hop, and true of this one: trailers are passed on. HTTP/2 knows no other value.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let host = permit.host().authority(permit.scheme(), permit.port());
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| malformed())?);
    if scrubs {
        only_what_can_be_scrubbed(headers);
    }
    Ok(request.into_parts().0)
}

/// Sends a request, over an idle connection where there is one.
pub(crate) async fn send(
    session: &Session,
    permit: &Permit,
    request: Request<Body>,
    dialled: &Dialled,
) -> Result<Sent, Denial> {
    let key = PoolKey::from(permit).presenting(session.identity(permit)?.as_deref());
    let scheme = permit.scheme();
    let mut request = request;
    while let Some((mut connection, leads_to)) = session.pool.take(&key, permit, Instant::now()) {
        if connection.ready().await.is_err() {
            continue;
        }
        match connection.try_send(scheme, request).await {
            Ok(response) => {
                dialled.at(leads_to.address());
                return bounded(Sent { response, connection, key, leads_to });
            }
            // Closed while it idled: the request comes back unsent and goes over another one.
            Err(mut error) => request = error.take_message().ok_or_else(|| unanswered(error.error()))?,
        }
    }
    let (mut connection, leads_to) = connect(session, permit, dialled, Speaks::Either).await?;
    if let Some(shared) = connection.shared() {
        // At once: what is asked meanwhile goes over it too.
        session.pool.put(key.clone(), shared, leads_to.clone(), Instant::now());
    }
    let sent = connection.try_send(scheme, request).await;
    let response = sent.map_err(|error| unanswered(error.error()))?;
    bounded(Sent { response, connection, key, leads_to })
}

/// Sends a request over a connection of its own, which may become another protocol's.
pub(crate) async fn send_alone(
    session: &Session,
    permit: &Permit,
    request: Request<Body>,
    dialled: &Dialled,
) -> Result<Sent, Denial> {
    let key = PoolKey::from(permit).presenting(session.identity(permit)?.as_deref());
    let (mut connection, leads_to) = connect(session, permit, dialled, Speaks::Http1).await?;
    let sent = connection.try_send(permit.scheme(), request).await;
    let response = sent.map_err(|error| unanswered(error.error()))?;
    bounded(Sent { response, connection, key, leads_to })
}

/// HTTP/1.1 bounds the lines while it reads them; HTTP/2 only their bytes.
fn bounded(sent: Sent) -> Result<Sent, Denial> {
    if sent.response.headers().len() > limits::HEADER_LINES { Err(head_too_large()) } else { Ok(sent) }
}

/// Whether a header is about this hop (RFC 9110, section 7.6.1) and stays here.
pub(crate) fn is_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    HOP.contains(&name.as_str()) || named_by_connection(name, headers)
}

async fn connect(
    session: &Session,
    permit: &Permit,
    dialled: &Dialled,
    speaks: Speaks,
) -> Result<(Sender, DialPermit), Denial> {
    let (stream, leads_to) = dial(session, permit, permit.port(), dialled).await?;
    let sender = match permit.scheme() {
        Scheme::Http => speak_http1(session, stream).await,
        Scheme::Https => {
            let settings = session.perimeter.trust.settings(permit.ca_pem(), speaks).map_err(not_trusted)?;
            let identity = session.identity(permit)?;
            let settings = identity.map_or(settings.clone(), |identity| identity.presented_in(&settings));
            let stream = BufReader::with_capacity(limits::READ_BYTES, stream);
            let stream = tls::connect(settings, &permit.host().to_string(), stream).await.map_err(not_trusted)?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => speak_http2(session, stream).await,
                _ => speak_http1(session, stream).await,
            }
        }
    };
    Ok((sender?, leads_to))
}

/// Each address is checked once, and what is dialled is what was checked: nothing is looked up between the two.
pub(crate) async fn dial<P: Dialable>(
    session: &Session,
    permit: &P,
    port: Port,
    dialled: &Dialled,
) -> Result<(TcpStream, DialPermit), Denial> {
    timeout(limits::DIAL, dial_checked(session, permit, port, dialled))
        .await
        .unwrap_or_else(|_| Err(Denial::new(Reason::UpstreamUnreachable)))
}

async fn dial_checked<P: Dialable>(
    session: &Session,
    permit: &P,
    port: Port,
    dialled: &Dialled,
) -> Result<(TcpStream, DialPermit), Denial> {
    let dialer = &session.perimeter.dialer;
    let note = |error: DialError| {
        let port = port.number();
        match &error {
            DialError::Denied { address, .. } => dialled.at(SocketAddr::new(*address, port)),
            DialError::Connect { address, .. } | DialError::ConnectSlow(address) => dialled.at(*address),
            _ => {}
        }
        not_dialled(error)
    };
    let addresses = dialer.permitted(permit).await.map_err(note)?;
    let stream = dialer.dial_any(&addresses).await.map_err(note)?;
    let peer = stream.peer_addr().map_err(|_| Denial::new(Reason::UpstreamUnreachable))?;
    let leads_to = addresses.into_iter().find(|one| one.address() == peer);
    let leads_to = leads_to.ok_or_else(|| Denial::new(Reason::AddressNotAllowed))?;
    dialled.at(peer);
    Ok((stream, leads_to))
}

async fn speak_http1<S: Stream>(session: &Session, stream: S) -> Result<Sender, Denial> {
    let handshake = http1::Builder::new()
        .max_headers(limits::HEADER_LINES)
        .max_header_size(limits::RESPONSE_HEAD_BYTES)
        .max_buf_size(limits::RESPONSE_HEAD_BYTES)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = timeout(session.perimeter.bounds.handshake, handshake)
        .await
        .map_err(|_| Denial::new(Reason::LimitTime))?
        .map_err(|error| unanswered(&error))?;
    session.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Sender::Http1(sender))
}

async fn speak_http2<S: Stream>(session: &Session, stream: S) -> Result<Sender, Denial> {
    let head_bytes = u32::try_from(limits::RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX);
    let handshake = http2::Builder::new(session.tasks())
        .max_header_list_size(head_bytes)
        .header_table_size(limits::HPACK_TABLE_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::STREAMS_WINDOW_BYTES)
        .max_send_buf_size(limits::STREAM_SEND_BYTES)
        .max_pending_accept_reset_streams(limits::STREAM_ERRORS)
        .max_local_error_reset_streams(limits::STREAM_ERRORS)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = timeout(session.perimeter.bounds.handshake, handshake)
        .await
        .map_err(|_| Denial::new(Reason::LimitTime))?
        .map_err(|error| unanswered(&error))?;
    session.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Sender::http2(sender))
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| !is_hop(name, headers) && *name != header::EXPECT)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case("trailers"))
}

fn named_by_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    // The body's length is framing of ours to keep, whatever a client calls it.
    *name != header::CONTENT_LENGTH
        && *name != header::AUTHORIZATION
        && values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(name.as_str()))
}

/// A part of an answer, or one in an encoding of its own, could carry a secret past the scrubber.
fn only_what_can_be_scrubbed(headers: &mut HeaderMap) {
    headers.remove(header::RANGE);
    headers.remove(header::IF_RANGE);
    for of_messages in messages::ACCEPTED_ENCODINGS {
        headers.remove(*of_messages);
    }
    let accepted: Vec<String> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_owned())
        .filter(|token| {
            DECODED.contains(&token.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str())
        })
        .collect();
    let accepted = if accepted.is_empty() { "identity".to_owned() } else { accepted.join(", ") };
    if let Ok(value) = HeaderValue::try_from(accepted) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}

fn not_dialled(error: DialError) -> Denial {
    match error {
        DialError::Denied { denial, .. } => *denial,
        error => {
            tracing::info!(error = &error as &dyn std::error::Error, "an upstream is not reached");
            Denial::new(Reason::UpstreamUnreachable)
        }
    }
}

fn not_trusted(error: TlsError) -> Denial {
    tracing::info!(error = &error as &dyn std::error::Error, "an upstream's TLS identity is not accepted");
    match error {
        TlsError::Slow(_) => Denial::new(Reason::LimitTime),
        error if wants_certificate(&error) => Denial::new(Reason::UpstreamCertificateRequired),
        _ => Denial::new(Reason::UpstreamUntrusted),
    }
}

fn unanswered(error: &hyper::Error) -> Denial {
    tracing::info!(error = error as &dyn std::error::Error, "an upstream did not answer");
    if error.is_parse_too_large() {
        return head_too_large();
    }
    // TLS 1.3 has the upstream look at it after the handshake: what arrives then is its alert.
    if wants_certificate(error) {
        return Denial::new(Reason::UpstreamCertificateRequired);
    }
    Denial::new(Reason::UpstreamUnreachable)
}

/// Whether the upstream said that it misses a client certificate, or does not take ours (RFC 8446, section 6.2; before TLS 1.3 it says the latter of both).
fn wants_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::AlertDescription::{AccessDenied, BadCertificate, CertificateRequired, CertificateUnknown, UnknownCA};
    let wants = |error: &rustls::Error| {
        matches!(
            error,
            rustls::Error::AlertReceived(
                AccessDenied | BadCertificate | CertificateRequired | CertificateUnknown | UnknownCA
            )
        )
    };
    let said = |error: &(dyn std::error::Error + 'static)| match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(wants),
        None => error.downcast_ref().is_some_and(wants),
    };
    std::iter::successors(Some(error), |error| error.source()).any(said)
}

fn head_too_large() -> Denial {
    Denial::advising(Reason::UpstreamUnreachable, "the upstream's answer has a head beyond the limit")
}

/// Headers of the hop, in either direction.
const HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Encodings that are asked for: those that can be taken off.
const DECODED: &[&str] = &["gzip", "x-gzip", "deflate", "br", "zstd", "identity"];

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_upstream_that_wants_a_client_certificate_is_known_by_its_alert_in_the_handshake_and_after_it() {
        use rustls::AlertDescription::{CertificateRequired, InternalError};
        let alert = |what| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(what));
        let reason = |error| not_trusted(TlsError::Handshake { name: "h".to_owned(), source: error }).reason;
        assert_eq!(reason(alert(CertificateRequired)), Reason::UpstreamCertificateRequired);
        assert_eq!(reason(alert(InternalError)), Reason::UpstreamUntrusted);
        assert_eq!(reason(io::Error::other("gone")), Reason::UpstreamUntrusted);
        assert!(wants_certificate(&alert(CertificateRequired)) && !wants_certificate(&io::Error::other("gone")));
    }
}
