//! Netlink by hand: messages, attributes, and a socket that waits for every acknowledgement. The few messages that a sandbox's network needs do
//! not justify a library, and no external program is run.

pub(crate) mod filter;
pub(crate) mod log;
pub(crate) mod route;

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// Create what is not there, and fail when it is.
pub(crate) const CREATE: u16 = 0x400 | 0x200;
/// Create and append: rules keep their order.
pub(crate) const APPEND: u16 = 0x400 | 0x800;

const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// A sequence of messages, sent as one datagram.
#[derive(Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// How many ask for an acknowledgement.
    acknowledged: u32,
    sequence: u32,
}

impl Messages {
    /// Adds a message that the kernel acknowledges: its type, flags, fixed part, and what `fill` adds.
    pub(crate) fn add(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.acknowledged += 1;
        self.push(kind, flags | ACKNOWLEDGE, fixed, fill);
    }

    /// Adds a message that the kernel does not answer.
    pub(crate) fn add_silent(&mut self, kind: u16, fixed: &[u8]) {
        self.push(kind, 0, fixed, |_| {});
    }

    fn push(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.sequence += 1;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).expect("a message of ours has some hundred bytes");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The attributes of one message or of one nest.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Plain bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute of ours has some dozen bytes");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
        self
    }

    /// A number in network order, as netfilter wants it.
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A null-terminated text.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Attributes within an attribute.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).expect("a nest of ours has some hundred bytes");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A netlink socket of this thread's network namespace.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one; `None` is the routing protocol.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends the messages and waits until the kernel acknowledged each. The first refusal is the error.
    pub(crate) fn perform(&self, messages: &Messages) -> Result<(), Errno> {
        rustix::net::sendto(&self.0, &messages.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut left = messages.acknowledged;
        // An acknowledgement repeats the message, of which ours are short; it comes alone.
        let mut buffer = [0; 1 << 13];
        while left > 0 {
            let (received, _) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
            for (kind, body) in split(&buffer[..received]) {
                if kind == ERROR {
                    acknowledgement(body)?;
                    left = left.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// The socket itself.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An acknowledgement is an error message whose number is zero.
fn acknowledgement(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(negative) => Err(Errno::from_raw_os_error(negative.saturating_neg())),
        None => Err(Errno::BADMSG),
    }
}

/// The messages of a datagram: type and body. Stops at the first that does not fit.
pub(crate) fn split(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().expect("four bytes of sixteen")) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in a message's body behind its fixed part: type without flags, and value. Stops at the first that does not fit.
pub(crate) fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !(NESTED | 0x4000);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut messages = Messages::default();
        messages.add(7, CREATE, &[1, 2, 3, 4], |attributes| {
            attributes.text(1, "ab").nest(2, |inner| {
                inner.number(3, 0x0102_0304);
            });
        });
        let (kind, body) = split(&messages.bytes).next().expect("one message");
        assert_eq!((kind, &body[..4]), (7, &[1, 2, 3, 4][..]));
        let read: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(read[0], (1, &b"ab\0"[..]));
        assert_eq!(attributes(read[1].1).next(), Some((3, &[1, 2, 3, 4][..])));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for datagram in [&[0_u8; 16][..], &[255; 20][..], &[17, 0, 0, 0][..]] {
            assert_eq!(split(datagram).count(), 0);
        }
        for body in [&[0_u8; 4][..], &[255; 8][..], &[3, 0, 1, 0][..]] {
            assert_eq!(attributes(body).count(), 0);
        }
    }
}
