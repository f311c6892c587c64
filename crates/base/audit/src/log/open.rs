//! Opening a log: alone, with its key, at the end of its last whole line, and never at the end of one that was shortened or rewritten behind its newest
//! signature.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, civil::Date};
use rustix::fs::{FlockOperation, flock};

use super::sync::{Checkpoint, Pending};
use super::{FILE_PREFIX, FILE_SUFFIX, Log, LogError, create, day};
use crate::key::{Head, PRIVATE_FILE, PUBLIC_FILE, SigningKey};
use crate::line::{self, Entry, GENESIS, LONGEST_RECORD};
use crate::reader::{Lines, parse};
use crate::record::{Decision, Kind, Record};

/// Why a log was not opened. Nothing that needs a record can happen until it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error("another audit process has {} open", directory.display())]
    Locked {
        /// The log's directory.
        directory: PathBuf,
    },
    /// The end of the log is not a record.
    #[error("the last line of {} was changed; run `postern audit verify`, then move the directory away to begin a new log", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// The log ends before its newest signature, or does not lead to it.
    #[error("the log in {} ends at record {last}, and record {signed} was signed; run `postern audit verify`, then move the directory away to begin a new log", directory.display())]
    Shortened {
        /// The log's directory.
        directory: PathBuf,
        /// The last record there is.
        last: u64,
        /// The last record that was signed.
        signed: u64,
    },
    /// What follows the newest signature does not follow from it.
    #[error("the log in {} does not lead from record {signed}, which was signed, to its end: lines were rewritten or removed; run `postern audit verify`, then move the directory away to begin a new log", directory.display())]
    Rewritten {
        /// The log's directory.
        directory: PathBuf,
        /// The last record that was signed.
        signed: u64,
    },
    /// A log without its key or its checkpoint file.
    #[error("the log in {} has records but not its {missing}; restore it, or move the directory away to begin a new log", directory.display())]
    Incomplete {
        /// The log's directory.
        directory: PathBuf,
        /// `key` or `checkpoint`.
        missing: &'static str,
    },
    /// The system refused something.
    #[error("open the audit log in {}", directory.display())]
    System {
        /// The log's directory.
        directory: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The first record could not be written.
    #[error("the audit log cannot be written to")]
    Write(#[from] LogError),
}

impl Log {
    /// Opens the log of this directory, or begins one. An unterminated last line was never acknowledged: it is cut, and a `recovered` record says so.
    ///
    /// # Errors
    /// [`OpenError`]: everything that does not look as this writer left it is refused.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let system = |source| OpenError::System { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(system)?;
        let lock = lock(directory)?;
        let files = files(directory).map_err(system)?;
        let lacks = |name| !directory.join(name).exists();
        // Before a key is made: a new one would take the place of the public half that verifies what there is.
        if !files.is_empty() && (lacks(PUBLIC_FILE) || lacks(PRIVATE_FILE)) {
            return Err(OpenError::Incomplete { directory: directory.to_owned(), missing: "key" });
        }
        let key = SigningKey::open_or_make(directory).map_err(system)?;
        let tail = Tail::find(directory, &files)?;
        check_against_checkpoint(directory, &key, tail.last.as_ref(), &files)?;
        let (date, file, length) = match files.last() {
            Some((date, path)) => {
                let file = OpenOptions::new().append(true).open(path).map_err(system)?;
                let length = file.metadata().map_err(system)?.len();
                (*date, file, length)
            }
            None => (day(now), create(directory, day(now)).map_err(system)?, 0),
        };
        let (seq, hash) = tail.last.map_or((0, GENESIS.to_owned()), |entry| (entry.seq, entry.hash));
        let mut log = Log {
            directory: directory.to_owned(),
            _lock: lock,
            key,
            file: Arc::new(file),
            date,
            length,
            seq,
            hash,
            unsigned: 0,
            signed_at: now,
            refused: 0,
            stopped: None,
            pending: Pending::default(),
        };
        log.announce(tail.cut_bytes, now)?;
        Ok(log)
    }

    fn announce(&mut self, cut_bytes: u64, now: Timestamp) -> Result<(), OpenError> {
        if cut_bytes > 0 {
            let mut record = Record::new(Kind::Recovered, Decision::Info);
            record.counts.insert("cut_bytes".to_owned(), cut_bytes);
            record.outcome = Some("an unterminated last line, never acknowledged, was cut".to_owned());
            self.write([&record], now)?;
        }
        let mut record = Record::new(Kind::LogOpened, Decision::Info);
        record.digests.insert("key".to_owned(), self.key.public().to_string());
        self.write([&record], now)?;
        self.checkpoint(now)?;
        let job = self.take_sync().expect("two records were written just now");
        job.run().map_err(|source| OpenError::System { directory: self.directory.clone(), source })
    }
}

/// The days' files of a log, in order.
pub(crate) fn files(directory: &Path) -> io::Result<Vec<(Date, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let date = name.strip_prefix(FILE_PREFIX).and_then(|rest| rest.strip_suffix(FILE_SUFFIX));
        if let Some(date) = date.and_then(|date| date.parse().ok()) {
            files.push((date, path));
        }
    }
    files.sort();
    Ok(files)
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let system = |source| OpenError::System { directory: directory.to_owned(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK_FILE))
        .map_err(system)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { directory: directory.to_owned() }),
        Err(errno) => Err(system(errno.into())),
    }
}

/// Where a log ends.
struct Tail {
    last: Option<Entry>,
    cut_bytes: u64,
}

impl Tail {
    fn find(directory: &Path, files: &[(Date, PathBuf)]) -> Result<Self, OpenError> {
        let mut cut_bytes = 0;
        for (index, (_, path)) in files.iter().enumerate().rev() {
            let newest = index + 1 == files.len();
            let system = |source| OpenError::System { directory: directory.to_owned(), source };
            let (line, torn) = last_line(path).map_err(system)?;
            match torn {
                0 => {}
                _ if !newest => return Err(OpenError::Changed { file: path.clone() }),
                torn => {
                    cut(path, torn).map_err(system)?;
                    cut_bytes = torn;
                }
            }
            if let Some(line) = line {
                let last = line::read(&line).map_err(|_| OpenError::Changed { file: path.clone() })?;
                return Ok(Self { last: Some(last), cut_bytes });
            }
        }
        Ok(Self { last: None, cut_bytes })
    }
}

/// The last whole line of a file, and how many bytes stand after it.
fn last_line(path: &Path) -> io::Result<(Option<Vec<u8>>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(3 * LONGEST_RECORD as u64)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((None, tail.len() as u64)) };
    let torn = (tail.len() - end - 1) as u64;
    let start = tail[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok((Some(tail[start..end].to_vec()), torn))
}

fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len() - bytes)?;
    file.sync_all()
}

fn check_against_checkpoint(
    directory: &Path,
    key: &SigningKey,
    last: Option<&Entry>,
    files: &[(Date, PathBuf)],
) -> Result<(), OpenError> {
    let missing = || OpenError::Incomplete { directory: directory.to_owned(), missing: "checkpoint" };
    let checkpoint = match Checkpoint::beside(directory) {
        Ok(checkpoint) => checkpoint,
        // A first start that was killed before its first checkpoint has two records at most.
        Err(error) if error.kind() == io::ErrorKind::NotFound && last.is_none_or(|last| last.seq <= FIRST_RECORDS) => {
            return Ok(());
        }
        Err(_) => return Err(missing()),
    };
    let head = Head { seq: checkpoint.seq, hash: &checkpoint.hash, ts: checkpoint.ts };
    if !key.public().signed(&head, &checkpoint.signature) {
        return Err(missing());
    }
    let (directory, signed) = (directory.to_owned(), checkpoint.seq);
    match last {
        Some(last) if last.seq >= signed => match leads_from(files, &checkpoint, last) {
            Ok(true) => Ok(()),
            Ok(false) => Err(OpenError::Rewritten { directory, signed }),
            Err(source) => Err(OpenError::System { directory, source }),
        },
        _ => Err(OpenError::Shortened { directory, last: last.map_or(0, |last| last.seq), signed }),
    }
}

/// Whether the record that was signed stands at its number, and an unbroken chain leads from it to the log's end. What goes on from here is signed
/// with all before it.
fn leads_from(files: &[(Date, PathBuf)], checkpoint: &Checkpoint, last: &Entry) -> io::Result<bool> {
    let Some(lines) = Lines::not_long_before(files.iter().map(|(_, file)| file), checkpoint.seq)? else {
        return Ok(false);
    };
    let entries = lines.map(|line| line.content.ok().and_then(|bytes| parse(&bytes).ok()));
    let mut entries = entries.skip_while(|entry| entry.as_ref().is_some_and(|entry| entry.seq < checkpoint.seq));
    let signed = entries.next().flatten().filter(|entry| entry.seq == checkpoint.seq && entry.hash == checkpoint.hash);
    let chain_on = |before: Option<Entry>, entry: Option<Entry>| {
        entry.filter(|entry| before.is_some_and(|before| entry.seq == before.seq + 1 && entry.previous == before.hash))
    };
    Ok(entries.fold(signed, chain_on).is_some_and(|end| end.seq == last.seq && end.hash == last.hash))
}

const LOCK_FILE: &str = "lock";
/// Recovered, opened, checkpoint.
const FIRST_RECORDS: u64 = 3;
