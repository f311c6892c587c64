//! The steps that make the only exit: loopback, routes, packet rules, and the sockets that are answered outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Ahead, Doing, Failure};
use crate::danger::port;
use crate::netlink::filter::Logging;
use crate::netlink::{Socket, filter, log, route};
use crate::sandbox::{DNS_PORT, PROXY_PORT, REDIRECT_PORT};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Step: `lo` up.
pub(super) fn loopback(_ahead: &mut Ahead) -> Result<(), Failure> {
    let socket = routing()?;
    socket.perform(&route::loopback_up()).doing(|| "set lo up".into())
}

/// Step: every address of both families is local.
pub(super) fn routes(_ahead: &mut Ahead) -> Result<(), Failure> {
    let socket = routing()?;
    [V4, V6].into_iter().try_for_each(|family| {
        socket
            .perform(&route::everything_is_local(family))
            .doing(|| format!("add the local route with source {family}"))
    })
}

fn routing() -> Result<Socket, Failure> {
    Socket::open(None).doing(|| "open a routing socket".into())
}

/// Step: the sockets, in the order of `Network`.
pub(super) fn sockets(ahead: &mut Ahead) -> Result<(), Failure> {
    ahead.sockets = vec![
        listen(V4, port(REDIRECT_PORT))?,
        listen(V6, port(REDIRECT_PORT))?,
        datagrams(V4, port(DNS_PORT))?,
        datagrams(V6, port(DNS_PORT))?,
        listen(V4, port(DNS_PORT))?,
        listen(V6, port(DNS_PORT))?,
        listen(V4, port(PROXY_PORT))?,
    ];
    Ok(())
}

fn listen(address: IpAddr, port: u16) -> Result<OwnedFd, Failure> {
    let doing = || format!("listen on {address} port {port}");
    let listener = TcpListener::bind(SocketAddr::new(address, port)).doing(doing)?;
    listener.set_nonblocking(true).doing(doing)?;
    Ok(listener.into())
}

fn datagrams(address: IpAddr, port: u16) -> Result<OwnedFd, Failure> {
    let doing = || format!("take datagrams on {address} port {port}");
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket =
        rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
            .doing(doing)?;
    rustix::net::bind(&socket, &SocketAddr::new(address, port)).doing(doing)?;
    Ok(socket)
}

/// Step: the packet rules, with the log of what they refuse where the kernel has one.
pub(super) fn rules(ahead: &mut Ahead) -> Result<(), Failure> {
    let refused = log::open().ok();
    let logging = if refused.is_some() { Logging::On } else { Logging::Off };
    let socket = Socket::open(Some(rustix::net::netlink::NETFILTER)).doing(|| "open a netfilter socket".into())?;
    socket.perform(&filter::rules(logging)).doing(|| "set the rules".into())?;
    ahead.sockets.extend(refused);
    Ok(())
}
