//! Streams as endpoints send them, cut and broken ones included.

use super::*;
use serde_json::json;

/// Feeds events named by their `type`, and gives the text pieces and what the stream ended in.
fn read(events: &[Value]) -> Result<(String, Option<Response>), StreamError> {
    let (mut decoder, mut text, mut response) = (Decoder::default(), String::new(), None);
    for event in events {
        match decoder.push(event["type"].as_str().unwrap(), &event.to_string())? {
            Some(ModelEvent::Text { text: piece, .. }) => text.push_str(&piece),
            Some(ModelEvent::Finished(finished)) => response = Some(finished),
            Some(ModelEvent::Counted(_) | ModelEvent::ThinkingStarted { .. } | ModelEvent::Failed(_)) | None => {}
        }
    }
    Ok((text, response))
}

fn start(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: usize, kind: &str, key: &str, piece: &str) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}})
}

fn stop(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str) -> [Value; 2] {
    let usage = json!({"output_tokens": 7});
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}),
        json!({"type": "message_stop"}),
    ]
}

fn call(pieces: &[&str], is_stopped: bool) -> Vec<Value> {
    let mut events = vec![start(0, json!({"type": "tool_use", "id": "t", "name": "bash", "input": {}}))];
    events.extend(pieces.iter().map(|piece| delta(0, "input_json_delta", "partial_json", piece)));
    events.extend(is_stopped.then(|| stop(0)));
    events
}

#[test]
fn tokens_are_told_as_soon_as_the_endpoint_counts_them() {
    let usage = json!({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 3});
    let event = json!({"type": "message_start", "message": {"usage": usage}});
    let news = Decoder::default().push("message_start", &event.to_string()).unwrap();
    let usage = ModelUsage { input_tokens: 5, output_tokens: 1, cache_read_input_tokens: 3, ..ModelUsage::default() };
    assert_eq!(news, Some(ModelEvent::Counted(usage)));
}

#[test]
fn an_answer_is_put_together_from_its_pieces() {
    let usage = json!({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 3});
    let mut events = vec![
        json!({"type": "message_start", "message": {"usage": usage}}),
        json!({"type": "ping"}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, "thinking_delta", "thinking", "hm"),
        delta(0, "thinking_delta", "thinking", "m"),
        delta(0, "signature_delta", "signature", "c2ln"),
        stop(0),
        start(1, json!({"type": "redacted_thinking", "data": "ZGF0YQ=="})),
        stop(1),
        start(2, json!({"type": "text", "text": ""})),
        delta(2, "text_delta", "text", "some "),
        delta(2, "surprise_delta", "x", "y"),
        delta(2, "text_delta", "text", "text"),
        stop(2),
        start(3, json!({"type": "tool_use", "id": "t", "name": "bash", "input": {}})),
        delta(3, "input_json_delta", "partial_json", "{\"comm"),
        delta(3, "input_json_delta", "partial_json", "and\": \"ls\"}"),
        stop(3),
        json!({"type": "future_event"}),
    ];
    events.extend(end("tool_use"));
    let (text, response) = read(&events).unwrap();
    let response = response.unwrap();
    assert_eq!(text, "some text");
    let blocks: Vec<_> = response.blocks.into_iter().map(|(_, block)| block).collect();
    let input = json!({"command": "ls"}).as_object().unwrap().clone();
    assert_eq!(
        blocks,
        [
            ResponseBlock::Thinking(json!({"type": "thinking", "thinking": "hmm", "signature": "c2ln"})),
            ResponseBlock::Thinking(json!({"type": "redacted_thinking", "data": "ZGF0YQ=="})),
            ResponseBlock::Text("some text".into()),
            ResponseBlock::ToolUse { name: "bash".into(), input: Ok(input) },
        ]
    );
    assert_eq!(response.stop, Stop::ToolUse);
    let expected =
        ModelUsage { input_tokens: 5, output_tokens: 7, cache_creation_input_tokens: 0, cache_read_input_tokens: 3 };
    assert_eq!(response.usage, expected);
}

#[test]
fn a_call_that_was_cut_off_is_left_out_and_a_whole_one_kept() {
    for (pieces, is_stopped, kept) in [
        (&["{\"command\": \"rm -r"][..], false, 0),
        (&["{\"command\": \"rm -r"], true, 0),
        (&["{\"command\":", "\"ls\"}"], true, 1),
        (&[], true, 1),
        (&[], false, 0),
    ] {
        let mut events = call(pieces, is_stopped);
        events.extend(end("max_tokens"));
        let response = read(&events).unwrap().1.unwrap();
        assert_eq!((response.blocks.len(), response.stop), (kept, Stop::MaxTokens), "{pieces:?} {is_stopped}");
    }
}

#[test]
fn input_that_is_no_object_is_reported_not_guessed() {
    for piece in ["{\"a\":", "[1]", "nonsense", "\"text\""] {
        let mut events = call(&[piece], true);
        events.extend(end("tool_use"));
        let response = read(&events).unwrap().1.unwrap();
        let ResponseBlock::ToolUse { input, .. } = &response.blocks[0].1 else { panic!() };
        assert!(input.is_err(), "{piece}");
    }
}

#[test]
fn input_that_could_be_stored_and_not_read_again_is_refused() {
    for (depth, is_taken) in [(10, true), (62, true), (63, true), (64, false), (120, false), (126, false)] {
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let mut events = call(&[&nested], true);
        events.extend(end("tool_use"));
        let response = read(&events).unwrap().1.unwrap();
        let ResponseBlock::ToolUse { input, .. } = &response.blocks[0].1 else { panic!() };
        assert_eq!(input.is_ok(), is_taken, "{depth}");
    }
}

#[test]
fn every_reason_to_stop_is_known() {
    for (reason, expected) in [
        ("end_turn", Stop::EndTurn),
        ("stop_sequence", Stop::EndTurn),
        ("stop", Stop::EndTurn),
        ("tool_use", Stop::ToolUse),
        ("max_tokens", Stop::MaxTokens),
        ("pause_turn", Stop::PauseTurn),
        ("model_context_window_exceeded", Stop::ContextExceeded),
        ("refusal", Stop::Refusal(Some(StopDetails::Refusal { category: None, explanation: None }))),
    ] {
        assert_eq!(read(&end(reason)).unwrap().1.unwrap().stop, expected, "{reason}");
    }
    let details = json!({"type": "refusal", "category": "cyber", "explanation": "no"});
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": details}});
    let stop = read(&[delta, json!({"type": "message_stop"})]).unwrap().1.unwrap().stop;
    let expected = StopDetails::Refusal { category: Some("cyber".into()), explanation: Some("no".into()) };
    assert_eq!(stop, Stop::Refusal(Some(expected)));
}

#[test]
fn what_is_no_answer_is_an_error() {
    for events in [
        vec![json!({"type": "content_block_start"})],
        vec![delta(0, "text_delta", "text", "before its block")],
        vec![stop(3)],
        vec![start(0, json!({"type": "text"})), json!({"type": "content_block_delta", "index": 0, "delta": 1})],
    ] {
        assert!(matches!(read(&events), Err(StreamError::Malformed(_))), "{events:?}");
    }
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "full"}});
    assert_eq!(read(std::slice::from_ref(&error)), Err(StreamError::Reported(error.to_string())));
    assert!(Decoder::default().push("message_start", "{").is_err());
}

#[test]
fn an_answer_without_bounds_is_cut_off() {
    let mut events = vec![start(0, json!({"type": "text", "text": ""}))];
    let piece = "x".repeat(4 << 20);
    events.extend((0..9).map(|_| delta(0, "text_delta", "text", &piece)));
    assert_eq!(read(&events), Err(StreamError::TooLarge));

    // Whole in the event that a block begins with, in whatever member, and of one block that begins again and again.
    let whole = start(0, json!({"type": "surprise", "data": [piece]})).to_string();
    let mut decoder = Decoder::default();
    let mut begin = || decoder.push("content_block_start", &whole).map(drop);
    assert!((0..7).all(|_| begin().is_ok()));
    assert_eq!(begin(), Err(StreamError::TooLarge));
}
