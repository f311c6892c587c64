//! Reads the kernel's reports of refused UDP: netlink messages of nfnetlink_log, each with the head of one packet.
//! The bytes come from the kernel, the packet in them from the sandbox; both are read with bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// nlmsghdr: length, type, flags, sequence, port.
const NETLINK_HEADER: usize = 16;
/// nfgenmsg: family, version, resource id.
const FAMILY_HEADER: usize = 4;
/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET`.
const PACKET: u16 = 4 << 8;
/// `NFULA_PAYLOAD`, the packet from its network header.
const PAYLOAD: u16 = 9;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// Where the datagrams of one netlink read were going, in order.
#[must_use]
pub(crate) fn destinations(mut netlink: &[u8]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    while let Some((message, rest)) = split_message(netlink) {
        found.extend(destination(message));
        netlink = rest;
    }
    found
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length < NETLINK_HEADER {
        return None;
    }
    let message = bytes.get(..length)?;
    Some((message, bytes.get(aligned(length)..).unwrap_or_default()))
}

fn destination(message: &[u8]) -> Option<SocketAddr> {
    if u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?) != PACKET {
        return None;
    }
    let mut attributes = message.get(NETLINK_HEADER + FAMILY_HEADER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        // The two highest bits are flags.
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = attributes.get(4..length)?;
        if kind == PAYLOAD {
            return packet_destination(value);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn packet_destination(packet: &[u8]) -> Option<SocketAddr> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (packet.get(9) == Some(&UDP)).then_some(())?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port(packet, header)?))
        }
        6 => {
            let address: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            // Behind extension headers the port is not looked for: the refusal is recorded with port 0.
            let port = if packet.get(6) == Some(&UDP) { port(packet, 40)? } else { 0 };
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)), port))
        }
        _ => None,
    }
}

fn port(packet: &[u8], header: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(header + 2..header + 4)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A report of one refused IPv4 datagram, as the kernel writes it.
#[cfg(test)]
pub(crate) fn sample(destination: &str, port: u16) -> Vec<u8> {
    tests::message(&tests::v4_packet(destination.parse().expect("an IPv4 address"), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn v4_packet(destination: Ipv4Addr, port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1];
        packet.extend(destination.octets());
        packet.extend([0x12, 0x34]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        packet
    }

    fn v6_packet(port: u16) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0x12, 0x34]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    pub(super) fn message(packet: &[u8]) -> Vec<u8> {
        let mut attributes = Vec::new();
        for (kind, value) in [(1_u16, &[0_u8, 0, 1, 0][..]), (10, b"prefix\0"), (PAYLOAD, packet)] {
            attributes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            attributes.extend(kind.to_ne_bytes());
            attributes.extend(value);
            attributes.resize(aligned(attributes.len()), 0);
        }
        let length = NETLINK_HEADER + FAMILY_HEADER + attributes.len();
        let mut message = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        message.extend(PACKET.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([2, 0, 0, 0]);
        message.extend(attributes);
        message
    }

    #[test]
    fn every_packet_of_a_read_is_found_in_both_families() {
        let mut netlink = message(&v4_packet(Ipv4Addr::new(203, 0, 113, 9), 443));
        netlink.extend(message(&v6_packet(53)));
        let expected: Vec<SocketAddr> = vec!["203.0.113.9:443".parse().unwrap(), "[2001:db8::9]:53".parse().unwrap()];
        assert_eq!(destinations(&netlink), expected);
    }

    #[test]
    fn a_cut_message_yields_nothing_and_does_not_panic() {
        let whole = message(&v4_packet(Ipv4Addr::new(203, 0, 113, 9), 443));
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            assert!(destinations(&cut).is_empty(), "{length}");
            if cut.len() >= 4 {
                let claimed = u32::try_from(cut.len()).unwrap();
                cut[..4].copy_from_slice(&claimed.to_ne_bytes());
                let _ = destinations(&cut);
            }
        }
    }
}
