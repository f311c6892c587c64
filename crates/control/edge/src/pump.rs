//! One stream in the edge's process: bytes both ways between a connection of the tunnel and the server's socket, bounded, each direction with its own end.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;

use postern_exec::asynchronous::Channel;
use postern_tunnel::carry::{Carry, Stream};
use postern_tunnel::wire::Lane;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::edge::Edge;
use crate::hangup::Hangup;
use crate::limits;
use crate::message::Opened;

/// Opens a stream for whoever holds the other end of this socket, says so over it, and carries until both directions ended or that end is closed.
pub(crate) async fn carry(edge: Edge, host: String, lane: Lane, socket: OwnedFd) {
    // A socket that fails is closed: the server takes it for an edge that is gone.
    let Ok(hangup) = Hangup::of(socket.as_fd()) else { return };
    let Ok(mut channel) = Channel::new(socket) else { return };
    let opened = tokio::select! {
        // Nobody waits for it any more.
        () = hangup.heard() => return,
        opened = edge.open(&host, lane) => opened,
    };
    let (word, stream): (Opened, _) = match opened {
        Ok(stream) => (Ok(()), Some(stream)),
        Err(error) => (Err(error), None),
    };
    let said = channel.send(&word, &[]).await;
    let (Ok(()), Some(stream), Ok(socket)) = (said, stream, channel.into_socket()) else { return };
    let Ok(socket) = UnixStream::from_std(socket.into()) else { return };
    pump_until(&hangup, stream, socket).await;
}

/// Until both directions ended, or the server left.
async fn pump_until(hangup: &Hangup, stream: Stream, socket: UnixStream) {
    let mut pumping = pin!(pump(stream, socket));
    tokio::select! {
        () = &mut pumping => (),
        // What it wrote before it left still goes out.
        () = hangup.heard() => drop(timeout(limits::LAST_WORDS, pumping).await),
    }
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The source ended in order, and the sink knows.
    Whole,
    /// The sink takes no more.
    Unwanted,
    /// The source was lost.
    Lost,
}

/// Copies until both directions are done. A connection that is lost ends both; one that takes no more may still bring its answer, and the server's next
/// write fails, as it would on the connection itself.
async fn pump(stream: Stream, mut socket: UnixStream) {
    let server = socket.as_fd().try_clone_to_owned();
    let (from_tunnel, to_tunnel) = split(stream);
    let (from_server, to_server) = socket.split();
    let mut inward = pin!(copy(from_tunnel, to_server));
    let mut outward = pin!(copy(from_server, to_tunnel));
    tokio::select! {
        ended = &mut inward => if ended == Ended::Whole {
            outward.await;
        },
        ended = &mut outward => {
            if ended == Ended::Unwanted {
                // A socket that is gone already refuses nothing more.
                let _gone = server.map(|server| shutdown(server, Shutdown::Read));
            }
            if ended != Ended::Lost {
                inward.await;
            }
        }
    }
}

async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut from: R, mut to: W) -> Ended {
    let mut buffer = vec![0; limits::BUFFER_BYTES];
    loop {
        match from.read(&mut buffer).await {
            Err(_) => return Ended::Lost,
            Ok(0) => return if to.shutdown().await.is_ok() { Ended::Whole } else { Ended::Unwanted },
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return Ended::Unwanted;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::io::{ReadBuf, duplex};

    use super::*;

    fn pumped() -> (tokio::io::DuplexStream, UnixStream, tokio::task::JoinHandle<()>) {
        let (tunnel, carried) = duplex(64);
        let (server, socket) = UnixStream::pair().unwrap();
        (tunnel, server, tokio::spawn(pump(Box::new(carried), socket)))
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut tunnel, mut server, pump) = pumped();
        server.write_all(b"question").await.unwrap();
        server.shutdown().await.unwrap();
        let mut heard = Vec::new();
        tunnel.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        tunnel.write_all(b"answer").await.unwrap();
        drop(tunnel);
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn a_sender_waits_for_a_receiver_that_does_not_read() {
        let (mut tunnel, mut server, _pump) = pumped();
        let mut sent = tokio::spawn(async move { server.write_all(&vec![7; 4 << 20]).await.map(|()| server) });
        assert!(timeout(Duration::from_millis(100), &mut sent).await.is_err(), "nobody reads it");
        let mut received = vec![0; 4 << 20];
        tunnel.read_exact(&mut received).await.unwrap();
        sent.await.unwrap().unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_wrote_before_it_left_goes_out_for_a_second() {
        for tunnel_reads in [true, false] {
            let (mut tunnel, carried) = duplex(64);
            let (mut server, socket) = UnixStream::pair().unwrap();
            let hangup = Hangup::of(socket.as_fd()).unwrap();
            server.write_all(&[7; 100_000]).await.unwrap();
            drop(server);
            let begun = tokio::time::Instant::now();
            let pumping = tokio::spawn(async move { pump_until(&hangup, Box::new(carried), socket).await });
            let mut received = Vec::new();
            if tunnel_reads {
                tunnel.read_to_end(&mut received).await.unwrap();
                assert_eq!(received.len(), 100_000);
            } else {
                timeout(Duration::from_secs(60), pumping).await.expect("it is given up").unwrap();
                assert_eq!(begun.elapsed().as_secs(), 1, "{:?}", begun.elapsed());
                tunnel.read_to_end(&mut received).await.unwrap();
                assert_eq!(received.len(), 64, "what was on its way");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_is_three_descriptors_of_the_edges() {
        let (mut tunnel, carried) = duplex(64);
        let (mut server, socket) = UnixStream::pair().unwrap();
        let link = |descriptor: &str| std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok();
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket).to_string();
        let this = link(&number).unwrap();
        let hangup = Hangup::of(socket.as_fd()).unwrap();
        let pumping = tokio::spawn(async move { pump_until(&hangup, Box::new(carried), socket).await });
        tunnel.write_all(b"it is under way").await.unwrap();
        server.read_exact(&mut [0; 15]).await.unwrap();
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let of_this =
            all.filter(|entry| link(&entry.as_ref().unwrap().file_name().to_string_lossy()) == Some(this.clone()));
        assert_eq!(of_this.count(), 3);
        pumping.abort();
    }

    /// Takes nothing, and has an answer all the same.
    struct Deaf(&'static [u8]);

    impl AsyncRead for Deaf {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_takes_no_more_still_answers() {
        let (mut server, socket) = UnixStream::pair().unwrap();
        server.write_all(b"question").await.unwrap();
        let pump = tokio::spawn(pump(Box::new(Deaf(b"answer")), socket));
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        drop(server);
        pump.await.unwrap();
    }
}
