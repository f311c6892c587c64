//! An OAuth token endpoint behind TLS, for refreshes alone (RFC 6749, 6): it takes every refresh token, and each of its paths has a manner of its own. It remembers
//! whose requests reached which path.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificate::{Asks, make};
use crate::private_api::StartError;

/// A running endpoint.
pub struct TokenEndpoint {
    /// Loopback address it listens on.
    pub address: SocketAddr,
    /// PEM of the authority that signed its certificate.
    pub ca_pem: String,
    seen: Seen,
}

/// One exchange as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The path's manner.
    pub manner: String,
    /// Who asked.
    pub client_id: String,
    /// With what.
    pub refresh_token: String,
}

type Seen = Arc<Mutex<Vec<Exchange>>>;

#[derive(Clone)]
struct Shared {
    address: SocketAddr,
    issued: Arc<str>,
    seen: Seen,
}

impl TokenEndpoint {
    /// Serves on a free loopback port and issues this access token. What the last part of a path but one says is how it answers: `moved` sends on to
    /// `elsewhere`, `refusing-RENDERING` refuses and repeats the refresh token in `plain`, `base64`, `hex`, `percent` or `header`, `reflecting` gives it back as the
    /// tokens, `long` has a megabyte more to say, `slow` takes [`SLOW`], and every other name answers as it should.
    ///
    /// # Errors
    /// When the certificate cannot be made or no port can be bound.
    pub async fn start(issued: &str) -> Result<Self, StartError> {
        let certificates = make(&["127.0.0.1"], Asks::Nobody)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Seen::default();
        let shared = Shared { address, issued: issued.into(), seen: Arc::clone(&seen) };
        let router = Router::new().route("/{manner}/token", post(exchange)).with_state(shared);
        tokio::spawn(accept(listener, TlsAcceptor::from(certificates.server), router));
        Ok(Self { address, ca_pem: certificates.ca_pem, seen })
    }

    /// The URL of a manner.
    #[must_use]
    pub fn url(&self, manner: &str) -> String {
        url(self.address, manner)
    }

    /// Every exchange that was asked for.
    #[must_use]
    pub fn seen(&self) -> Vec<Exchange> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn url(address: SocketAddr, manner: &str) -> String {
    format!("https://{address}/{manner}/token")
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            // A client that breaks off is its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn exchange(State(shared): State<Shared>, Path(manner): Path<String>, form: String) -> Response {
    let token = member(&form, "refresh_token");
    let seen = Exchange { manner: manner.clone(), client_id: member(&form, "client_id"), refresh_token: token.clone() };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    if token.is_empty() {
        return refusal("invalid_request", "there is no refresh token");
    }
    if let Some(rendering) = manner.strip_prefix("refusing-") {
        return reflected(rendering, &token);
    }
    match manner.as_str() {
        "moved" => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url(shared.address, "elsewhere"))]).into_response()
        }
        "reflecting" => json_of(&json!({"access_token": token, "refresh_token": token, "note": token})),
        "long" => json_of(&json!({"access_token": &*shared.issued, "note": "x".repeat(1 << 20)})),
        "slow" => slow(&tokens(&shared.issued)),
        _ => json_of(&tokens(&shared.issued)),
    }
}

fn tokens(issued: &str) -> Value {
    json!({"access_token": issued, "token_type": "Bearer", "expires_in": 3600})
}

fn reflected(rendering: &str, token: &str) -> Response {
    let shown = match rendering {
        "plain" => token.to_owned(),
        "base64" => STANDARD.encode(token),
        "hex" => token.bytes().map(|byte| format!("{byte:02x}")).collect(),
        "percent" => utf8_percent_encode(token, NON_ALPHANUMERIC).to_string(),
        "header" => {
            let body = json!({"error": "invalid_grant"}).to_string();
            return (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, format!("text/{token}"))], body).into_response();
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    refusal("invalid_grant", &format!("no grant for {shown} any more"))
}

fn refusal(error: &str, description: &str) -> Response {
    let body = json!({"error": error, "error_description": description});
    (StatusCode::BAD_REQUEST, json_of(&body)).into_response()
}

/// White space until [`SLOW`] is over, then the tokens: never silent, and good in the end.
fn slow(answer: &Value) -> Response {
    let (mut into, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
    let answer = answer.to_string();
    tokio::spawn(async move {
        for _ in 0..SLOW.as_millis() / PIECE.as_millis() {
            if into.send_data(Bytes::from_static(b" ")).await.is_err() {
                return;
            }
            tokio::time::sleep(PIECE).await;
        }
        // Whoever did not wait has hung up.
        let _ = into.send_data(Bytes::from(answer)).await;
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::new(body)).into_response()
}

fn json_of(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn member(form: &str, name: &str) -> String {
    let value = form.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let value = value.map(|(_, value)| value.replace('+', " ")).unwrap_or_default();
    percent_decode_str(&value).decode_utf8_lossy().into_owned()
}

/// How long the slow one takes: longer than a gateway listens.
pub const SLOW: Duration = Duration::from_secs(12);
const PIECE: Duration = Duration::from_millis(100);
