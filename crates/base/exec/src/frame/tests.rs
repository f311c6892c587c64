use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Feeds a byte stream in pieces of the given sizes; answers the messages, or the first error, as a process reading it would see them.
fn feed(stream: &[u8], sizes: &[usize], limit: usize) -> Result<Vec<serde_json::Value>, ChannelError> {
    let mut assembler = Assembler::default();
    let mut messages = Vec::new();
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let space = assembler.space();
        assert!(!space.is_empty(), "an incomplete frame always wants bytes");
        let count = sizes.next().unwrap_or(1).clamp(1, space.len()).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        if let Some(frame) = assembler.advance(count, Vec::new(), limit)? {
            messages.push(frame.read()?);
        }
    }
    assembler.end()?;
    Ok(messages)
}

fn pipe_end() -> OwnedFd {
    rustix::pipe::pipe().unwrap().0
}

proptest! {
    #[test]
    fn messages_survive_any_splitting(texts in prop::collection::vec(".{0,200}", 1..5), sizes in prop::collection::vec(1usize..70, 1..20)) {
        let messages: Vec<_> = texts.iter().map(|text| json!({ "text": text })).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode(message, 0).unwrap().to_vec()).collect();
        prop_assert_eq!(feed(&stream, &sizes, 4096).unwrap(), messages);
    }

    #[test]
    fn any_bytes_end_in_messages_or_a_typed_error(stream in prop::collection::vec(any::<u8>(), 0..600), sizes in prop::collection::vec(1usize..70, 1..5)) {
        let _outcome = feed(&stream, &sizes, 64);
    }

    #[test]
    fn a_stream_cut_anywhere_is_truncated_or_whole(text in ".{0,50}", cut in 0usize..80) {
        let stream = encode(&text, 0).unwrap();
        let cut = cut.min(stream.len());
        match feed(&stream[..cut], &[3], 4096) {
            Ok(messages) => prop_assert!((messages.is_empty() && cut == 0) || cut == stream.len()),
            Err(ChannelError::Truncated { missing }) => prop_assert!(missing > 0),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_allocated() {
    let header = (MAX_LENGTH as u32).to_le_bytes();
    let refused = feed(&header, &[4], 1 << 20);
    assert!(matches!(refused, Err(ChannelError::TooLong { length: MAX_LENGTH, limit: 1_048_576 })));
}

#[test]
fn a_message_exactly_at_the_limit_passes_and_one_byte_more_does_not() {
    let stream = encode(&"x".repeat(98), 0).unwrap();
    assert_eq!(feed(&stream, &[7], 100).unwrap().len(), 1);
    assert!(matches!(feed(&stream, &[7], 99), Err(ChannelError::TooLong { length: 100, limit: 99 })));
}

#[test]
fn garbage_is_a_typed_error_that_does_not_quote_it() {
    let canary = "hunter2-hunter2";
    for text in [format!("\"{canary}\""), format!("{{\"text\": {canary}"), format!("[\"{canary}\"]"), String::new()] {
        let mut assembler = Assembler::default();
        let mut stream = (text.len() as u32).to_le_bytes().to_vec();
        stream.extend_from_slice(text.as_bytes());
        let mut frame = None;
        while frame.is_none() {
            let count = assembler.space().len().min(stream.len());
            let bytes: Vec<u8> = stream.drain(..count).collect();
            assembler.space()[..count].copy_from_slice(&bytes);
            frame = assembler.advance(count, Vec::new(), 1000).unwrap();
        }
        let error = frame.unwrap().read::<std::collections::BTreeMap<String, u8>>().unwrap_err();
        assert!(matches!(error, ChannelError::Garbled { .. }));
        assert!(!format!("{error} {error:?}").contains(canary));
    }
}

#[test]
fn missing_or_surplus_descriptors_are_refused() {
    for (announced, received) in [(2, 1), (0, 1), (1, 0), (31, 0)] {
        let mut stream = encode(&"x", 0).unwrap().to_vec();
        let header = u32::from_le_bytes(stream[..4].try_into().unwrap()) | (announced << LENGTH_BITS);
        stream[..4].copy_from_slice(&header.to_le_bytes());
        let mut assembler = Assembler::default();
        assembler.space().copy_from_slice(&stream[..4]);
        let descriptors = (0..received).map(|_| pipe_end()).collect();
        let refused = assembler.advance(4, descriptors, 100).err();
        assert!(
            matches!(refused, Some(ChannelError::Descriptors { announced: a, received: r }) if a == announced as usize && r == received),
            "{announced} announced, {received} received: {refused:?}"
        );
    }
}

#[test]
fn more_descriptors_than_a_frame_carries_are_refused_by_the_sender() {
    assert!(matches!(encode(&(), MAX_DESCRIPTORS + 1), Err(ChannelError::TooManyDescriptors { count: 29 })));
}

#[test]
fn a_frame_without_descriptors_is_a_plain_length_prefix() {
    assert_eq!(*encode(&json!({"a": 1}), 0).unwrap(), b"\x07\0\0\0{\"a\":1}".to_vec());
}
