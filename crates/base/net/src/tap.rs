//! A connection beside which somebody stands and takes note of the bytes that pass. Changes none of them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whoever takes note.
pub trait Tap: Unpin {
    /// These bytes came.
    fn came(&mut self, _bytes: &[u8]) {}

    /// These bytes left.
    fn left(&mut self, _bytes: &[u8]) {}
}

/// A stream with a tap.
pub struct Tapped<S, T> {
    stream: S,
    tap: T,
}

impl<S, T> Tapped<S, T> {
    /// Puts a tap on a stream.
    pub fn new(stream: S, tap: T) -> Self {
        Self { stream, tap }
    }
}

impl<S: AsyncRead + Unpin, T: Tap> AsyncRead for Tapped<S, T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if let Some(new @ [_, ..]) = into.filled().get(before..) {
            self.tap.came(new);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, T: Tap> AsyncWrite for Tapped<S, T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.tap.left(&bytes[..count]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        if let Poll::Ready(Ok(mut count)) = written {
            for piece in pieces {
                let taken = count.min(piece.len());
                self.tap.left(&piece[..taken]);
                count -= taken;
            }
        }
        written
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Default, Clone)]
    struct Notes(Arc<Mutex<(Vec<u8>, Vec<u8>)>>);

    impl Tap for Notes {
        fn came(&mut self, bytes: &[u8]) {
            self.0.lock().unwrap().0.extend_from_slice(bytes);
        }

        fn left(&mut self, bytes: &[u8]) {
            self.0.lock().unwrap().1.extend_from_slice(bytes);
        }
    }

    #[tokio::test]
    async fn what_passes_is_noted_both_ways_as_far_as_it_passed() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let notes = Notes::default();
        let mut tapped = Tapped::new(ours, notes.clone());
        theirs.write_all(b"abc").await.unwrap();
        let mut came = [0; 8];
        assert_eq!(tapped.read(&mut came).await.unwrap(), 3);
        assert_eq!(tapped.write(b"0123456789").await.unwrap(), 4);
        theirs.read_exact(&mut came[..4]).await.unwrap();
        let pieces = [io::IoSlice::new(b"x"), io::IoSlice::new(b"yz12345")];
        let written = tapped.write_vectored(&pieces).await.unwrap();
        let expected = [b"0123".as_slice(), &b"xyz12345"[..written]].concat();
        assert_eq!(*notes.0.lock().unwrap(), (b"abc".to_vec(), expected));
    }
}
