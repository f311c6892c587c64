//! Sockets that clients reach. Where a killed process of ours still holds a port, its successor waits until that one is gone.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Or};

/// Listens on `address`; a port in use is asked for again for a while: a role outlives its killed supervisor by a moment.
///
/// # Errors
/// The address is not this machine's, not allowed, or in use for longer than [`PATIENCE`].
pub(crate) fn tcp(address: SocketAddr) -> Result<TcpListener, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => pause(),
            bound => return bound.or_misused(&format!("listen on {address}")),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a port says nothing when it becomes free")]
fn pause() {
    std::thread::sleep(AGAIN);
}

const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_becomes_free_is_waited_for() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let waiting = std::thread::spawn(move || tcp(address));
        // The port is still in use when the other begins, or free already: it listens either way.
        std::thread::yield_now();
        drop(held);
        assert_eq!(waiting.join().unwrap().unwrap().local_addr().unwrap(), address);
    }

    #[test]
    fn a_port_that_stays_in_use_is_refused_with_its_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let refused = tcp(address).unwrap_err();
        assert!(matches!(&refused, Failure::Misused(text) if text.contains(&address.to_string())), "{refused}");
    }
}
