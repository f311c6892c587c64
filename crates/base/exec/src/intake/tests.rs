use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::frame::encode;

/// Feeds a byte stream in reads of at most the given sizes; answers the messages, or the first error.
fn feed(stream: &[u8], sizes: &[usize], limit: usize) -> Result<Vec<serde_json::Value>, ChannelError> {
    let (mut intake, mut messages) = (Intake::default(), Vec::new());
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let space = intake.space();
        assert!(!space.is_empty(), "there is always room for more");
        let count = sizes.next().unwrap_or(1).clamp(1, space.len()).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        intake.advance(count, Vec::new())?;
        while let Some(frame) = intake.take(limit)? {
            messages.push(frame.read()?);
        }
    }
    intake.end()?;
    Ok(messages)
}

fn put(intake: &mut Intake, bytes: &[u8], descriptors: usize) -> Result<(), ChannelError> {
    intake.space()[..bytes.len()].copy_from_slice(bytes);
    intake.advance(bytes.len(), (0..descriptors).map(|_| rustix::pipe::pipe().unwrap().0).collect())
}

proptest! {
    #[test]
    fn messages_survive_any_splitting(
        lengths in prop::collection::vec(prop_oneof![0usize..200, 1_000usize..9_000, Just(100_000)], 1..8),
        sizes in prop::collection::vec(prop_oneof![1usize..70, Just(1_000), Just(200_000)], 1..20),
    ) {
        let messages: Vec<_> = (0..).zip(&lengths).map(|(at, length)| json!({ "at": at, "text": "é".repeat(*length / 2) })).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|message| encode(message, 0).unwrap().to_vec()).collect();
        prop_assert_eq!(feed(&stream, &sizes, 200_000).unwrap(), messages);
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
fn a_length_over_the_limit_is_refused_before_room_is_made_for_it() {
    let mut intake = Intake::default();
    put(&mut intake, &(1_000_000u32).to_le_bytes(), 0).unwrap();
    assert!(matches!(intake.take(999_999), Err(ChannelError::TooLong { length: 1_000_000, limit: 999_999 })));
    assert!(intake.bytes.len() <= LEAST_READ);
}

#[test]
fn each_frame_takes_the_descriptors_that_it_announced() {
    let mut intake = Intake::default();
    let frames = [(&"one", 0), (&"two", 2), (&"three", 0), (&"four", 1)];
    // As the kernel gives them: a read ends behind bytes that brought descriptors.
    let [one, two, three, four] = frames.map(|(text, descriptors)| encode(text, descriptors).unwrap().to_vec());
    put(&mut intake, &[one, two].concat(), 2).unwrap();
    put(&mut intake, &[three, four].concat(), 1).unwrap();
    for (text, descriptors) in frames {
        let frame = intake.take(100).unwrap().unwrap();
        assert_eq!((frame.read::<String>().unwrap().as_str(), frame.descriptors.len()), (*text, descriptors));
    }
    assert!(intake.take(100).unwrap().is_none());
}

#[test]
fn missing_or_surplus_descriptors_are_refused() {
    for (announced, received) in [(2, 1), (0, 1), (1, 0), (31, 0)] {
        let mut intake = Intake::default();
        let mut frame = encode(&"x", 0).unwrap().to_vec();
        // The count stands in the header's top five bits.
        frame[3] |= announced << 3;
        put(&mut intake, &frame, received).unwrap();
        let taken = std::iter::from_fn(|| intake.take(100).transpose()).find_map(Result::err);
        assert!(
            matches!(taken, Some(ChannelError::Descriptors { .. })),
            "{announced} announced, {received} received: {taken:?}"
        );
    }
}

#[test]
fn descriptors_that_no_frame_takes_do_not_pile_up() {
    let mut intake = Intake::default();
    // A long frame that announces none, in pieces that bring some.
    put(&mut intake, &encode(&"x".repeat(500), 0).unwrap()[..4], 0).unwrap();
    let refused = (0..10).find_map(|_| {
        assert!(intake.take(1000).unwrap().is_none());
        put(&mut intake, b"x", MAX_DESCRIPTORS).err()
    });
    assert!(matches!(refused, Some(ChannelError::Descriptors { announced: 0, .. })), "{refused:?}");
}

#[test]
fn what_was_taken_is_zeroed_and_a_long_frames_buffer_is_given_back() {
    let mut intake = Intake::default();
    put(&mut intake, &encode(&"canary-canary", 0).unwrap(), 0).unwrap();
    put(&mut intake, &encode(&"next", 0).unwrap()[..6], 0).unwrap();
    drop(intake.take(100).unwrap().unwrap());
    assert!(!intake.bytes.windows(6).any(|window| window == b"canary"));
    let long = encode(&"x".repeat(3 * MOST_KEPT), 0).unwrap();
    let mut intake = Intake::default();
    for piece in long.chunks(1000) {
        assert!(intake.take(long.len()).unwrap().is_none());
        put(&mut intake, piece, 0).unwrap();
    }
    assert!(intake.take(long.len()).unwrap().is_some());
    assert!(intake.bytes.len() <= MOST_KEPT);
}

#[test]
fn a_read_takes_so_many_bytes_of_short_frames_and_all_of_a_long_one() {
    let short = encode(&"x".repeat(995), 0).unwrap();
    let mut stream = short.repeat(500);
    let (mut intake, mut reads, mut taken) = (Intake::default(), Vec::new(), 0);
    let mut read = |intake: &mut Intake, stream: &mut Vec<u8>| {
        let count = intake.space().len().min(stream.len());
        let bytes: Vec<u8> = stream.drain(..count).collect();
        put(intake, &bytes, 0).unwrap();
        reads.push(count);
    };
    // A socket that is never empty, whose reader takes what came after each read.
    while !stream.is_empty() {
        read(&mut intake, &mut stream);
        while intake.take(1000).unwrap().is_some() {
            taken += 1;
        }
    }
    assert_eq!(taken, 500);
    let long = encode(&"x".repeat(3 * MOST_KEPT), 0).unwrap();
    stream.extend_from_slice(&long);
    while intake.take(long.len()).unwrap().is_none() {
        read(&mut intake, &mut stream);
    }
    let last = reads.pop().unwrap();
    assert!(last > 2 * MOST_KEPT, "the rest of a long frame comes at once: {last} bytes");
    let most = reads.iter().max().copied().unwrap_or_default();
    assert!((32 << 10..=64 << 10).contains(&most), "{most} bytes");
}

#[test]
fn it_goes_on_where_an_assembler_stopped() {
    let frame = encode(&"hello", 0).unwrap();
    for cut in [0, 3, 4, 7] {
        let (mut assembler, mut fed) = (Assembler::default(), 0);
        while fed < cut {
            let space = assembler.space();
            let count = space.len().min(cut - fed);
            space[..count].copy_from_slice(&frame[fed..fed + count]);
            assert!(assembler.advance(count, Vec::new(), 100).unwrap().is_none());
            fed += count;
        }
        let mut intake = Intake::from(assembler);
        assert!(intake.take(100).unwrap().is_none());
        put(&mut intake, &frame[cut..], 0).unwrap();
        assert_eq!(intake.take(100).unwrap().unwrap().read::<String>().unwrap(), "hello", "cut at {cut}");
    }
}
