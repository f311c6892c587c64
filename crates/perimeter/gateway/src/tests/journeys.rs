//! What an honest caller gets.

use postern_audit::{Decision, Durability, Kind};
use serde_json::json;

use super::stand::{Call, DOMAIN, Reply, SECRET, SSE, Stand, chunks, document, event, ok, order, result, whole};
use crate::process;

#[tokio::test]
async fn a_call_reaches_the_server_with_the_secret_and_nothing_of_ours_and_is_on_record_before() {
    let stand = Stand::answering().await;
    let call = Call::tool("search", &json!({"q": "lunch"}))
        .with("mcp-protocol-version", "2025-11-25")
        .with("cookie", "a=b")
        .with("authorization", "Bearer callers-own")
        .with("x-forwarded-for", "10.0.0.1")
        .with("postern-something", "else");
    let body = call.body.clone();
    let got = stand.send(call).await;
    assert_eq!((got.status, got.json()["result"]["content"][0]["text"].as_str()), (200, Some("done")));

    let seen = stand.seen().remove(0);
    assert_eq!(seen.body, body.as_bytes(), "byte for byte");
    assert_eq!(seen.allowed_before, 1, "the record exists before the server has the request");
    let head = seen.head.to_ascii_lowercase();
    assert!(head.starts_with("post /mcp http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: bearer {}", SECRET.to_ascii_lowercase())));
    assert!(head.contains("mcp-protocol-version: 2025-11-25"));
    assert!(head.contains(&format!("host: 127.0.0.1:{}", stand.port)));
    assert!(!head.lines().any(|line| line.starts_with("postern-")), "{head}");
    for absent in ["cookie", "callers-own", "x-forwarded-for", DOMAIN] {
        assert!(!head.contains(absent), "{absent} in {head}");
    }

    let grant = stand.custody.grants.lock().unwrap().remove(0);
    assert_eq!((grant.route.as_str(), grant.session.as_str()), ("wiki", "sesn_a"));
    assert_eq!(grant.mcp_url, format!("https://wiki.{DOMAIN}/mcp"));
}

#[tokio::test]
async fn a_call_and_its_outcome_are_one_story_in_the_log() {
    let stand = Stand::answering().await;
    stand.send(Call::tool("search", &json!({}))).await;
    let call = stand.records(Kind::McpCall).remove(0);
    assert_eq!(call.decision, Decision::Allow);
    assert_eq!(call.session.as_deref(), Some("sesn_a"));
    assert_eq!(call.agent.as_deref(), Some("agent_1@3"));
    assert_eq!(call.tool_use.as_deref(), Some("sevt_1"));
    assert_eq!((call.zone.as_deref(), call.rule.as_deref()), (Some("docs"), Some("docs/mcp/1")));
    let destination = call.destination.unwrap();
    assert_eq!(destination.host.as_deref(), Some("wiki"));
    assert_eq!(destination.method.as_deref(), Some("tools/call"));
    assert_eq!(destination.path.as_deref(), Some("search"));
    assert_eq!(destination.address, Some(format!("127.0.0.1:{}", stand.port)));
    let outcome = stand.records(Kind::McpOutcome).remove(0);
    assert_eq!((outcome.outcome.as_deref(), outcome.caused_by), (Some("answered"), Some(1)));
    assert_eq!(outcome.counts["status"], 200);
}

#[tokio::test]
async fn records_are_as_safe_as_the_zone_of_the_caller_wants_them() {
    let stand = Stand::answering().await;
    let mut on_disk = document(stand.port);
    on_disk.text = on_disk.text.replacen("[zone.docs]\n", "[zone.docs]\naudit = \"disk\"\n", 1);
    stand.send(Call::tool("search", &json!({}))).await;
    assert!(process::reload(&stand.gateway, order(on_disk)).await.is_empty());
    stand.send(Call::tool("search", &json!({}))).await;
    let safe: Vec<_> = stand.records(Kind::McpCall).iter().map(|record| record.durability).collect();
    assert_eq!(safe, [Durability::Written, Durability::Disk]);
}

#[tokio::test]
async fn an_event_stream_comes_through_event_by_event() {
    let events = [
        event(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#),
        event(&result("done")),
    ];
    let pieces = events.clone();
    let stand =
        Stand::new(move |_| Reply::Pieces(chunks(SSE, &[pieces[0].as_bytes(), pieces[1].as_bytes()], true))).await;
    let got = stand.send(Call::tool("search", &json!({}))).await;
    assert_eq!(got.headers["content-type"], "text/event-stream");
    assert_eq!(got.text(), events.concat());
    assert_eq!(stand.records(Kind::McpOutcome)[0].outcome.as_deref(), Some("answered"));
}

#[tokio::test]
async fn answers_say_how_long_each_part_took() {
    let stand = Stand::answering().await;
    let got = stand.send(Call::tool("search", &json!({}))).await;
    let timing = got.headers["server-timing"].to_str().unwrap();
    let names: Vec<_> = timing.split(", ").map(|part| part.split_once(";dur=").unwrap().0).collect();
    assert_eq!(names, ["identity", "policy", "upstream"]);
}

#[tokio::test]
async fn an_mcp_session_comes_back_from_its_own_caller_alone() {
    let stand = Stand::new(|_| {
        whole("200 OK", "content-type: application/json\r\nmcp-session-id: srv-1\r\n", result("x").as_bytes())
    })
    .await;
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#;
    let got = stand.send(Call::on("wiki", body)).await;
    let id = got.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert_ne!(id, "srv-1");

    stand.send(Call::tool("search", &json!({})).with("mcp-session-id", &id)).await;
    assert!(stand.seen()[1].head.to_ascii_lowercase().contains("mcp-session-id: srv-1\r\n"));
    for (session, route) in [("sesn_b", "wiki"), ("sesn_a", "plain")] {
        let call = Call::on(route, super::stand::call_body("search", &json!({}))).from(session);
        let got = stand.send(call.with("mcp-session-id", &id)).await;
        assert_eq!(got.reason().as_deref(), Some("mcp_session_unknown"));
    }
    let ended = stand.send(Call::on("wiki", "").method("DELETE").with("mcp-session-id", "srv-1")).await;
    assert_eq!((ended.status, ended.reason().as_deref()), (404, Some("mcp_session_unknown")));
    assert_eq!(stand.seen().len(), 2);
    assert_eq!(stand.records(Kind::Alarm).len(), 3);
}

#[tokio::test]
async fn get_and_delete_of_an_mcp_session_pass() {
    let stand = Stand::new(|seen| {
        if seen.head.starts_with("GET") {
            Reply::Pieces(chunks(SSE, &[b": hello\n\n"], true))
        } else {
            Reply::Pieces(vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()])
        }
    })
    .await;
    let listening = stand.send(Call::on("wiki", "").method("GET").with("last-event-id", "3")).await;
    assert_eq!((listening.status, listening.text()), (200, ": hello\n\n".to_owned()));
    assert!(stand.seen()[0].head.contains("last-event-id: 3"));
    assert_eq!(stand.send(Call::on("wiki", "").method("DELETE")).await.status, 204);
}

#[tokio::test]
async fn one_inner_connection_carries_many_calls_and_one_upstream_connection_serves_them() {
    let stand = Stand::answering().await;
    let host = format!("wiki.{DOMAIN}");
    let stream = stand.connect(&host, &host).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..5 {
        sender.ready().await.unwrap();
        let answer = sender.send_request(stand.request(&Call::tool("search", &json!({})))).await.unwrap();
        assert_eq!(answer.status(), 200);
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    assert_eq!(stand.seen().len(), 5);
}

#[tokio::test]
async fn a_notification_is_answered_as_the_server_answers() {
    let stand =
        Stand::new(|_| Reply::Pieces(vec![b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec()])).await;
    let got = stand.send(Call::on("wiki", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)).await;
    assert_eq!((got.status, got.body.len()), (202, 0));
}

#[tokio::test]
async fn a_route_without_credential_asks_custody_for_nothing() {
    let stand = Stand::new(|_| ok()).await;
    let got = stand.send(Call::on("plain", super::stand::call_body("x", &json!({})))).await;
    assert_eq!(got.status, 200);
    assert!(stand.custody.grants.lock().unwrap().is_empty());
    assert!(!stand.seen()[0].head.contains("authorization"));
}

#[tokio::test]
async fn a_route_for_a_public_url_is_found_by_it_and_by_its_own_host() {
    let stand = Stand::answering().await;
    let body = super::stand::call_body("x", &json!({}));
    let by_url = |route: &str| Call::on(route, body.clone()).with("postern-route-url", "https://docs.example/mcp");
    assert_eq!(stand.send(by_url("mcp-url")).await.reason(), None);
    assert_eq!(stand.send(Call::on("public", body.clone()).target("/inner")).await.reason(), None);
    assert!(stand.seen().iter().all(|seen| seen.head.starts_with("POST /inner HTTP/1.1")));
    // The host of another route is not a way to it.
    assert_eq!(stand.send(by_url("wiki")).await.reason().as_deref(), Some("route_mismatch"));
    assert_eq!(stand.send(by_url("mcp-url").target("/admin")).await.reason().as_deref(), Some("path_not_allowed"));
    assert_eq!(stand.seen().len(), 2);
}

#[tokio::test]
async fn a_drain_ends_connections_that_are_idle() {
    let stand = Stand::answering().await;
    let host = format!("wiki.{DOMAIN}");
    let stream = stand.connect(&host, &host).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    sender.send_request(stand.request(&Call::tool("search", &json!({})))).await.unwrap();
    let drained = stand.gateway.drain.finish(std::time::Duration::from_secs(5)).await;
    assert_eq!(drained, postern_net::Drained::Clean);
    // However the end of the stream looks to the caller.
    let _ended = connection.await.unwrap();
}

#[tokio::test]
async fn an_answer_reaches_the_server_that_asked_and_once() {
    let asking = event(r#"{"jsonrpc":"2.0","id":"q-1","method":"ping"}"#) + &event(&result("done"));
    let stand = Stand::new(move |seen| {
        let asked = String::from_utf8_lossy(&seen.body).contains("tools/call");
        if asked { Reply::Pieces(chunks(SSE, &[asking.as_bytes()], true)) } else { whole("202 Accepted", "", b"") }
    })
    .await;
    let answer = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{}}}}"#);
    let said =
        |stand: &Stand| stand.seen().iter().filter(|seen| !seen.body.windows(10).any(|at| at == b"tools/call")).count();
    let unasked = stand.send(Call::on("wiki", answer("q-1"))).await;
    assert_eq!(unasked.reason().as_deref(), Some("mcp_method_not_allowed"));
    assert_eq!(stand.send(Call::tool("search", &json!({}))).await.status, 200);
    assert_eq!(stand.send(Call::on("wiki", answer("q-2"))).await.reason().as_deref(), Some("mcp_method_not_allowed"));
    assert_eq!(stand.send(Call::on("wiki", answer("q-1")).from("sesn_b")).await.status, 403);
    assert_eq!(said(&stand), 0, "nothing of these reached the server");
    assert_eq!(stand.send(Call::on("wiki", answer("q-1"))).await.status, 202);
    assert_eq!(stand.send(Call::on("wiki", answer("q-1"))).await.reason().as_deref(), Some("mcp_method_not_allowed"));
    assert_eq!(said(&stand), 1);
}
