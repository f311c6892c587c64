//! How events read and write, and what a client may not send.

use super::*;
use serde_json::json;

fn refusal(event: Value) -> String {
    match serde_json::from_value::<ClientEvent>(event) {
        Ok(event) => event.check().expect_err("it is refused").message,
        Err(error) => error.to_string(),
    }
}

fn system(content: Value) -> Value {
    json!({"type": "system.message", "content": content})
}

#[test]
fn an_event_reads_back_from_what_it_was_written_as() {
    let body = EventBody::ThreadStatusIdle {
        agent_name: "a".into(),
        session_thread_id: ThreadId::parse("sthr_1").unwrap(),
        stop_reason: StopReason::RequiresAction { event_ids: vec![EventId::parse("sevt_2").unwrap()] },
        stop_details: None,
    };
    let event = Event { id: EventId::parse("sevt_1").unwrap(), processed_at: None, body };
    let wire = serde_json::to_value(&event).unwrap();
    assert_eq!(
        wire,
        json!({"id": "sevt_1", "processed_at": null, "type": "session.thread_status_idle", "agent_name": "a",
        "session_thread_id": "sthr_1", "stop_reason": {"type": "requires_action", "event_ids": ["sevt_2"]},
        "stop_details": null})
    );
    assert_eq!(serde_json::from_value::<Event>(wire).unwrap(), event);
}

#[test]
fn what_a_client_may_not_send_is_refused_with_the_reason() {
    let message = |block: Value| json!({"type": "user.message", "content": [block]});
    let confirm = |more: Value| {
        let mut event = json!({"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "allow"});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    for (event, part) in [
        (json!({"type": "agent.message", "content": []}), "unknown variant"),
        (json!({"type": "user.message"}), "missing field `content`"),
        (json!({"type": "user.message", "content": []}), "at least one block"),
        (json!({"type": "user.message", "content": [], "id": "sevt_1"}), "unknown field `id`"),
        (message(json!({"type": "text", "text": ""})), "must not be empty"),
        (message(json!({"type": "text", "text": "x", "surprise": 1})), "surprise"),
        (message(json!({"type": "redacted"})), "`redacted` block is not allowed"),
        (confirm(json!({"deny_message": "x"})), "only allowed with result"),
        (confirm(json!({"result": "maybe"})), "maybe"),
        (confirm(json!({"tool_use_id": "toolu_1"})), "sevt_"),
        (json!({"type": "user.define_outcome", "description": "d", "rubric": {}}), "rubric"),
        (system(json!([])), "1 to 1000 text blocks"),
        (system(json!(vec![json!({"type": "text", "text": "x"}); 1001])), "1 to 1000 text blocks"),
        (
            system(json!([{"type": "image", "source": {"type": "url", "url": "https://a.example/"}}])),
            "not allowed here",
        ),
        (system(json!([{"type": "text", "text": " \n"}])), "blank"),
        (system(json!([{"type": "text", "text": "x".repeat(100_001)}])), "100000 characters"),
    ] {
        let text = refusal(event.clone());
        assert!(text.contains(part), "{event}: {text}");
    }
}

#[test]
fn a_block_that_every_endpoint_would_refuse_does_not_get_into_a_conversation() {
    let result = |block: &Value| json!({"type": "user.tool_result", "tool_use_id": "sevt_1", "content": [block]});
    let base64 = |data: &str, media_type: &str| json!({"type": "base64", "data": data, "media_type": media_type});
    let image = |source: Value| json!({"type": "image", "source": source});
    let document = |source: Value| json!({"type": "document", "source": source});
    for (block, part) in [
        (image(base64("", "image/png")), "must be base64"),
        (image(base64("not base64", "image/png")), "must be base64"),
        (image(base64("QUJD=", "image/png")), "must be base64"),
        (image(base64("QQ===", "image/png")), "must be base64"),
        (image(base64("QUJD", "image/svg+xml")), "media_type"),
        (image(json!({"type": "url", "url": "file:///etc/passwd"})), "http"),
        (document(base64("QUJD", "text/html")), "application/pdf"),
        (document(base64("Q", "application/pdf")), "must be base64"),
        (document(json!({"type": "text", "data": "x", "media_type": "text/html"})), "text/plain"),
    ] {
        let text = refusal(result(&block));
        assert!(text.starts_with("content.0.source: ") && text.contains(part), "{block}: {text}");
    }
    for block in [
        image(base64("QUJD", "image/png")),
        image(base64("QUI=", "image/webp")),
        image(json!({"type": "url", "url": "https://example.com/x.png"})),
        document(base64("QQ==", "application/pdf")),
        document(json!({"type": "text", "data": "", "media_type": "text/plain"})),
    ] {
        let event: ClientEvent = serde_json::from_value(result(&block)).unwrap();
        assert_eq!(event.check(), Ok(()), "{block}");
    }
}

#[test]
fn every_kind_that_is_listed_can_be_filtered_by() {
    for body in [EventBody::StatusRunning {}, EventBody::ModelRequestStart {}, EventBody::AgentThinking {}] {
        assert!(EventBody::TYPES.contains(&body.kind()));
    }
    assert!(!EventBody::TYPES.contains(&EventBody::SessionDeleted {}.kind()), "it is on streams only");
}

#[test]
fn events_of_mcp_calls_are_the_contracts() {
    for wire in [
        json!({"id": "sevt_1", "processed_at": "2026-11-01T10:00:00Z", "type": "agent.mcp_tool_use",
            "mcp_server_name": "wiki", "name": "search", "input": {"q": 1}, "evaluated_permission": "ask",
            "evaluation": {"type": "always_ask"}}),
        json!({"id": "sevt_1", "processed_at": "2026-11-01T10:00:00Z", "type": "agent.mcp_tool_result",
            "mcp_tool_use_id": "sevt_2", "content": [{"type": "text", "text": "out"}], "is_error": false}),
        json!({"id": "sevt_1", "processed_at": "2026-11-01T10:00:00Z", "type": "session.error", "error": {
            "type": "mcp_authentication_failed_error", "mcp_server_name": "wiki", "message": "m",
            "retry_status": {"type": "retrying"}}}),
    ] {
        let event: Event = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), wire);
        assert!(EventBody::TYPES.contains(&event.body.kind()));
    }
}
