//! Accepts what the connector hands over: a stream that the edge says is for a host. Ends the inner TLS, holds its server
//! name to that host, and serves HTTP/1.1 on it until it ends.

use std::{convert::Infallible, io, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_policy::{Denial, Reason};
use postern_tunnel::wire;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    gateway::Gateway,
    patient::Patient,
    phases::{
        exchange,
        record::{self, Known},
    },
};

/// Serves one stream for `host`, as the edge asked for it. Ends with the stream, or with the drain once it is idle.
pub(crate) async fn stream<S>(gateway: Arc<Gateway>, host: String, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Ok(_place) = Arc::clone(&gateway.connections).try_acquire_owned() else {
        gateway.troubles.note(Reason::GatewayBusy.code(), "more connections than the gateway takes; one was closed");
        return;
    };
    match timeout(gateway.bounds.handshake, handshake(&gateway, &host, stream)).await {
        Ok(Ok(stream)) => http(&gateway, &host, stream).await,
        Ok(Err(error)) => {
            tracing::debug!(%host, %error, "no inner TLS");
            gateway.troubles.note("inner_tls_failed", format!("inner TLS for {host}: {}", error.kind()));
        }
        Err(_) => gateway.troubles.note("inner_tls_failed", format!("inner TLS for {host} took too long")),
    }
}

async fn handshake<S>(gateway: &Gateway, host: &str, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let named = hello.client_hello().server_name().map(str::to_owned);
    if named.as_deref() != Some(host) || !is_ours(gateway, host) {
        // Dropping it closes the stream: no certificate for what is not a route's name.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the server name is not a route of this tunnel"));
    }
    hello.into_stream(gateway.leaf.settings()).await
}

/// Whether the host is `<label>.<domain>` of this tunnel.
fn is_ours(gateway: &Gateway, host: &str) -> bool {
    let domain = gateway.link().domain;
    wire::host_name(host).zip(domain).is_some_and(|(name, domain)| name.domain == domain)
}

async fn http<S>(gateway: &Arc<Gateway>, host: &str, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(exchange::exchange(gateway, host, request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(gateway.bounds.request_head)
        .max_headers(crate::limits::HEADER_LINES)
        .max_header_size(crate::limits::HEAD_BYTES)
        .max_buf_size(crate::limits::HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, gateway.bounds.stream_idle)), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = gateway.drain.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%host, %error, "an inner connection ended");
        unserved(gateway, host, &error).await;
    }
}

/// What the library refused by itself is recorded like any other refusal; what the network did is not.
async fn unserved(gateway: &Gateway, host: &str, error: &hyper::Error) {
    let reason = match error {
        error if error.is_parse_too_large() => Reason::LimitHeaders,
        error if error.is_parse() => Reason::RequestMalformed,
        _ => return,
    };
    gateway.troubles.note(reason.code(), format!("a request for {host} was no HTTP within its bounds"));
    let known = Known { host: host.to_owned(), ..Known::default() };
    if let Err(denial) = record::refused(gateway, &known, &Denial::new(reason)).await {
        tracing::error!(%host, reason = denial.reason.code(), "a refusal could not be recorded");
    }
}
