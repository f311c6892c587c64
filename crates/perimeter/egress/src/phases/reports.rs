//! Phase: datagrams that the kernel refused, as it reports them. What was refused before a tool use is over is told as that tool use's: the kernel has
//! reported it by then, whenever this process gets to read it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use postern_audit::{Counted, Kind};
use postern_policy::{Denial, Reason};
use rustix::net::RecvFlags;
use tokio::{io::Interest, net::UnixDatagram};

use super::{
    accept::{self, at},
    identify, refuse,
};
use crate::{datagram, session::Session};

/// Where the kernel reports a session's refused datagrams.
#[derive(Default)]
pub(crate) struct Reports {
    socket: Mutex<Option<Arc<UnixDatagram>>>,
    /// Held while reports are read and told, so that whoever has it next knows that they are.
    buffer: tokio::sync::Mutex<Vec<u8>>,
}

/// Whether there may be more.
enum Read {
    ForNow,
    /// The socket was closed.
    ToTheEnd,
}

/// Tells what is reported until the session ends.
///
/// # Errors
/// When the descriptor is no socket.
pub(crate) fn serve(session: &Arc<Session>, descriptor: OwnedFd) -> io::Result<()> {
    // A netlink socket is read like any datagram socket: by recv(2), one message a read.
    let socket = std::os::unix::net::UnixDatagram::from(descriptor);
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixDatagram::from_std(socket)?);
    *session.reports.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&socket));
    session.drain.spawn_until_drain(follow(session.clone(), socket));
    Ok(())
}

async fn follow(session: Arc<Session>, socket: Arc<UnixDatagram>) {
    let read = |buffer: &mut [u8]| socket.try_io(Interest::READABLE, || receive(&socket, buffer));
    while socket.readable().await.is_ok() {
        if let Read::ToTheEnd = tell(&session, read).await {
            return;
        }
    }
}

/// Tells what was reported by now; this and what follows from it is done when this ends.
pub(crate) async fn by_now(session: &Arc<Session>) {
    let socket = session.reports.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(socket) = socket {
        // The runtime may not have heard yet that there is something.
        tell(session, |buffer| receive(&socket, buffer)).await;
    }
}

async fn tell(session: &Arc<Session>, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Read {
    let mut buffer = session.reports.buffer.lock().await;
    buffer.resize(NETLINK_BYTES, 0);
    for _ in 0..AT_ONCE {
        match read(&mut buffer) {
            Ok(0) => return Read::ToTheEnd,
            Ok(length) => {
                for destination in datagram::destinations(&buffer[..length]) {
                    refused(session, destination).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::ForNow,
            // ENOBUFS: more was refused than there was room to report; how many, nobody knows.
            Err(_) => {
                session.ration.count(&UNREPORTED);
                tokio::time::sleep(accept::PAUSE).await;
            }
        }
    }
    Read::ForNow
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket.as_fd(), buffer, RecvFlags::DONTWAIT)?.0)
}

async fn refused(session: &Arc<Session>, destination: SocketAddr) {
    let named = identify::destination(session, destination).unwrap_or_else(|_| at(destination));
    refuse::connection(session, &named, "udp", &Denial::new(Reason::UdpRefused)).await;
}

/// At least one datagram.
const UNREPORTED: Counted<Reason> =
    Counted { kind: Kind::EgressConnect, reason: Reason::UdpRefused, shadow: None, refusals: 1, alarms: 0 };
/// One netlink read: packets are copied in part only.
const NETLINK_BYTES: usize = 64 * 1024;
/// Reads after which others have their turn: who sends on and on keeps nobody waiting.
const AT_ONCE: usize = 64;
