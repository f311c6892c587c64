//! Phase: datagrams that the kernel refused, as it reports them. What was refused before a tool use is over is told as that tool use's: the kernel has
//! reported it by then, whenever this process gets to read it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use postern_audit::{Counted, Kind};
use postern_policy::{Denial, Reason};
use rustix::{io::Errno, net::RecvFlags};
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

/// Why no more is read.
enum Read {
    /// There is no more by now.
    ForNow,
    /// There may be more: others have their turn.
    AtOnce,
    /// The socket was closed.
    ToTheEnd,
    /// It cannot be read.
    Failed,
}

/// Tells what is reported, for as long as it is polled.
///
/// # Errors
/// When the descriptor is no socket.
pub(crate) fn serve(
    session: &Arc<Session>,
    descriptor: OwnedFd,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    // A netlink socket is read like any datagram socket: by recv(2), one message a read.
    let socket = std::os::unix::net::UnixDatagram::from(descriptor);
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixDatagram::from_std(socket)?);
    *session.reports.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&socket));
    Ok(follow(session.clone(), socket))
}

async fn follow(session: Arc<Session>, socket: Arc<UnixDatagram>) {
    while socket.readable().await.is_ok() {
        let mut buffer = session.reports.buffer.lock().await;
        let read = |buffer: &mut [u8]| socket.try_io(Interest::READABLE, || receive(&socket, buffer));
        let ended = tell(&session, &mut buffer, read);
        drop(buffer);
        match ended {
            Read::ForNow => {}
            Read::AtOnce => tokio::task::yield_now().await,
            Read::Failed => tokio::time::sleep(accept::PAUSE).await,
            Read::ToTheEnd => return,
        }
    }
}

/// Tells what was reported by now, and does `then` before anything that is reported later is told.
pub(crate) async fn by_now(session: &Arc<Session>, then: impl FnOnce()) {
    let socket = session.reports.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut buffer = session.reports.buffer.lock().await;
    if let Some(socket) = socket {
        // The runtime may not have heard yet that there is something.
        tell(session, &mut buffer, |buffer| receive(&socket, buffer));
    }
    then();
}

fn tell(session: &Arc<Session>, buffer: &mut Vec<u8>, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Read {
    buffer.resize(REPORT_BYTES, 0);
    for _ in 0..AT_ONCE {
        match read(buffer) {
            Ok(0) => return Read::ToTheEnd,
            Ok(length) => {
                for destination in datagram::destinations(&buffer[..length]) {
                    let named = identify::destination(session, destination).unwrap_or_else(|_| at(destination));
                    refuse::datagram(session, &named, &Denial::new(Reason::UdpRefused));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::ForNow,
            // More was refused than there was room to report; how many, nobody knows.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                session.ration.count(&UNREPORTED);
            }
            Err(_) => {
                session.ration.count(&UNREPORTED);
                return Read::Failed;
            }
        }
    }
    Read::AtOnce
}

fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket.as_fd(), buffer, RecvFlags::DONTWAIT)?.0)
}

/// At least one datagram.
const UNREPORTED: Counted<Reason> =
    Counted { kind: Kind::EgressConnect, reason: Reason::UdpRefused, shadow: None, refusals: 1, alarms: 0 };
/// One netlink read: packets are copied in part only.
const REPORT_BYTES: usize = 64 * 1024;
/// Reads after which others have their turn; more than a queue of the kernel's holds.
const AT_ONCE: usize = 1024;
