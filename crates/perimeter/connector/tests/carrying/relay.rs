//! Between connector and edge: a relay that remembers every byte and can fall silent, and an HTTP proxy that answers CONNECT.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Relay {
    pub address: SocketAddr,
    pub bytes: Arc<Mutex<Vec<u8>>>,
    silent: watch::Sender<bool>,
}

impl Relay {
    pub async fn to(edge: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, hush) = watch::channel(false);
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(edge).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(copy(near_read, far_write, Arc::clone(&memory), hush.clone()));
                tokio::spawn(copy(far_read, near_write, Arc::clone(&memory), hush.clone()));
            }
        });
        Self { address, bytes, silent }
    }

    /// From now on nothing passes, and nothing is closed.
    pub fn fall_silent(&self) {
        self.silent.send(true).unwrap();
    }
}

async fn copy<R, W>(mut from: R, mut to: W, memory: Arc<Mutex<Vec<u8>>>, mut hush: watch::Receiver<bool>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        hush.wait_for(|silent| !silent).await.unwrap();
        memory.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// An HTTP proxy: remembers the heads it got, opens the way for those with the right credentials.
pub struct Proxy {
    pub address: SocketAddr,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// `extra` is what it sends after its answer's head, as no proxy should.
    pub async fn new(wants: Option<&'static str>, extra: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(way(near, wants, extra, Arc::clone(&memory)));
            }
        });
        Self { address, heads }
    }
}

async fn way(mut near: TcpStream, wants: Option<&str>, extra: &str, memory: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    memory.lock().unwrap().push(head.clone());
    if wants.is_some_and(|wants| !head.contains(&format!("proxy-authorization: {wants}\r\n"))) {
        let refusal =
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n";
        return near.write_all(refusal.as_bytes()).await.ok();
    }
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let mut far = TcpStream::connect(target).await.ok()?;
    near.write_all(format!("HTTP/1.1 200 OK\r\nvia: test\r\n\r\n{extra}").as_bytes()).await.ok()?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok().map(|_| ())
}
