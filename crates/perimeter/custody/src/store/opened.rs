//! What was read of a file, for as long as the file is the same one: found out anew at each use, so that a change counts at once. Keeps no secret in the
//! clear: rows stay sealed.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::sealed::Contents;
use crate::stamp::Stamp;

/// The store's rows as they were last read.
#[derive(Default)]
pub(super) struct Opened(Mutex<Option<Read>>);

struct Read {
    /// Held open, so that no other file gets its number while it is compared by it.
    _file: File,
    stamp: Stamp,
    contents: Arc<Contents>,
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
