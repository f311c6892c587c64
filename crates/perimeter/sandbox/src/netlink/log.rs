//! The netfilter log: a netlink socket that receives the headers of refused packets. It is set up with the namespace's capabilities and read without any.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::{Messages, Socket};
use crate::sandbox::REFUSED_GROUP;

const CONFIGURE: u16 = (4 << 8) | 1;
/// The message that carries a packet.
pub(crate) const PACKET: u16 = 4 << 8;
/// The attribute with the packet from its network header on.
pub(crate) const PAYLOAD: u16 = 9;

/// Headers are enough: what a refused packet says is nobody's business.
const COPIED_BYTES: u32 = 64;

/// Binds a socket to the group of refused packets and makes it non-blocking.
pub(crate) fn open() -> Result<OwnedFd, Errno> {
    const COMMAND: u16 = 1;
    const MODE: u16 = 2;
    const THRESHOLD: u16 = 5;
    const BIND: u8 = 1;
    const COPY_PACKET: u8 = 2;
    let socket = Socket::open(Some(rustix::net::netlink::NETFILTER))?;
    let group = REFUSED_GROUP.to_be_bytes();
    let header = [0, 0, group[0], group[1]];
    let mut mode = COPIED_BYTES.to_be_bytes().to_vec();
    mode.extend_from_slice(&[COPY_PACKET, 0]);
    let mut bind = Messages::default();
    bind.add(CONFIGURE, 0, &header, |attributes| {
        attributes.bytes(COMMAND, &[BIND]);
    });
    socket.perform(&bind)?;
    let mut configure = Messages::default();
    configure.add(CONFIGURE, 0, &header, |attributes| {
        attributes.bytes(MODE, &mode).number(THRESHOLD, 1);
    });
    socket.perform(&configure)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket.into_descriptor())
}
