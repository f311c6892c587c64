//! What holds a session's grants back: a freeze, which a thaw ends, or a revocation, which nothing ends. Kept in a file, so that killing custody lifts none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::keys;

/// The sessions that are held.
pub(crate) struct Holds {
    file: PathBuf,
    held: BTreeMap<String, Hold>,
}

/// How a session is held, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hold {
    Frozen { since: Timestamp },
    Revoked { since: Timestamp },
}

impl Holds {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let file = directory.join(HOLDS_FILE);
        let held = match std::fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, held })
    }

    pub(crate) fn of(&self, session: &str) -> Option<Hold> {
        self.held.get(session).copied()
    }

    /// In force when this returns, even where it could not be written.
    pub(crate) fn freeze(&mut self, session: &str, now: Timestamp) -> io::Result<()> {
        self.change(now, |held| {
            held.entry(session.to_owned()).or_insert(Hold::Frozen { since: now });
        })
    }

    /// Ends a freeze; a revocation stays.
    pub(crate) fn thaw(&mut self, session: &str, now: Timestamp) -> io::Result<()> {
        self.change(now, |held| {
            if matches!(held.get(session), Some(Hold::Frozen { .. })) {
                held.remove(session);
            }
        })
    }

    /// In force when this returns, even where it could not be written.
    pub(crate) fn revoke(&mut self, session: &str, now: Timestamp) -> io::Result<()> {
        self.change(now, |held| {
            held.insert(session.to_owned(), Hold::Revoked { since: now });
        })
    }

    fn change(&mut self, now: Timestamp, change: impl FnOnce(&mut BTreeMap<String, Hold>)) -> io::Result<()> {
        let before = self.held.clone();
        change(&mut self.held);
        self.held.retain(|_, hold| now.duration_since(hold.since()) < KEPT);
        if self.held == before {
            return Ok(());
        }
        keys::replace(&self.file, &serde_json::to_vec(&self.held).expect("texts and times are JSON"))
    }
}

impl Hold {
    fn since(self) -> Timestamp {
        match self {
            Self::Frozen { since } | Self::Revoked { since } => since,
        }
    }
}

/// A session that was not heard of for this long does not come back.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 365);
const HOLDS_FILE: &str = "holds.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_ends_with_a_thaw_a_revocation_does_not_and_both_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let mut holds = Holds::open(directory.path()).unwrap();
        holds.freeze("sesn_1", now).unwrap();
        holds.freeze("sesn_2", now).unwrap();
        holds.revoke("sesn_2", now).unwrap();
        holds.freeze("sesn_3", now).unwrap();
        holds.thaw("sesn_3", now).unwrap();
        let mut holds = Holds::open(directory.path()).unwrap();
        assert_eq!(holds.of("sesn_1"), Some(Hold::Frozen { since: now }));
        assert_eq!(holds.of("sesn_3"), None);
        holds.thaw("sesn_2", now).unwrap();
        holds.freeze("sesn_2", now).unwrap();
        assert_eq!(holds.of("sesn_2"), Some(Hold::Revoked { since: now }));
    }

    #[test]
    fn a_hold_that_cannot_be_written_is_in_force_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let mut holds = Holds::open(directory.path()).unwrap();
        drop(directory);
        assert!(holds.freeze("sesn_1", Timestamp::now()).is_err());
        assert!(holds.of("sesn_1").is_some());
    }
}
