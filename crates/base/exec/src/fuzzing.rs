//! What the frame reader makes of any bytes, as a plain function: the fuzz target and the tests over its corpus call it.
//! It panics where a promise is broken.

use serde_json::Value;

use crate::frame::{Assembler, ChannelError, Frame, encode};

/// Frames come out alike whatever the borders of the reads, none is longer than the limit, and what is read is written
/// back as it was.
///
/// # Panics
/// When one of these does not hold.
pub fn frames(bytes: &[u8]) {
    let whole = assembled(bytes, bytes.len().max(1));
    for size in [1, 3, 7] {
        assert_eq!(assembled(bytes, size), whole, "reads of {size}");
    }
}

/// The messages of a stream as JSON text, and how it ended.
fn assembled(mut bytes: &[u8], size: usize) -> (Vec<String>, String) {
    let (mut assembler, mut messages) = (Assembler::default(), Vec::new());
    while !bytes.is_empty() {
        let mut read;
        (read, bytes) = bytes.split_at(size.min(bytes.len()));
        while !read.is_empty() {
            let space = assembler.space();
            let count = space.len().min(read.len());
            assert!(count > 0, "an incomplete frame has room");
            space[..count].copy_from_slice(&read[..count]);
            read = &read[count..];
            match assembler.advance(count, Vec::new(), LIMIT) {
                Ok(frame) => messages.extend(frame.map(|frame| described(&frame))),
                Err(error) => return (messages, described_error(&error)),
            }
        }
    }
    let ended = assembler.end().map_or_else(|error| described_error(&error), |()| "ended".to_owned());
    (messages, ended)
}

fn described(frame: &Frame) -> String {
    assert!(frame.descriptors.is_empty(), "none came");
    match frame.read::<Value>() {
        Ok(value) => {
            let written = encode(&value, 0).expect("what was read within the limit can be written");
            assert_eq!(assembled_one(&written), value, "what is written is read as it was");
            value.to_string()
        }
        Err(error) => described_error(&error),
    }
}

fn assembled_one(bytes: &[u8]) -> Value {
    let mut assembler = Assembler::default();
    let mut rest = bytes;
    loop {
        let space = assembler.space();
        let count = space.len().min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        let frame = assembler.advance(count, Vec::new(), bytes.len()).expect("a frame of our own");
        if let Some(frame) = frame {
            return frame.read().expect("JSON of our own");
        }
    }
}

/// Never its contents, so two errors can be compared as they are shown.
fn described_error(error: &ChannelError) -> String {
    error.to_string()
}

const LIMIT: usize = 4096;
