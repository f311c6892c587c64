//! What the sandbox's network refused, as its kernel log tells it: UDP, ICMP and everything else that is neither redirected TCP nor a question of names.
//! Pure: bytes from the netlink socket come in, packets come out. The bytes of a packet are the agent's.

use std::net::IpAddr;

use crate::netlink::{self, log};

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

/// The packets in one datagram of the log socket (`Network::refused_udp`). What cannot be read is left out.
pub fn parse(datagram: &[u8]) -> Vec<Refused> {
    netlink::split(datagram).filter(|(kind, _)| *kind == log::PACKET).filter_map(|(_, body)| packet(body)).collect()
}

fn packet(body: &[u8]) -> Option<Refused> {
    let (_, bytes) = netlink::attributes(body.get(4..)?).find(|(kind, _)| *kind == log::PAYLOAD)?;
    match bytes.first()? >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<Refused> {
    let source: [u8; 4] = bytes.get(12..16)?.try_into().ok()?;
    let destination: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
    let transport = bytes.get(usize::from(bytes[0] & 0x0f) * 4..).unwrap_or_default();
    Some(refused(bytes[9], source.into(), destination.into(), transport))
}

fn ipv6(bytes: &[u8]) -> Option<Refused> {
    let source: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    let destination: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
    Some(refused(bytes[6], source.into(), destination.into(), bytes.get(40..).unwrap_or_default()))
}

fn refused(number: u8, source: IpAddr, destination: IpAddr, transport: &[u8]) -> Refused {
    let protocol = match number {
        1 | 58 => Protocol::Icmp,
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        other => Protocol::Other(other),
    };
    let has_ports = matches!(protocol, Protocol::Udp | Protocol::Tcp | Protocol::Sctp);
    let port = transport.get(2..4).filter(|_| has_ports).map(|port| u16::from_be_bytes([port[0], port[1]]));
    Refused { protocol, source, destination, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(packet: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 1];
        body.extend_from_slice(&u16::try_from(packet.len() + 4).expect("short").to_ne_bytes());
        body.extend_from_slice(&log::PAYLOAD.to_ne_bytes());
        body.extend_from_slice(packet);
        let mut datagram = u32::try_from(body.len() + 16).expect("short").to_ne_bytes().to_vec();
        datagram.extend_from_slice(&log::PACKET.to_ne_bytes());
        datagram.extend_from_slice(&[0; 10]);
        datagram.extend_from_slice(&body);
        datagram
    }

    fn udp_packet() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 203, 0, 113, 5];
        packet.extend_from_slice(&[0x30, 0x39, 0x01, 0xbb, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn a_refused_packet_tells_where_it_was_going() {
        let read = parse(&datagram(&udp_packet()));
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].protocol, Protocol::Udp);
        assert_eq!(read[0].destination, IpAddr::from([203, 0, 113, 5]));
        assert_eq!(read[0].port, Some(443));
    }

    #[test]
    fn a_packet_cut_anywhere_never_panics() {
        let whole = udp_packet();
        for length in 0..whole.len() {
            let read = parse(&datagram(&whole[..length]));
            assert_eq!(read.len(), usize::from(length >= 20), "cut at {length}");
        }
        let whole = datagram(&whole);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_empty(), "cut at {length}");
        }
    }
}
