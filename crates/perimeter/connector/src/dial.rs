//! From a permit to a carrying connection: TCP, through the proxy where there is one, TLS 1.3, the upgrade.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, PROXY_AUTHORIZATION, UPGRADE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use postern_net::{Dialer, tls};
use postern_policy::Endpoint;
use postern_secret::Secret;
use postern_tunnel::wire::{self, Lane, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::limits;
use crate::plan::{Plan, Way};

/// A connection that the edge let in.
pub(crate) struct Carrying {
    pub(crate) io: Upgraded,
    pub(crate) welcome: Welcome,
}

/// Dials the edge and asks to be let in. Cancelling leaves nothing behind.
pub(crate) async fn carrying(plan: &Plan, dialer: &Dialer, lane: Lane) -> Result<Carrying, Failure> {
    timeout(limits::ENTER, enter(plan, dialer, lane)).await.unwrap_or(Err(Failure::Slow))
}

async fn enter(plan: &Plan, dialer: &Dialer, lane: Lane) -> Result<Carrying, Failure> {
    let edge = plan.edge.endpoint();
    let tcp = match &plan.proxy {
        None => dialer.reach(&plan.edge).await.map_err(Failure::Unreachable)?,
        Some(way) => through(way, dialer, edge).await?,
    };
    let stream = tls::connect(plan.tls.clone(), &edge.host.to_string(), tcp).await.map_err(Failure::Untrusted)?;
    upgrade(stream, question(plan, edge, lane)).await
}

/// Asks the proxy for the way to the edge. The edge's name is resolved by the proxy.
async fn through(way: &Way, dialer: &Dialer, edge: &Endpoint) -> Result<TcpStream, Failure> {
    let tcp = dialer.reach(&way.permit).await.map_err(Failure::ProxyUnreachable)?;
    let authority = authority(edge);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = authority.parse().map_err(|_| Failure::ProxyProtocol)?;
    request.headers_mut().insert(HOST, HeaderValue::try_from(authority).map_err(|_| Failure::ProxyProtocol)?);
    if let Some(authorization) = &way.authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, secret_header(authorization));
    }
    let response = exchange(tcp, request, StatusCode::OK).await.map_err(|_| Failure::ProxyProtocol)?;
    if response.status() != StatusCode::OK {
        return Err(Failure::ProxyRefused(response.status().as_u16()));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|_| Failure::ProxyProtocol)?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| Failure::ProxyProtocol)?;
    // The edge speaks second: whatever came already was not from it.
    if parts.read_buf.is_empty() { Ok(parts.io.into_inner()) } else { Err(Failure::ProxyProtocol) }
}

fn question(plan: &Plan, edge: &Endpoint, lane: Lane) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static(wire::CONNECT_PATH);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(authority(edge)).expect("a host and a port are a header's value"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(wire::PROTOCOL));
    headers.insert(AUTHORIZATION, secret_header(&plan.authorization));
    headers.insert(wire::LANE, HeaderValue::from_static(lane.as_str()));
    headers.insert(
        wire::CONNECTOR,
        HeaderValue::try_from(&plan.connector).expect("hexadecimal digits are a header's value"),
    );
    request
}

async fn upgrade<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Carrying, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let response = exchange(stream, request, StatusCode::SWITCHING_PROTOCOLS).await.map_err(|_| Failure::Protocol)?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::refused(header(wire::REASON)));
    }
    if header("upgrade") != Some(wire::PROTOCOL) {
        return Err(Failure::Protocol);
    }
    let welcome = header(wire::WELCOME).and_then(|text| Welcome::from_header(text).ok()).ok_or(Failure::Protocol)?;
    let io = hyper::upgrade::on(response).await.map_err(|_| Failure::Protocol)?;
    Ok(Carrying { io, welcome })
}

/// One request and the head of its answer on a fresh connection; where the answer is the one that upgrades, the connection is ready for it.
async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    upgrades: StatusCode,
) -> hyper::Result<http::Response<hyper::body::Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(limits::ANSWER_HEAD_BYTES)
        .max_headers(limits::ANSWER_HEADERS)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let mut asking = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut asking => response?,
        ended = &mut connection => {
            ended?;
            // The connection may end, upgraded or closed, in the same moment as it answers.
            return asking.await;
        }
    };
    if response.status() == upgrades {
        connection.await?;
    }
    Ok(response)
}

fn authority(edge: &Endpoint) -> String {
    match edge.host.address() {
        Some(std::net::IpAddr::V6(address)) => format!("[{address}]:{}", edge.port.number()),
        _ => format!("{}:{}", edge.host, edge.port.number()),
    }
}

#[expect(clippy::disallowed_methods, reason = "edge and proxy are shown who is calling")]
fn secret_header(secret: &Secret<String>) -> HeaderValue {
    let mut value =
        HeaderValue::try_from(secret.expose()).expect("the plan holds one line without control characters, in ASCII");
    value.set_sensitive(true);
    value
}
