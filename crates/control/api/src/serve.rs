//! Listeners: TCP for everybody with a key, a Unix socket for the operator.
//!
//! Bounds what a connection may cost before its caller is known.

use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::caller::OverOperatorSocket;

/// More connections wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take to send its request's head.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long what was sent may stay unread, in milliseconds.
const STALL_MS: u32 = 60_000;
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// After an accept failed for lack of descriptors: long enough for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the router on a TCP listener until `drain` is cancelled, then lets open requests end. The caller bounds how
/// long that may take.
pub async fn serve(listener: TcpListener, router: Router, drain: CancellationToken) {
    listen(listener, None, router, drain).await;
}

/// As [`serve`], over TLS by this configuration.
pub async fn serve_tls(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, drain: CancellationToken) {
    listen(listener, Some(TlsAcceptor::from(tls)), router, drain).await;
}

async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, drain: CancellationToken) {
    let connections = Connections::new(drain.clone());
    loop {
        let Some(permit) = connections.permit(&drain).await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                prepare(&stream);
                match tls.clone() {
                    Some(acceptor) => connections.shake_hands(acceptor, stream, router.clone(), permit),
                    None => connections.spawn(stream, router.clone(), None, permit),
                }
            }
            Err(error) => pause(&error).await,
        }
    }
    connections.end().await;
}

fn prepare(stream: &TcpStream) {
    // Small frames of a stream are worth a packet each; a refusal here costs only latency.
    stream.set_nodelay(true).ok();
    // A client that asks and never reads would hold its connection for ever; where the kernel refuses this it may.
    rustix::net::sockopt::set_tcp_user_timeout(stream.as_fd(), STALL_MS).ok();
}

/// Serves the router to the owner of this process over a Unix socket: every request from another user is closed
/// unanswered.
pub async fn serve_operator(listener: UnixListener, router: Router, drain: CancellationToken) {
    let connections = Connections::new(drain.clone());
    loop {
        let Some(permit) = connections.permit(&drain).await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) if is_owner(&stream) => {
                connections.spawn(stream, router.clone(), Some(OverOperatorSocket), permit);
            }
            Ok(_) => tracing::warn!("a user other than the owner connected to the operator's socket"),
            Err(error) => pause(&error).await,
        }
    }
    connections.end().await;
}

/// The peer is whoever runs this process, or root, who could read the socket's directory anyway.
fn is_owner(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(stream.as_fd()) {
        Ok(peer) => peer.uid == own || peer.uid.is_root(),
        Err(_) => false,
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[derive(Clone)]
struct Connections {
    permits: Arc<Semaphore>,
    open: TaskTracker,
    drain: CancellationToken,
}

impl Connections {
    fn new(drain: CancellationToken) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), open: TaskTracker::new(), drain }
    }

    async fn permit(&self, drain: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            permit = Arc::clone(&self.permits).acquire_owned() => permit.ok(),
            () = drain.cancelled() => None,
        }
    }

    /// Serves a connection once its handshake is done; it holds its permit meanwhile.
    fn shake_hands(&self, acceptor: TlsAcceptor, stream: TcpStream, router: Router, permit: OwnedSemaphorePermit) {
        let connections = self.clone();
        self.open.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connections.spawn(stream, router, None, permit),
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }

    fn spawn<S>(&self, stream: S, router: Router, mark: Option<OverOperatorSocket>, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(mark) = mark {
                request.extensions_mut().insert(mark);
            }
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let drain = self.drain.clone();
        self.open.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = drain.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }

    async fn end(self) {
        self.open.close();
        self.open.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_whose_client_does_not_read_is_ended_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test is the client")]
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare(&stream);
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(stream.as_fd()), Ok(STALL_MS));
    }
}
