//! A word that counts until it is taken back, or whoever gave it is gone: one end of a socket pair is kept, the other given away, and the word counts as
//! long as the kept end is open. That holds from the moment it is closed, by whatever closes it: nothing is sent, so nothing can come late.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, recv};

use crate::socket;

/// The giver's end; dropping it takes the word back, from all who have it.
#[derive(Debug)]
pub struct Lease {
    _kept: OwnedFd,
    given: OwnedFd,
}

impl Lease {
    /// A word that counts from now on.
    ///
    /// # Errors
    /// The system's, when no socket pair can be made.
    pub fn new() -> io::Result<Self> {
        let (kept, given) = socket::pair()?;
        Ok(Self { _kept: kept, given })
    }

    /// Another end to give away, for [`Held::new`] in whichever process gets it.
    ///
    /// # Errors
    /// The system's, when there is no descriptor left.
    pub fn give(&self) -> io::Result<OwnedFd> {
        self.given.try_clone()
    }
}

/// The other end.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// Of an end that [`Lease::give`] gave.
    #[must_use]
    pub fn new(given: OwnedFd) -> Self {
        Self(given)
    }

    /// Whether the word still counts. Anything but an open, silent other end means that it does not.
    #[must_use]
    pub fn counts(&self) -> bool {
        let peeked = recv(&self.0, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_until_it_is_taken_back_from_all_who_have_it() {
        let lease = Lease::new().unwrap();
        let (one, other) = (Held::new(lease.give().unwrap()), Held::new(lease.give().unwrap()));
        assert!(one.counts() && other.counts() && one.counts());
        drop(lease);
        assert!(!one.counts() && !other.counts());
    }

    #[test]
    fn what_is_no_lease_does_not_count() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!Held::new(file.into()).counts());
    }
}
