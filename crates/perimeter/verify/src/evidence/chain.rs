//! The audit log verifies, and copies of it that somebody changed do not.

use std::fs;
use std::path::Path;

use super::{Pair, below, word};

/// What is done to the lines of a copy of the log.
pub(super) type Change = fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>;

/// The log verifies, and a copy that was changed does not.
pub(super) fn chain(audit: &Path, name: &str, change: Change) -> Pair {
    let whole = |path: &Path| word(postern_audit::verify(path).is_ok(), "whole", "broken");
    let changed = audit.with_file_name(name);
    let copied = fs::create_dir(&changed).is_ok() && copy_changed(audit, &changed, change);
    (whole(audit), if copied { whole(&changed) } else { "not copied" })
}

fn copy_changed(from: &Path, to: &Path, change: Change) -> bool {
    let mut changed = false;
    for path in below(from) {
        let Ok(mut bytes) = fs::read(&path) else { return false };
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let after = change(lines).concat();
            changed |= after != bytes;
            bytes = after;
        }
        if fs::write(to.join(path.file_name().unwrap_or_default()), bytes).is_err() {
            return false;
        }
    }
    changed
}

pub(super) fn one_letter(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let found = lines.iter_mut().find_map(|line| {
        let at = line.windows(8).position(|window| window == b"tool_use")?;
        line.get_mut(at)
    });
    if let Some(letter) = found {
        *letter = b'T';
    }
    lines
}

pub(super) fn one_line_less(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if lines.len() > 2 {
        lines.remove(lines.len() / 2);
    }
    lines
}

pub(super) fn two_lines_swapped(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if lines.len() > 2 {
        let middle = lines.len() / 2;
        lines.swap(middle, middle - 1);
    }
    lines
}

pub(super) fn one_line_twice(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if let Some(line) = lines.get(lines.len() / 2).cloned() {
        lines.insert(lines.len() / 2, line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_changes_what_it_says() {
        let lines = || [b"a tool_use\n".as_slice(), b"b\n", b"c\n", b"d\n"].map(<[u8]>::to_vec).to_vec();
        let table: [(Change, &[u8]); 4] = [
            (one_letter, b"a Tool_use\nb\nc\nd\n"),
            (one_line_less, b"a tool_use\nb\nd\n"),
            (two_lines_swapped, b"a tool_use\nc\nb\nd\n"),
            (one_line_twice, b"a tool_use\nb\nc\nc\nd\n"),
        ];
        for (change, wanted) in table {
            assert_eq!(change(lines()).concat(), wanted);
        }
    }
}
