//! A private HTTPS API that refuses requests without its bearer token, and reflects them to whoever has it.
//!
//! `GET /v1/accounts` gives data; `POST /v1/entries` stores an entry; `GET /v1/reflect/RENDERING` answers with the
//! request's own headers in that rendering, as careless upstreams do. `/v1/socket` is a WebSocket
//! for anybody; `/v1/certificate` tells anybody whether they presented a client certificate (200, or 403). Whoever begins with HTTP/2 is answered in it, unasked.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::BodyExt;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificate::{Asks, CertificateError, make};
use crate::socket;

/// Renderings that `/v1/reflect/` knows.
pub const RENDERINGS: &[&str] = &[
    "plain",
    "base64",
    "base64url",
    "shifted",
    "hex",
    "hex-upper",
    "percent",
    "json",
    "html",
    "utf16",
    "gzip",
    "deflate",
    "br",
    "header",
    "redirect",
    "error",
];

/// The user name that goes with the token in Basic authentication.
pub const BASIC_USER: &str = "reporting";
/// The user name with which git brings the token of a repository.
pub const GIT_USER: &str = "x-access-token";

/// Of each body that is remembered.
const KEPT_BYTES: usize = 64 << 10;
/// More than any body that is taken.
const MOST_BYTES: usize = 2 << 20;
/// How long the body of a request is read that is refused in any case.
const REFUSED_PATIENCE: Duration = Duration::from_secs(1);

/// A running private API.
pub struct PrivateApi {
    /// Loopback address it listens on.
    pub address: SocketAddr,
    /// PEM of the authority that signed its certificate.
    pub ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method and path.
    pub line: String,
    /// Whether it carried the right token.
    pub authorized: bool,
    /// The whole header section, as text.
    pub headers: String,
    /// The beginning of its body, 64 KiB at most.
    pub body: Vec<u8>,
}

/// Why the API could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its certificate could not be made.
    #[error("make the private API's certificate")]
    Certificate(#[from] CertificateError),
    /// Its address could not be bound.
    #[error("listen for the private API")]
    Listen(#[from] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    authorizations: Arc<[String]>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl PrivateApi {
    /// Serves as `host` on a free loopback port; requests must carry the token as bearer, or as
    /// the Basic password of [`BASIC_USER`] or [`GIT_USER`].
    ///
    /// # Errors
    /// When the certificate cannot be made or no port can be bound.
    pub async fn start(host: &str, token: &str) -> Result<Self, StartError> {
        Self::start_asking(host, token, Asks::Nobody).await
    }

    /// The same, asking for client certificates.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_asking(host: &str, token: &str, asks: Asks<'_>) -> Result<Self, StartError> {
        let certificates = make(&[host], asks)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let basic = |user| format!("Basic {}", STANDARD.encode(format!("{user}:{token}")));
        let authorizations = [format!("Bearer {token}"), basic(BASIC_USER), basic(GIT_USER)];
        let shared = Shared { authorizations: authorizations.into(), seen: seen.clone() };
        tokio::spawn(accept(listener, TlsAcceptor::from(certificates.server), router(shared)));
        Ok(Self { address, ca_pem: certificates.ca_pem, seen })
    }

    /// Every request that reached it.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/accounts", get(accounts))
        .route("/v1/entries", post(entries))
        .route("/v1/reflect/{rendering}", get(reflect))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(shared, authorize))
        .route("/v1/socket", get(socket::accept))
        .route("/v1/certificate", get(certificate))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let presented = Presented(stream.get_ref().1.peer_certificates().is_some());
            let router = router.layer(Extension(presented));
            let mut stream = BufReader::new(stream);
            let two = stream.fill_buf().await.is_ok_and(|first| first.starts_with(b"PRI "));
            let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(router));
            // A client that breaks off is its own affair.
            let _ = match two {
                true => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
                false => http1::Builder::new().serve_connection(stream, service).with_upgrades().await,
            };
        });
    }
}

async fn authorize(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let authorized = request
        .headers()
        .get(header::AUTHORIZATION)
        .is_some_and(|value| shared.authorizations.iter().any(|right| value == right.as_str()));
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let line = format!("{} {path}", request.method());
    let (head, body) = request.into_parts();
    // Whoever is refused is not waited for.
    let patience = if authorized { Duration::MAX } else { REFUSED_PATIENCE };
    let mut read = Vec::new();
    let whole = timeout(patience, take(body, &mut read)).await.unwrap_or(true);
    if let Ok(mut seen) = shared.seen.lock() {
        let body = read[..read.len().min(KEPT_BYTES)].to_vec();
        seen.push(Seen { line, authorized, headers: text_of(&head.headers), body });
    }
    if !whole {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let request = Request::from_parts(head, Body::from(read));
    if !authorized {
        let body = json!({"error": "the bearer token is missing or wrong"}).to_string();
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
    }
    next.run(request).await
}

/// Reads a body, or as much as whoever takes bodies would take. Whether it came as it should.
async fn take(mut body: Body, into: &mut Vec<u8>) -> bool {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        if let Ok(data) = frame.into_data() {
            into.extend_from_slice(&data);
        }
        if into.len() > MOST_BYTES {
            break;
        }
    }
    true
}

/// Whether a connection began with a client certificate.
#[derive(Clone, Copy)]
struct Presented(bool);

async fn certificate(Extension(Presented(presented)): Extension<Presented>) -> StatusCode {
    if presented { StatusCode::OK } else { StatusCode::FORBIDDEN }
}

async fn accounts() -> Response {
    let accounts = json!([{"id": "acc-1", "name": "Operations", "balance_cents": 1_250_000},
        {"id": "acc-2", "name": "Payroll", "balance_cents": 880_400}]);
    ([(header::CONTENT_TYPE, "application/json")], json!({ "accounts": accounts }).to_string()).into_response()
}

async fn entries(body: Bytes) -> Response {
    (StatusCode::CREATED, json!({"stored_bytes": body.len()}).to_string()).into_response()
}

async fn reflect(Path(rendering): Path<String>, headers: HeaderMap) -> Response {
    let text = text_of(&headers);
    let bytes = match rendering.as_str() {
        "plain" => text.into_bytes(),
        "base64" => STANDARD.encode(&text).into_bytes(),
        "base64url" => URL_SAFE_NO_PAD.encode(&text).into_bytes(),
        "shifted" => STANDARD.encode(format!("x{text}")).into_bytes(),
        "hex" => text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
        "hex-upper" => text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>().into_bytes(),
        "percent" => utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string().into_bytes(),
        "json" => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>().into_bytes(),
        "html" => text.chars().map(|character| format!("&#{};", u32::from(character))).collect::<String>().into_bytes(),
        "utf16" => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        "gzip" | "deflate" | "br" => return compressed(&rendering, text.as_bytes()),
        "header" => return in_header(&headers),
        "redirect" => return redirected(&headers),
        "error" => return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

fn compressed(coding: &str, text: &[u8]) -> Response {
    let packed = match coding {
        "gzip" => {
            finish(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()), text, |w| w.finish())
        }
        "deflate" => {
            finish(flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default()), text, |w| w.finish())
        }
        _ => {
            let mut packed = Vec::new();
            brotli::BrotliCompress(&mut &text[..], &mut packed, &brotli::enc::BrotliEncoderParams::default())
                .map(|_| packed)
        }
    };
    match packed {
        Ok(bytes) => Response::builder()
            .header(header::CONTENT_ENCODING, coding)
            .body(Body::from(bytes))
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn finish<W: Write>(
    mut writer: W,
    text: &[u8],
    end: impl FnOnce(W) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<Vec<u8>> {
    writer.write_all(text)?;
    end(writer)
}

fn authorization(headers: &HeaderMap) -> HeaderValue {
    headers.get(header::AUTHORIZATION).cloned().unwrap_or_else(|| HeaderValue::from_static("none"))
}

fn in_header(headers: &HeaderMap) -> Response {
    ([("x-you-sent", authorization(headers))], "see x-you-sent").into_response()
}

fn redirected(headers: &HeaderMap) -> Response {
    let token = authorization(headers).to_str().unwrap_or_default().replace(' ', "+");
    let location = HeaderValue::from_str(&format!("/v1/accounts?was={token}")).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

fn text_of(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::Channel;
    use hyper::service::Service as _;
    use tokio::time::Instant;

    use super::*;

    async fn answered(authorization: &str, body: Body) -> (StatusCode, Seen) {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let shared = Shared { authorizations: ["Bearer right".to_owned()].into(), seen: Arc::clone(&seen) };
        let request = Request::post("/v1/entries").header(header::AUTHORIZATION, authorization).body(body).unwrap();
        let response = TowerToHyperService::new(router(shared)).call(request).await.unwrap();
        let seen = seen.lock().unwrap().remove(0);
        (response.status(), seen)
    }

    #[tokio::test]
    async fn of_a_body_the_first_64_kib_are_kept() {
        let body: Vec<u8> = (0..100_000).map(|at| (at / 1000) as u8).collect();
        let (status, seen) = answered("Bearer right", body.clone().into()).await;
        assert_eq!(status, StatusCode::CREATED);
        assert!(seen.body == body[..64 << 10], "{} bytes", seen.body.len());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_refused_request_is_kept_what_comes_within_a_second() {
        let (mut sender, body) = Channel::<Bytes>::new(8);
        tokio::spawn(async move {
            for part in ["at once, ", "in time, ", "late"] {
                sender.send_data(Bytes::from(part)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            std::future::pending::<()>().await;
        });
        let begun = Instant::now();
        let (status, seen) = answered("Bearer wrong", Body::new(body)).await;
        assert_eq!((status, begun.elapsed()), (StatusCode::UNAUTHORIZED, Duration::from_secs(1)));
        assert_eq!(seen.body, b"at once, in time, ");
    }
}
