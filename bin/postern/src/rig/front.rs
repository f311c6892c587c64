//! A plain HTTP front on loopback: whatever a foreign client sends goes through the tunnel with a fresh identity, and the
//! answer comes back as it is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, channel::Channel};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_net::client::{ClientError, HttpClient};
use tokio::net::TcpListener;

use super::{Caller, send};
use crate::failure::{Failure, Or};

const MOST: usize = 32 << 20;
const HOP_BY_HOP: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::UPGRADE];

type Answer = BoxBody<Bytes, ClientError>;

/// A front of one route.
struct Front {
    /// The name under which clients reach it; the gateway is asked under its route's own instead. Any other name goes on
    /// as it is, for the gateway to judge.
    host: String,
    caller: Caller,
    client: HttpClient,
}

/// Starts the front; it lives as long as the process.
///
/// # Errors
/// No port can be bound.
pub(super) async fn start(caller: Caller, client: HttpClient) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.or_misused("listen for a front")?;
    let address = listener.local_addr().or_misused("read a front's address")?;
    let front = Arc::new(Front { host: address.to_string(), caller, client });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let front = Arc::clone(&front);
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { Ok::<_, Infallible>(carry(request, &front).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own affair.
            tokio::spawn(async move { connection.await.ok() });
        }
    });
    Ok(address)
}

async fn carry(request: Request<Incoming>, front: &Front) -> Response<Answer> {
    match carried(request, front).await {
        Ok(response) => response,
        Err(why) => {
            let body = Full::new(Bytes::from(why)).map_err(|never| match never {}).boxed();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn carried(request: Request<Incoming>, front: &Front) -> Result<Response<Answer>, String> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST).collect().await.map_err(|error| error.to_string())?.to_bytes();
    let identity = front.caller.identity(&body).map_err(|failure| failure.to_string())?;
    let mut inner = Request::new(Full::new(body));
    *inner.method_mut() = head.method;
    *inner.uri_mut() = head.uri;
    *inner.headers_mut() = end_to_end(head.headers);
    if inner.headers().get(header::HOST).is_some_and(|host| host == front.host.as_str()) {
        inner.headers_mut().remove(header::HOST);
    }
    inner.headers_mut().insert("postern-identity", identity.parse().map_err(|_| "the identity is no header")?);
    let response = send(&front.client, inner).await.map_err(|error| error.to_string())?;
    let (head, mut body) = response.into_parts();
    let (mut sender, channel) = Channel::<Bytes, ClientError>::new(16);
    tokio::spawn(async move {
        loop {
            match body.chunk().await {
                Ok(Some(chunk)) => {
                    if sender.send_data(chunk).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => return sender.abort(error),
            }
        }
    });
    let mut response = Response::new(channel.boxed());
    *response.status_mut() = head.status;
    *response.headers_mut() = end_to_end(head.headers);
    Ok(response)
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}
