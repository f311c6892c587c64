//! Ways to the server: directly, through a proxy of ours, through another one.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http_body_util::combinators::BoxBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::upstream::Upstream;
use crate::{HOST, Outcome, SECRET, STAND_IN};

/// The body of a request.
pub(crate) type Body = BoxBody<bytes::Bytes, std::convert::Infallible>;

/// One way to the server.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) authority: HeaderValue,
    pub(crate) authorization: HeaderValue,
    proxy: Option<SocketAddr>,
    server: SocketAddr,
    tls: TlsConnector,
}

impl Way {
    /// Without anything between; the client has the secret.
    pub(crate) fn direct(upstream: &Upstream) -> Outcome<Self> {
        Self::new("direct", None, upstream.place.address, &upstream.place.ca_pem, SECRET)
    }

    /// To another server in its place; the client has the secret.
    pub(crate) fn to(name: &str, server: SocketAddr, ca_pem: &str) -> Outcome<Self> {
        Self::new(name, None, server, ca_pem, SECRET)
    }

    /// Through a proxy that puts the secret where `stand_in` is.
    pub(crate) fn through(
        name: &str,
        proxy: SocketAddr,
        server: SocketAddr,
        ca_pem: &str,
        stand_in: &str,
    ) -> Outcome<Self> {
        Self::new(name, Some(proxy), server, ca_pem, stand_in)
    }

    fn new(name: &str, proxy: Option<SocketAddr>, server: SocketAddr, ca_pem: &str, bearer: &str) -> Outcome<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            name: name.to_owned(),
            authority: HeaderValue::try_from(format!("{HOST}:{}", server.port()))?,
            authorization: HeaderValue::try_from(format!("Bearer {bearer}"))?,
            proxy,
            server,
            tls: TlsConnector::from(Arc::new(settings)),
        })
    }

    /// A connection for one request after the other.
    #[expect(clippy::disallowed_methods, reason = "a client that measures, on loopback")]
    pub(crate) async fn connect(&self) -> Outcome<SendRequest<Body>> {
        let mut stream = TcpStream::connect(self.proxy.unwrap_or(self.server)).await?;
        stream.set_nodelay(true)?;
        if self.proxy.is_some() {
            agree(&mut stream, self.authority.to_str()?).await?;
        }
        let stream = self.tls.connect(ServerName::try_from(HOST)?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // What ends it shows in the request that was under way.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }
}

async fn agree(stream: &mut TcpStream, authority: &str) -> Outcome {
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(String::from_utf8_lossy(&answer).into_owned().into()) }
}

/// The other proxy; killed when dropped.
pub(crate) struct Peer {
    process: Child,
    proxy: SocketAddr,
    server: SocketAddr,
    ca_pem: String,
}

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a measurement, on loopback")]
    pub(crate) async fn start(
        mitmdump: &Path,
        replacing: &Path,
        directory: &Path,
        upstream: &Upstream,
    ) -> Outcome<Self> {
        let trusted = directory.join("upstream.pem");
        std::fs::write(&trusted, &upstream.place.ca_pem)?;
        let proxy = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let set = |name: &str, value: &str| ["--set".to_owned(), format!("{name}={value}")];
        let mut command = Command::new(mitmdump);
        command
            .args(["-q", "--listen-host", "127.0.0.1", "--listen-port", &proxy.port().to_string(), "-s"])
            .arg(replacing);
        command.args(set("confdir", &directory.join("mitmproxy").to_string_lossy()));
        command.args(set("ssl_verify_upstream_trusted_ca", &trusted.to_string_lossy()));
        // Bodies pass as they come, and nothing is kept: what a proxy that only replaces a header would be told.
        command.args(set("stream_large_bodies", "1")).args(set("stand_in", STAND_IN)).args(set("secret", SECRET));
        let log = std::fs::File::create(directory.join("mitmproxy.log"))?;
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut peer = Self { process, proxy, server: upstream.place.address, ca_pem: String::new() };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(proxy).await.is_err() {
            if Instant::now() > until || peer.process.try_wait()?.is_some() {
                return Err(std::fs::read_to_string(directory.join("mitmproxy.log"))?.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        peer.ca_pem = std::fs::read_to_string(directory.join("mitmproxy/mitmproxy-ca-cert.pem"))?;
        Ok(peer)
    }

    pub(crate) fn way(&self) -> Outcome<Way> {
        Way::through("mitmproxy", self.proxy, self.server, &self.ca_pem, STAND_IN)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
