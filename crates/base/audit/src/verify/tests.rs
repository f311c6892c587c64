use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::log::{Log, OpenError};
use crate::record::{Decision, Record};

const START: &str = "2026-11-20T23:59:50Z";

fn start() -> Timestamp {
    START.parse().unwrap()
}

/// A log over two days: opened (2 records), `count` records one second apart, closed (2 records).
fn written(directory: &Path, count: usize) {
    let mut log = Log::open(directory, start()).unwrap();
    let mut now = start();
    for n in 0..count {
        let mut record = Record::new(Kind::EgressRequest, Decision::Deny);
        record.outcome = Some(format!("number {n} \u{202e}\u{7f}\n"));
        log.append(record, now).unwrap();
        now += SignedDuration::from_secs(1);
    }
    log.close(now).unwrap();
}

fn pinned(key: &PublicKey) -> Noted {
    Noted { key: Some(key.clone()), ..Noted::default() }
}

fn noted(text: &str) -> Noted {
    Noted { record: Some(text.parse().unwrap()), ..Noted::default() }
}

fn log_files(directory: &Path) -> Vec<PathBuf> {
    crate::log::files(directory).unwrap().into_iter().map(|(_, path)| path).collect()
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(ToOwned::to_owned).collect()
}

fn write_lines(file: &Path, lines: &[String]) {
    fs::write(file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_whole_log_over_two_days_is_whole_and_ascii() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 20);
    let files = log_files(directory.path());
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["audit-2026-11-20.jsonl", "audit-2026-11-21.jsonl"]);
    let report = verify(directory.path()).unwrap();
    assert_eq!((report.records, report.first_seq, report.last_seq), (24, 1, 24));
    assert_eq!((report.last_checkpoint, report.unsigned, report.key_pinned), (Some(23), 1, false));
    assert!(files.iter().all(|file| fs::read(file).unwrap().iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n'))));
    let second = verify_with(&files[1], &pinned(&report.key)).unwrap();
    assert_eq!((second.first_seq > 1, second.last_seq, second.key_pinned), (true, 24, true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn any_changed_byte_is_named_with_its_file_and_line(place in any::<prop::sample::Index>(), change in 1u8..=255) {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path(), 12);
        let files = log_files(directory.path());
        let file = &files[place.index(97) % files.len()];
        let mut bytes = fs::read(file).unwrap();
        let at = place.index(bytes.len());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        bytes[at] ^= change;
        fs::write(file, &bytes).unwrap();
        let broken = verify(directory.path()).unwrap_err();
        prop_assert_eq!((&broken.file, broken.line), (file, line), "{}", broken);
    }
}

#[test]
fn every_removed_doubled_or_swapped_line_is_named() {
    for line in 0..8 {
        type Edit = fn(&mut Vec<String>, usize);
        let edits: [Edit; 3] = [
            |lines, at| drop(lines.remove(at)),
            |lines, at| lines.insert(at, lines[at].clone()),
            |lines, at| lines.swap(at, at + 1),
        ];
        for (index, edit) in edits.iter().enumerate() {
            let directory = tempfile::tempdir().unwrap();
            written(directory.path(), 20);
            let file = log_files(directory.path()).remove(0);
            let mut all = lines(&file);
            edit(&mut all, line);
            write_lines(&file, &all);
            let broken = verify(directory.path()).unwrap_err();
            let named = if index == 1 { line + 2 } else { line + 1 };
            assert!(matches!(broken.problem, Problem::OutOfOrder { .. }), "{broken}");
            assert_eq!((broken.file, broken.line as usize), (file, named), "edit {index} at line {line}");
        }
    }
}

#[test]
fn a_log_shortened_behind_its_checkpoint_is_named_also_when_whole_files_go() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 20);
    let files = log_files(directory.path());
    let mut all = lines(&files[1]);
    all.truncate(all.len() - 3);
    write_lines(&files[1], &all);
    let broken = verify(directory.path()).unwrap_err();
    assert_eq!((&broken.file, &broken.problem), (&files[1], &Problem::Shortened { signed: 23 - 1 + 1 }));
    fs::remove_file(&files[1]).unwrap();
    let broken = verify(directory.path()).unwrap_err();
    assert!(matches!(broken.problem, Problem::Shortened { .. }), "{broken}");
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(verify(directory.path()).unwrap_err().problem, Problem::Empty);
}

#[test]
fn a_missing_first_day_is_named() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 20);
    let files = log_files(directory.path());
    fs::remove_file(&files[0]).unwrap();
    let broken = verify(directory.path()).unwrap_err();
    assert_eq!((broken.file, broken.line, broken.problem), (files[1].clone(), 1, Problem::OutOfOrder { expected: 1 }));
}

#[test]
fn a_line_without_its_end_is_named() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 3);
    let file = log_files(directory.path()).remove(0);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let broken = verify(directory.path()).unwrap_err();
    assert_eq!((broken.line, broken.problem), (7, Problem::Unterminated));
}

/// Rewrites a record and every hash after it, as someone without the key could.
fn rewrite_from(file: &Path, at: usize) {
    let entries: Vec<_> = crate::reader::entries(file).unwrap().map(Result::unwrap).collect();
    let mut previous = entries[at].previous.clone();
    let mut all = lines(file);
    for (index, entry) in entries.iter().enumerate().skip(at) {
        let mut record = entry.record.clone();
        if index == at {
            record.decision = Decision::Allow;
        }
        let mut line = Vec::new();
        previous = crate::line::compose(&mut line, entry.seq, entry.ts, &previous, &record);
        all[index] = String::from_utf8(line).unwrap().trim_end().to_owned();
    }
    write_lines(file, &all);
}

#[test]
fn a_rewritten_chain_is_not_gone_on_with_and_signed_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), start()).unwrap();
    let record = || Record::new(Kind::EgressRequest, Decision::Deny);
    log.append_all(vec![record(), record(), record()], start()).unwrap();
    let signed = log.checkpoint(start()).unwrap() - 1;
    log.append(record(), start()).unwrap();
    log.take_sync().unwrap().run().unwrap();
    drop(log);
    let file = log_files(directory.path()).remove(0);
    rewrite_from(&file, 3);
    let refused = Log::open(directory.path(), start()).err().unwrap();
    assert!(matches!(refused, OpenError::Rewritten { signed: at, .. } if at == signed), "{refused}");
    assert_eq!(
        verify(directory.path()).unwrap_err().problem,
        Problem::Unsigned,
        "nor was it signed before it was refused"
    );
}

#[test]
fn a_rewritten_chain_breaks_at_the_next_signature() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 5);
    let file = log_files(directory.path()).remove(0);
    rewrite_from(&file, 3);
    let all = lines(&file);
    let broken = verify(directory.path()).unwrap_err();
    assert_eq!(broken.problem, Problem::Unsigned, "{broken}");
    assert_eq!(broken.line as usize, all.len() - 1, "the record that checkpoint.json signs is the one before the last");
}

#[test]
fn another_key_is_refused_and_a_missing_one_named() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 3);
    let other: PublicKey = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".parse().unwrap();
    assert_eq!(verify_with(directory.path(), &pinned(&other)).unwrap_err().problem, Problem::Unsigned);
    fs::remove_file(directory.path().join("key.pub")).unwrap();
    assert!(matches!(verify(directory.path()).unwrap_err().problem, Problem::NoKey(_)));
}

#[test]
fn a_log_that_somebody_made_with_a_key_of_their_own_is_shown_by_the_key_that_was_noted() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(ours.path(), 3);
    written(theirs.path(), 3);
    let key = verify(ours.path()).unwrap().key;
    assert!(!verify(theirs.path()).unwrap().key_pinned, "taken alone it looks whole");
    assert_eq!(verify_with(theirs.path(), &pinned(&key)).unwrap_err().problem, Problem::Unsigned);
    assert!(verify_with(ours.path(), &pinned(&key)).unwrap().key_pinned);
}

/// Every checkpoint's record holds all that `checkpoint.json` needs: whoever can write the directory takes an earlier one.
#[test]
fn a_log_that_was_cut_back_to_an_earlier_checkpoint_is_shown_by_a_record_that_was_noted() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 5);
    let report = verify(directory.path()).unwrap();
    let last = format!("{}:{}", report.last_seq, report.last_hash);
    assert_eq!(verify_with(directory.path(), &noted(&last)).unwrap(), report);

    let file = log_files(directory.path()).remove(0);
    let entries: Vec<_> = crate::reader::entries(&file).unwrap().map(Result::unwrap).collect();
    let (at, earlier) = entries.iter().enumerate().find(|(_, entry)| entry.record.kind == Kind::Checkpoint).unwrap();
    let signature = earlier.record.digests["signature"].clone();
    let checkpoint = Checkpoint { seq: earlier.seq - 1, hash: earlier.previous.clone(), ts: earlier.ts, signature };
    fs::write(directory.path().join(CHECKPOINT_FILE), serde_json::to_vec(&checkpoint).unwrap()).unwrap();
    write_lines(&file, &lines(&file)[..=at]);
    assert_eq!(verify(directory.path()).unwrap().last_seq, earlier.seq, "nothing beside it says that there was more");
    for text in [&last, &report.last_seq.to_string()] {
        let broken = verify_with(directory.path(), &noted(text)).unwrap_err();
        assert_eq!((broken.seq, broken.problem), (Some(earlier.seq), Problem::CutBack { noted: report.last_seq }));
    }
}

#[test]
fn a_record_that_was_noted_stands_at_its_number_with_its_hash() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), 20);
    let files = log_files(directory.path());
    let first = crate::reader::entries(&files[0]).unwrap().next().unwrap().unwrap();
    let noted_first = format!("1:{}", first.hash.to_uppercase());
    assert!(verify_with(directory.path(), &noted(&noted_first)).is_ok());
    let other = verify_with(directory.path(), &noted(&format!("2:{}", first.hash))).unwrap_err();
    assert_eq!((other.line, other.problem), (2, Problem::Replaced));
    assert!(verify_with(&files[1], &noted("1")).is_ok(), "it reaches that far");
    let before = verify_with(&files[1], &noted(&noted_first)).unwrap_err();
    assert_eq!(before.problem, Problem::NotHere { noted: 1 });
    for text in ["", "0", "x", "1:", "1:ab", "-1", &format!("1:{}g", &first.hash[1..])] {
        assert!(text.parse::<Anchor>().is_err(), "{text}");
    }
}
