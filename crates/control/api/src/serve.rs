//! Listeners: TCP for everybody with a key, a Unix socket for the operator.
//!
//! Bounds what a connection may cost before its caller is known.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_net::{Place, Places};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::caller::OverOperatorSocket;

/// With more of them, those that nobody asks anything over give way to newcomers; while there are none, newcomers wait.
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
    listen(listener, None, router, Connections::new(MAX_CONNECTIONS, drain)).await;
}

/// As [`serve`], over TLS by this configuration.
pub async fn serve_tls(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, drain: CancellationToken) {
    listen(listener, Some(TlsAcceptor::from(tls)), router, Connections::new(MAX_CONNECTIONS, drain)).await;
}

async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, connections: Connections) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                prepare(&stream);
                let Some(place) = connections.place().await else { break };
                match tls.clone() {
                    Some(acceptor) => connections.shake_hands(acceptor, stream, router.clone(), place),
                    None => connections.spawn(stream, router.clone(), None, place),
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
    let connections = Connections::new(MAX_CONNECTIONS, drain);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) if is_owner(&stream) => {
                let Some(place) = connections.place().await else { break };
                connections.spawn(stream, router.clone(), Some(OverOperatorSocket), place);
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
    places: Places,
    open: TaskTracker,
    drain: CancellationToken,
}

impl Connections {
    fn new(bound: usize, drain: CancellationToken) -> Self {
        Self { places: Places::new(bound), open: TaskTracker::new(), drain }
    }

    /// Room for one more: who has asked for nothing the longest goes, where there is none.
    async fn place(&self) -> Option<Place> {
        tokio::select! {
            place = self.places.take() => Some(place),
            () = self.drain.cancelled() => None,
        }
    }

    /// Serves a connection once its handshake is done; it holds its place meanwhile.
    fn shake_hands(&self, acceptor: TlsAcceptor, stream: TcpStream, router: Router, place: Place) {
        let connections = self.clone();
        self.open.spawn(async move {
            let shaken = tokio::select! {
                () = place.lost() => return tracing::debug!("a connection gave way before its TLS handshake was done"),
                shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)) => shaken,
            };
            match shaken {
                Ok(Ok(stream)) => connections.spawn(stream, router, None, place),
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }

    fn spawn<S>(&self, stream: S, router: Router, mark: Option<OverOperatorSocket>, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asks = place.asks();
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(mark) = mark {
                request.extensions_mut().insert(mark);
            }
            let (busy, answer) = (asks.begin(), router.clone().oneshot(request));
            async move { Ok::<_, Infallible>(answer.await?.map(|body| Answering::new(body, busy))) }
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
                () = place.lost() => return tracing::debug!("a connection that asked for nothing gave way"),
                () = drain.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    async fn end(self) {
        self.open.close();
        self.open.wait().await;
    }
}

/// An answer's body, and what is held for as long as there is one.
pub(crate) struct Answering<T> {
    body: axum::body::Body,
    _held: T,
}

impl<T> Answering<T> {
    pub(crate) fn new(body: axum::body::Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> Body for Answering<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    /// A listener with room for `bound` connections, whose `/stream` answers without end once it was asked.
    async fn listening(bound: usize) -> std::net::SocketAddr {
        let endless = || async { axum::body::Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>()) };
        let router = Router::new()
            .route("/", axum::routing::get(|| async { "here" }))
            .route("/stream", axum::routing::get(endless));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listen(listener, None, router, Connections::new(bound, CancellationToken::new())));
        address
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the client")]
    async fn sent(address: std::net::SocketAddr, request: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request).await.unwrap();
        client
    }

    /// What came on the connection up to the end of a head, or of the connection.
    async fn head(client: &mut TcpStream) -> String {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn many_that_say_little_keep_nobody_out() {
        let address = listening(4).await;
        let mut slow = Vec::new();
        for _ in 0..40 {
            slow.push(sent(address, b"GET / HTTP/1.1\r\nx-slow: ").await);
        }
        let mut honest = sent(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = head(&mut honest).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(head(&mut slow[0]).await, "", "the first of them was sent away");
    }

    #[tokio::test]
    async fn an_answer_under_way_is_not_cut_for_newcomers() {
        let address = listening(2).await;
        let mut stream = sent(address, b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
        for _ in 0..8 {
            let mut honest = sent(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(head(&mut honest).await.starts_with("HTTP/1.1 200"));
        }
        let cut = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
        assert!(cut.is_err(), "the stream is still open: {cut:?}");
    }

    #[tokio::test]
    async fn a_head_that_goes_on_beyond_its_bound_is_refused() {
        let address = listening(4).await;
        for (length, status) in [(60 << 10, "HTTP/1.1 200"), (132 << 10, "HTTP/1.1 431")] {
            let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(length));
            let answer = head(&mut sent(address, request.as_bytes()).await).await;
            assert!(answer.starts_with(status), "{length}: {answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_not_sent_in_thirty_seconds_ends_the_connection() {
        let address = listening(4).await;
        let began = tokio::time::Instant::now();
        let mut slow = sent(address, b"GET / HTTP/1.1\r\nx-slow: ").await;
        assert_eq!(head(&mut slow).await, "", "it is answered nothing");
        let lasted = began.elapsed();
        assert!((30..=31).contains(&lasted.as_secs()), "{lasted:?}");
    }
}
