//! Phase: hears what a connection speaks, ends its TLS with a leaf of the session's CA, and serves on it what was agreed:
//! HTTP/2 or HTTP/1.1. TLS is ended for refused hosts too, so that the refusal can be read.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::{Method, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_policy::{Connect, Denial, Host, Port, Reason, Scheme, Transport};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    exchange,
    identify::{self, Expected, Named},
    pass, refuse, streams,
};
use crate::{
    authority::Offer,
    body::{self, Body},
    classify::Speech,
    custodian::Later,
    heard::Heard,
    limits,
    prefixed::Prefixed,
    session::Session,
};

/// One HTTP connection out of a sandbox.
pub(crate) struct Line {
    /// Whose.
    pub(crate) session: Arc<Session>,
    /// How its requests get their destination.
    pub(crate) expected: Expected,
    /// With or without TLS.
    pub(crate) scheme: Scheme,
    /// Where the sandbox connected to: what a request is recorded under that cannot even be read.
    pub(crate) at: Named,
    /// Why every request on it is refused, where the connection itself was wrong.
    pub(crate) refused: Option<Denial>,
    /// What a CONNECT on it agreed to. Served in the connection's own task: it is still that one connection.
    pub(crate) tunnel: Mutex<Option<Later<'static, ()>>>,
}

/// Anything that bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves a connection that was redirected on its way to `named`.
pub(crate) async fn redirected<S: Stream>(session: Arc<Session>, named: Named, stream: S) {
    match timeout(session.perimeter.bounds.first_bytes, Prefixed::hear(stream)).await {
        Ok(Ok((Speech::Tls, stream))) => tls(session, named, stream).await,
        Ok(Ok((speech, stream))) if speech == Speech::Http || postern_danger::off!("egress-protocols") => {
            let line = Line {
                session,
                at: named.clone(),
                expected: Expected::Named(named),
                scheme: Scheme::Http,
                refused: None,
                tunnel: Mutex::default(),
            };
            http(Arc::new(line), stream).await;
        }
        Ok(Err(_)) => {}
        Ok(Ok(_)) | Err(_) => refuse::connection(&session, &named, "tcp", &unheard(&session, &named)).await,
    }
}

/// Serves a connection to the explicit proxy.
pub(crate) async fn proxied(session: Arc<Session>, stream: TcpStream) {
    let Some(at) = listening_at(&stream) else { return };
    match timeout(session.perimeter.bounds.first_bytes, Prefixed::hear(stream)).await {
        Ok(Ok((Speech::Http, stream))) => {
            let line = Line {
                session,
                at,
                expected: Expected::Stated,
                scheme: Scheme::Http,
                refused: None,
                tunnel: Mutex::default(),
            };
            http(Arc::new(line), stream).await;
        }
        Ok(Err(_)) => {}
        Ok(Ok(_)) | Err(_) => refuse::connection(&session, &at, "tcp", &Denial::new(Reason::ProtocolUnknown)).await,
    }
}

fn listening_at(stream: &TcpStream) -> Option<Named> {
    let local = stream.local_addr().ok()?;
    Some(Named { host: Host::from(local.ip()), port: Port::new(local.port())? })
}

/// A host that is refused anyway is refused for that; else for its protocol.
fn unheard(session: &Session, named: &Named) -> Denial {
    let connect = Connect { host: named.host.clone(), port: named.port, transport: Transport::Other };
    session.in_force().connect(&connect).err().unwrap_or_else(|| Denial::new(Reason::ProtocolUnknown))
}

async fn tls<S: Stream>(session: Arc<Session>, named: Named, stream: S) {
    match session.in_force().pass(&named.host, named.port) {
        Ok(None) => {}
        Ok(Some(permit)) => return pass::through(&session, &named, &permit, stream).await,
        Err(denial) => return refuse::connection(&session, &named, "https", &denial).await,
    }
    let stream = BufReader::with_capacity(limits::READ_BYTES, stream);
    match timeout(session.perimeter.bounds.handshake, handshake(&session, &named, stream)).await {
        Ok(Ok((stream, refused))) => {
            let line = Line {
                session,
                at: named.clone(),
                expected: Expected::Named(named),
                scheme: Scheme::Https,
                refused,
                tunnel: Mutex::default(),
            };
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Box::pin(streams::serve(Arc::new(line), stream)).await,
                _ => http(Arc::new(line), stream).await,
            }
        }
        Ok(Err(error)) => refuse::connection(&session, &named, "https", &no_handshake(&error)).await,
        Err(_) => refuse::connection(&session, &named, "https", &Denial::new(Reason::LimitTime)).await,
    }
}

async fn handshake<S: Stream>(
    session: &Session,
    named: &Named,
    stream: S,
) -> io::Result<(tokio_rustls::server::TlsStream<S>, Option<Denial>)> {
    let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let asked_for = started.client_hello().server_name().map(str::to_owned);
    let refused = check_server_name(named, asked_for.as_deref()).err();
    // The leaf is for the name that the client will check: then it can read why it is refused.
    let leaf_for = match asked_for {
        Some(name) if name.parse::<Host>().is_ok() => name,
        _ => bare(&named.host),
    };
    let offer = offer(session, named, refused.is_some());
    let settings = session.authority.tls_for(&leaf_for, offer, SystemTime::now()).map_err(io::Error::other)?;
    Ok((started.into_stream(settings).await?, refused))
}

/// HTTP/2 is for hosts that some rule names: what others get is a refusal.
fn offer(session: &Session, named: &Named, refused: bool) -> Offer {
    let connect = Connect { host: named.host.clone(), port: named.port, transport: Transport::Tls };
    if refused || session.in_force().connect(&connect).is_err() { Offer::Refusal } else { Offer::Both }
}

/// The TLS name must be the host; an address has none (RFC 6066, section 3).
pub(crate) fn check_server_name(named: &Named, asked_for: Option<&str>) -> Result<(), Denial> {
    match (asked_for, named.host.address()) {
        (None, Some(_)) => Ok(()),
        (None, None) => Err(Denial::new(Reason::SniMissing)),
        (Some(name), _) if name.parse().is_ok_and(|host: Host| host == named.host) => Ok(()),
        (Some(_), _) => Err(Denial::advising(
            Reason::AuthorityMismatch,
            "make the TLS server name equal to the name you connect to",
        )),
    }
}

fn bare(host: &Host) -> String {
    host.address().map_or_else(|| host.to_string(), |address| address.to_string())
}

fn no_handshake(error: &io::Error) -> Denial {
    tracing::debug!(%error, "TLS handshake with a sandbox");
    Denial::advising(
        Reason::ProtocolUnknown,
        "the TLS handshake failed; trust the session's CA (the system bundle has it) and offer TLS 1.2 or 1.3 with h2 or http/1.1",
    )
}

/// Serves HTTP/1.1 until the connection ends.
pub(crate) async fn http<S: Stream>(line: Arc<Line>, stream: S) {
    let heard = Heard::default();
    let service = service_fn({
        let (line, heard) = (line.clone(), heard.clone());
        move |request| respond(line.clone(), heard.clone(), request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(line.session.perimeter.bounds.request_head)
        .max_headers(limits::HEADER_LINES)
        .max_header_size(limits::REQUEST_HEAD_BYTES)
        .max_buf_size(limits::REQUEST_HEAD_BYTES)
        .serve_connection(TokioIo::new(heard.on(stream)), service)
        .with_upgrades()
        .await;
    match served {
        Err(error) if error.is_timeout() && !heard.anything() => {}
        Err(error) => unserved(&line, &error).await,
        Ok(()) => {}
    }
    let tunnel = line.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(tunnel) = tunnel {
        tunnel.await;
    }
}

/// What hyper refused by itself (malformed, too large, too slow) is recorded like any other refusal.
async fn unserved(line: &Line, error: &hyper::Error) {
    let reason = match error {
        error if error.is_parse_too_large() => Reason::LimitHeaders,
        error if error.is_parse() => Reason::RequestMalformed,
        error if error.is_timeout() => Reason::LimitTime,
        _ => return,
    };
    refuse::connection(&line.session, &line.at, line.scheme.as_str(), &Denial::new(reason)).await;
}

async fn respond(line: Arc<Line>, heard: Heard, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    heard.forget();
    let response = if matches!(line.expected, Expected::Stated) && request.method() == Method::CONNECT {
        connect(&line, request).await
    } else {
        exchange::exchange(&line, request, None).await
    };
    heard.forget();
    Ok(response)
}

/// Boxed: what goes through a tunnel is served by the very code that opened it.
fn tunnel(session: Arc<Session>, named: Named, request: Request<Incoming>) -> Later<'static, ()> {
    Box::pin(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            redirected(session, named, TokioIo::new(upgraded)).await;
        }
    })
}

/// CONNECT is agreed to whenever it names a destination: what goes through is decided request by request, where a
/// refusal can be read, exactly as if the connection had been redirected.
async fn connect(line: &Line, request: Request<Incoming>) -> Response<Body> {
    let session = &line.session;
    let target = request.uri().authority().cloned();
    let named = target
        .ok_or_else(|| Denial::new(Reason::RequestMalformed))
        .and_then(|target| identify::connect_target(session, &target));
    match named {
        Ok(named) => {
            let agreed = tunnel(session.clone(), named, request);
            *line.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
            Response::new(body::empty())
        }
        Err(denial) => refuse::request(session, postern_audit::Destination::default(), denial, None).await,
    }
}
