use super::*;
use crate::record::{Decision, Kind};

#[test]
fn a_line_reads_back_as_it_was_written() {
    let mut record = Record::new(Kind::EgressRequest, Decision::Deny);
    record.outcome = Some("quote \" newline \n bell \u{7} rtl \u{202e} emoji \u{1f600}".to_owned());
    record.caused_by = Some(u64::MAX);
    let ts: Timestamp = "2026-11-20T12:00:00.000001Z".parse().unwrap();
    let mut lines = b"a line before\n".to_vec();
    let hash = compose(&mut lines, 7, ts, GENESIS, &record);
    let (newline, text) = lines.strip_prefix(b"a line before\n").unwrap().split_last().unwrap();
    assert_eq!(*newline, b'\n');
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')));
    let entry = read(text).unwrap();
    assert_eq!((entry.seq, entry.ts, entry.record, entry.hash), (7, ts, record, hash));
    assert_eq!((entry.class_uid, entry.activity_id, entry.severity_id), (4002, 0, 3));
}

#[test]
fn hexadecimal_is_hexadecimal_only() {
    assert_eq!(unhex(&hex(&[0, 15, 255])), Some(vec![0, 15, 255]));
    for wrong in ["+f", "0", "0x", "zz", "é"] {
        assert_eq!(unhex(wrong), None, "{wrong}");
    }
}

#[test]
fn lines_that_are_not_ours_are_told_apart() {
    assert_eq!(read(b""), Err(Malformed::Shape));
    assert_eq!(read(&[b'x'; 200]), Err(Malformed::Shape));
    let covered = b"{\"no\":\"record\"";
    let mut line = covered.to_vec();
    line.extend_from_slice(
        format!(",\"hash\":\"{}\"}}", hex(digest::digest(&digest::SHA256, covered).as_ref())).as_bytes(),
    );
    assert_eq!(read(&line), Err(Malformed::Record));
}
