//! A connection whose first bytes were read to see what it speaks and are read again by whoever speaks it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::classify::{ENOUGH, Speech, classify};

/// A stream with some bytes put back in front.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    first: Vec<u8>,
    read: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads until the speech is decided or the peer ends.
    ///
    /// # Errors
    /// When reading fails. Does not time out.
    pub(crate) async fn hear(mut stream: S) -> io::Result<(Speech, Self)> {
        let mut first = Vec::with_capacity(ENOUGH);
        loop {
            let speech = classify(&first);
            if speech != Speech::Undecided {
                return Ok((speech, Self { first, read: 0, stream }));
            }
            let mut more = [0_u8; ENOUGH];
            let count = stream.read(&mut more).await?;
            if count == 0 {
                return Ok((Speech::Undecided, Self { first, read: 0, stream }));
            }
            first.extend_from_slice(&more[..count]);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.first[self.read..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = rest.len().min(into.remaining());
        into.put_slice(&rest[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
