//! What has to reach the disk, done away from the log's lock: data first, then the checkpoint file that vouches for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key;

/// The newest signature, beside the log: a log that ends before it was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) seq: u64,
    pub(crate) hash: String,
    pub(crate) ts: Timestamp,
    pub(crate) signature: String,
}

impl Checkpoint {
    /// Reads the checkpoint file of a log's directory.
    pub(crate) fn beside(directory: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(directory.join(CHECKPOINT_FILE))?;
        serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// What was written and not yet synced.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) dirty: bool,
    pub(super) earlier: Vec<Arc<File>>,
    pub(super) checkpoint: Option<Checkpoint>,
    turn: Arc<Mutex<()>>,
}

impl Pending {
    pub(super) fn take(&mut self, directory: &Path, current: &Arc<File>) -> Option<SyncJob> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut files = std::mem::take(&mut self.earlier);
        files.push(Arc::clone(current));
        let (checkpoint, turn) = (self.checkpoint.take(), Arc::clone(&self.turn));
        Some(SyncJob { directory: directory.to_owned(), files, checkpoint, turn })
    }
}

/// One group sync.
pub struct SyncJob {
    directory: PathBuf,
    files: Vec<Arc<File>>,
    checkpoint: Option<Checkpoint>,
    /// Two jobs run one after the other, so that each replaces the checkpoint file whole.
    turn: Arc<Mutex<()>>,
}

impl SyncJob {
    /// Blocks until everything written before this job was taken is on the disk.
    ///
    /// # Errors
    /// The system's; see [`super::Log::sync_failed`].
    pub fn run(self) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &self.files {
            file.sync_data()?;
        }
        match self.checkpoint {
            None => Ok(()),
            Some(checkpoint) => {
                let bytes = serde_json::to_vec(&checkpoint).expect("texts and a number are JSON");
                key::replace(&self.directory, CHECKPOINT_FILE, &bytes)
            }
        }
    }
}

/// The file beside a log that holds its newest signature.
pub(crate) const CHECKPOINT_FILE: &str = "checkpoint.json";
