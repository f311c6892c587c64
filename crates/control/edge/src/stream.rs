//! One carried stream as the caller holds it: counted, in a slot of its connection, and ended with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::cut::Cut;
use crate::link::Link;

/// A stream in a slot of its connection.
pub(crate) struct Carried {
    io: Cut<TokioIo<Upgraded>>,
    link: Arc<Link>,
    _slot: OwnedSemaphorePermit,
}

impl Carried {
    pub(crate) fn new(upgraded: Upgraded, link: Arc<Link>, slot: OwnedSemaphorePermit) -> Self {
        Self { io: Cut::new(TokioIo::new(upgraded), link.cut.clone()), link, _slot: slot }
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, into);
        self.link.count(into.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // A write becomes one block of the connection's send buffer: a caller's large write must not become a large block.
        let some = &bytes[..bytes.len().min(LARGEST_WRITE)];
        let polled = Pin::new(&mut self.io).poll_write(cx, some);
        if let Poll::Ready(Ok(written)) = polled {
            self.link.count(written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

const LARGEST_WRITE: usize = 16 << 10;
