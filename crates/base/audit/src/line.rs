//! One line of the log, to the byte. A line is a JSON object in ASCII; its last member, `hash`, is the SHA-256 of everything before that member,
//! and `previous` is the `hash` of the line before (64 zeros before the first). Verification works on the bytes, never on re-serialised JSON.

use std::io;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ocsf;
use crate::record::Record;

/// A record with its place in the log, as read back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Its number: 1 for the first record of a log, no gaps.
    pub seq: u64,
    /// When it was written.
    pub ts: Timestamp,
    /// Hash of the line before.
    pub previous: String,
    /// OCSF class.
    pub class_uid: u32,
    /// OCSF activity, as its class counts them.
    pub activity_id: u32,
    /// OCSF severity.
    pub severity_id: u32,
    /// The record itself.
    #[serde(flatten)]
    pub record: Record,
    /// Hash of this line.
    pub hash: String,
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    ts: Timestamp,
    previous: &'a str,
    class_uid: u32,
    activity_id: u32,
    severity_id: u32,
    #[serde(flatten)]
    record: &'a Record,
}

/// Appends the line for a record that was cut to its bounds, newline included; answers its hash.
pub(crate) fn compose(lines: &mut Vec<u8>, seq: u64, ts: Timestamp, previous: &str, record: &Record) -> String {
    let (class_uid, activity_id) = ocsf::class_and_activity(record);
    let written = Written {
        seq,
        ts,
        previous,
        class_uid,
        activity_id,
        severity_id: ocsf::severity(record.kind, record.decision),
        record,
    };
    let start = lines.len();
    written
        .serialize(&mut serde_json::Serializer::with_formatter(&mut *lines, Ascii))
        .expect("a record is maps of texts and numbers, written to memory");
    lines.pop();
    let hash = hex(digest::digest(&digest::SHA256, &lines[start..]).as_ref());
    lines.extend_from_slice(HASH_MEMBER);
    lines.extend_from_slice(hash.as_bytes());
    lines.extend_from_slice(LINE_END);
    hash
}

/// Why a line is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It does not end in a `hash` member.
    Shape,
    /// Its hash is not the hash of its bytes.
    Hash,
    /// Its bytes are as they were written, and still do not read as a record.
    Record,
}

/// Reads one line (without its newline), checking its own hash.
pub(crate) fn read(line: &[u8]) -> Result<Entry, Malformed> {
    let tail = HASH_MEMBER.len() + HASH_HEX + 2;
    let (covered, rest) = line.len().checked_sub(tail).map(|at| line.split_at(at)).ok_or(Malformed::Shape)?;
    let hash = rest.strip_prefix(HASH_MEMBER).and_then(|rest| rest.strip_suffix(b"\"}")).ok_or(Malformed::Shape)?;
    if hex(digest::digest(&digest::SHA256, covered).as_ref()).as_bytes() != hash {
        return Err(Malformed::Hash);
    }
    serde_json::from_slice(line).map_err(|_| Malformed::Record)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The bytes of lower- or upper-case hexadecimal text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Escapes everything but printable ASCII: no terminal, viewer or log shipper sees a control or bidirectional character that an agent chose.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if matches!(character, ' '..='~') {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

/// `previous` of the first record.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// No record that was cut to its bounds is longer.
pub(crate) const LONGEST_RECORD: usize = 256 << 10;
const HASH_HEX: usize = 64;
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
const LINE_END: &[u8] = b"\"}\n";

#[cfg(test)]
mod tests;
