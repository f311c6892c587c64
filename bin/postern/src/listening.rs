//! Sockets that clients reach. Where a killed process of ours still holds a port, its successor waits until that one is gone.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Or};

/// Listens on `address`; a port in use is asked for again for a while: a role outlives its killed supervisor by a moment.
///
/// # Errors
/// The address is not this machine's, not allowed, or in use for longer than [`PATIENCE`].
pub(crate) fn tcp(address: SocketAddr) -> Result<TcpListener, Failure> {
    bound(address, Instant::now() + PATIENCE, pause)
}

fn bound(address: SocketAddr, until: Instant, mut pause: impl FnMut()) -> Result<TcpListener, Failure> {
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => pause(),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let next = "end what listens there (`ss -ltnp` names it), or listen on another port";
                return Err(Failure::Misused(format!("listen on {address}: {error}; {next}")));
            }
            bound => return bound.and_then(waited_for).or_misused(&format!("listen on {address}")),
        }
    }
}

/// As many may wait to be taken as the system allows: the library's 128 are a burst of one busy client.
fn waited_for(listener: TcpListener) -> std::io::Result<TcpListener> {
    rustix::net::listen(&listener, WAITING)?;
    Ok(listener)
}

#[expect(clippy::disallowed_methods, reason = "a port says nothing when it becomes free")]
fn pause() {
    std::thread::sleep(AGAIN);
}

/// A listening socket that was handed to this process. Must be called inside a runtime.
///
/// # Errors
/// The system's.
pub(crate) fn taken(socket: OwnedFd) -> Result<tokio::net::TcpListener, Failure> {
    let socket = TcpListener::from(socket);
    socket.set_nonblocking(true).or_misused("take the listening socket")?;
    tokio::net::TcpListener::from_std(socket).or_misused("take the listening socket")
}

/// Connections that wait to be taken; the system's own bound, usually 4,096, may be lower.
const WAITING: i32 = 4096;
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_becomes_free_is_waited_for() {
        let mut held = Some(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = held.as_ref().unwrap().local_addr().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let listening = bound(address, until, || drop(held.take())).unwrap();
        assert_eq!(listening.local_addr().unwrap(), address);
        assert!(held.is_none(), "it was in use at first");
    }

    #[test]
    fn a_port_that_stays_in_use_is_refused_with_its_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let refused = bound(address, Instant::now(), || panic!("the time is over")).unwrap_err();
        assert!(matches!(&refused, Failure::Misused(text) if text.contains(&address.to_string())), "{refused}");
        assert!(refused.to_string().contains("another port"), "{refused}");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test is the clients")]
    fn a_burst_of_connections_waits_to_be_taken() {
        let listening = tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listening.local_addr().unwrap();
        // Nobody takes them; of 128 places the rest would be knocking in vain.
        let waiting: Vec<_> =
            (0..500).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(20))).collect();
        assert!(waiting.iter().all(Result::is_ok));
    }
}
