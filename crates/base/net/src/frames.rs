//! JSON messages over a byte stream that is neither trusted nor ours: each after its length as a little-endian `u32`.
//! Bounds length, silence and stalls. It knows no message.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Why a stream of frames ended early.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame of more bytes than are taken.
    #[error("a frame of {announced} bytes was announced, at most {limit} are taken")]
    TooLarge {
        /// As the peer said.
        announced: usize,
        /// What is taken now.
        limit: usize,
    },
    /// A frame that is not the message that was expected.
    #[error("a frame does not read")]
    Misread(#[source] serde_json::Error),
    /// Nothing came for so long.
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    /// The peer does not take what is sent.
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Torn,
    /// The connection broke.
    #[error("carry frames")]
    Io(#[from] io::Error),
}

/// Reads frames.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    limit: usize,
    silence: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames of at most `limit` bytes from a peer that sends something at least every `silence`.
    pub fn new(stream: R, limit: usize, silence: Duration) -> Self {
        Self { stream, buffer: BytesMut::new(), limit, silence }
    }

    /// Takes frames of another size from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next message; `None` when the peer closed the stream between two frames. Cancel-safe.
    ///
    /// # Errors
    /// [`FrameError`]; nothing can be read after one.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(length) = self.complete()? {
                self.buffer.advance(HEADER);
                let frame = self.buffer.split_to(length);
                return serde_json::from_slice(&frame).map(Some).map_err(FrameError::Misread);
            }
            // Grown by what came, not by what was announced: an announcement alone costs no memory.
            self.buffer.reserve(READ_BYTES);
            let read = timeout(self.silence, self.stream.read_buf(&mut self.buffer)).await;
            match read.map_err(|_| FrameError::Silent(self.silence))?? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(FrameError::Torn),
                _ => {}
            }
        }
    }

    /// The length of the first frame, once all of it is there.
    fn complete(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let announced = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if announced > self.limit {
            return Err(FrameError::TooLarge { announced, limit: self.limit });
        }
        Ok((self.buffer.len() >= HEADER + announced).then_some(announced))
    }
}

/// Writes frames.
pub struct FrameWriter<W> {
    stream: W,
    limit: usize,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Frames of at most `limit` bytes to a peer that takes something at least every `stall`.
    pub fn new(stream: W, limit: usize, stall: Duration) -> Self {
        Self { stream, limit, stall }
    }

    /// Sends one message. Cancelled in the middle, nothing more may be sent.
    ///
    /// # Errors
    /// [`FrameError`]; after [`FrameError::TooLarge`] nothing was sent and other messages may be.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let mut frame = vec![0; HEADER];
        serde_json::to_writer(&mut frame, message).map_err(FrameError::Misread)?;
        let announced = frame.len() - HEADER;
        let too_large = FrameError::TooLarge { announced, limit: self.limit };
        if announced > self.limit {
            return Err(too_large);
        }
        let length = u32::try_from(announced).map_err(|_| too_large)?;
        frame[..HEADER].copy_from_slice(&length.to_le_bytes());
        let mut left = &frame[..];
        while !left.is_empty() {
            let wrote = timeout(self.stall, self.stream.write(left)).await;
            match wrote.map_err(|_| FrameError::Stalled(self.stall))?? {
                0 => return Err(FrameError::Io(io::ErrorKind::WriteZero.into())),
                wrote => left = &left[wrote..],
            }
        }
        timeout(self.stall, self.stream.flush()).await.map_err(|_| FrameError::Stalled(self.stall))??;
        Ok(())
    }

    /// Says that nothing follows.
    pub async fn close(&mut self) {
        // A peer that is gone has its end.
        let _ended = timeout(self.stall, self.stream.shutdown()).await;
    }
}

const HEADER: usize = 4;
const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent_however_they_are_cut() {
        let (ours, theirs) = duplex(7);
        let sending = tokio::spawn(async move {
            let mut writer = FrameWriter::new(theirs, 1 << 20, PATIENCE);
            for message in ["", "a", &"b".repeat(100_000)] {
                writer.send(&message).await.unwrap();
            }
            writer.close().await;
        });
        let mut reader = FrameReader::new(ours, 1 << 20, PATIENCE);
        let mut lengths = Vec::new();
        while let Some(message) = reader.next::<String>().await.unwrap() {
            lengths.push(message.len());
        }
        sending.await.unwrap();
        assert_eq!(lengths, [0, 1, 100_000]);
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_limit_is_refused_at_its_announcement() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let mut reader = FrameReader::new(ours, 100, PATIENCE);
        assert!(matches!(reader.next::<String>().await, Err(FrameError::TooLarge { limit: 100, .. })));
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES, "nothing was made ready for it");
    }

    #[tokio::test]
    async fn what_is_too_large_to_send_is_not_begun() {
        let (ours, theirs) = duplex(1 << 10);
        let mut writer = FrameWriter::new(theirs, 10, PATIENCE);
        assert!(matches!(writer.send(&"x".repeat(11)).await, Err(FrameError::TooLarge { .. })));
        writer.send(&"short").await.unwrap();
        drop(writer);
        let mut reader = FrameReader::new(ours, 10, PATIENCE);
        assert_eq!(reader.next::<String>().await.unwrap().as_deref(), Some("short"));
    }

    #[tokio::test]
    async fn garbage_and_torn_frames_are_errors_and_not_ends() {
        for (bytes, torn) in [(&b"\x02\0\0\0{]"[..], false), (b"\x09\0\0\0\"abc", true), (b"\x09", true)] {
            let (ours, mut theirs) = duplex(64);
            theirs.write_all(bytes).await.unwrap();
            drop(theirs);
            let mut reader = FrameReader::new(ours, 100, PATIENCE);
            match reader.next::<String>().await {
                Err(FrameError::Torn) => assert!(torn, "{bytes:?}"),
                Err(FrameError::Misread(_)) => assert!(!torn, "{bytes:?}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_or_takes_nothing_is_given_up() {
        let (ours, _theirs) = duplex(8);
        let (read, write) = tokio::io::split(ours);
        let mut reader = FrameReader::new(read, 100, Duration::from_millis(20));
        assert!(matches!(reader.next::<String>().await, Err(FrameError::Silent(_))));
        let mut writer = FrameWriter::new(write, 100, Duration::from_millis(20));
        assert!(matches!(writer.send(&"longer than the pipe").await, Err(FrameError::Stalled(_))));
    }
}
