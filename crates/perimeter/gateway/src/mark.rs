//! The youngest identity that counted, in a file: the memory of used token ids ends with the process, and a token that was
//! used before must not count again after a restart. Whatever was signed no later than the mark is refused then; a caller
//! signs anew for each call. Killing the process loses nothing; after the host itself went down, tokens have expired.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use postern_tunnel::identity::MAX_AHEAD_SECONDS;

/// The mark.
pub(crate) struct Mark {
    file: File,
    /// Of the process before: nothing signed until then counts here.
    before: Option<u64>,
    youngest: Mutex<u64>,
}

/// Why an identity does not count.
#[derive(Debug)]
pub(crate) enum Unmarked {
    /// It was signed before this process, or in the second of the former's last call.
    Former,
    /// The mark cannot be written.
    Unwritable(io::Error),
}

impl Mark {
    /// The mark in this file, as of second `now`. A mark beyond what could count now was set by a wrong clock and counts as now.
    pub(crate) fn at(file: &Path, now: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)?;
        let mut bytes = Vec::new();
        Read::take(&mut file, MARK_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        let before = match <[u8; MARK_BYTES]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Some(u64::from_le_bytes(bytes)),
            Err(_) if bytes.is_empty() => None,
            // Not ours to read: anything may have been used.
            Err(_) => Some(now),
        };
        let before = before.map(|mark| mark.min(now + MAX_AHEAD_SECONDS));
        Ok(Self { file, before, youngest: Mutex::new(before.unwrap_or_default()) })
    }

    /// How long after `now` whatever is signed counts here: a gateway that is back within the second of its last call lets
    /// it pass before it takes calls, and does not wait for a clock that is far ahead.
    pub(crate) fn wait(&self, now: SystemTime) -> Duration {
        let Some(before) = self.before else { return Duration::ZERO };
        let over = UNIX_EPOCH + Duration::from_secs(before.saturating_add(1));
        over.duration_since(now).unwrap_or_default().min(LONGEST_WAIT)
    }

    /// Takes an identity that was signed in this second and is about to count; it is marked when this returns.
    pub(crate) fn take(&self, signed: u64) -> Result<(), Unmarked> {
        if self.before.is_some_and(|before| signed <= before) {
            return Err(Unmarked::Former);
        }
        let mut youngest = self.youngest.lock().unwrap_or_else(PoisonError::into_inner);
        if signed > *youngest {
            self.file.write_all_at(&signed.to_le_bytes(), 0).map_err(Unmarked::Unwritable)?;
            *youngest = signed;
        }
        Ok(())
    }
}

const MARK_BYTES: usize = 8;
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counted_before_a_restart_does_not_count_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mark");
        let first = Mark::at(&file, 1000).unwrap();
        for signed in [1000, 998, 1003, 1001] {
            first.take(signed).unwrap();
        }
        let second = Mark::at(&file, 1001).unwrap();
        for signed in [998, 1000, 1003] {
            assert!(matches!(second.take(signed), Err(Unmarked::Former)), "{signed}");
        }
        second.take(1004).unwrap();
        assert!(matches!(Mark::at(&file, 1004).unwrap().take(1004), Err(Unmarked::Former)));
    }

    #[test]
    fn a_restart_waits_for_the_end_of_the_second_of_the_last_call_and_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mark");
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(Mark::at(&file, 1000).unwrap().wait(at(1_000_000)), Duration::ZERO);
        Mark::at(&file, 1000).unwrap().take(1000).unwrap();
        let mark = Mark::at(&file, 1000).unwrap();
        assert_eq!(mark.wait(at(1_000_300)), Duration::from_millis(700));
        assert_eq!(mark.wait(at(1_001_000)), Duration::ZERO);
        assert_eq!(mark.wait(at(900_000)), LONGEST_WAIT);
    }

    #[test]
    fn a_wrong_clock_of_the_past_locks_nobody_out_and_what_is_no_mark_lets_nothing_old_in() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mark");
        Mark::at(&file, 9_000_000).unwrap().take(9_000_000).unwrap();
        Mark::at(&file, 1000).unwrap().take(1006).unwrap();
        std::fs::write(&file, b"rubbish that is no mark").unwrap();
        let mark = Mark::at(&file, 1000).unwrap();
        assert!(mark.take(1000).is_err());
        assert!(mark.take(1001).is_ok());
    }
}
