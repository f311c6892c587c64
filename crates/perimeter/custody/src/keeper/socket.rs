//! The sockets in a perimeter's directory, addressed through the open directory: a path may be longer than a socket's address, and cannot be exchanged
//! underneath. Only the owner may connect, and the kernel says who did.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, chmodat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect as connect_to, listen as begin,
};

/// Listens under this name, in place of whatever an ended keeper left there; the caller holds the lock. Nobody can connect before the mode is set.
pub(super) fn listen(directory: &File, name: &str) -> io::Result<std::os::unix::net::UnixListener> {
    remove(directory, name)?;
    let socket = new_socket()?;
    bind(&socket, &address(directory, name)?)?;
    chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    begin(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket; one that is not there is fine.
pub(super) fn remove(directory: &File, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(errno) if errno != Errno::NOENT => Err(errno.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Connects without waiting.
pub(super) fn connect(directory: &File, name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect_to(&socket, &address(directory, name)?)?;
    Ok(socket)
}

/// No socket, nobody behind it, or more waiting than it takes: to be tried again.
pub(super) fn nobody_there(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, WouldBlock};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | WouldBlock)
}

/// Whether the other end was opened by this process's own user.
pub(super) fn same_user(socket: &impl AsFd) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(peer.uid == rustix::process::geteuid())
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn address(directory: &File, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?)
}

const BACKLOG: i32 = 64;
