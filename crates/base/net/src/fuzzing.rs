//! What the readers of event streams and control frames make of any bytes, as plain functions: the fuzz targets and the
//! tests over their corpora call them. They panic where a promise is broken.

use std::io::Cursor;
use std::time::Duration;

use postern_model::control::{Answer, Command, Hello};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::frames::{FrameError, FrameReader};
use crate::sse::{Decoder, SseError};

/// Events come out alike whatever the chunks, and none is larger than the bound.
///
/// # Panics
/// When one of these does not hold.
pub fn event_stream(bytes: &[u8]) {
    let whole = decoded(bytes, bytes.len().max(1));
    for size in [1, 2, 5] {
        assert_eq!(decoded(bytes, size), whole, "chunks of {size}");
    }
}

fn decoded(bytes: &[u8], size: usize) -> (Vec<crate::sse::Event>, Option<SseError>) {
    let (mut decoder, mut events) = (Decoder::new(LINE, EVENT), Vec::new());
    for byte in bytes.chunks(size) {
        match decoder.push(byte) {
            Ok(more) => events.extend(more),
            // Of a chunk that breaks the stream no event is told, whichever it completed before.
            Err(error) if size == 1 => return (events, Some(error)),
            Err(_) => return decoded(bytes, 1),
        }
    }
    assert!(events.iter().all(|event| event.data.len() <= EVENT));
    (events, None)
}

/// Frames of the control stream are read up to the first that is not one; what reads as a command, answer or hello is
/// written as it was read.
///
/// # Panics
/// When one of these does not hold.
pub fn control_frames(bytes: &[u8]) {
    let frames = read::<Value>(bytes);
    let announced: usize = frames.iter().map(|frame| frame.to_string().len()).sum();
    // A number may be written longer than it was sent, never a hundred times so.
    assert!(announced <= bytes.len() * 100, "{announced} of {}", bytes.len());
    survives(&read::<Command>(bytes));
    survives(&read::<Answer>(bytes));
    survives(&read::<Hello>(bytes));
}

fn survives<T: Serialize + DeserializeOwned>(messages: &[T]) {
    for message in messages {
        let written = serde_json::to_value(message).expect("a message of ours");
        let again: T = serde_json::from_value(written.clone()).expect("what we write we read");
        assert_eq!(serde_json::to_value(&again).expect("a message of ours"), written);
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a clock and no more");
    runtime.block_on(async {
        let mut reader = FrameReader::new(Cursor::new(bytes), FRAME, Duration::from_secs(5));
        let mut messages = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) => {
                    assert!(!matches!(error, FrameError::Silent(_) | FrameError::Stalled(_)), "nothing to wait for");
                    return messages;
                }
            }
        }
    })
}

const LINE: usize = 256;
const EVENT: usize = 512;
const FRAME: usize = 4096;
