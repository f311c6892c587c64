//! Whether a log is whole: every line as it was written, in order, chained, and signed by the expected key; offline, from the files alone.
//! What it cannot see is said in the report: records after the last checkpoint are chained but not signed, and could be cut or rewritten by whoever
//! can write the directory. Who can write it can also cut the log back to any earlier checkpoint, and a log with a key of its own is anybody's to make: what
//! shows these was noted elsewhere, the key and the last record. Whoever has the private key can forge all that no note tells of.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::key::{Head, PublicKey};
use crate::line::{Entry, GENESIS};
use crate::log::{CHECKPOINT_FILE, Checkpoint};
use crate::reader::{Line, Lines, parse};
use crate::record::Kind;

/// What a whole log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many records.
    pub records: u64,
    /// Number of the first; more than 1 only where one file was verified by itself.
    pub first_seq: u64,
    /// Number of the last.
    pub last_seq: u64,
    /// Hash of the last line.
    pub last_hash: String,
    /// The last record that a signature covers.
    pub last_checkpoint: Option<u64>,
    /// How many records follow it, chained and not yet signed.
    pub unsigned: u64,
    /// The key that signed.
    pub key: PublicKey,
    /// Whether the caller named that key, or it was taken from beside the log.
    pub key_pinned: bool,
}

/// What is known of a log from elsewhere. Nothing of it is believed of the log's own directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The key that signs it.
    pub key: Option<PublicKey>,
    /// A record that it holds.
    pub record: Option<Anchor>,
}

/// A record that was noted when it was written: `SEQ` or `SEQ:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its number.
    pub seq: u64,
    /// The hash of its line, and so of all before it.
    pub hash: Option<String>,
}

/// Why a text notes no record.
#[derive(Debug, thiserror::Error)]
#[error(
    "a record is noted as its number, or as number:hash with the hash's 64 hexadecimal digits, as `postern audit verify` prints it"
)]
pub struct BadAnchor;

impl FromStr for Anchor {
    type Err = BadAnchor;

    fn from_str(text: &str) -> Result<Self, BadAnchor> {
        let (seq, hash) = text.split_once(':').map_or((text, None), |(seq, hash)| (seq, Some(hash)));
        let seq = seq.parse().ok().filter(|seq| *seq > 0).ok_or(BadAnchor)?;
        let is_hash = |hash: &&str| hash.len() == GENESIS.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = match hash {
            None => None,
            Some(hash) => Some(hash).filter(is_hash).map(|hash| Some(hash.to_ascii_lowercase())).ok_or(BadAnchor)?,
        };
        Ok(Self { seq, hash })
    }
}

/// The first place where a log is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} line {line}{}: {problem}", file.display(), seq.map(|seq| format!(" (record {seq})")).unwrap_or_default())]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the file itself is the problem.
    pub line: u64,
    /// The record's number, where the line still says one.
    pub seq: Option<u64>,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The system cannot read it.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The last line has no end.
    #[error(
        "the line has no end: cut short, or being written when the audit process died (its next start cuts it and says so)"
    )]
    Unterminated,
    /// Not a line this log writes.
    #[error("this is not an audit record")]
    NotARecord,
    /// The line's bytes are not those that were hashed.
    #[error("the line was changed")]
    Changed,
    /// A record is missing, doubled or out of order.
    #[error("record {expected} should stand here: lines were removed, added or reordered")]
    OutOfOrder {
        /// The number that should stand here.
        expected: u64,
    },
    /// The line does not continue the line before it.
    #[error("it does not follow from the line before it: one of the two was rewritten")]
    Unchained,
    /// A checkpoint that this key did not sign over what stands before it.
    #[error("the signature does not hold: something before it was rewritten, or another key signed")]
    Unsigned,
    /// The log ends before what was signed.
    #[error("the log ends here, and was signed up to record {signed}: its end was removed")]
    Shortened {
        /// The last record that was signed.
        signed: u64,
    },
    /// The log ends before what was noted elsewhere.
    #[error("the log ends here, and record {noted} was noted elsewhere: its end was removed")]
    CutBack {
        /// The record that was noted.
        noted: u64,
    },
    /// The record is another than what was noted elsewhere.
    #[error("this is not the record that was noted elsewhere: it, or something before it, was rewritten")]
    Replaced,
    /// The record that was noted lies before what was read.
    #[error("the record {noted} that was noted elsewhere is not in this file; verify the log's directory")]
    NotHere {
        /// The record that was noted.
        noted: u64,
    },
    /// A log without records.
    #[error("there are no records")]
    Empty,
    /// No key to verify with.
    #[error("no public key: give one, or put the log's key.pub beside it ({0})")]
    NoKey(String),
}

/// Verifies a log's directory, or one file of it, with the key that lies beside it.
///
/// # Errors
/// The first broken place.
pub fn verify(path: &Path) -> Result<Report, Broken> {
    verify_with(path, &Noted::default())
}

/// As [`verify`], with what the caller knows of it from elsewhere.
///
/// # Errors
/// The first broken place.
pub fn verify_with(path: &Path, noted: &Noted) -> Result<Report, Broken> {
    let whole_log = path.is_dir();
    let directory = if whole_log { path } else { path.parent().unwrap_or(Path::new(".")) };
    let key = match &noted.key {
        Some(key) => key.clone(),
        None => PublicKey::beside(directory).map_err(|error| at(directory, Problem::NoKey(error.to_string())))?,
    };
    let newest = if whole_log { Some(newest_checkpoint(directory, &key)?) } else { None };
    let lines = Lines::of(path).map_err(|error| at(path, Problem::Unreadable(error.to_string())))?;
    let mut chain = Chain {
        key,
        newest,
        noted: noted.record.clone(),
        last: None,
        first_seq: 0,
        signed: None,
        place: (path.to_owned(), 0),
        whole_log,
    };
    for line in lines {
        chain.follow(line)?;
    }
    chain.finish(noted.key.is_some())
}

fn newest_checkpoint(directory: &Path, key: &PublicKey) -> Result<Checkpoint, Broken> {
    let file = directory.join(CHECKPOINT_FILE);
    let checkpoint =
        Checkpoint::beside(directory).map_err(|error| at(&file, Problem::Unreadable(error.to_string())))?;
    let head = Head { seq: checkpoint.seq, hash: &checkpoint.hash, ts: checkpoint.ts };
    if key.signed(&head, &checkpoint.signature) { Ok(checkpoint) } else { Err(at(&file, Problem::Unsigned)) }
}

fn at(file: &Path, problem: Problem) -> Broken {
    Broken { file: file.to_owned(), line: 0, seq: None, problem }
}

/// The chain as far as it was followed.
struct Chain {
    key: PublicKey,
    newest: Option<Checkpoint>,
    noted: Option<Anchor>,
    last: Option<(u64, String)>,
    first_seq: u64,
    signed: Option<u64>,
    place: (PathBuf, u64),
    whole_log: bool,
}

impl Chain {
    fn follow(&mut self, line: Line) -> Result<(), Broken> {
        let Line { file, number, content } = line;
        self.place = (file, number);
        let entry = content.and_then(|bytes| parse(&bytes)).map_err(|problem| self.broken(None, problem))?;
        let (expected, previous) = match &self.last {
            Some((seq, hash)) => (seq + 1, hash.as_str()),
            None if self.whole_log => (1, GENESIS),
            None => (entry.seq, entry.previous.as_str()),
        };
        if entry.seq != expected {
            return Err(self.broken(Some(entry.seq), Problem::OutOfOrder { expected }));
        }
        if entry.previous != previous {
            return Err(self.broken(Some(entry.seq), Problem::Unchained));
        }
        self.check_signatures(&entry)?;
        if self.last.is_none() {
            self.first_seq = entry.seq;
        }
        self.last = Some((entry.seq, entry.hash));
        Ok(())
    }

    fn check_signatures(&mut self, entry: &Entry) -> Result<(), Broken> {
        if entry.record.kind == Kind::Checkpoint {
            if !self.signed_by_key(entry) {
                return Err(self.broken(Some(entry.seq), Problem::Unsigned));
            }
            self.signed = Some(entry.seq - 1);
        }
        if self.newest.as_ref().is_some_and(|newest| newest.seq == entry.seq && newest.hash != entry.hash) {
            return Err(self.broken(Some(entry.seq), Problem::Unsigned));
        }
        let is_noted = |noted: &Anchor| noted.hash.as_ref().is_none_or(|hash| *hash == entry.hash);
        if self.noted.as_ref().is_some_and(|noted| noted.seq == entry.seq && !is_noted(noted)) {
            return Err(self.broken(Some(entry.seq), Problem::Replaced));
        }
        Ok(())
    }

    fn signed_by_key(&self, entry: &Entry) -> bool {
        let digest = |name: &str| entry.record.digests.get(name).map(String::as_str).unwrap_or_default();
        let head = Head { seq: entry.seq - 1, hash: &entry.previous, ts: entry.ts };
        digest("head") == entry.previous && self.key.signed(&head, digest("signature"))
    }

    fn finish(self, key_pinned: bool) -> Result<Report, Broken> {
        let Some((last_seq, last_hash)) = &self.last else { return Err(self.broken(None, Problem::Empty)) };
        let newest = self.newest.as_ref().map_or(0, |newest| newest.seq);
        if *last_seq < newest {
            return Err(self.broken(Some(*last_seq), Problem::Shortened { signed: newest }));
        }
        if let Some(noted) = &self.noted {
            if *last_seq < noted.seq {
                return Err(self.broken(Some(*last_seq), Problem::CutBack { noted: noted.seq }));
            }
            if noted.seq < self.first_seq && noted.hash.is_some() {
                return Err(self.broken(None, Problem::NotHere { noted: noted.seq }));
            }
        }
        Ok(Report {
            records: last_seq + 1 - self.first_seq,
            first_seq: self.first_seq,
            last_seq: *last_seq,
            last_hash: last_hash.clone(),
            last_checkpoint: self.signed,
            unsigned: last_seq - self.signed.unwrap_or(self.first_seq - 1),
            key: self.key,
            key_pinned,
        })
    }

    fn broken(&self, seq: Option<u64>, problem: Problem) -> Broken {
        let (file, line) = self.place.clone();
        Broken { file, line, seq, problem }
    }
}

#[cfg(test)]
mod tests;
