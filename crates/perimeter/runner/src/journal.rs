//! What was started, what came out, and what the server has, per session, on disk beside the workspace. It answers after a crash whether a tool use
//! may run: one that was started never runs again unasked. Agent code cannot reach it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_tools::Block;
use serde::{Deserialize, Serialize};

use crate::hands::Outcome;

/// One session's journal, held by one worker at a time.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<File>,
    /// How long it is, without what a write left that failed half-way.
    length: u64,
    entries: HashMap<String, Standing>,
}

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
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Started { id: String, tool: String },
    Done { id: String, is_error: bool, content: Vec<Block> },
    Posted { id: String },
}

impl Journal {
    /// Opens or makes the journal. A torn last line was never relied on: it is cut.
    ///
    /// # Errors
    /// [`JournalError`]: then the session is not served, since nobody could tell what already ran.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| JournalError::Held { path: path.to_owned() })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).map_err(failed)?;
        let entries = read(&bytes[..whole]).map_err(|line| JournalError::Garbled { path: path.to_owned(), line })?;
        Ok(Self { file: Arc::new(file), length: whole as u64, entries })
    }

    /// Whether nothing of this session was ever started here.
    pub(crate) fn is_blank(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known of a tool use; `None` when it was never started here.
    pub(crate) fn standing(&self, id: &str) -> Option<&Standing> {
        self.entries.get(id)
    }

    /// Notes a start. On disk when this returns.
    ///
    /// # Errors
    /// It could not be noted: the tool use must not run.
    pub(crate) async fn started(&mut self, id: &str, tool: &str) -> Result<(), JournalError> {
        self.append(&Line::Started { id: id.to_owned(), tool: tool.to_owned() })?;
        let file = Arc::clone(&self.file);
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        synced.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(JournalError::Write)?;
        self.entries.insert(id.to_owned(), Standing::Started);
        Ok(())
    }

    /// Notes an outcome, before it is posted. A crash of the machine may lose it; a crash of the worker cannot.
    ///
    /// # Errors
    /// It could not be noted; it can still be posted.
    pub(crate) fn done(&mut self, id: &str, outcome: &Outcome) -> Result<(), JournalError> {
        self.entries.insert(id.to_owned(), Standing::Done(outcome.clone()));
        let content = outcome.content.clone();
        self.append(&Line::Done { id: id.to_owned(), is_error: outcome.is_error, content })
    }

    /// Notes that the server has the result.
    ///
    /// # Errors
    /// It could not be noted: after a restart the result may be posted again.
    pub(crate) fn posted(&mut self, id: &str) -> Result<(), JournalError> {
        self.entries.insert(id.to_owned(), Standing::Posted);
        self.append(&Line::Posted { id: id.to_owned() })
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| JournalError::Write(error.into()))?;
        bytes.push(b'\n');
        postern_danger::point!("journal.before");
        // What a full disk left of a line has no end of line. The next line is written over it, and what is longer than that is cut when this is opened again.
        self.file.write_all_at(&bytes, self.length).map_err(JournalError::Write)?;
        self.length += bytes.len() as u64;
        postern_danger::point!("journal.after");
        Ok(())
    }
}

pub(crate) fn read(bytes: &[u8]) -> Result<HashMap<String, Standing>, usize> {
    let mut entries = HashMap::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let (id, standing) = match serde_json::from_slice(line).map_err(|_| number + 1)? {
            Line::Started { id, .. } => (id, Standing::Started),
            Line::Done { id, is_error, content } => (id, Standing::Done(Outcome { is_error, content })),
            Line::Posted { id } => (id, Standing::Posted),
        };
        entries.insert(id, standing);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
