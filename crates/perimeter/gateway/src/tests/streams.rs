//! Answers that are slow, broken, too large or long: each ends in a named way, and none hangs.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use postern_audit::{Decision, Kind};
use serde_json::json;

use super::stand::{Call, Reply, SSE, Stand, chunks, document, event, ok, order, result, whole, write_leaf};
use crate::process;

fn good() -> Call {
    Call::tool("search", &json!({}))
}

#[tokio::test]
async fn failures_of_the_server_are_named_and_say_whether_the_tool_may_have_run() {
    let large = "x".repeat(300 * 1024);
    let large_events: Vec<u8> = event(&large).into_bytes();
    type Case = (&'static str, Box<dyn Fn() -> Reply + Send + Sync>, &'static str);
    let table: Vec<Case> = vec![
        ("no answer", Box::new(|| Reply::Hang(vec![])), "timeout"),
        (
            "half an answer",
            Box::new(|| {
                Reply::Hang(vec![
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{".to_vec(),
                ])
            }),
            "timeout",
        ),
        ("closed before", Box::new(|| Reply::Close(vec![])), "outcome_unknown"),
        (
            "closed within",
            Box::new(|| {
                Reply::Close(vec![
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{".to_vec(),
                ])
            }),
            "outcome_unknown",
        ),
        ("no HTTP", Box::new(|| Reply::Close(vec![b"SSH-2.0-x\r\n\r\n".to_vec()])), "upstream_protocol"),
        (
            "too large",
            Box::new(move || whole("200 OK", "content-type: application/json\r\n", large.as_bytes())),
            "result_too_large",
        ),
        (
            "a page",
            Box::new(|| whole("200 OK", "content-type: text/html\r\n", b"<html>log in</html>")),
            "upstream_protocol",
        ),
        (
            "switching",
            Box::new(|| Reply::Close(vec![b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec()])),
            "upstream_protocol",
        ),
        ("a stream that ends", Box::new(|| Reply::Pieces(chunks(SSE, &[b": hello\n\n"], true))), "outcome_unknown"),
        ("a stream that breaks", Box::new(|| Reply::Close(chunks(SSE, &[b": hello\n\nda"], false))), "outcome_unknown"),
        ("a stream that stops", Box::new(|| Reply::Hang(chunks(SSE, &[b": hello\n\n"], false))), "timeout"),
        (
            "a stream too large",
            Box::new(move || Reply::Pieces(chunks(SSE, &[&large_events], true))),
            "result_too_large",
        ),
    ];
    for (what, reply, reason) in table {
        let stand = Stand::new(move |_| reply()).await;
        let began = Instant::now();
        let got = stand.send(good()).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        assert_eq!(got.status, 200, "{what}");
        let said = match got.headers["content-type"].to_str().unwrap() {
            "text/event-stream" => {
                let last = got.text().rsplit("data: ").next().unwrap().to_owned();
                serde_json::from_str::<serde_json::Value>(&last).unwrap_or_else(|_| panic!("{what}: {}", got.text()))
            }
            _ => got.json(),
        };
        assert_eq!(said["result"]["_meta"]["postern/reason"], reason, "{what}: {}", got.text());
        assert_eq!(said["result"]["_meta"]["postern/started"], true, "{what}");
        assert_eq!(said["id"], 7, "{what}");
        let outcomes = stand.records(Kind::McpOutcome);
        assert_eq!(outcomes.len(), 1, "{what}: {outcomes:?}");
        assert_eq!((outcomes[0].decision, outcomes[0].reason.as_deref()), (Decision::Deny, Some(reason)), "{what}");
        assert_eq!(stand.seen().len(), 1, "{what}: sent once");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_after_its_answer_is_whole() {
    let event = event(&result("done"));
    let expected = event.clone();
    let stand = Stand::new(move |_| Reply::Close(chunks(SSE, &[event.as_bytes()], false))).await;
    let got = stand.send(good()).await;
    assert_eq!(got.text(), expected);
    assert_eq!(stand.records(Kind::McpOutcome)[0].outcome.as_deref(), Some("answered"));
}

#[tokio::test]
async fn an_initialize_that_breaks_off_in_a_stream_is_a_protocol_error_with_the_reason() {
    let stand = Stand::new(|_| Reply::Close(chunks(SSE, &[b": hello\n\n"], false))).await;
    let got = stand.send(Call::on("wiki", r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#)).await;
    let last = got.text().rsplit("data: ").next().unwrap().to_owned();
    let said: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(said["error"]["data"]["reason"], "upstream_unreachable");
}

/// A call whose stream has begun and does not end by itself.
async fn running(stand: &Stand) -> hyper::body::Incoming {
    let mut body = stand.begin(Call::on("plain", super::stand::call_body("x", &json!({})))).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b": hello\n\n");
    body
}

fn hello_then_hang(seen: &super::stand::Seen) -> Reply {
    if seen.head.contains("authorization") { ok() } else { Reply::Hang(chunks(SSE, &[b": hello\n\n"], false)) }
}

#[tokio::test]
async fn a_new_leaf_is_in_use_a_second_later() {
    let stand = Stand::new(|_| ok()).await;
    tokio::time::pause();
    let _looking = tokio::spawn(stand.gateway.clone().look_after());
    // The first look is over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = stand.gateway.leaf.settings();
    write_leaf(stand.directory.path(), &stand.ca);
    let begun = tokio::time::Instant::now();
    while std::sync::Arc::ptr_eq(&before, &stand.gateway.leaf.settings()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_new_leaf_and_new_routes_leave_a_running_stream_alone() {
    let stand = Stand::new(hello_then_hang).await;
    let mut body = running(&stand).await;

    let before = stand.gateway.leaf.settings();
    std::fs::remove_file(stand.directory.path().join("leaf.pem")).unwrap();
    assert!(stand.gateway.leaf.look().is_err(), "half a pair is not used");
    write_leaf(stand.directory.path(), &stand.ca);
    assert!(stand.gateway.leaf.look().unwrap());
    assert!(!std::sync::Arc::ptr_eq(&before, &stand.gateway.leaf.settings()));

    let mut fewer = document(stand.port);
    fewer.text = fewer
        .text
        .replace("host = \"plain\"", "host = \"renamed\"")
        .replace("server = \"plain\"", "server = \"renamed\"");
    assert_eq!(process::reload(&stand.gateway, order(fewer)).await, Vec::<String>::new());

    let listed = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(stand.send(Call::on("plain", listed)).await.reason().as_deref(), Some("route_unknown"));
    assert_eq!(stand.send(good()).await.reason(), None);
    // The stream is still there: nothing has ended it.
    let next = tokio::time::timeout(Duration::from_millis(100), body.frame()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn a_document_that_does_not_load_changes_nothing() {
    let stand = Stand::answering().await;
    let mut broken = document(stand.port);
    broken.text.push_str("\n[[gateway.route]]\nhost = \"UPPER\"\n");
    assert!(!process::reload(&stand.gateway, order(broken)).await.is_empty());
    assert_eq!(stand.send(good()).await.reason(), None);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_at_the_server_and_that_is_on_record() {
    let stand = Stand::new(|_| Reply::Hang(vec![])).await;
    let host = format!("wiki.{}", super::stand::DOMAIN);
    let stream = stand.connect(&host, &host).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = stand.request(&good());
    let calling = tokio::spawn(async move { sender.send_request(request).await.map(drop) });
    until(|| !stand.seen().is_empty()).await;
    calling.abort();
    connection.abort();
    until(|| !stand.records(Kind::McpOutcome).is_empty()).await;
    assert_eq!(stand.records(Kind::McpOutcome)[0].outcome.as_deref(), Some("given up by the caller"));
}

#[tokio::test]
async fn custody_takes_a_document_up_first_and_where_it_does_not_nobody_does() {
    let stand = Stand::answering().await;
    let mut fewer = document(stand.port);
    fewer.text = fewer.text.replace("host = \"wiki\"", "host = \"moved\"").replace("\"wiki\"", "\"moved\"");
    *stand.custody.unreadable.lock().unwrap() = Some("custody says no");
    assert_eq!(process::reload(&stand.gateway, order(fewer.clone())).await, ["custody says no"]);
    assert_eq!(stand.send(good()).await.reason(), None);
    assert!(stand.records(Kind::ConfigurationLoaded).is_empty());

    *stand.custody.unreadable.lock().unwrap() = None;
    assert!(process::reload(&stand.gateway, order(fewer.clone())).await.is_empty());
    assert_eq!(stand.send(good()).await.reason().as_deref(), Some("route_unknown"));
    let moved = Call::on("moved", super::stand::call_body("search", &json!({})));
    assert_eq!(stand.send(moved).await.reason(), None);
    let asked = stand.custody.grants.lock().unwrap().clone();
    let digests: Vec<_> = asked.iter().map(|grant| grant.routes_digest.as_str()).collect();
    assert_eq!(
        digests[1],
        stand.gateway.rules().routes.digest(),
        "a credential is asked for by the rules that decided"
    );
    assert_ne!(digests[0], digests[1]);
}

#[tokio::test]
async fn answers_keep_their_places_in_memory_until_their_callers_have_them() {
    let body = result(&"x".repeat(200 * 1024));
    let stand = Stand::new(move |_| whole("200 OK", "content-type: application/json\r\n", body.as_bytes())).await;
    let free = stand.gateway.memory.available_permits();
    // The head has come, and the body is read by nobody.
    let answer = stand.begin(good()).await;
    assert!(stand.gateway.memory.available_permits() < free);
    drop(answer);
    until(|| stand.gateway.memory.available_permits() == free).await;
}

/// Waits for something that happens by itself, with a deadline.
pub(super) async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it happens in time");
}
