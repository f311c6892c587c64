//! Listeners that stand for an attacker's host or a forbidden service: they remember every byte that reached them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const KEPT_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP and a UDP listener on one loopback port.
#[derive(Clone)]
pub struct Collector {
    /// Where it listens, for TCP and UDP alike.
    pub address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

/// What reached a collector.
#[derive(Default, Clone)]
pub struct Received {
    /// TCP connections accepted.
    pub connections: u64,
    /// UDP datagrams received.
    pub datagrams: u64,
    /// The first bytes of all of them, at most one MiB.
    pub bytes: Vec<u8>,
}

impl Collector {
    /// Starts listening on a free loopback port; the tasks end with the runtime.
    ///
    /// # Errors
    /// When no port with both protocols free could be bound.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// The same at an address of loopback that somebody chose.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(address: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "an attacker's listener in a rehearsal, not a part of the boundary"
        )]
        let udp = UdpSocket::bind(address).await?;
        let received = Arc::new(Mutex::new(Received::default()));
        tokio::spawn(collect_tcp(tcp, received.clone()));
        tokio::spawn(collect_udp(udp, received.clone()));
        Ok(Self { address, received })
    }

    /// What has arrived so far.
    #[must_use]
    pub fn received(&self) -> Received {
        self.received.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

async fn collect_tcp(listener: TcpListener, received: Arc<Mutex<Received>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let received = received.clone();
        note(&received, &[], |seen| seen.connections += 1);
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            if let Ok(Ok(length)) = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await {
                note(&received, &buffer[..length], |_| ());
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\ncollected";
                let _ = stream.write_all(answer).await;
            }
        });
    }
}

async fn collect_udp(socket: UdpSocket, received: Arc<Mutex<Received>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok((length, _)) = socket.recv_from(&mut buffer).await {
        note(&received, &buffer[..length], |seen| seen.datagrams += 1);
    }
}

fn note(received: &Mutex<Received>, bytes: &[u8], count: impl FnOnce(&mut Received)) {
    if let Ok(mut seen) = received.lock() {
        count(&mut seen);
        let room = KEPT_BYTES.saturating_sub(seen.bytes.len());
        seen.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}
