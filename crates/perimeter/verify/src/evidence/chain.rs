//! The audit log verifies, and copies of it that somebody changed do not.

use std::fs;
use std::path::{Path, PathBuf};

use postern_audit::{Anchor, Noted};

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

/// A log that was cut back to what it was a while ago, its signature with it, verifies by itself; where its last record was noted elsewhere, it does not.
pub(super) fn cut_back(audit: &Path) -> Pair {
    let Ok(report) = postern_audit::verify(audit) else { return ("broken", "not known") };
    let noted = Noted { key: None, record: Some(Anchor { seq: report.last_seq, hash: Some(report.last_hash) }) };
    let whole = |path: &Path| word(postern_audit::verify_with(path, &noted).is_ok(), "whole", "broken");
    let earlier = earlier(audit);
    let copied = postern_audit::verify(&earlier).is_ok_and(|then| then.last_seq < report.last_seq);
    (whole(audit), if copied { whole(&earlier) } else { "not copied" })
}

/// Keeps a copy of the log as it is now: its signature first, so that what is copied after it goes on from there, and of the records whole lines alone.
pub(super) fn keep_earlier(audit: &Path) {
    let earlier = earlier(audit);
    let mut files = below(audit);
    files.sort_by_key(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    let copy = |path: &PathBuf| {
        let mut bytes = fs::read(path)?;
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        }
        fs::write(earlier.join(path.file_name().unwrap_or_default()), bytes)
    };
    if let Err(error) = fs::create_dir(&earlier).and_then(|()| files.iter().try_for_each(copy)) {
        tracing::warn!(%error, "the log as it is now was not copied");
    }
}

fn earlier(audit: &Path) -> PathBuf {
    audit.with_file_name("earlier")
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

/// Without its last lines, the newest signature among them.
pub(super) fn no_end(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    lines.truncate(lines.len().saturating_sub(END).max(1));
    lines
}

/// So many lines are cut.
const END: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_changes_what_it_says() {
        let lines = || [b"a tool_use\n".as_slice(), b"b\n", b"c\n", b"d\n"].map(<[u8]>::to_vec).to_vec();
        let table: [(Change, &[u8]); 5] = [
            (no_end, b"a tool_use\n"),
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
