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
    /// The file is older than what is held.
    unwritten: bool,
}

/// How a session is held, and since when: both may be, and a thaw ends only the one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hold {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen: Option<Since>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<Since>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Since {
    since: Timestamp,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) struct Change {
    /// Whether it changed anything: what was held so already is held as it was.
    pub(crate) changed: bool,
    /// Whether it outlives this process.
    pub(crate) written: io::Result<()>,
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
        Ok(Self { file, held, unwritten: false })
    }

    pub(crate) fn of(&self, session: &str) -> Hold {
        self.held.get(session).copied().unwrap_or_default()
    }

    /// In force when this returns, even where it could not be written.
    pub(crate) fn freeze(&mut self, session: &str, now: Timestamp) -> Change {
        self.change(session, now, |hold| hold.frozen = hold.frozen.or(Some(Since { since: now })))
    }

    /// Ends a freeze; a revocation stays.
    pub(crate) fn thaw(&mut self, session: &str, now: Timestamp) -> Change {
        self.change(session, now, |hold| hold.frozen = None)
    }

    /// In force when this returns, even where it could not be written.
    pub(crate) fn revoke(&mut self, session: &str, now: Timestamp) -> Change {
        self.change(session, now, |hold| hold.revoked = hold.revoked.or(Some(Since { since: now })))
    }

    fn change(&mut self, session: &str, now: Timestamp, change: impl FnOnce(&mut Hold)) -> Change {
        let before = self.of(session);
        let mut after = before;
        change(&mut after);
        if after == before {
            // What could not be written before may be by now.
            let written = if self.unwritten { self.write() } else { Ok(()) };
            return Change { changed: false, written };
        }
        self.held.insert(session.to_owned(), after);
        self.held.retain(|_, hold| hold.newest().is_some_and(|since| now.duration_since(since) < KEPT));
        Change { changed: true, written: self.write() }
    }

    fn write(&mut self) -> io::Result<()> {
        let written = keys::replace(&self.file, &serde_json::to_vec(&self.held).expect("texts and times are JSON"));
        self.unwritten = written.is_err();
        written
    }
}

impl Hold {
    fn newest(self) -> Option<Timestamp> {
        self.frozen.into_iter().chain(self.revoked).map(|held| held.since).max()
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
        let since = Some(Since { since: now });
        let mut holds = Holds::open(directory.path()).unwrap();
        for session in ["sesn_1", "sesn_2", "sesn_3"] {
            assert!(holds.freeze(session, now).changed);
        }
        assert!(holds.revoke("sesn_2", now).changed);
        assert!(holds.thaw("sesn_3", now).changed);
        let mut holds = Holds::open(directory.path()).unwrap();
        assert_eq!(holds.of("sesn_1"), Hold { frozen: since, revoked: None });
        assert_eq!(holds.of("sesn_2"), Hold { frozen: since, revoked: since });
        assert_eq!(holds.of("sesn_3"), Hold::default());
        assert!(holds.thaw("sesn_2", now).changed);
        assert_eq!(holds.of("sesn_2"), Hold { frozen: None, revoked: since });
    }

    #[test]
    fn what_is_held_so_already_does_not_change_and_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let mut holds = Holds::open(directory.path()).unwrap();
        assert!(!holds.thaw("sesn_1", now).changed);
        assert!(holds.freeze("sesn_1", now).changed);
        let before = holds.of("sesn_1");
        assert!(!holds.freeze("sesn_1", now + SignedDuration::from_secs(1)).changed);
        assert_eq!(holds.of("sesn_1"), before);
    }

    #[test]
    fn a_hold_that_cannot_be_written_is_in_force_all_the_same_and_written_when_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("custody");
        std::fs::create_dir(&inner).unwrap();
        let mut holds = Holds::open(&inner).unwrap();
        std::fs::remove_dir(&inner).unwrap();
        assert!(holds.freeze("sesn_1", Timestamp::now()).written.is_err());
        assert!(holds.of("sesn_1").frozen.is_some());
        assert!(holds.freeze("sesn_1", Timestamp::now()).written.is_err());
        std::fs::create_dir(&inner).unwrap();
        assert!(holds.freeze("sesn_1", Timestamp::now()).written.is_ok());
        assert!(Holds::open(&inner).unwrap().of("sesn_1").frozen.is_some());
    }

    #[test]
    fn a_hold_is_forgotten_after_a_year_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let days = |days: i64| now - SignedDuration::from_hours(24 * days);
        let mut holds = Holds::open(directory.path()).unwrap();
        holds.revoke("sesn_old", days(365));
        holds.revoke("sesn_kept", days(364));
        holds.freeze("sesn_new", now);
        assert_eq!(holds.of("sesn_old"), Hold::default());
        assert!(holds.of("sesn_kept").revoked.is_some());
    }
}
