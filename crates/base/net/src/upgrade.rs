//! HTTP/1.1 upgrade: a connection of its own to the client's endpoint, with or without TLS, that stops speaking HTTP
//! once the peer agreed (RFC 9110, section 7.8). It knows no protocol that may follow.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::client::{ClientError, HttpClient};

/// Bytes in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}
impl<S: AsyncRead + AsyncWrite> AsyncReadWrite for S {}

/// A connection that speaks the agreed protocol.
pub type Stream = Box<dyn AsyncReadWrite + Send + Unpin>;

/// What the peer said to the wish.
pub enum Upgrade {
    /// 101 with the very protocol.
    Switched {
        /// The head of the answer.
        head: response::Parts,
        /// From the first byte of the protocol on.
        stream: Stream,
    },
    /// Anything else.
    Answered {
        /// The head of the answer.
        head: response::Parts,
        /// The beginning of the body, at most [`ANSWER_BYTES`].
        body: Bytes,
    },
}

impl HttpClient {
    /// Asks for `protocol` at a path below the endpoint's base path. The connection is a new one; it ends when the
    /// stream is dropped. `patience` bounds everything until the answer.
    ///
    /// # Errors
    /// No connection, no answer in time, or no HTTP.
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &'static str,
        headers: HeaderMap,
        patience: Duration,
    ) -> Result<Upgrade, ClientError> {
        let mut request = Request::builder().method(Method::GET).uri(path).body(Full::new(Bytes::new()));
        if let Ok(request) = &mut request {
            *request.headers_mut() = headers;
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
        }
        let request = request.map_err(ClientError::Malformed)?;
        match timeout(patience, self.switch(request, protocol)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Slow { endpoint: self.endpoint().to_owned(), after: patience }),
        }
    }

    async fn switch(&self, request: Request<Full<Bytes>>, protocol: &str) -> Result<Upgrade, ClientError> {
        let broken = |source| ClientError::Exchange { endpoint: self.endpoint().to_owned(), source };
        let (mut response, connection) = self.send_alone(request).await?;
        if !agreed(&response, protocol) {
            let (head, mut incoming) = response.into_parts();
            let mut body = BytesMut::new();
            while let Some(Ok(frame)) = incoming.frame().await
                && body.len() < ANSWER_BYTES
            {
                if let Ok(data) = frame.into_data() {
                    body.extend_from_slice(&data[..data.len().min(ANSWER_BYTES - body.len())]);
                }
            }
            return Ok(Upgrade::Answered { head, body: body.freeze() });
        }
        let switched = hyper::upgrade::on(&mut response).await.map_err(broken)?;
        // The driver ends by itself once the connection was handed over.
        drop(connection);
        let (head, _) = response.into_parts();
        Ok(Upgrade::Switched { head, stream: Box::new(TokioIo::new(switched)) })
    }
}

fn agreed<B>(response: &http::Response<B>, protocol: &str) -> bool {
    let named = response.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && named.is_some_and(|named| named.eq_ignore_ascii_case(protocol))
}

/// How much of a refusal is read.
pub const ANSWER_BYTES: usize = 64 * 1024;
