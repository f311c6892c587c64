//! What was read of a file, for as long as the file is the same one: found out anew at each use, so that a change counts at once. Keeps no secret in the
//! clear: rows stay sealed.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::sealed::Contents;

/// The store's rows as they were last read.
#[derive(Default)]
pub(super) struct Opened(Mutex<Option<Read>>);

struct Read {
    /// Held open, so that no other file gets its number while it is compared by it.
    _file: File,
    stamp: Stamp,
    contents: Arc<Contents>,
}

/// Differs wherever a file was replaced or written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why there is nothing.
pub(super) enum Failed<E> {
    /// The file cannot be looked at.
    Look(io::Error),
    /// It cannot be read.
    Read(E),
}

impl Opened {
    /// What the file holds now; `read` reads it.
    pub(super) fn contents<E>(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<Contents, E>,
    ) -> Result<Arc<Contents>, Failed<E>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match std::fs::metadata(path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *kept = None;
                return read().map(Arc::new).map_err(Failed::Read);
            }
            Err(error) => return Err(Failed::Look(error)),
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.stamp == now) {
            return Ok(Arc::clone(&kept.contents));
        }
        // The stamp is older than what is read: a file replaced in between is read again at the next use.
        *kept = None;
        let file = File::open(path).map_err(Failed::Look)?;
        let stamp = Stamp::of(&file.metadata().map_err(Failed::Look)?);
        let contents = Arc::new(read().map_err(Failed::Read)?);
        *kept = Some(Read { _file: file, stamp, contents: Arc::clone(&contents) });
        Ok(contents)
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Opened(..)")
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
