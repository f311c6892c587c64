//! An HTTP CONNECT proxy between a connector and an edge that keeps every byte it carried, as each of the two sees them.
//!
//! Outside the outer TLS it keeps what a network sees; with the edge's own certificate it also ends the outer TLS and
//! starts another, and so keeps what edge and connector themselves carry.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// More is carried and not kept; [`Carried::cut`] says so.
const MOST_KEPT: usize = 128 << 20;
const HEAD_BYTES: usize = 8 << 10;

/// A running relay.
pub struct Relay {
    /// Loopback address of the proxy.
    pub address: SocketAddr,
    carried: Arc<Mutex<Carried>>,
}

/// What went through.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Outer TLS, as a network sees it.
    pub outside: Vec<u8>,
    /// Inside the outer TLS, as edge and connector see it; empty without the edge's certificate.
    pub inside: Vec<u8>,
    /// Connections that were carried.
    pub connections: u64,
    /// Whether more went through than was kept.
    pub cut: bool,
}

impl Relay {
    /// Listens on a free loopback port. `edge` is the directory with the edge's `cert.pem`, `key.pem` and `ca.pem`, read
    /// when a connection comes.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(edge: PathBuf) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let carried = Arc::new(Mutex::new(Carried::default()));
        let (kept, edge) = (Arc::clone(&carried), Arc::new(edge));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks off is for its two ends to notice.
                let (kept, edge) = (Arc::clone(&kept), Arc::clone(&edge));
                tokio::spawn(async move { carry(stream, &edge, &kept).await.ok() });
            }
        });
        Ok(Self { address, carried })
    }

    /// What went through until now.
    #[must_use]
    pub fn carried(&self) -> Carried {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn carry(mut from: TcpStream, edge: &Path, kept: &Arc<Mutex<Carried>>) -> io::Result<()> {
    let target = target(&mut from).await?;
    #[expect(clippy::disallowed_methods, reason = "the relay stands for a company's proxy, outside the boundary")]
    let to = TcpStream::connect(&target).await?;
    from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    kept.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
    let (server, client) = tls(edge)?;
    let from = Kept { stream: from, kept: Arc::clone(kept) };
    let from = TlsAcceptor::from(server).accept(from).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let to = TlsConnector::from(client).connect(name, to).await?;
    let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (tokio::io::split(from), tokio::io::split(to));
    let (there, back) =
        tokio::join!(copy(&mut from_read, &mut to_write, kept), copy(&mut to_read, &mut from_write, kept));
    there.and(back)
}

/// The `host:port` of a CONNECT request.
async fn target(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES {
            return Err(io::Error::other("the request's head is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(target)) => Ok(target.to_owned()),
        _ => Err(io::Error::other("not a CONNECT request")),
    }
}

fn tls(edge: &Path) -> io::Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let read = |name: &str| std::fs::read(edge.join(name));
    let certificate = CertificateDer::from_pem_slice(&read("cert.pem")?).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?).map_err(io::Error::other)?;
    let ca = CertificateDer::from_pem_slice(&read("ca.pem")?).map_err(io::Error::other)?;
    let mut server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(io::Error::other)?;
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(server), Arc::new(client)))
}

async fn copy<R, W>(from: &mut R, to: &mut W, kept: &Mutex<Carried>) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        keep(kept, |carried| &mut carried.inside, &buffer[..read]);
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

fn keep(kept: &Mutex<Carried>, which: impl FnOnce(&mut Carried) -> &mut Vec<u8>, bytes: &[u8]) {
    let mut carried = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let room = MOST_KEPT.saturating_sub(carried.inside.len() + carried.outside.len());
    carried.cut |= bytes.len() > room;
    which(&mut carried).extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// The connector's side, with everything that passes kept.
struct Kept {
    stream: TcpStream,
    kept: Arc<Mutex<Carried>>,
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = std::pin::Pin::new(&mut self.stream).poll_read(context, buffer);
        keep(&self.kept, |carried| &mut carried.outside, &buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let written = std::pin::Pin::new(&mut self.stream).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = written {
            keep(&self.kept, |carried| &mut carried.outside, &bytes[..count]);
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
