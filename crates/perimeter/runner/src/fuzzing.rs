//! What the journal's reader makes of any bytes, as a plain function: the fuzz target and the tests over its corpus call
//! it. It panics where a promise is broken.

use crate::journal;

/// A journal reads as far as its lines do: what follows changes nothing of what stands before, but by its own lines.
///
/// # Panics
/// When it does not.
pub fn journal(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let whole = journal::read(bytes);
    match whole {
        Ok(entries) => assert!(entries.len() <= lines.len(), "one tool use a line"),
        Err(line) => {
            assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
            let before: Vec<u8> = lines[..line - 1].concat();
            assert!(journal::read(&before).is_ok(), "the first line that does not read is named");
        }
    }
}
