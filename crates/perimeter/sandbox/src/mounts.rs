//! What is mounted on the host, and whether it is still the same: programs mount something for a moment and unmount it, and that changes nothing.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::sys;

/// The mounts that this process sees, as they were when last asked about.
pub(crate) struct Mounts {
    /// Polling it tells that something was mounted or unmounted since it was polled last.
    table: File,
    known: Option<Table>,
    /// How many are told apart.
    most: usize,
    asked: bool,
}

/// What happened to the mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Nothing.
    No,
    /// Something came and went; what is there now is what was there before.
    ForAMoment,
    /// They are others now.
    ForGood,
}

/// All mounts: what they are and how, and the kernel's numbers for them, which it never gives again.
#[derive(PartialEq, Eq)]
struct Table {
    described: String,
    numbers: Vec<u64>,
}

impl Mounts {
    /// None where this process cannot see them.
    pub(crate) fn of_this_process() -> Option<Self> {
        Self::up_to(MOST_MOUNTS)
    }

    fn up_to(most: usize) -> Option<Self> {
        let table = File::open("/proc/self/mountinfo").ok()?;
        let mut mounts = Self { table, known: None, most, asked: false };
        mounts.moved();
        Some(mounts)
    }

    /// What happened since this was asked last. Where they cannot be told apart, as before Linux 6.8, those that stirred are others.
    pub(crate) fn moved(&mut self) -> Moved {
        if self.asked && !self.stirred() {
            return Moved::No;
        }
        self.asked = true;
        let now = self.read().ok();
        let same = now.is_some() && now == self.known;
        self.known = now;
        if same { Moved::ForAMoment } else { Moved::ForGood }
    }

    fn stirred(&self) -> bool {
        let mut polled = [PollFd::new(&self.table, PollFlags::PRI)];
        match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&Timespec::default()))) {
            Ok(0) => false,
            Ok(_) | Err(_) => true,
        }
    }

    fn read(&mut self) -> io::Result<Table> {
        // A change while it is read is told by the next poll.
        let numbers = sys::mount_numbers(self.most)?;
        let mut described = String::new();
        self.table.rewind()?;
        self.table.read_to_string(&mut described)?;
        Ok(Table { described, numbers })
    }
}

/// A host with more is one whose stubs are made anew at each change.
const MOST_MOUNTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_mounts_are_not_told_apart_those_that_did_not_stir_have_not_moved() {
        let mut mounts = Mounts::up_to(1).expect("sees them");
        assert!(mounts.known.is_none(), "one is too few for a host");
        // Something else on this machine may mount now and then, but not each time.
        assert!((0..100).any(|_| mounts.moved() == Moved::No));
    }

    #[test]
    fn a_host_with_more_mounts_than_are_told_apart_tells_none() {
        let told = |most: usize| sys::mount_numbers(most).map(|numbers| numbers.len());
        match told(MOST_MOUNTS) {
            Ok(count) => {
                assert!(count > 1 && count <= MOST_MOUNTS, "{count}");
                assert_eq!(told(1), Err(rustix::io::Errno::OVERFLOW));
            }
            // Another kernel does not number them.
            Err(error) => assert_ne!(error, rustix::io::Errno::OVERFLOW),
        }
    }
}
