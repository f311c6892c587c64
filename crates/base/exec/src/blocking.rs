//! A channel for processes and threads without a runtime: the spawner, the tool server, the first message of a role.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, de::DeserializeOwned};

use crate::frame::{self, Assembler, ChannelError};
use crate::socket;

/// One connected Unix stream socket that carries frames; blocking. Any thread may send, any thread may receive; each direction is taken in turns.
pub struct Channel {
    socket: OwnedFd,
    sending: Mutex<Health>,
    receiving: Mutex<Assembler>,
}

#[derive(Clone, Copy, PartialEq)]
enum Health {
    Whole,
    Broken,
}

impl Channel {
    /// Takes a connected stream socket, which must be in blocking mode.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, sending: Mutex::new(Health::Whole), receiving: Mutex::default() }
    }

    /// Takes this process's descriptor 0 as the channel and leaves `/dev/null` in its place, so that no later child inherits it.
    ///
    /// # Errors
    /// The system's, when a descriptor cannot be duplicated or `/dev/null` not opened.
    pub fn stdin() -> io::Result<Self> {
        Ok(Self::new(take_stdin()?))
    }

    /// A channel and the other end of it, to be handed to a peer.
    ///
    /// # Errors
    /// The system's, when no socket pair can be made.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socket::pair()?;
        Ok((Self::new(ours), theirs))
    }

    /// Sends one message with descriptors; blocks until the socket took it whole.
    ///
    /// # Errors
    /// [`ChannelError`]; after anything but `Serialize`, `TooLong` and `TooManyDescriptors` nothing more can be sent.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = frame::encode(message, descriptors.len())?;
        let mut health = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if *health == Health::Broken {
            return Err(ChannelError::Broken);
        }
        *health = Health::Broken;
        let mut sent = socket::send_some(self.socket.as_fd(), &bytes, descriptors)?;
        while sent < bytes.len() {
            sent += socket::send_some(self.socket.as_fd(), &bytes[sent..], &[])?;
        }
        *health = Health::Whole;
        Ok(())
    }

    /// Waits for one message of at most `limit` bytes; `None` when the peer closed between messages.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is of no use afterwards.
    pub fn receive<T: DeserializeOwned>(&self, limit: usize) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let mut assembler = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (count, descriptors) = if assembler.at_header() {
                socket::receive_with_descriptors(self.socket.as_fd(), assembler.space())?
            } else {
                (socket::receive_plain(self.socket.as_fd(), assembler.space())?, Vec::new())
            };
            if count == 0 {
                return assembler.end().map(|()| None);
            }
            if let Some(frame) = assembler.advance(count, descriptors, limit)? {
                return Ok(Some((frame.read()?, frame.descriptors)));
            }
        }
    }

    /// Gives the socket back.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
