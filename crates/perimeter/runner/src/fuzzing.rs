//! What the readers of the journal and of a skill's archive make of any bytes, as plain functions: the fuzz targets and the tests over their corpora
//! call them. They panic where a promise is broken.

use crate::journal::{self, Fault};
use crate::parcels;

/// A journal reads as far as its lines do: what follows changes nothing of what stands before, but by its own lines.
///
/// # Panics
/// When it does not.
pub fn journal(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    match journal::read(bytes, u64::MAX) {
        Ok(contents) => assert!(contents.entries.len() <= lines.len(), "one tool use a line"),
        Err(Fault::Line(line)) => {
            assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
            let before: Vec<u8> = lines[..line - 1].concat();
            assert!(journal::read(&*before, u64::MAX).is_ok(), "the first line that does not read is named");
        }
        Err(Fault::Unreadable(error)) => panic!("bytes read: {error}"),
    }
}

/// What an archive unpacks to are plain files and directories below the one that was asked for, within the bound, with instructions; and nothing
/// beside it.
///
/// # Panics
/// When it is something else, or the system refuses a temporary directory.
pub fn skill_archive(bytes: &[u8]) {
    parcels::promised_of_archives(bytes);
}
