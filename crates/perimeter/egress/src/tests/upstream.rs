//! An upstream that answers with exact bytes, over TLS and in the clear, and keeps what it was sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::{
    upstream_http2::{self, Http2},
    websocket::WebSocket,
};

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// What followed the body, over HTTP/2.
    pub(super) trailers: http::HeaderMap,
    /// The client certificate that the connection began with.
    pub(super) presented: Option<Vec<u8>>,
    /// Records in the audit log at that moment.
    pub(super) records_before: usize,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

type Reply = Arc<dyn Fn(&Received) -> Vec<Vec<u8>> + Send + Sync>;

/// A running upstream.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) https: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) ca_pem: String,
    ca: Arc<Issuer<'static, KeyPair>>,
    pub(super) received: Arc<Mutex<Vec<Received>>>,
    /// Connections so far.
    pub(super) connections: Arc<AtomicUsize>,
    reply: Arc<Mutex<Reply>>,
    /// An empty piece of a reply waits for one of its permits.
    pub(super) gate: Arc<Semaphore>,
    /// Its side of HTTP/2, once it speaks it.
    pub(super) http2: Http2,
    /// What it does on a WebSocket, once it speaks it.
    pub(super) websocket: WebSocket,
}

impl Upstream {
    /// `records` counts the audit log at the moment a request arrives.
    pub(super) async fn start(records: Arc<dyn Fn() -> usize + Send + Sync>) -> Self {
        let (ca_pem, ca, acceptor) =
            tls(&["api.test", "plain.test", "other.test", "open.test", "places.test", "pinned.test", "ws.test"]);
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            https: https.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            ca_pem,
            ca: Arc::new(ca),
            received: Arc::default(),
            connections: Arc::default(),
            reply: Arc::new(Mutex::new(Arc::new(|_: &Received| vec![whole("200 OK", &[], b"hello")]))),
            http2: Http2::default(),
            websocket: WebSocket::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        tokio::spawn(accept(https, Some(acceptor), upstream.clone(), records.clone()));
        tokio::spawn(accept(http, None, upstream.clone(), records));
        upstream
    }

    pub(super) fn replies(&self, reply: impl Fn(&Received) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.reply.lock().unwrap() = Arc::new(reply);
    }

    /// A client certificate that the upstream takes: its DER, and PEM of it and its key.
    pub(super) fn client_certificate(&self, name: &str) -> (Vec<u8>, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        (certificate.der().to_vec(), format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// A response with its length.
pub(super) fn whole(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A chunked response, each chunk a write of its own.
pub(super) fn chunked(headers: &[(&str, &str)], body: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_owned();
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut pieces = vec![format!("{head}\r\n").into_bytes()];
    for chunk in body.chunks(size) {
        let mut piece = format!("{:x}\r\n", chunk.len()).into_bytes();
        piece.extend_from_slice(chunk);
        piece.extend_from_slice(b"\r\n");
        pieces.push(piece);
    }
    pieces.push(b"0\r\n\r\n".to_vec());
    pieces
}

fn tls(names: &[&str]) -> (String, Issuer<'static, KeyPair>, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut clients = rustls::RootCertStore::empty();
    clients.add(ca_certificate.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    (ca_certificate.pem(), issuer, TlsAcceptor::from(Arc::new(settings)))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    upstream: Upstream,
    records: Arc<dyn Fn() -> usize + Send + Sync>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        upstream.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, upstream, records) = (tls.clone(), upstream.clone(), records.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    let tls = upstream.http2.offered(&tls);
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let presented = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => upstream_http2::serve(stream, upstream, records).await,
                        _ => serve(stream, upstream, records, presented).await,
                    }
                }
                None => serve(stream, upstream, records, None).await,
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    upstream: Upstream,
    records: Arc<dyn Fn() -> usize + Send + Sync>,
    presented: Option<Vec<u8>>,
) {
    let mut buffer = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut buffer).await {
        request.presented.clone_from(&presented);
        request.records_before = records();
        if let Some(peer) = upstream.websocket.peer(&request) {
            upstream.received.lock().unwrap().push(request.clone());
            return peer(request, Box::new(stream)).await;
        }
        let reply = upstream.reply.lock().unwrap().clone();
        let pieces = reply(&request);
        upstream.received.lock().unwrap().push(request);
        for piece in pieces {
            if piece.is_empty() {
                upstream.gate.acquire().await.unwrap().forget();
            }
            if stream.write_all(&piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Received> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        fill(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer.drain(..end).collect::<Vec<u8>>()).into_owned();
    let mut request = Received { head, ..Received::default() };
    if let Some(length) = request.header("content-length") {
        let length: usize = length.parse().unwrap();
        while buffer.len() < length {
            fill(stream, buffer).await?;
        }
        request.body = buffer.drain(..length).collect();
    } else if request.header("transfer-encoding").is_some() {
        while find(buffer, b"0\r\n\r\n").is_none() {
            fill(stream, buffer).await?;
        }
        request.body = dechunk(&std::mem::take(buffer));
    }
    Some(request)
}

async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = vec![0; 65536];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut piece)).await.ok()?.ok()?;
    buffer.extend_from_slice(&piece[..read]);
    (read > 0).then_some(())
}

pub(super) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A chunked body's bytes, as far as they came.
pub(super) fn dechunk(mut text: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = find(text, b"\r\n") {
        let Ok(size) = usize::from_str_radix(std::str::from_utf8(&text[..line]).unwrap_or("0"), 16) else { break };
        let start = line + 2;
        let end = (start + size).min(text.len());
        body.extend_from_slice(&text[start.min(text.len())..end]);
        if size == 0 || end + 2 > text.len() {
            break;
        }
        text = &text[end + 2..];
    }
    body
}
