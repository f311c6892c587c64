//! The server: HTTPS in a process of its own, which answers as fast as it can and only to whoever has the secret.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{HOST, Outcome, SECRET};

/// The argument that makes this program the server.
pub(crate) const ROLE: &str = "upstream";

/// The running server; killed when dropped.
pub(crate) struct Upstream {
    pub(crate) place: Place,
    process: Child,
}

/// Where it listens, and who vouches for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    /// Its certificate and key, for a peer that stands in its place.
    pub(crate) leaf_pem: String,
    pub(crate) key_pem: String,
}

impl Upstream {
    #[expect(clippy::disallowed_methods, reason = "the measured server, started by a measurement")]
    pub(crate) fn start() -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let mut process = Command::new(own).arg(ROLE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { place: serde_json::from_str(&line)?, process })
    }
}

impl Upstream {
    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until standard input closes.
#[expect(clippy::print_stdout, reason = "its address is for the process that started it")]
pub(crate) async fn serve() -> Outcome {
    let Certificates { ca_pem, leaf_pem, key_pem, tls } = certificates()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::to_string(&Place { address: listener.local_addr()?, ca_pem, leaf_pem, key_pem })?);
    std::thread::spawn(|| {
        // Whoever started it is gone, or done.
        let _end = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let serving = hyper::server::conn::http1::Builder::new();
            // A client that breaks off is its own affair.
            let _ = serving.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    static WANTED: LazyLock<String> = LazyLock::new(|| format!("Bearer {SECRET}"));
    if request.headers().get(header::AUTHORIZATION).is_none_or(|value| value.as_bytes() != WANTED.as_bytes()) {
        let mut refused = Response::new(Full::default().boxed());
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(refused);
    }
    if request.method() == Method::POST {
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame?.data_ref().map_or(0, Bytes::len);
        }
        return Ok(json(Full::new(Bytes::from(format!("{{\"received\": {received}}}"))).boxed()));
    }
    let asked = request.uri().path().strip_prefix("/v1/down/").and_then(|bytes| bytes.parse().ok());
    Ok(json(match asked {
        Some(left) => Large { left }.boxed(),
        None => Full::new(Bytes::from_static(SMALL.as_bytes())).boxed(),
    }))
}

fn json(body: BoxBody<Bytes, Infallible>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A small answer, as an API gives it.
const SMALL: &str = r#"{"accounts": [{"id": "acc-1", "name": "Operations", "currency": "EUR", "balance_cents": 1250000, "status": "open"}, {"id": "acc-2", "name": "Payroll", "currency": "EUR", "balance_cents": 880400, "status": "open"}, {"id": "acc-3", "name": "Reserves", "currency": "CHF", "balance_cents": 42000000, "status": "frozen"}], "next": null, "as_of": "2026-11-20T08:15:00Z"}"#;

/// A large body of a stated length.
pub(crate) struct Large {
    pub(crate) left: u64,
}

impl Body for Large {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        let chunk = BLOCK.slice(..BLOCK.len().min(usize::try_from(self.left).unwrap_or(usize::MAX)));
        self.left -= chunk.len() as u64;
        std::task::Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What large bodies consist of: half text as APIs answer it, half bytes without a pattern.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes: Vec<u8> = SMALL.bytes().cycle().take(32 << 10).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    while bytes.len() < 64 << 10 {
        // xorshift64: the same bytes in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    Bytes::from(bytes)
});

struct Certificates {
    ca_pem: String,
    leaf_pem: String,
    key_pem: String,
    tls: Arc<rustls::ServerConfig>,
}

fn certificates() -> Outcome<Certificates> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Bench CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec![HOST.to_owned()])?;
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    Ok(Certificates { ca_pem, leaf_pem: leaf.pem(), key_pem: key.serialize_pem(), tls: Arc::new(server) })
}
