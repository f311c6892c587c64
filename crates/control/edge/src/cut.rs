//! A stream that one word ends: whatever waits on it wakes with an error. Under a connection's TLS it ends the connection and all it carries,
//! around a carried stream it ends what the caller still holds.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream until its token is cancelled.
pub(crate) struct Cut<T> {
    inner: T,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Cut<T> {
    pub(crate) fn new(inner: T, token: CancellationToken) -> Self {
        Self { inner, ended: Box::pin(token.cancelled_owned()) }
    }

    fn alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel's connection was ended"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cut<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cut<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_wakes_who_reads_and_refuses_who_writes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let token = CancellationToken::new();
        let mut cut = Cut::new(ours, token.clone());
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(cut.read_u8().await.unwrap(), b'x');
        let (read, ()) = tokio::join!(cut.read_u8(), async { token.cancel() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(cut.write_all(b"y").await.is_err());
    }
}
