//! The memory of token ids: each counts once while it could count at all. Bounded; full, it refuses.

use std::collections::{BTreeMap, HashSet};

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing; now it is known.
    First,
    /// It was here.
    Before,
    /// Ids of its time have been forgotten: the clock went back.
    TooLate,
    /// There is no room to know it.
    Full,
}

/// Ids by the second in which they expire.
pub(super) struct Replay {
    capacity: usize,
    known: HashSet<[u8; 16]>,
    by_expiry: BTreeMap<u64, Vec<[u8; 16]>>,
    forgotten_until: u64,
}

impl Replay {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, known: HashSet::new(), by_expiry: BTreeMap::new(), forgotten_until: 0 }
    }

    /// Takes an id that expires in second `exp`, at second `now`.
    pub(super) fn see(&mut self, jti: &str, exp: u64, now: u64) -> Seen {
        self.forget(now);
        if exp <= self.forgotten_until {
            return Seen::TooLate;
        }
        let id = shortened(jti);
        if self.known.contains(&id) {
            return Seen::Before;
        }
        if self.known.len() >= self.capacity {
            return Seen::Full;
        }
        self.known.insert(id);
        self.by_expiry.entry(exp).or_default().push(id);
        Seen::First
    }

    fn forget(&mut self, now: u64) {
        while let Some(entry) = self.by_expiry.first_entry() {
            if *entry.key() > now {
                return;
            }
            self.forgotten_until = self.forgotten_until.max(*entry.key());
            for id in entry.remove() {
                self.known.remove(&id);
            }
        }
    }
}

/// An id of any length in 128 bits of its SHA-256.
fn shortened(jti: &str) -> [u8; 16] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jti.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_ref()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_while_it_lives() {
        let mut replay = Replay::new(10);
        assert_eq!(replay.see("a", 100, 50), Seen::First);
        assert_eq!(replay.see("a", 100, 99), Seen::Before);
        assert_eq!(replay.see("a", 101, 99), Seen::Before, "under another expiry too");
    }

    #[test]
    fn a_full_memory_refuses_until_ids_expire() {
        let mut replay = Replay::new(2);
        assert_eq!(replay.see("a", 100, 50), Seen::First);
        assert_eq!(replay.see("b", 110, 50), Seen::First);
        assert_eq!(replay.see("c", 110, 50), Seen::Full);
        assert_eq!(replay.see("c", 120, 100), Seen::First);
    }

    #[test]
    fn a_clock_that_goes_back_revives_nothing() {
        let mut replay = Replay::new(10);
        assert_eq!(replay.see("a", 100, 50), Seen::First);
        assert_eq!(replay.see("b", 170, 150), Seen::First);
        assert_eq!(replay.see("a", 100, 60), Seen::TooLate);
    }

    #[test]
    fn memory_is_given_back() {
        let mut replay = Replay::new(1000);
        for second in 0..500_u64 {
            replay.see(&second.to_string(), second + 60, second);
            assert!(replay.known.len() <= 61);
        }
        assert!(replay.by_expiry.len() <= 61);
    }
}
