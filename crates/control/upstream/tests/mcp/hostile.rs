//! Servers that hang, die, lie and flood: each call ends in a typed failure in time, and is sent once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use postern_upstream::mcp::{Limits, PublicPolicy};
use serde_json::{Value, json};

use crate::harness::*;

fn small() -> Limits {
    Limits {
        call: Duration::from_millis(700),
        result_bytes: 64 * 1024,
        stream_bytes: 128 * 1024,
        stream_events: 100,
        ..limits()
    }
}

fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

type Behaviour = fn(Value) -> BoxFuture<'static, std::io::Result<Answer>>;

fn says(id: &Value, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})
}

fn now(answer: Answer) -> BoxFuture<'static, std::io::Result<Answer>> {
    Box::pin(async move { Ok(answer) })
}

fn raw(body: &'static str) -> BoxFuture<'static, std::io::Result<Answer>> {
    now(full(200, &[("content-type", "application/json")], body))
}

#[tokio::test]
async fn whatever_a_server_does_a_call_ends_typed_and_is_sent_once() {
    let table: Vec<(&str, Behaviour, &str, bool)> = vec![
        ("hangs", |_| Box::pin(std::future::pending()), "timeout", true),
        ("dies", |_| Box::pin(async { Err(std::io::Error::other("dead")) }), "outcome_unknown", true),
        (
            "dies in the middle of its answer",
            |_| now(cut_short("application/json", r#"{"jsonrpc":"#)),
            "outcome_unknown",
            true,
        ),
        (
            "dies in the middle of its stream",
            |_| now(cut_short("text/event-stream", ": ping\n\ndata: {")),
            "outcome_unknown",
            true,
        ),
        ("401", |_| now(full(401, &[("www-authenticate", "Bearer realm=\"x\"")], "")), "upstream_unauthorized", false),
        (
            "403",
            |_| now(full(403, &[("www-authenticate", "Bearer error=\"insufficient_scope\"")], "")),
            "upstream_forbidden",
            false,
        ),
        ("404", |_| now(full(404, &[], "gone")), "session_expired", false),
        ("redirect", |_| now(full(307, &[("location", "https://evil.example/")], "")), "redirect_refused", false),
        ("429", |_| now(full(429, &[("retry-after", "0")], "")), "upstream_busy", false),
        ("500", |_| now(full(500, &[], "x")), "upstream_error", true),
        ("503", |_| now(full(503, &[], "x")), "upstream_busy", false),
        (
            "gateway's refusal",
            |_| {
                now(full(
                    403,
                    &[("postern-reason", "identity_expired"), ("content-type", "application/problem+json")],
                    r#"{"title":"t","next_step":"n","started":false}"#,
                ))
            },
            "identity_expired",
            false,
        ),
        (
            "gateway's refusal after forwarding",
            |_| now(full(502, &[("postern-reason", "upstream_protocol")], r#"{"started":true}"#)),
            "upstream_protocol",
            true,
        ),
        ("gateway's timeout", |_| now(full(504, &[("postern-reason", "timeout")], "")), "timeout", true),
        ("accepts and says nothing", |_| now(full(202, &[], "")), "protocol_error", true),
        (
            "HTML",
            |id| now(full(200, &[("content-type", "text/html")], says(&id, "x").to_string())),
            "protocol_error",
            true,
        ),
        ("no type", |id| now(full(200, &[], says(&id, "x").to_string())), "protocol_error", true),
        ("not JSON", |_| raw("{"), "protocol_error", true),
        ("empty", |_| raw(""), "protocol_error", true),
        ("no JSON-RPC", |_| raw("{}"), "protocol_error", true),
        ("a batch", |id| now(json_answer(&json!([says(&id, "x")]))), "protocol_error", true),
        ("another id", |_| now(json_answer(&says(&json!(999), "x"))), "protocol_error", true),
        ("the id as text", |id| now(json_answer(&says(&json!(id.to_string()), "x"))), "protocol_error", true),
        (
            "a request as answer",
            |id| now(json_answer(&json!({"jsonrpc": "2.0", "id": id, "method": "ping"}))),
            "protocol_error",
            true,
        ),
        (
            "another result",
            |id| now(json_answer(&json!({"jsonrpc": "2.0", "id": id, "result": {"tools": []}}))),
            "protocol_error",
            true,
        ),
        ("too large", |id| now(json_answer(&says(&id, &"x".repeat(100_000)))), "result_too_large", true),
        (
            "an event too large",
            |id| now(events(vec![event(&says(&id, &"x".repeat(100_000)))], false)),
            "result_too_large",
            true,
        ),
        (
            "a line without end",
            |_| now(events(vec!["data: ".to_owned() + &"x".repeat(100_000)], true)),
            "result_too_large",
            true,
        ),
        ("endless events", |_| now(events(vec![": ping\n\n".to_owned(); 100_000], true)), "result_too_large", true),
        (
            "endless notifications",
            |_| {
                now(events(
                    vec![
                        event(
                            &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
                        );
                        100_000
                    ],
                    true,
                ))
            },
            "result_too_large",
            true,
        ),
        ("a stream that ends", |_| now(events(vec![": ping\n\n".to_owned()], false)), "outcome_unknown", true),
        (
            "a stream to resume",
            |_| now(events(vec!["id: 7\nretry: 1\ndata: \n\n".to_owned()], false)),
            "outcome_unknown",
            true,
        ),
        (
            "a stream that only asks",
            |_| {
                let ask = |id: usize| event(&json!({"jsonrpc": "2.0", "id": id, "method": "roots/list"}));
                now(events((0..200).map(ask).collect(), true))
            },
            "result_too_large",
            true,
        ),
        ("a silent stream", |_| now(events(vec![": ping\n\n".to_owned()], true)), "timeout", true),
        ("a stream of no JSON", |_| now(events(vec!["data: {\n\n".to_owned()], true)), "protocol_error", true),
        (
            "a stream of no UTF-8",
            |_| now(full(200, &[("content-type", "text/event-stream")], &b"data: \xff\n\n"[..])),
            "protocol_error",
            true,
        ),
        ("another id in a stream", |_| now(events(vec![event(&says(&json!(999), "x"))], true)), "protocol_error", true),
    ];
    for (what, behaviour, code, started) in table {
        let world = World::new(answering_calls(move |seen| behaviour(seen.json()["id"].clone())));
        let client = world.client_with(small(), PublicPolicy::default());
        let connection = connect(&client, URL).await.unwrap();
        let bounded = tokio::time::timeout(Duration::from_secs(5), call(&connection, "x")).await;
        let failure = bounded.expect(what).expect_err(what);
        assert_eq!((failure.code.as_str(), failure.started), (code, started), "{what}: {failure:?}");
        assert!(!failure.next_step.is_empty(), "{what}");
        assert_eq!(world.calls(), 1, "{what}");
        let rpcs = world.rpcs();
        assert!(!rpcs.contains(&"GET".to_owned()), "{what}: nothing is resumed");
        assert_eq!(rpcs.iter().filter(|rpc| *rpc == "initialize").count(), 1, "{what}: no session is begun for it");
    }
}

#[tokio::test]
async fn a_json_rpc_error_is_an_answer_for_the_model() {
    for status in [200, 400] {
        let world = World::new(answering_calls(move |seen| {
            let error = json!({"jsonrpc": "2.0", "id": seen.json()["id"], "error": {"code": -32602, "message": "bad\nargument"}});
            now(full(status, &[("content-type", "application/json")], error.to_string()))
        }));
        let client = world.client();
        let connection = connect(&client, URL).await.unwrap();
        let result = call(&connection, "x").await.unwrap();
        assert!(result.is_error);
        assert_eq!(texts(&result), ["The MCP server answered with an error (-32602): bad argument"]);
        assert_eq!(world.calls(), 1);
    }
}

#[tokio::test]
async fn the_gateways_tool_result_reaches_the_model() {
    let world = World::new(answering_calls(|seen| {
        let result = json!({"content": [{"type": "text", "text": "[postern] refused"}], "isError": true, "_meta": {"postern/reason": "tool_not_allowed"}});
        let body = json!({"jsonrpc": "2.0", "id": seen.json()["id"], "result": result}).to_string();
        now(full(200, &[("content-type", "application/json"), ("postern-reason", "tool_not_allowed")], body))
    }));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    let result = call(&connection, "x").await.unwrap();
    assert_eq!((result.is_error, texts(&result)), (true, vec!["[postern] refused".to_owned()]));
}

#[tokio::test]
async fn the_first_of_two_answers_counts() {
    let world = World::new(answering_calls(|seen| {
        let id = seen.json()["id"].clone();
        let chunks = vec![
            "id: 1\ndata:\n\n".to_owned(),
            event(
                &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 0, "progress": 1}}),
            ),
            event(&says(&id, "first")),
            event(&says(&id, "second")),
        ];
        now(events(chunks, true))
    }));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    assert_eq!(texts(&call(&connection, "x").await.unwrap()), ["first"]);
    assert_eq!(texts(&call(&connection, "y").await.unwrap()), ["first"]);
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_forgotten_session_is_begun_anew_for_the_next_call_only() {
    let forgets = Arc::new(AtomicUsize::new(1));
    let world = World::new(answering_calls(move |seen| {
        let forgets = forgets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        now(if forgets { full(404, &[], "") } else { good(&seen) })
    }));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    let failure = call(&connection, "lost").await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.started), ("session_expired", false));
    assert_eq!(texts(&call(&connection, "found").await.unwrap()), ["found"]);
    let calls: Vec<Value> = world.seen().iter().filter(|seen| seen.rpc() == "tools/call").map(Seen::json).collect();
    let said: Vec<&Value> = calls.iter().map(|call| &call["params"]["arguments"]["text"]).collect();
    assert_eq!(said, ["lost", "found"]);
    assert_eq!(world.rpcs().iter().filter(|rpc| *rpc == "initialize").count(), 2);
}

#[tokio::test]
async fn a_connection_that_closed_while_idle_is_replaced_before_anything_is_sent() {
    let world = World::new(Arc::new(|seen: Seen| {
        let mut answer = good(&seen);
        if seen.rpc() == "tools/list" {
            answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        }
        Box::pin(async move { Ok(answer) })
    }));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    world.ended.subscribe().wait_for(|ended| *ended >= 1).await.unwrap();
    assert_eq!(texts(&call(&connection, "a").await.unwrap()), ["a"]);
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_at_the_server() {
    let world = World::new(answering_calls(|_| Box::pin(std::future::pending())));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    let calling = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { call(&connection, "x").await }
    });
    let seen = world.has_come("tools/call").await;
    calling.abort();
    let cancelled = world.has_come("notifications/cancelled").await;
    assert_eq!(cancelled.json()["params"]["requestId"], seen.json()["id"]);
    world.ended.subscribe().wait_for(|ended| *ended >= 1).await.unwrap();
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn a_call_out_of_time_is_cancelled_at_the_server() {
    let world = World::new(answering_calls(|_| Box::pin(std::future::pending())));
    let client = world.client_with(small(), PublicPolicy::default());
    let connection = connect(&client, URL).await.unwrap();
    assert_eq!(call(&connection, "x").await.unwrap_err().code, "timeout");
    world.has_come("notifications/cancelled").await;
}

#[tokio::test]
async fn servers_that_cannot_be_connected_to_fail_typed_and_in_time() {
    let table: Vec<(&str, &str, Behaviour, &str)> = vec![
        ("hangs at initialize", "initialize", |_| Box::pin(std::future::pending()), "timeout"),
        (
            "dies at initialize",
            "initialize",
            |_| Box::pin(async { Err(std::io::Error::other("dead")) }),
            "connection_broken",
        ),
        (
            "wants a credential",
            "initialize",
            |_| now(full(401, &[("www-authenticate", "Bearer")], "")),
            "upstream_unauthorized",
        ),
        ("is not there", "initialize", |_| now(full(404, &[], "")), "upstream_not_found"),
        ("speaks HTML", "initialize", |_| now(full(200, &[("content-type", "text/html")], "<html>")), "protocol_error"),
        ("a silent stream", "initialize", |_| now(events(Vec::new(), true)), "timeout"),
        ("a stream that ends", "initialize", |_| now(events(Vec::new(), false)), "connection_broken"),
        (
            "a refusal",
            "initialize",
            |id| now(json_answer(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32600, "message": "no"}}))),
            "upstream_refused",
        ),
        (
            "unknown route",
            "initialize",
            |_| now(full(404, &[("postern-reason", "route_unknown")], r#"{"title":"t"}"#)),
            "route_unknown",
        ),
        (
            "a session id of two lines",
            "initialize",
            |id| {
                now(full(
                    200,
                    &[("content-type", "application/json"), ("mcp-session-id", "a b")],
                    says(&id, "").to_string(),
                ))
            },
            "protocol_error",
        ),
        ("hangs at the list", "tools/list", |_| Box::pin(std::future::pending()), "timeout"),
        (
            "endless pages",
            "tools/list",
            |id| now(json_answer(&json!({"jsonrpc": "2.0", "id": id, "result": {"tools": [], "nextCursor": "again"}}))),
            "too_many_tools",
        ),
        (
            "too many tools",
            "tools/list",
            |id| {
                let tools: Vec<Value> = (0..257).map(|n| json!({"name": format!("t{n}"), "inputSchema": {}})).collect();
                now(json_answer(&json!({"jsonrpc": "2.0", "id": id, "result": {"tools": tools}})))
            },
            "too_many_tools",
        ),
        (
            "policy at the list",
            "tools/list",
            |id| {
                now(events(
                    vec![event(
                        &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "[postern] mcp_server_not_allowed", "data": {"reason": "mcp_server_not_allowed", "next_step": "ask"}}}),
                    )],
                    false,
                ))
            },
            "mcp_server_not_allowed",
        ),
    ];
    for (what, at, behaviour, code) in table {
        let world = World::new(Arc::new(move |seen: Seen| match seen.rpc() == at {
            true => behaviour(seen.json()["id"].clone()),
            false => now(good(&seen)),
        }));
        let limits = Limits { initialize: Duration::from_millis(700), ..limits() };
        let client = world.client_with(limits, PublicPolicy::default());
        let bounded = tokio::time::timeout(Duration::from_secs(5), connect(&client, URL)).await;
        let failure = bounded.expect(what).err().expect(what);
        assert_eq!((failure.code.as_str(), failure.started), (code, false), "{what}: {failure:?}");
    }
}
