//! The log on disk: one file a day, one `write` for what is appended together, one owner at a time.
//!
//! **When a write fails** nothing is acknowledged: a half-written line is cut off again and that append fails, typed. The next append tries anew, so
//! that freeing space is enough; the first record that succeeds is preceded by an alarm that counts the refused ones. When the half line cannot be cut,
//! or a sync failed (the kernel may have dropped pages that were acknowledged), every append fails until the process is restarted and has read the disk.

mod open;
mod sync;

pub use open::OpenError;
pub(crate) use open::files;
pub use sync::SyncJob;
pub(crate) use sync::{CHECKPOINT_FILE, Checkpoint};

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::bounds;
use crate::key::{Head, PublicKey, SigningKey};
use crate::line;
use crate::record::{Decision, Kind, Record};

/// Why a record was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// This write failed; a later one may succeed.
    #[error("the record could not be written: {0}")]
    Write(String),
    /// The log's state on disk is unknown; only a restart helps.
    #[error("the log stopped until the audit process is restarted: {0}")]
    Stopped(String),
}

/// An open log; its directory is locked against a second writer.
pub struct Log {
    directory: PathBuf,
    _lock: File,
    key: SigningKey,
    file: Arc<File>,
    date: Date,
    length: u64,
    seq: u64,
    hash: String,
    unsigned: u64,
    signed_at: Timestamp,
    refused: u64,
    stopped: Option<String>,
    pending: sync::Pending,
}

impl Log {
    /// Appends a record; answers its number once `write` returned.
    ///
    /// # Errors
    /// [`LogError`]: nothing was acknowledged, and what the record announces must not happen.
    pub fn append(&mut self, record: Record, now: Timestamp) -> Result<u64, LogError> {
        self.append_all(vec![record], now)
    }

    /// Appends records one after the other, by one `write`: all of them or none. Answers the last one's number.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_all(&mut self, records: Vec<Record>, now: Timestamp) -> Result<u64, LogError> {
        self.append_groups(vec![records], now).map(|last| last.into_iter().next().unwrap_or(self.seq))
    }

    /// The same with the groups of several callers, by one `write` for them all: when it fails, none of them is acknowledged. Answers the number of each
    /// group's last record.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_groups(&mut self, mut groups: Vec<Vec<Record>>, now: Timestamp) -> Result<Vec<u64>, LogError> {
        groups.iter_mut().flatten().for_each(bounds::apply);
        let before = self.confess(now).map(|()| self.seq);
        let written = before.and_then(|before| self.write(groups.iter().flatten(), now).map(|_| before));
        if written.is_err() {
            self.refused += groups.iter().map(|group| group.len() as u64).sum::<u64>();
        }
        if self.unsigned >= CHECKPOINT_RECORDS {
            self.checkpoint_if_possible(now);
        }
        let numbered = |before| {
            groups.iter().scan(before, |last, group| {
                *last += group.len() as u64;
                Some(*last)
            })
        };
        written.map(|before| numbered(before).collect())
    }

    /// Signs everything up to here.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn checkpoint(&mut self, now: Timestamp) -> Result<u64, LogError> {
        let head = Head { seq: self.seq, hash: &self.hash, ts: now };
        let signature = self.key.sign(&head);
        let mut record = Record::new(Kind::Checkpoint, Decision::Info);
        record.counts.insert("seq".to_owned(), self.seq);
        record.digests.insert("head".to_owned(), self.hash.clone());
        record.digests.insert("key".to_owned(), self.key.public().to_string());
        record.digests.insert("signature".to_owned(), signature.clone());
        let signed = sync::Checkpoint { seq: self.seq, hash: self.hash.clone(), ts: now, signature };
        let seq = self.write([&record], now)?;
        self.unsigned = 0;
        self.signed_at = now;
        self.pending.checkpoint = Some(signed);
        Ok(seq)
    }

    /// To be called every second or so: signs when records have waited long enough for it.
    pub fn tick(&mut self, now: Timestamp) {
        let waited = now.duration_since(self.signed_at);
        if self.unsigned > 0 && (waited >= CHECKPOINT_AGE || waited < SignedDuration::ZERO) {
            self.checkpoint_if_possible(now);
        }
    }

    /// What is to be synced since the last call; run it without holding the log, then report a failure to [`Log::sync_failed`].
    pub fn take_sync(&mut self) -> Option<SyncJob> {
        self.pending.take(&self.directory, &self.file)
    }

    /// A sync failed: acknowledged records may be gone from the disk, so nothing more is acknowledged.
    pub fn sync_failed(&mut self, error: &io::Error) {
        self.stopped = Some(format!("sync failed: {error}"));
    }

    /// The last line in good order, a signature over all, and a sync; every later append fails.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn close(&mut self, now: Timestamp) -> Result<u64, LogError> {
        self.write([&Record::new(Kind::LogClosed, Decision::Info)], now)?;
        let seq = self.checkpoint(now)?;
        if let Some(job) = self.take_sync() {
            job.run().map_err(|error| LogError::Write(error.to_string()))?;
        }
        self.stopped = Some("the log is closed".to_owned());
        Ok(seq)
    }

    /// The key that signs its checkpoints: to be shown, and pinned by whoever verifies.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// The number of the last record.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.seq
    }

    /// After refused records, the first that fits is an alarm that counts them.
    fn confess(&mut self, now: Timestamp) -> Result<(), LogError> {
        if self.refused == 0 {
            return Ok(());
        }
        let mut record = Record::new(Kind::Alarm, Decision::Info);
        record.reason = Some("audit_unavailable".to_owned());
        record.outcome = Some("records could not be written for a while; what they announced was refused".to_owned());
        record.counts.insert("refused".to_owned(), self.refused);
        self.write([&record], now)?;
        self.refused = 0;
        Ok(())
    }

    fn checkpoint_if_possible(&mut self, now: Timestamp) {
        if let Err(error) = self.checkpoint(now) {
            tracing::error!(%error, "no checkpoint could be written to the audit log");
        }
    }

    fn write<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>, now: Timestamp) -> Result<u64, LogError> {
        if let Some(reason) = &self.stopped {
            return Err(LogError::Stopped(reason.clone()));
        }
        self.turn_page(now).map_err(|error| LogError::Write(error.to_string()))?;
        let (mut bytes, mut seq, mut hash) = (Vec::with_capacity(1024), self.seq, self.hash.clone());
        for record in records {
            seq += 1;
            let previous = if postern_danger::off!("audit-chain") { line::GENESIS } else { &hash };
            hash = line::compose(&mut bytes, seq, now, previous, record);
        }
        postern_danger::point!("record.before");
        self.write_lines(&bytes)?;
        postern_danger::point!("record.after");
        self.unsigned += seq - self.seq;
        (self.seq, self.hash) = (seq, hash);
        self.pending.dirty = true;
        Ok(self.seq)
    }

    fn write_lines(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let reason = match write_once(&self.file, bytes) {
            Ok(count) if count == bytes.len() => {
                self.length += count as u64;
                return Ok(());
            }
            Ok(0) => "no space left".to_owned(),
            Ok(count) => {
                let reason = format!("only {count} of {} bytes fitted", bytes.len());
                if let Err(error) = self.file.set_len(self.length) {
                    self.stopped = Some(format!("{reason}, and the half line cannot be cut: {error}"));
                }
                reason
            }
            Err(error) => error.to_string(),
        };
        Err(LogError::Write(reason))
    }

    /// The first record of a day begins its file. A clock that went back keeps the file it has: the chain, not the name, is the order.
    fn turn_page(&mut self, now: Timestamp) -> io::Result<()> {
        let today = day(now);
        if today <= self.date {
            return Ok(());
        }
        let file = create(&self.directory, today)?;
        self.pending.earlier.push(std::mem::replace(&mut self.file, Arc::new(file)));
        self.date = today;
        self.length = 0;
        Ok(())
    }
}

fn write_once(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn create(directory: &std::path::Path, date: Date) -> io::Result<File> {
    let mode = if postern_danger::off!("private-files") { 0o644 } else { 0o600 };
    let file = OpenOptions::new().append(true).create(true).mode(mode).open(directory.join(file_name(date)))?;
    if file.metadata()?.len() > 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the day's file was not written by this process"));
    }
    File::open(directory)?.sync_all()?;
    Ok(file)
}

fn day(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

fn file_name(date: Date) -> String {
    format!("{FILE_PREFIX}{date}{FILE_SUFFIX}")
}

/// A checkpoint at the latest after this many records.
pub(crate) const CHECKPOINT_RECORDS: u64 = 1000;
/// A checkpoint at the latest this long after a record.
const CHECKPOINT_AGE: SignedDuration = SignedDuration::from_secs(10);
pub(crate) const FILE_PREFIX: &str = "audit-";
pub(crate) const FILE_SUFFIX: &str = ".jsonl";

#[cfg(test)]
mod tests;
