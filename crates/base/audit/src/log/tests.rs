use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::verify::verify;

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn record(text: &str) -> Record {
    let mut record = Record::new(Kind::ToolUse, Decision::Allow);
    record.outcome = Some(text.to_owned());
    record
}

fn newest(directory: &std::path::Path) -> PathBuf {
    files(directory).unwrap().pop().unwrap().1
}

fn outcomes(directory: &std::path::Path) -> Vec<String> {
    let entries = crate::reader::entries(directory).unwrap();
    entries
        .map(Result::unwrap)
        .filter(|entry| entry.record.kind == Kind::ToolUse)
        .filter_map(|entry| entry.record.outcome)
        .collect()
}

#[test]
fn everything_in_the_directory_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("audit");
    let mut log = Log::open(&inside, now()).unwrap();
    log.append(record("one"), now()).unwrap();
    log.close(now()).unwrap();
    assert_eq!(fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names: Vec<_> = fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600, "{}", name.display());
    }
}

#[test]
fn a_second_start_goes_on_where_the_first_ended_and_two_at_once_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    let key = log.public_key();
    assert_eq!(log.append(record("one"), now()).unwrap(), 3);
    assert!(matches!(Log::open(directory.path(), now()), Err(OpenError::Locked { .. })));
    drop(log);
    let mut log = Log::open(directory.path(), now()).unwrap();
    assert_eq!(log.append(record("two"), now()).unwrap(), 6);
    assert_eq!(log.public_key(), key);
    assert_eq!(outcomes(directory.path()), ["one", "two"]);
    verify(directory.path()).unwrap();
}

#[test]
fn an_unterminated_last_line_is_cut_and_a_record_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    log.append(record("one"), now()).unwrap();
    drop(log);
    fs::OpenOptions::new()
        .append(true)
        .open(newest(directory.path()))
        .unwrap()
        .write_all(b"{\"seq\":4,\"half")
        .unwrap();
    Log::open(directory.path(), now()).unwrap().append(record("two"), now()).unwrap();
    let recovered: Vec<_> = crate::reader::entries(directory.path())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.record.kind == Kind::Recovered)
        .map(|entry| entry.record.counts["cut_bytes"])
        .collect();
    assert_eq!(recovered, [14]);
    verify(directory.path()).unwrap();
}

#[test]
fn a_log_that_does_not_look_as_it_was_left_is_not_continued() {
    type Damage = fn(&std::path::Path);
    type Expected = fn(&OpenError) -> bool;
    let table: [(&str, Damage, Expected); 6] = [
        (
            "last line changed",
            |d| replace_in(&newest(d), "\"seq\":4", "\"seq\":5"),
            |e| matches!(e, OpenError::Changed { .. }),
        ),
        (
            "end removed",
            |d| keep_lines(&newest(d), 2),
            |e| matches!(e, OpenError::Shortened { last: 2, signed: 4, .. }),
        ),
        ("key removed", |d| fs::remove_file(d.join("key.pub")).unwrap(), |e| matches!(e, OpenError::Incomplete { .. })),
        (
            "private key removed",
            |d| fs::remove_file(d.join("key.pkcs8")).unwrap(),
            |e| matches!(e, OpenError::Incomplete { missing: "key", .. }),
        ),
        (
            "checkpoint removed",
            |d| fs::remove_file(d.join("checkpoint.json")).unwrap(),
            |e| matches!(e, OpenError::Incomplete { .. }),
        ),
        (
            "checkpoint edited",
            |d| replace_in(&d.join("checkpoint.json"), "\"seq\":4", "\"seq\":1"),
            |e| matches!(e, OpenError::Incomplete { .. }),
        ),
    ];
    for (what, damage, expected) in table {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path(), now()).unwrap();
        log.append(record("one"), now()).unwrap();
        log.close(now()).unwrap();
        drop(log);
        damage(directory.path());
        if what == "last line changed" {
            keep_lines(&newest(directory.path()), 4);
        }
        let public = fs::read(directory.path().join("key.pub")).ok();
        let error = Log::open(directory.path(), now()).err().expect(what);
        assert!(expected(&error), "{what}: {error}");
        assert_eq!(fs::read(directory.path().join("key.pub")).ok(), public, "{what}: no other key is put beside it");
    }
}

#[test]
fn a_log_whose_chain_breaks_behind_its_signature_is_not_continued_however_long_it_is() {
    type Damage = fn(&std::path::Path);
    let without = |file: &std::path::Path, line: usize| {
        let text = fs::read_to_string(file).unwrap();
        let kept = text.lines().enumerate().filter(|(at, _)| *at != line).map(|(_, kept)| format!("{kept}\n"));
        fs::write(file, kept.collect::<String>()).unwrap();
    };
    let damages: [(&str, Damage); 4] = [
        ("the signed record's file removed", |d| fs::remove_file(&files(d).unwrap()[0].1).unwrap()),
        ("the signed record changed", |d| replace_in(&files(d).unwrap()[0].1, "number 2999 ", "number 2998 ")),
        ("a middle day emptied", |d| fs::write(&files(d).unwrap()[1].1, "").unwrap()),
        ("a line of the last day changed", |d| replace_in(&newest(d), "number 7001 ", "number 7002 ")),
    ];
    let long = |directory: &std::path::Path| {
        let mut log = Log::open(directory, now()).unwrap();
        let text = |n: u32| format!("number {n} {}", "x".repeat(200));
        log.append_all((0..3000).map(|n| record(&text(n))).collect(), now()).unwrap();
        log.take_sync().unwrap().run().unwrap();
        // What follows is on no signature's way to the disk.
        log.append_all((3000..6000).map(|n| record(&text(n))).collect(), now()).unwrap();
        for day in [1, 2] {
            let later = now() + SignedDuration::from_hours(24 * day);
            log.append_all((0..10).map(|n| record(&text(n + 7000))).collect(), later).unwrap();
        }
        Checkpoint::beside(directory).unwrap().seq
    };
    let directory = tempfile::tempdir().unwrap();
    let signed = long(directory.path());
    assert_eq!(signed, 3002, "opened, its checkpoint, and the records");
    let all = files(directory.path()).unwrap();
    let lines = crate::reader::Lines::not_long_before(all.iter().map(|(_, file)| file), signed).unwrap().unwrap();
    let first = lines.filter_map(|line| crate::reader::parse(&line.content.ok()?).ok()).next().unwrap().seq;
    assert!((2..=signed).contains(&first), "what lies long before is not read: {first}");
    drop(Log::open(directory.path(), now() + SignedDuration::from_hours(48)).unwrap());
    verify(directory.path()).unwrap();

    for (what, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        long(directory.path());
        damage(directory.path());
        let refused = Log::open(directory.path(), now() + SignedDuration::from_hours(48)).err().expect(what);
        assert!(matches!(refused, OpenError::Rewritten { signed: 3002, .. }), "{what}: {refused}");
    }
    let directory = tempfile::tempdir().unwrap();
    long(directory.path());
    without(&newest(directory.path()), 4);
    assert!(matches!(Log::open(directory.path(), now()), Err(OpenError::Rewritten { .. })), "a line removed");
}

fn replace_in(file: &std::path::Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn keep_lines(file: &std::path::Path, count: usize) {
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.lines().take(count).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_thousand_records_are_signed_without_waiting_and_fewer_after_ten_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    let signed = |directory: &std::path::Path| {
        crate::reader::entries(directory)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().record.kind == Kind::Checkpoint)
            .count()
    };
    for n in 0..CHECKPOINT_RECORDS {
        log.append(record(&n.to_string()), now()).unwrap();
    }
    assert_eq!(signed(directory.path()), 2);
    log.append(record("one more"), now()).unwrap();
    log.tick(now() + SignedDuration::from_secs(9));
    assert_eq!(signed(directory.path()), 2);
    log.tick(now() + SignedDuration::from_secs(10));
    log.tick(now() + SignedDuration::from_secs(30));
    assert_eq!(signed(directory.path()), 3, "an idle log is not signed again");
}

#[test]
fn a_clock_that_goes_back_keeps_the_file_and_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    log.append(record("one"), now() + SignedDuration::from_hours(24)).unwrap();
    log.append(record("two"), now()).unwrap();
    assert_eq!(files(directory.path()).unwrap().len(), 2);
    drop(log);
    Log::open(directory.path(), now()).unwrap().append(record("three"), now()).unwrap();
    assert_eq!(outcomes(directory.path()), ["one", "two", "three"]);
    verify(directory.path()).unwrap();
}

#[test]
fn a_failed_write_acknowledges_nothing_and_the_next_success_says_how_many_were_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    let read_only = Arc::new(File::open(newest(directory.path())).unwrap());
    let writable = std::mem::replace(&mut log.file, read_only);
    for _ in 0..3 {
        assert!(matches!(log.append(record("refused"), now()), Err(LogError::Write(_))));
    }
    let together = vec![record("refused"), record("with it")];
    assert!(matches!(log.append_all(together, now()), Err(LogError::Write(_))));
    log.file = writable;
    log.append(record("accepted"), now()).unwrap();
    let alarms: Vec<_> = crate::reader::entries(directory.path())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.record.kind == Kind::Alarm)
        .map(|entry| entry.record.counts["refused"])
        .collect();
    assert_eq!(alarms, [5]);
    assert_eq!(outcomes(directory.path()), ["accepted"]);
    verify(directory.path()).unwrap();
}

#[test]
fn what_is_appended_together_stands_together() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    let first = log.append(record("one"), now()).unwrap();
    let texts = ["two", "three", "four"];
    assert_eq!(log.append_all(texts.map(record).into(), now()).unwrap(), first + 3);
    assert_eq!(log.append(record("five"), now()).unwrap(), first + 4);
    assert_eq!(outcomes(directory.path()), ["one", "two", "three", "four", "five"]);
    verify(directory.path()).unwrap();
}

#[test]
fn groups_of_several_callers_stand_one_after_the_other_and_each_is_told_its_last_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    let before = log.last_seq();
    let groups = vec![vec![record("one"), record("two")], vec![record("three")], Vec::new(), vec![record("four")]];
    let last: Vec<_> = log.append_groups(groups, now()).unwrap().iter().map(|seq| seq - before).collect();
    assert_eq!(last, [2, 3, 3, 4]);
    assert_eq!(outcomes(directory.path()), ["one", "two", "three", "four"]);
    verify(directory.path()).unwrap();
}

#[test]
fn a_write_that_does_not_fit_acknowledges_none_of_its_groups_and_leaves_none_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    log.append(record("one"), now()).unwrap();
    // A socket that takes a part of it stands for a disk that is nearly full.
    let (full, _unread) = std::os::unix::net::UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    let full = File::from(std::os::fd::OwnedFd::from(full));
    let writable = std::mem::replace(&mut log.file, Arc::new(full));
    let groups: Vec<_> = (0..4000).map(|n: u32| vec![record(&n.to_string().repeat(100))]).collect();
    let (count, last_seq) = (groups.len() as u64, log.last_seq());
    let refused = log.append_groups(groups, now());
    assert!(matches!(refused, Err(LogError::Write(_))), "{refused:?}");
    assert_eq!((log.last_seq(), log.refused), (last_seq, count));
    // It cannot be cut as a file is, so nothing more is written: that is what has to happen then.
    log.file = writable;
    assert!(matches!(log.append(record("two"), now()), Err(LogError::Stopped(_))));
    drop(log);
    Log::open(directory.path(), now()).unwrap().append(record("two"), now()).unwrap();
    assert_eq!(outcomes(directory.path()), ["one", "two"]);
    verify(directory.path()).unwrap();
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path(), now()).unwrap();
    log.sync_failed(&io::Error::other("disk gone"));
    assert!(matches!(log.append(record("refused"), now()), Err(LogError::Stopped(_))));
    drop(log);
    Log::open(directory.path(), now()).unwrap().append(record("accepted"), now()).unwrap();
}
