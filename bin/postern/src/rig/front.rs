//! A plain HTTP front on loopback: whatever a foreign client sends goes through the tunnel with a fresh identity, and the
//! answer comes back as it is.

use std::convert::Infallible;
use std::net::SocketAddr;

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
const HOP_BY_HOP: [HeaderName; 5] =
    [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::UPGRADE];

type Answer = BoxBody<Bytes, ClientError>;

/// Starts the front; it lives as long as the process.
///
/// # Errors
/// No port can be bound.
pub(super) async fn start(caller: Caller, client: HttpClient) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.or_misused("listen for a front")?;
    let address = listener.local_addr().or_misused("read a front's address")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (caller, client) = (caller.clone(), client.clone());
            let service = service_fn(move |request| {
                let (caller, client) = (caller.clone(), client.clone());
                async move { Ok::<_, Infallible>(carry(request, &caller, &client).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own affair.
            tokio::spawn(async move { connection.await.ok() });
        }
    });
    Ok(address)
}

async fn carry(request: Request<Incoming>, caller: &Caller, client: &HttpClient) -> Response<Answer> {
    match carried(request, caller, client).await {
        Ok(response) => response,
        Err(why) => {
            let body = Full::new(Bytes::from(why)).map_err(|never| match never {}).boxed();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn carried(request: Request<Incoming>, caller: &Caller, client: &HttpClient) -> Result<Response<Answer>, String> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST).collect().await.map_err(|error| error.to_string())?.to_bytes();
    let identity = caller.identity(&body).map_err(|failure| failure.to_string())?;
    let mut inner = Request::new(Full::new(body));
    *inner.method_mut() = head.method;
    *inner.uri_mut() = head.uri;
    *inner.headers_mut() = end_to_end(head.headers);
    inner.headers_mut().insert("postern-identity", identity.parse().map_err(|_| "the identity is no header")?);
    let response = send(client, inner).await.map_err(|error| error.to_string())?;
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
