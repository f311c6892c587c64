//! An HTTP/1.1 client for one endpoint named in the configuration, or for our own Unix socket: pooled connections,
//! bounded in number, size and time. It follows no redirect, keeps no cookie and adds no credential.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use postern_policy::{ConfiguredPermit, Scheme};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Sleep, timeout};

use crate::dial::{DialError, Dialer};
use crate::limits;
use crate::tls::{self, TlsError, TlsRoots};

/// Why a request got no answer, or an answer no end.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("reach {endpoint}")]
    Dial {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: DialError,
    },
    /// No connection to the Unix socket.
    #[error("reach {}", path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The peer could not prove who it is, or broke off the handshake.
    #[error("secure the connection to {endpoint}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: TlsError,
    },
    /// The connection broke, or the peer does not speak HTTP/1.1.
    #[error("exchange with {endpoint}")]
    Exchange {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: hyper::Error,
    },
    /// No head of a response within the request's time.
    #[error("{endpoint} did not answer within {after:?}")]
    Slow {
        /// The endpoint.
        endpoint: String,
        /// The request's time.
        after: Duration,
    },
    /// A response body that stopped without ending.
    #[error("the response body was silent for {0:?}")]
    Silent(Duration),
    /// A response body larger than the caller takes.
    #[error("the response body is larger than {0} bytes")]
    TooLarge(usize),
    /// Whoever makes the connections made none.
    #[error("connect to {endpoint}")]
    Connect {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request's path or host cannot be sent.
    #[error("the request cannot be sent")]
    Malformed(#[source] http::Error),
}

impl ClientError {
    /// Whether the request certainly did not reach the peer, so that sending it again cannot do anything twice.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Dial { .. } | Self::Unix { .. } | Self::Tls { .. } | Self::Connect { .. } | Self::Malformed(_)
        )
    }
}

/// Bytes both ways, over which HTTP/1.1 is spoken.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, when it is made.
pub type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn Duplex>, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>>;

/// Whoever makes an [`HttpClient`]'s connections where they are not simply dialled. Sends nothing of a request.
pub trait Connect: Send + Sync {
    /// A connection, with whatever security it is to have. Cancelling leaves none behind.
    fn connect(&self) -> Connecting<'_>;
}

/// A client of one endpoint. `Clone` shares its connections.
#[derive(Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

struct Shared {
    reach: Reach,
    name: String,
    authority: HeaderValue,
    base_path: String,
    idle: Mutex<Vec<Idle>>,
    idle_connections: usize,
    idle_time: Duration,
}

enum Reach {
    Made(Arc<dyn Connect>),
    Endpoint { permit: ConfiguredPermit, tls: Option<Arc<ClientConfig>>, dialer: Dialer },
    Unix(PathBuf),
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection and the task that drives it, which ends with it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl HttpClient {
    /// A client of a configured endpoint. Nothing is dialled yet. Blocks on the system's certificates for https.
    ///
    /// # Errors
    /// There are no roots to trust.
    pub fn new(permit: ConfiguredPermit, roots: &TlsRoots) -> Result<Self, TlsError> {
        let endpoint = permit.endpoint();
        let tls = match endpoint.scheme {
            Scheme::Https => Some(tls::client_config(roots, &[b"http/1.1"])?),
            Scheme::Http => None,
        };
        let authority = endpoint.host.authority(endpoint.scheme, endpoint.port);
        let authority = HeaderValue::try_from(authority.as_str()).map_err(|_| TlsError::Name(authority))?;
        let (name, base_path) = (endpoint.to_string(), endpoint.base_path.clone());
        Ok(Self::over(Reach::Endpoint { permit, tls, dialer: Dialer::new() }, name, authority, base_path))
    }

    /// A client of our own server's Unix socket.
    #[must_use]
    pub fn unix(path: &Path) -> Self {
        let name = path.display().to_string();
        Self::over(Reach::Unix(path.to_owned()), name, HeaderValue::from_static("localhost"), String::new())
    }

    fn over(reach: Reach, name: String, authority: HeaderValue, base_path: String) -> Self {
        let (idle, idle_connections, idle_time) = (Mutex::default(), limits::IDLE_CONNECTIONS, limits::IDLE);
        let shared = Shared { reach, name, authority, base_path, idle, idle_connections, idle_time };
        Self { shared: Arc::new(shared) }
    }

    /// A client over connections that somebody else makes. It keeps at most `idle_connections` of them, each for at
    /// most `idle_time` without use.
    #[must_use]
    pub fn made_by(
        connect: Arc<dyn Connect>,
        name: String,
        authority: HeaderValue,
        idle_connections: usize,
        idle_time: Duration,
    ) -> Self {
        let (reach, base_path, idle) = (Reach::Made(connect), String::new(), Mutex::default());
        let shared = Shared { reach, name, authority, base_path, idle, idle_connections, idle_time };
        Self { shared: Arc::new(shared) }
    }

    /// A connection that can take a request: an idle one, or a new one. Nothing of a request is sent. Has no time of
    /// its own beside that of dialling.
    ///
    /// # Errors
    /// No connection came about.
    pub async fn acquire(&self) -> Result<Acquired, ClientError> {
        while let Some(mut connection) = self.shared.take_idle() {
            // An error here means that the peer closed the connection while it lay idle.
            if connection.sender.ready().await.is_ok() {
                return Ok(Acquired { client: self.clone(), connection, is_new: false });
            }
        }
        let mut connection = self.shared.connect().await?;
        connection.sender.ready().await.map_err(|source| self.shared.broken(source))?;
        Ok(Acquired { client: self.clone(), connection, is_new: true })
    }

    /// What the client talks to, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.name
    }

    /// Sends a request whose URI is a path with an optional query, below the endpoint's base path. `patience` bounds
    /// everything until the response's head; the body has its own bound between chunks ([`limits::BODY_SILENCE`]).
    /// A connection that the peer closed before it took the request is replaced once. Cancelling closes the
    /// connection; the peer may have acted.
    ///
    /// # Errors
    /// No connection, no TLS, no answer in time, or no HTTP.
    pub async fn request(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Body>, ClientError> {
        let request = self.shared.prepare(request).map_err(ClientError::Malformed)?;
        match timeout(patience, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Slow { endpoint: self.shared.name.clone(), after: patience }),
        }
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Body>, ClientError> {
        while let Some(mut connection) = self.shared.take_idle() {
            // An error here means that the peer closed the connection while it lay idle.
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.shared.broken(error.into_error())),
                },
            }
        }
        let mut connection = self.shared.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(|source| self.shared.broken(source))?;
        Ok(self.answer(response, connection))
    }

    /// Sends over a connection of its own, which ends with what is given back beside the answer.
    pub(crate) async fn send_alone(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, impl Send), ClientError> {
        let request = self.shared.prepare(request).map_err(ClientError::Malformed)?;
        let mut connection = self.shared.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(|source| self.shared.broken(source))?;
        Ok((response, connection))
    }

    fn answer(&self, response: Response<Incoming>, connection: Connection) -> Response<Body> {
        let shared = Arc::clone(&self.shared);
        response.map(|incoming| {
            let mut body =
                Body { incoming, shared, connection: Some(connection), silence: limits::BODY_SILENCE, timer: None };
            body.release_if_ended();
            body
        })
    }
}

/// A connection that waits for its one request.
pub struct Acquired {
    client: HttpClient,
    connection: Connection,
    is_new: bool,
}

/// No answer came to a request.
pub struct Unanswered {
    /// Why.
    pub error: ClientError,
    /// The request, where certainly no byte of it was sent.
    pub unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl Acquired {
    /// Whether the connection was made for this request.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Sends the request, once, and waits for the head of the answer, without a time of its own. Cancelling closes the
    /// connection; the peer may have acted.
    ///
    /// # Errors
    /// No answer; where nothing was sent the request comes back.
    pub async fn send(mut self, request: Request<Full<Bytes>>) -> Result<Response<Body>, Unanswered> {
        let request = self
            .client
            .shared
            .prepare(request)
            .map_err(|error| Unanswered { error: ClientError::Malformed(error), unsent: None })?;
        match self.connection.sender.try_send_request(request).await {
            Ok(response) => Ok(self.client.answer(response, self.connection)),
            Err(mut error) => {
                let unsent = error.take_message().map(Box::new);
                Err(Unanswered { error: self.client.shared.broken(error.into_error()), unsent })
            }
        }
    }
}

impl Shared {
    /// Puts the base path before the request's path and names the host.
    fn prepare(&self, mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = Uri::builder().path_and_query(format!("{}{path}", self.base_path)).build()?;
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.authority.clone());
        }
        Ok(request)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { connection, since }) = idle.pop() {
            if since.elapsed() < self.idle_time && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < self.idle_time && !idle.connection.sender.is_closed());
        if idle.len() < self.idle_connections && !connection.sender.is_closed() {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        match &self.reach {
            Reach::Made(connect) => {
                let endpoint = || self.name.clone();
                let made = connect.connect().await;
                self.handshake(made.map_err(|source| ClientError::Connect { endpoint: endpoint(), source })?).await
            }
            Reach::Unix(path) => {
                let stream =
                    connect_unix(path).await.map_err(|source| ClientError::Unix { path: path.clone(), source })?;
                self.handshake(stream).await
            }
            Reach::Endpoint { permit, tls, dialer } => {
                let endpoint = || self.name.clone();
                let stream =
                    dialer.reach(permit).await.map_err(|source| ClientError::Dial { endpoint: endpoint(), source })?;
                match tls {
                    None => self.handshake(stream).await,
                    Some(config) => {
                        let host = permit.endpoint().host.to_string();
                        let stream = tls::connect(Arc::clone(config), &host, stream)
                            .await
                            .map_err(|source| ClientError::Tls { endpoint: endpoint(), source })?;
                        self.handshake(stream).await
                    }
                }
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<Connection, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::HEADERS)
            .max_header_size(limits::HEAD_BYTES)
            .max_buf_size(limits::HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.broken(source))?;
        // Whatever ends the connection is also told to the request or body that needs it.
        let driver = tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection { sender, driver })
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Exchange { endpoint: self.name.clone(), source }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "our own server's socket in the data directory; nothing leaves the machine"
)]
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    match timeout(limits::CONNECT, UnixStream::connect(path)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A response's body. Read to its end, or told to finish, it gives its connection back; dropped before, it closes it.
pub struct Body {
    incoming: Incoming,
    shared: Arc<Shared>,
    connection: Option<Connection>,
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// Sets how long the body may stay silent between two chunks.
    #[must_use]
    pub fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self.timer = None;
        self
    }

    /// The next chunk; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke or fell silent.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body, of at most `limit` bytes.
    ///
    /// # Errors
    /// It is larger, or the connection broke or fell silent.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(ClientError::TooLarge(limit));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads the little that is left, aside, so that the connection can be used again. One that has more, or does not
    /// end soon ([`limits::REST_BYTES`], [`limits::REST`]), is closed.
    pub fn finish(mut self) {
        if self.connection.is_none() {
            return;
        }
        tokio::spawn(async move {
            let rest = async {
                let mut left = limits::REST_BYTES;
                while let Ok(Some(chunk)) = self.chunk().await {
                    let Some(fewer) = left.checked_sub(chunk.len()) else { return };
                    left = fewer;
                }
            };
            // Whatever it comes to: what has not ended by then is closed with the body.
            let _ = timeout(limits::REST, rest).await;
        });
    }

    fn release_if_ended(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.shared.put_idle(connection);
        }
    }

    /// Whether the peer has been silent for too long; arms the timer where it is not.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let silence = self.silence;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
        timer.as_mut().poll(context)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => match self.poll_silence(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    self.connection = None;
                    Poll::Ready(Some(Err(ClientError::Silent(self.silence))))
                }
            },
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                self.connection = None;
                Poll::Ready(Some(Err(self.shared.broken(source))))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
