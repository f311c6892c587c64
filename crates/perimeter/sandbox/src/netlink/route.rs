//! The sandbox's only link and its only routes: loopback up, and every address in the world local to it, so that each connection stays inside
//! until the redirect takes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CREATE, Messages};

/// `lo` is the first link of every network namespace.
const LOOPBACK: u32 = 1;
const NEW_LINK: u16 = 16;
const NEW_ROUTE: u16 = 24;
const UP: u32 = 1;

/// Brings loopback up.
pub(crate) fn loopback_up() -> Messages {
    // struct ifinfomsg: family, padding, type, index, flags, mask of flags
    let mut link = vec![0; 4];
    for number in [LOOPBACK, UP, UP] {
        link.extend_from_slice(&number.to_ne_bytes());
    }
    let mut messages = Messages::default();
    messages.add(NEW_LINK, 0, &link, |_| {});
    messages
}

/// `local default dev lo` in the local table, preferring the loopback address as source.
pub(crate) fn everything_is_local(family: IpAddr) -> Messages {
    const TABLE_LOCAL: u8 = 255;
    const PROTOCOL_STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    const OUTPUT_LINK: u16 = 4;
    const PREFERRED_SOURCE: u16 = 7;
    let (family, source) = match family {
        IpAddr::V4(_) => (libc::AF_INET, Ipv4Addr::LOCALHOST.octets().to_vec()),
        IpAddr::V6(_) => (libc::AF_INET6, Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    let family = u8::try_from(family).expect("address families of the internet are small numbers");
    // struct rtmsg: family, destination length, source length, tos, table, protocol, scope, type, flags
    let route = [family, 0, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    let mut messages = Messages::default();
    messages.add(NEW_ROUTE, CREATE, &route, |attributes| {
        attributes.bytes(OUTPUT_LINK, &LOOPBACK.to_ne_bytes()).bytes(PREFERRED_SOURCE, &source);
    });
    messages
}
