//! Which placeholders this perimeter issued: of open sessions, and for 24 h after a session ended, so that a stolen one is recognised. Kept in a file that
//! is written before a placeholder leaves custody. A placeholder is not a secret.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use postern_secret::Placeholder;
use serde::{Deserialize, Serialize};

use crate::keys;
use crate::message::KnownPlaceholder;

/// The placeholders to recognise.
pub(crate) struct Ledger {
    file: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    placeholder: Placeholder,
    session: String,
    credential: String,
    issued: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Timestamp>,
}

impl Ledger {
    /// Reads the ledger of a directory. Sessions do not outlive the process: whatever was alive ended by now.
    pub(crate) fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        let file = directory.join(LEDGER_FILE);
        let mut entries: Vec<Entry> = match std::fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for entry in &mut entries {
            entry.ended.get_or_insert(now);
        }
        let mut ledger = Self { file, entries };
        ledger.forget(now);
        ledger.write()?;
        Ok(ledger)
    }

    /// Remembers the placeholders of a session that is being opened, on disk when this returns.
    pub(crate) fn issue(&mut self, session: &str, issued: &[(String, Placeholder)], now: Timestamp) -> io::Result<()> {
        let before = self.entries.len();
        self.entries.extend(issued.iter().map(|(credential, placeholder)| Entry {
            placeholder: placeholder.clone(),
            session: session.to_owned(),
            credential: credential.clone(),
            issued: now,
            ended: None,
        }));
        let written = self.write();
        if written.is_err() {
            self.entries.truncate(before);
        }
        self.forget(now);
        written
    }

    /// The session ended: its placeholders are remembered for a day more.
    pub(crate) fn end(&mut self, session: &str, now: Timestamp) -> io::Result<()> {
        for entry in self.entries.iter_mut().filter(|entry| entry.session == session) {
            entry.ended.get_or_insert(now);
        }
        self.forget(now);
        self.write()
    }

    /// Everything to recognise, as of `now`.
    pub(crate) fn known(&mut self, now: Timestamp) -> Vec<KnownPlaceholder> {
        self.forget(now);
        let known = self.entries.iter().map(|entry| KnownPlaceholder {
            placeholder: entry.placeholder.clone(),
            session: entry.session.clone(),
            credential: entry.credential.clone(),
            alive: entry.ended.is_none(),
        });
        known.collect()
    }

    /// Drops what ended a day ago and, over the bound, the oldest of the dead.
    fn forget(&mut self, now: Timestamp) {
        self.entries.retain(|entry| entry.ended.is_none_or(|ended| now.duration_since(ended) < REMEMBERED));
        let mut excess = self.entries.len().saturating_sub(MOST);
        self.entries.retain(|entry| {
            let drop = excess > 0 && entry.ended.is_some();
            excess -= usize::from(drop);
            !drop
        });
    }

    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.entries).expect("texts and times are JSON");
        keys::replace(&self.file, &bytes)
    }
}

const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);
/// Placeholders remembered at most; over it the oldest dead ones go first.
pub(crate) const MOST: usize = 20_000;
const LEDGER_FILE: &str = "placeholders.json";

#[cfg(test)]
mod tests;
