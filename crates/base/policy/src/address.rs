//! What kind of place an address is: public, or special for a stated reason. The ranges are data
//! (`data/addresses.txt`); an IPv6 address is also judged by the IPv4 address it leads to.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// The kind of place an address is, in rising order of what may hide there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressClass {
    /// The public internet.
    Public,
    /// Private networks, carrier NAT, unique local.
    Private,
    /// This very link.
    LinkLocal,
    /// This very machine.
    Loopback,
    /// Nothing to connect to: unspecified, multicast, reserved, documentation, benchmarking.
    Special,
    /// A cloud's metadata service.
    Metadata,
}

/// A range of the data file.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The addresses.
    pub net: IpNet,
    /// Their class.
    pub class: AddressClass,
    /// Why it is listed.
    pub reason: &'static str,
}

/// Every listed range, the longest prefixes first.
pub static RANGES: LazyLock<Vec<Range>> = LazyLock::new(|| {
    let mut ranges: Vec<Range> = crate::data::lines(include_str!("../data/addresses.txt"))
        .map(|line| parse(line).expect("the shipped file is read whole by a test"))
        .collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.net.prefix_len()));
    ranges
});

fn parse(line: &'static str) -> Option<Range> {
    let ([net, class], reason) = crate::data::columns(line)?;
    let class = match class {
        "private" => AddressClass::Private,
        "loopback" => AddressClass::Loopback,
        "link_local" => AddressClass::LinkLocal,
        "metadata" => AddressClass::Metadata,
        "special" => AddressClass::Special,
        _ => return None,
    };
    Some(Range { net: net.parse().ok()?, class, reason })
}

/// The class of an address; where an IPv6 address leads to an IPv4 one, the stricter class of the two.
#[must_use]
pub fn classify(address: IpAddr) -> AddressClass {
    let address = address.to_canonical();
    let own = listed(address);
    match address {
        IpAddr::V4(_) => own,
        IpAddr::V6(v6) => embedded(v6).map_or(own, |v4| own.max(listed(IpAddr::V4(v4)))),
    }
}

fn listed(address: IpAddr) -> AddressClass {
    RANGES.iter().find(|range| range.net.contains(&address)).map_or(AddressClass::Public, |range| range.class)
}

/// The one class of a network: of the smallest listed range that holds it whole, or public where it touches none.
/// `None` where it reaches across classes, so that naming it would name more than its writer may think of.
#[must_use]
pub fn class_of_net(net: &IpNet) -> Option<AddressClass> {
    let holder = RANGES.iter().find(|range| range.net.contains(net));
    match holder {
        Some(range) => Some(range.class),
        None => RANGES.iter().all(|range| !net.contains(&range.net)).then_some(AddressClass::Public),
    }
}

/// The IPv4 address that an IPv6 address leads to by translation or tunnelling.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        // IPv4-compatible, mapped into translation (RFC 2765) and NAT64 (RFC 6052, RFC 8215 with a /96 inside).
        [0, 0, 0, 0, 0, 0, high @ 1..=0xffff, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(pair(high, low)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(pair(high, low)),
        // Teredo (RFC 4380) holds the client's address inverted.
        [0x2001, 0, _, _, _, _, high, low] => Some(pair(!high, !low)),
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::AddressClass::{LinkLocal, Loopback, Metadata, Private, Public, Special};
    use super::*;

    #[test]
    fn addresses_have_the_class_of_where_they_lead() {
        let table = [
            ("93.184.216.34", Public),
            ("8.8.8.8", Public),
            ("172.15.255.255", Public),
            ("172.32.0.0", Public),
            ("10.255.255.255", Private),
            ("172.16.0.1", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("0.0.0.0", Special),
            ("0.1.2.3", Special),
            ("169.254.1.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("168.63.129.16", Metadata),
            ("100.100.100.200", Metadata),
            ("224.0.0.1", Special),
            ("255.255.255.255", Special),
            ("198.18.0.1", Special),
            ("2606:2800:220:1::1", Public),
            ("::1", Loopback),
            ("::", Special),
            ("fe80::1", LinkLocal),
            ("fc00::1", Private),
            ("fd12:3456::1", Private),
            ("fd00:ec2::254", Metadata),
            ("ff02::1", Special),
            ("::ffff:10.0.0.1", Private),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", Metadata),
            ("::ffff:8.8.8.8", Public),
            ("::ffff:0:10.0.0.1", Private),
            ("::127.0.0.1", Special),
            ("64:ff9b::8.8.8.8", Public),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Metadata),
            ("64:ff9b:1::127.0.0.1", Loopback),
            ("2002:0a00:0001::1", Special),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2001:0:4136:e378:8000:63bf:5601:5601", Metadata),
            ("2606:2800:220:1:0:5efe:10.0.0.1", Private),
        ];
        for (text, class) in table {
            assert_eq!(classify(text.parse().unwrap()), class, "{text}");
        }
    }

    #[test]
    fn every_entry_decides_for_some_address() {
        for range in RANGES.iter() {
            let alive = [range.net.network(), range.net.broadcast()].into_iter().any(|address| {
                RANGES.iter().find(|other| other.net.contains(&address)).is_some_and(|first| first.net == range.net)
            });
            assert!(alive, "{} is shadowed by longer ranges", range.net);
            assert_eq!(
                RANGES.iter().filter(|other| other.net == range.net).count(),
                1,
                "{} is listed twice",
                range.net
            );
            assert!(range.reason.len() > 10, "{} has no reason", range.net);
            let around = RANGES.iter().find(|other| other.net != range.net && other.net.contains(&range.net));
            assert!(
                around.is_none_or(|around| around.class != range.class || around.reason != range.reason),
                "{} says nothing new",
                range.net
            );
        }
    }

    #[test]
    fn a_network_has_a_class_only_where_all_of_it_has() {
        let table = [
            ("10.3.0.0/24", Some(Private)),
            ("127.0.0.1/32", Some(Loopback)),
            ("169.254.169.254/32", Some(Metadata)),
            ("169.254.0.0/16", Some(LinkLocal)),
            ("93.184.216.0/24", Some(Public)),
            ("0.0.0.0/0", None),
            ("8.0.0.0/6", None),
            ("::/0", None),
            ("fd00::/8", Some(Private)),
        ];
        for (text, class) in table {
            assert_eq!(class_of_net(&text.parse().unwrap()), class, "{text}");
        }
    }
}
