//! Whether the other end of a Unix socket was closed for good. The end of what it sends does not say so: it may still listen.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches one socket, by a descriptor of its own.
pub(crate) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Watches this socket. Must be called inside a runtime.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // Urgent data does not exist on a Unix socket: all that is ever told of this descriptor is that its peer is gone.
        #[expect(
            deprecated,
            reason = "the constructor that is safe to call: it is unsound for types that lie about their descriptor, and an OwnedFd does not"
        )]
        let watched = AsyncFd::with_interest(socket.try_clone_to_owned()?, Interest::PRIORITY)?;
        Ok(Self(watched))
    }

    /// Waits until the other end is closed.
    pub(crate) async fn heard(&self) {
        // A runtime that ends tells nobody anything more.
        let _over = self.0.ready(Interest::PRIORITY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::os::fd::AsFd;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn only_a_closed_peer_counts_not_one_that_writes_or_has_said_all() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let hangup = Hangup::of(ours.as_fd()).unwrap();
        let mut heard = std::pin::pin!(hangup.heard());
        let mut ours = ours;
        theirs.write_all(b"last words").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut said = Vec::new();
        ours.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"last words");
        let early = std::future::poll_fn(|context| Poll::Ready(heard.as_mut().poll(context).is_ready())).await;
        assert!(!early, "it still listens");
        drop(theirs);
        heard.await;
    }
}
