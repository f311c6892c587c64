//! What the sandbox's network refused, as its kernel log tells it: UDP, ICMP and everything else that is neither redirected TCP nor a question of names.
//! Pure: bytes from the netlink socket come in, packets come out. The bytes of a packet are the agent's.

use std::net::IpAddr;

/// One refused packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it was.
    pub protocol: Protocol,
    /// Where it came from.
    pub source: IpAddr,
    /// Where it was going.
    pub destination: IpAddr,
    /// The port it was going to, where the protocol has ports.
    pub port: Option<u16>,
}

/// The protocol of a refused packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP, QUIC included.
    Udp,
    /// TCP that was not redirected.
    Tcp,
    /// ICMP of either family.
    Icmp,
    /// SCTP.
    Sctp,
    /// Another, by its number.
    Other(u8),
}
