//! How much of a server's tools, words and connections is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postern_upstream::mcp::{Limits, McpFailure, PublicPolicy};
use serde_json::{Value, json};

use crate::harness::*;

const OTHER: &str = "https://docs.abc.tunnel.localhost/mcp";

fn listing(answer: impl Fn(&Seen) -> Value + Send + Sync + 'static) -> Serve {
    Arc::new(move |seen: Seen| {
        let answer = match seen.rpc() == "tools/list" {
            true => json_answer(&json!({"jsonrpc": "2.0", "id": seen.json()["id"], "result": answer(&seen)})),
            false => good(&seen),
        };
        Box::pin(async move { Ok(answer) })
    })
}

async fn count(serve: Serve) -> Result<usize, String> {
    let world = World::new(serve);
    let client = world.client();
    match connect(&client, URL).await {
        Ok(connection) => Ok(connection.tools().len()),
        Err(McpFailure { code, .. }) => Err(code),
    }
}

#[tokio::test]
async fn tools_are_taken_up_to_a_number_a_size_and_a_number_of_pages() {
    let too_many = Err("too_many_tools".to_owned());
    let many = |count: usize| {
        let tools: Vec<Value> = (0..count).map(|n| json!({"name": format!("t{n}"), "inputSchema": {}})).collect();
        listing(move |_| json!({ "tools": tools }))
    };
    assert_eq!(count(many(256)).await, Ok(256));
    assert_eq!(count(many(257)).await, too_many);
    // The name and the empty schema are three bytes.
    let large = |size: usize| {
        let tool = move |name| json!({"name": name, "description": "d".repeat(size / 2 - 3), "inputSchema": {}});
        listing(move |_| json!({"tools": [tool("a"), tool("b")]}))
    };
    assert_eq!(count(large(1 << 20)).await, Ok(2));
    assert_eq!(count(large((1 << 20) + 2)).await, too_many);
    let pages = |count: usize| {
        let asked = AtomicUsize::new(0);
        listing(move |_| {
            let next = asked.fetch_add(1, Ordering::SeqCst) + 1;
            match next < count {
                true => {
                    json!({"tools": [{"name": format!("t{next}"), "inputSchema": {}}], "nextCursor": next.to_string()})
                }
                false => json!({"tools": [{"name": "last", "inputSchema": {}}]}),
            }
        })
    };
    assert_eq!(count(pages(32)).await, Ok(32));
    assert_eq!(count(pages(33)).await, too_many);
}

#[tokio::test]
async fn of_a_refusal_a_bounded_body_is_read_and_so_many_words_are_told() {
    for (size, told) in [(1_000, 500), (60 << 10, 500), (70 << 10, 0)] {
        let world = World::new(answering_calls(move |_| {
            let body = json!({"detail": "\u{e9}".repeat(size / 2), "next_step": "\u{e8}".repeat(1_000)}).to_string();
            Box::pin(async move { Ok(full(403, &[("postern-reason", "tool_not_allowed")], body)) })
        }));
        let client = world.client();
        let connection = connect(&client, URL).await.unwrap();
        let failure = call(&connection, "x").await.unwrap_err();
        assert_eq!(failure.code, "tool_not_allowed", "{size}");
        assert_eq!(failure.message.matches('\u{e9}').count(), told, "{size}");
        assert!(failure.next_step.matches('\u{e8}').count() <= 500, "{size}");
    }
}

#[tokio::test]
async fn more_requests_to_a_host_than_may_be_under_way_are_told_that_it_is_busy() {
    let world = World::new(answering_calls(|_| Box::pin(std::future::pending())));
    let limits = Limits { requests_per_host: 2, initialize: Duration::from_secs(1), ..limits() };
    let client = world.client_with(limits, PublicPolicy::default());
    let mut hanging = Vec::new();
    for under_way in 1..=2 {
        // Each has a session of its own: the bound is the host's.
        let connection = connect(&client, URL).await.unwrap();
        hanging.push(tokio::spawn(async move { call(&connection, "x").await }));
        while world.calls() < under_way {
            tokio::task::yield_now().await;
        }
    }
    let sent = world.seen().len();
    let refused = connect(&client, URL).await.err().expect("no place comes free");
    assert_eq!((refused.code.as_str(), refused.started, world.seen().len()), ("client_busy", false, sent));
    for call in hanging {
        call.abort();
    }
}

#[tokio::test]
async fn so_many_idle_connections_of_a_host_are_kept() {
    let world = World::new(answering_calls(|seen| Box::pin(async move { Ok(good(&seen)) })));
    for (kept, opened) in [(8, 0), (1, 2)] {
        let limits = Limits { idle_connections: kept, ..limits() };
        let client = world.client_with(limits, PublicPolicy::default());
        let connection = connect(&client, URL).await.unwrap();
        let three = async || {
            let (a, b, c) = tokio::join!(call(&connection, "a"), call(&connection, "b"), call(&connection, "c"));
            (a.unwrap(), b.unwrap(), c.unwrap())
        };
        three().await;
        let before = world.opened.load(Ordering::SeqCst);
        three().await;
        assert_eq!(world.opened.load(Ordering::SeqCst) - before, opened, "{kept}");
    }
}

#[tokio::test]
async fn connections_are_kept_to_so_many_hosts() {
    for (hosts, reopened) in [(2, false), (1, true)] {
        let world = World::new(good_server());
        let client = world.client_with(Limits { hosts, ..limits() }, PublicPolicy::default());
        let wiki = connect(&client, URL).await.unwrap();
        let before = world.opened.load(Ordering::SeqCst);
        call(&wiki, "x").await.unwrap();
        assert_eq!(world.opened.load(Ordering::SeqCst), before, "its connection is used again");
        connect(&client, OTHER).await.unwrap();
        let before = world.opened.load(Ordering::SeqCst);
        call(&wiki, "y").await.unwrap();
        assert_eq!(world.opened.load(Ordering::SeqCst) > before, reopened, "{hosts}");
    }
}
