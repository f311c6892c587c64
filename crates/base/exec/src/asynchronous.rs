//! The same frames over tokio: a channel that splits into a sender and a receiver.
//! Receiving may be cancelled at any await without losing a byte; a send that is cancelled in the middle of a frame breaks the sender, which then says so.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::Shutdown;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::frame::{self, Assembler, ChannelError, Frame};
use crate::intake::Intake;
use crate::socket;

/// One connected Unix stream socket that carries frames, on a tokio runtime.
pub struct Channel {
    sender: Sender,
    receiver: Receiver,
}

impl Channel {
    /// Takes a connected stream socket and makes it non-blocking; call it inside a runtime.
    ///
    /// # Errors
    /// The system's, when the socket cannot be registered.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UnixStream::from_std(socket)?);
        Ok(Self {
            sender: Sender { socket: Arc::clone(&socket), broken: false, handed_on: false },
            receiver: Receiver { socket, assembler: Assembler::default() },
        })
    }

    /// A channel and the other end of it (blocking), to be handed to a peer.
    ///
    /// # Errors
    /// The system's, when no socket pair can be made.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socket::pair()?;
        Ok((Self::new(ours)?, theirs))
    }

    /// The two directions apart, each to be owned by one task.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// The socket again, still connected, to be handed to another process; what was received of the next frame must be nothing.
    ///
    /// # Errors
    /// `InvalidData` when the peer began a frame that was not asked for; the system's.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        let Self { mut sender, receiver: Receiver { socket, assembler } } = self;
        if assembler.end().is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        sender.handed_on = true;
        drop(sender);
        let socket = Arc::into_inner(socket).ok_or_else(|| io::Error::other("the other half is still in use"))?;
        Ok(socket.into_std()?.into())
    }

    /// Sends one message: see [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn send<T: Serialize + ?Sized>(
        &mut self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.sender.send(message, descriptors).await
    }

    /// Waits for one message: see [`Receiver::receive`].
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub async fn receive<T: DeserializeOwned>(
        &mut self,
        limit: usize,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        self.receiver.receive(limit).await
    }
}

/// The sending direction. Dropping it tells the peer that no more comes.
pub struct Sender {
    socket: Arc<UnixStream>,
    broken: bool,
    handed_on: bool,
}

impl Sender {
    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// [`ChannelError`]; [`ChannelError::Broken`] after a send that failed or was cancelled half-way.
    pub async fn send<T: Serialize + ?Sized>(
        &mut self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = frame::encode(message, descriptors.len())?;
        self.send_encoded(&bytes, descriptors).await
    }

    async fn send_encoded(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        if self.broken {
            return Err(ChannelError::Broken);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            self.socket.writable().await?;
            let with = if sent == 0 { descriptors } else { &[] };
            match self.push(&bytes[sent..], with)? {
                Pushed::Full => {}
                Pushed::Bytes(count) => {
                    sent += count;
                    self.broken = sent < bytes.len();
                }
            }
        }
        Ok(())
    }

    /// Sends what the socket takes now of a frame, and the descriptors with the first of it. The caller sends the rest before anything else.
    pub(crate) fn push(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Pushed> {
        self.try_send(|| socket::send_some(self.socket.as_fd(), bytes, descriptors))
    }

    /// The same with many frames at once, without descriptors.
    pub(crate) fn push_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<Pushed> {
        self.try_send(|| socket::send_pieces(self.socket.as_fd(), pieces))
    }

    fn try_send(&self, send: impl FnOnce() -> io::Result<usize>) -> io::Result<Pushed> {
        match self.socket.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Pushed::Full),
            count => Ok(Pushed::Bytes(count?)),
        }
    }

    /// Waits until the socket takes more.
    pub(crate) fn writable(&self) -> impl Future<Output = Result<(), ChannelError>> + Send + use<> {
        let socket = Arc::clone(&self.socket);
        async move { Ok(socket.writable().await?) }
    }
}

/// What became of bytes to be sent.
pub(crate) enum Pushed {
    /// None of them went: the socket takes no more for now.
    Full,
    /// This many went.
    Bytes(usize),
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.handed_on {
            return;
        }
        // The receiver may live on with its own handle to the socket: the peer must still learn that this direction ended. A socket already gone is fine.
        let _gone = rustix::net::shutdown(&*self.socket, Shutdown::Write);
    }
}

/// The receiving direction.
pub struct Receiver {
    socket: Arc<UnixStream>,
    assembler: Assembler,
}

impl Receiver {
    /// Waits for one message of at most `limit` bytes; `None` when the peer closed between messages. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is of no use afterwards.
    pub async fn receive<T: DeserializeOwned>(
        &mut self,
        limit: usize,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        match self.receive_frame(limit).await? {
            None => Ok(None),
            Some(frame) => Ok(Some((frame.read()?, frame.descriptors))),
        }
    }

    /// Waits for one frame, unread: for messages that borrow, or whose reading may fail without ending the connection. Cancel-safe.
    ///
    /// # Errors
    /// As [`Receiver::receive`], but never [`ChannelError::Garbled`].
    pub async fn receive_frame(&mut self, limit: usize) -> Result<Option<Frame>, ChannelError> {
        loop {
            self.socket.readable().await?;
            let (socket, assembler) = (&self.socket, &mut self.assembler);
            let received = socket.try_io(Interest::READABLE, || {
                if assembler.at_header() {
                    socket::receive_with_descriptors(socket.as_fd(), assembler.space())
                } else {
                    Ok((socket::receive_plain(socket.as_fd(), assembler.space())?, Vec::new()))
                }
            });
            let (count, descriptors) = match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                received => received?,
            };
            if count == 0 {
                return self.assembler.end().map(|()| None);
            }
            if let Some(frame) = self.assembler.advance(count, descriptors, limit)? {
                return Ok(Some(frame));
            }
        }
    }
}

impl Receiver {
    /// For a connection that is read from here on to its end.
    pub(crate) fn into_frames(self) -> Frames {
        Frames { socket: self.socket, intake: self.assembler.into() }
    }
}

/// The receiving direction of a connection that carries many small messages, read by whoever began to, to the end.
pub(crate) struct Frames {
    socket: Arc<UnixStream>,
    intake: Intake,
}

impl Frames {
    /// Waits for one frame; `None` when the peer closed between frames. Cancel-safe.
    ///
    /// # Errors
    /// As [`Receiver::receive_frame`].
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Option<Frame>, ChannelError> {
        loop {
            if let Some(frame) = self.here(limit)? {
                return Ok(Some(frame));
            }
            self.socket.readable().await?;
            if self.read()? == Some(0) {
                return self.intake.end().map(|()| None);
            }
        }
    }

    /// A frame that was read already.
    ///
    /// # Errors
    /// As [`Receiver::receive_frame`].
    pub(crate) fn here(&mut self, limit: usize) -> Result<Option<Frame>, ChannelError> {
        self.intake.take(limit)
    }

    /// How many bytes came, if the socket had any or ended.
    fn read(&mut self) -> Result<Option<usize>, ChannelError> {
        let (socket, space) = (&self.socket, self.intake.space());
        let (room, mut received) = (space.len(), None);
        let tried = socket.try_io(Interest::READABLE, || {
            let (count, descriptors) = socket::receive_with_descriptors(socket.as_fd(), space)?;
            // Less than there was room for is all there was, unless descriptors ended the read: the next one waits for more.
            let emptied = 0 < count && count < room && descriptors.is_empty();
            received = Some((count, descriptors));
            if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (received, tried) {
            (Some((count, descriptors)), _) => self.intake.advance(count, descriptors).map(|()| Some(count)),
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
