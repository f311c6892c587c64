//! What the reader of the log makes of any line, as a plain function: the fuzz target and the tests over its corpus call
//! it. It panics where a promise is broken.

use jiff::Timestamp;

use crate::record::Record;
use crate::{bounds, line};

/// A line that reads keeps its hash, and none with another byte reads. A record, however it came about, becomes one line
/// of printable ASCII within the bound, and reads as it was.
///
/// # Panics
/// When one of these does not hold.
pub fn log_line(bytes: &[u8]) {
    if let Ok(entry) = line::read(bytes) {
        assert!(bytes.ends_with(format!("{}\"}}", entry.hash).as_bytes()));
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        assert!(line::read(&other).is_err(), "another line with the same hash");
    }
    let Ok(mut record) = serde_json::from_slice::<Record>(bytes) else { return };
    bounds::apply(&mut record);
    let mut composed = Vec::new();
    let hash = line::compose(&mut composed, 7, Timestamp::UNIX_EPOCH, line::GENESIS, &record);
    let (end, text) = composed.split_last().expect("a line has a newline");
    assert_eq!(*end, b'\n');
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')) && text.len() < line::LONGEST_RECORD);
    let entry = line::read(text).unwrap_or_else(|error| panic!("our own line: {error:?}"));
    assert_eq!((entry.record, entry.hash), (record, hash));
}
