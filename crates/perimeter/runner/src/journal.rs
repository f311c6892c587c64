//! What was started, what came out, and what the server has, per session, on disk beside the workspace. It answers after a crash whether a tool use
//! may run: one that was started never runs again unasked. Agent code cannot reach it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_tools::Block;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::hands::Outcome;

/// One session's journal, held by one worker at a time.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    contents: Contents,
    bounds: Bounds,
    /// How long it is when it is next written anew.
    rewrite_at: u64,
}

/// What a journal says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) entries: HashMap<String, Entry>,
    /// What the lines of outcomes take that the server may not have.
    unposted_bytes: u64,
    /// How long it is, without what a write left that failed half-way.
    length: u64,
}

/// A tool use.
#[derive(Debug)]
pub(crate) struct Entry {
    standing: Standing,
    /// What its line takes while the server may not have its outcome.
    bytes: u64,
}

/// How much of a session is kept in mind.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// From here on it is written anew when it is opened, and when it is as long as the other says, with nothing of outcomes that the server has.
    rewritten_at_opening: u64,
    rewritten: u64,
    /// Of outcomes that the server may not have.
    unposted_bytes: u64,
    tool_uses: usize,
}

const BOUNDS: Bounds =
    Bounds { rewritten_at_opening: 1 << 20, rewritten: 64 << 20, unposted_bytes: 128 << 20, tool_uses: 500_000 };

/// What is known of a tool use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was started; nobody knows how it ended.
    Started,
    /// It ended like this; the server may not have it.
    Done(Outcome),
    /// The server has its result.
    Posted,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("open the journal {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the journal {} is held by another worker", path.display())]
    Held { path: PathBuf },
    #[error("line {line} of the journal {} does not read: move the file away to go on without it", path.display())]
    Garbled { path: PathBuf, line: usize },
    #[error("write the journal")]
    Write(#[source] io::Error),
    /// Nothing more can be kept in mind of this session: no further tool use may begin.
    #[error("the journal has {0}")]
    Full(&'static str),
}

/// Why a journal does not read.
#[derive(Debug)]
pub(crate) enum Fault {
    Unreadable(io::Error),
    /// The line of this number is none of ours.
    Line(usize),
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line<'a> {
    Started { id: Cow<'a, str>, tool: Cow<'a, str> },
    Done { id: Cow<'a, str>, is_error: bool, content: Cow<'a, [Block]> },
    Posted { id: Cow<'a, str> },
}

impl Journal {
    /// Opens or makes the journal. A torn last line was never relied on: it is cut.
    ///
    /// # Errors
    /// [`JournalError`]: then the session is not served, since nobody could tell what already ran.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_within(path, BOUNDS)
    }

    fn open_within(path: &Path, bounds: Bounds) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let file = options().truncate(false).open(path).map_err(failed)?;
        let held = || JournalError::Held { path: path.to_owned() };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| held())?;
        // Whoever held it may have put another in its place before it was let go.
        if file.metadata().map_err(failed)?.nlink() == 0 {
            return Err(held());
        }
        // Twice: the last of them was begun below the bound, and may be long.
        let contents = read(BufReader::new(&file), bounds.unposted_bytes * 2).map_err(|fault| match fault {
            Fault::Unreadable(source) => failed(source),
            Fault::Line(line) => JournalError::Garbled { path: path.to_owned(), line },
        })?;
        if contents.entries.len() >= bounds.tool_uses {
            return Err(JournalError::Full(TOO_MANY));
        }
        file.set_len(contents.length).map_err(failed)?;
        let mut journal =
            Self { path: path.to_owned(), file: Arc::new(file), contents, bounds, rewrite_at: bounds.rewritten };
        if journal.contents.length > bounds.rewritten_at_opening {
            // A disk that has no room for another has this one still.
            let _stays = journal
                .rewrite()
                .inspect_err(|error| tracing::warn!(%error, ?path, "a journal stays as long as it is"));
        }
        Ok(journal)
    }

    /// Whether nothing of this session was ever started here.
    pub(crate) fn is_blank(&self) -> bool {
        self.contents.entries.is_empty()
    }

    /// What is known of a tool use; `None` when it was never started here.
    pub(crate) fn standing(&self, id: &str) -> Option<&Standing> {
        self.contents.entries.get(id).map(|entry| &entry.standing)
    }

    /// Notes a start. On disk when this returns.
    ///
    /// # Errors
    /// It could not be noted: the tool use must not run.
    pub(crate) async fn started(&mut self, id: &str, tool: &str) -> Result<(), JournalError> {
        if self.contents.entries.len() >= self.bounds.tool_uses {
            return Err(JournalError::Full(TOO_MANY));
        }
        if self.contents.unposted_bytes > self.bounds.unposted_bytes {
            return Err(JournalError::Full("too many results that the server does not have"));
        }
        self.append(&encoded(&Line::Started { id: id.into(), tool: tool.into() })?)?;
        let file = Arc::clone(&self.file);
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        synced.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(JournalError::Write)?;
        self.contents.set(id.to_owned(), Standing::Started, 0);
        Ok(())
    }

    /// Notes an outcome, before it is posted. A crash of the machine may lose it; a crash of the worker cannot.
    ///
    /// # Errors
    /// It could not be noted; it can still be posted.
    pub(crate) fn done(&mut self, id: &str, outcome: &Outcome) -> Result<(), JournalError> {
        let standing = Standing::Done(outcome.clone());
        let line = encoded(&Line::of(id, &standing));
        let bytes = line.as_ref().map_or(0, |line| line.len() as u64);
        self.contents.set(id.to_owned(), standing, bytes);
        self.append(&line?)
    }

    /// Notes that the server has the result, of which nothing more is kept. Blocks for a moment where the file is written anew.
    ///
    /// # Errors
    /// It could not be noted: after a restart the result may be posted again.
    pub(crate) fn posted(&mut self, id: &str) -> Result<(), JournalError> {
        self.contents.set(id.to_owned(), Standing::Posted, 0);
        self.append(&encoded(&Line::of(id, &Standing::Posted))?)?;
        if self.contents.length > self.rewrite_at {
            self.rewrite().map_err(JournalError::Write)?;
        }
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> Result<(), JournalError> {
        postern_danger::point!("journal.before");
        // What a full disk left of a line has no end of line. The next line is written over it, and what is longer than that is cut when this is opened again.
        self.file.write_all_at(line, self.contents.length).map_err(JournalError::Write)?;
        self.contents.length += line.len() as u64;
        postern_danger::point!("journal.after");
        Ok(())
    }

    /// Writes what must be known into a new file and puts that in the place of this one: whenever a crash falls, one of the two is there, and whole.
    /// Not given up half-way, as an await would allow: lines in a file that was replaced are lost.
    fn rewrite(&mut self) -> io::Result<()> {
        // Tried again only once it is twice as long, however this goes.
        self.rewrite_at = self.contents.length.saturating_mul(2).max(self.bounds.rewritten);
        let written = self.path.with_extension("new");
        self.rewrite_by(&written).inspect_err(|_| {
            let _took_its_place = std::fs::remove_file(&written);
        })
    }

    fn rewrite_by(&mut self, written: &Path) -> io::Result<()> {
        let file = options().truncate(true).open(written)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut lines = BufWriter::new(&file);
        let mut length = 0;
        for (id, entry) in &self.contents.entries {
            let line = encoded(&Line::of(id, &entry.standing)).map_err(io::Error::other)?;
            lines.write_all(&line)?;
            length += line.len() as u64;
        }
        lines.flush()?;
        drop(lines);
        file.sync_all()?;
        std::fs::rename(written, &self.path)?;
        (self.file, self.contents.length) = (Arc::new(file), length);
        self.rewrite_at = length.saturating_mul(2).max(self.bounds.rewritten);
        // A start that is noted from here on is on disk only where this file is.
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Contents {
    fn set(&mut self, id: String, standing: Standing, bytes: u64) {
        let was = self.entries.insert(id, Entry { standing, bytes });
        self.unposted_bytes = (self.unposted_bytes + bytes).saturating_sub(was.map_or(0, |was| was.bytes));
    }
}

impl<'a> Line<'a> {
    /// What says this of a tool use. Which tool it was, nobody asks after its start.
    fn of(id: &'a str, standing: &'a Standing) -> Self {
        match standing {
            Standing::Started => Self::Started { id: id.into(), tool: "".into() },
            Standing::Done(Outcome { is_error, content }) => {
                Self::Done { id: id.into(), is_error: *is_error, content: content.into() }
            }
            Standing::Posted => Self::Posted { id: id.into() },
        }
    }
}

fn encoded(line: &Line<'_>) -> Result<Vec<u8>, JournalError> {
    let mut bytes = serde_json::to_vec(line).map_err(|error| JournalError::Write(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true).mode(0o600).clone()
}

/// Reads lines, one at a time, up to the first that has no end. Of outcomes that the server may not have, those beyond the bound are as if the worker had
/// died before they were noted: unknown, and not run again.
pub(crate) fn read(mut lines: impl BufRead, unposted_bytes: u64) -> Result<Contents, Fault> {
    let (mut contents, mut line) = (Contents::default(), Vec::new());
    for number in 1.. {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(Fault::Unreadable)?;
        if line.pop() != Some(b'\n') {
            break;
        }
        let bytes = line.len() as u64 + 1;
        contents.length += bytes;
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line).map_err(|_| Fault::Line(number))? {
            Line::Started { id, .. } => contents.set(id.into_owned(), Standing::Started, 0),
            Line::Done { id, .. } if contents.unposted_bytes + bytes > unposted_bytes => {
                contents.set(id.into_owned(), Standing::Started, 0);
            }
            Line::Done { id, is_error, content } => {
                let outcome = Outcome { is_error, content: content.into_owned() };
                contents.set(id.into_owned(), Standing::Done(outcome), bytes);
            }
            Line::Posted { id } => contents.set(id.into_owned(), Standing::Posted, 0),
        }
    }
    Ok(contents)
}

const TOO_MANY: &str = "more tool uses than are kept in mind";

#[cfg(test)]
mod tests;
