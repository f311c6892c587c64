//! Input that no honest client sends: refused in the envelope, quickly, and nothing changes.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Response, Server, connect, exchange, short};

async fn raw(server: &Server, bytes: Vec<u8>) -> Vec<u8> {
    let address = server.address;
    tokio::task::spawn_blocking(move || exchange(connect(address), &bytes)).await.unwrap()
}

async fn refused(server: &Server, path: &str, body: &str) -> String {
    server.send(server.request("POST", path).body(body.as_bytes())).await.refused(400, "invalid_request_error")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_never_taken_for_an_object_nor_an_object_for_a_word() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let (session, call) = server.session_with_open_call(&environment).await;
    let events = format!("/v1/sessions/{session}/events");
    let before = server.get(&events).await.ok();
    let agents = server.get("/v1/agents").await.ok();
    for body in [
        r#"{"events":[["user.interrupt"]]}"#.to_owned(),
        r#"{"events":[["user.message",[["text","hi"]]]]}"#.to_owned(),
        r#"{"events":[{"type":"user.message","content":[["text","hi"]]}]}"#.to_owned(),
        format!(r#"{{"events":[["user.tool_result","{call}",[["text","hi"]],false]]}}"#),
        format!(r#"{{"events":[{{"type":"user.tool_result","tool_use_id":"{call}","content":[["text","x"]]}}]}}"#),
        format!(
            r#"{{"events":[{{"type":"user.tool_result","tool_use_id":"{call}",
                "content":[{{"type":"image","source":["url","https://example.com/x.png"]}}]}}]}}"#
        ),
        format!(
            r#"{{"events":[{{"type":"user.tool_result","tool_use_id":"{call}","content":[{{"type":"search_result",
                "source":"s","title":"t","citations":[true],"content":[{{"type":"text","text":"x"}}]}}]}}]}}"#
        ),
        format!(
            r#"{{"events":[{{"type":"user.tool_confirmation","tool_use_id":"{call}","result":{{"allow":null}}}}]}}"#
        ),
    ] {
        refused(&server, &events, &body).await;
    }
    for body in [
        r#"{"name":"n","model":["m"]}"#,
        r#"{"name":"n","model":{"id":"m","effort":["high"]}}"#,
        r#"{"name":"n","model":{"id":"m","speed":{"fast":null}}}"#,
        r#"{"name":"n","model":"m","tools":[["agent_toolset_20260401"]]}"#,
        r#"{"name":"n","model":"m","tools":[{"type":"agent_toolset_20260401","default_config":[true]}]}"#,
        r#"{"name":"n","model":"m","tools":[{"type":"agent_toolset_20260401",
            "default_config":{"permission_policy":["always_ask"]}}]}"#,
        r#"{"name":"n","model":"m","tools":[{"type":"agent_toolset_20260401","configs":[["bash"]]}]}"#,
        r#"{"name":"n","model":"m","tools":[{"type":"agent_toolset_20260401","configs":[{"name":{"bash":null}}]}]}"#,
        r#"{"name":"n","model":"m","tools":[["custom","t","d",{"type":"object"}]]}"#,
        r#"{"name":"n","model":"m","metadata":[["k","v"]]}"#,
    ] {
        refused(&server, "/v1/agents", body).await;
    }
    refused(&server, "/v1/environments", r#"{"name":"n","config":["self_hosted"]}"#).await;
    refused(&server, "/v1/environments", r#"{"name":"n","scope":{"organization":null}}"#).await;
    let agent = agents["data"][0]["id"].as_str().unwrap();
    let body = format!(r#"{{"agent":["agent","{agent}"],"environment_id":"{environment}"}}"#);
    refused(&server, "/v1/sessions", &body).await;
    let body = r#"{"agent":[null,null]}"#;
    refused(&server, &format!("/v1/sessions/{session}"), body).await;
    assert_eq!(server.get(&events).await.ok(), before);
    assert_eq!(server.get("/v1/agents").await.ok(), agents);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stands_twice_is_refused_at_any_depth() {
    let server = Server::start().await;
    for body in [
        r#"{"name":"a","name":"b","model":"m"}"#,
        r#"{"name":"a","model":"m","metadata":{"k":"1","k":"2"}}"#,
        r#"{"name":"a","model":{"id":"m","id":"n"}}"#,
        r#"{"name":"a","model":"m","tools":[{"type":"custom","type":"agent_toolset_20260401"}]}"#,
        r#"{"name":"a","model":"m","tools":[{"type":"custom","name":"t","description":"d",
            "input_schema":{"type":"object","title":"x","\u0074itle":"y"}}]}"#,
    ] {
        let message = refused(&server, "/v1/agents", body).await;
        assert!(message.contains("duplicate") || message.contains("twice"), "{message}");
    }
    assert_eq!(server.get("/v1/agents").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_however_deep_can_be_read_again() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    for depth in [10, 60, 100, 110, 115, 118, 120, 121, 122, 123, 124, 125, 126, 127, 128, 200, 100_000] {
        let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let body = format!(
            r#"{{"name":"n","model":"m-1","tools":[{{"type":"custom","name":"t","description":"d",
                "input_schema":{{"type":"object","examples":{nested}}}}}]}}"#
        );
        let answer = server.send(server.request("POST", "/v1/agents").body(body.as_bytes())).await;
        if answer.status == 200 {
            let agent = answer.ok()["id"].as_str().unwrap().to_owned();
            assert_eq!(server.get(&format!("/v1/agents/{agent}")).await.status, 200, "{depth} levels, agent");
            let body = json!({"agent": agent, "environment_id": environment});
            let session = server.post("/v1/sessions", body).await;
            assert_eq!(session.status, 200, "{depth} levels, session");
            let session = session.ok()["id"].as_str().unwrap().to_owned();
            assert_eq!(server.get(&format!("/v1/sessions/{session}")).await.status, 200, "{depth} levels");
        } else {
            answer.refused(400, "invalid_request_error");
            assert!(depth > 50, "{depth} levels are no bomb");
        }
    }
    server.get("/v1/agents").await.ok();
    server.get("/v1/sessions").await.ok();
    for bomb in ["[".repeat(1_000_000), r#"{"a":"#.repeat(150_000)] {
        let body = format!(r#"{{"name":"n","model":"m","metadata":{bomb}"#);
        refused(&server, "/v1/agents", &body).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_are_kept_or_refused_and_never_break_the_server() {
    let server = Server::start().await;
    for body in [
        r#"{"name":"a\u0000b","model":"m"}"#,
        r#"{"name":"a","model":"m","system":"x\u0000y"}"#,
        r#"{"name":"a","model":"m\u0000"}"#,
        r#"{"name":"\ud800","model":"m"}"#,
        r#"{"name":"a","model":"m","metadata":{"k\u0000":"v"}}"#,
        r#"{"name":1e400,"model":"m"}"#,
        r#"{"name":"a","model":"m","tools":[{"type":"custom","name":"t","description":"d",
            "input_schema":{"type":"object","maximum":123456789012345678901234567890123456789012345678901234567890}}]}"#,
        r#"{"name":"a","model":"m","tools":[{"type":"custom","name":"t","description":"d",
            "input_schema":{"type":"object","maximum":1e999}}]}"#,
    ] {
        let answer = server.send(server.request("POST", "/v1/agents").body(body.as_bytes())).await;
        if answer.status == 200 {
            let made = answer.ok();
            let found = server.get(&format!("/v1/agents/{}", made["id"].as_str().unwrap())).await.ok();
            assert_eq!(found, made, "{body}");
        } else {
            answer.refused(400, "invalid_request_error");
        }
    }
    server.get("/v1/agents").await.ok();
    for body in [
        format!(
            r#"{{"agent":{{"type":"agent","id":"agent_x","version":{}}},"environment_id":"env_x"}}"#,
            "9".repeat(40)
        ),
        r#"{"agent":{"type":"agent","id":"agent_x","version":-1},"environment_id":"env_x"}"#.into(),
        r#"{"agent":{"type":"agent","id":"agent_x","version":1.5},"environment_id":"env_x"}"#.into(),
    ] {
        refused(&server, "/v1/sessions", &body).await;
    }
    let agent = server.agent().await;
    for version in ["0", "-1", "1.0", "18446744073709551616", "9223372036854775808"] {
        let status = server.get(&format!("/v1/agents/{agent}?version={version}")).await.status;
        assert!([400, 404].contains(&status), "version {version}: {status}");
    }
    let huge = format!(
        r#"{{"agent":{{"type":"agent","id":"{agent}","version":18446744073709551615}},"environment_id":"env_x"}}"#
    );
    let status = server.send(server.request("POST", "/v1/sessions").body(huge.as_bytes())).await.status;
    assert!([400, 404].contains(&status), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_decoded_once_per_segment_and_name_nothing_by_tricks() {
    let server = Server::start().await;
    let agent = server.agent().await;
    for path in [
        "/v1/agents/%00".to_owned(),
        format!("/v1/agents/{agent}%00"),
        format!("/v1/agents/{agent}%2Farchive"),
        format!("/v1/agents/x%2f..%2f{agent}"),
        format!("/v1/agents/../agents/{agent}"),
        format!("/v1/agents/%252e%252e/{agent}"),
        format!("/v1//agents/{agent}"),
        format!("/v1/agents/{agent}/"),
        format!("/v1/agents/{}", "a".repeat(8000)),
        format!("/v1/Agents/{agent}"),
        format!("/v1/agents/{agent};x=1"),
        "/v1/agents/%f0%28%8c%28".to_owned(),
        "/v1/agents/%".to_owned(),
        "/v1/agents/%zz".to_owned(),
        "/%2e%2e/%2e%2e/etc/passwd".to_owned(),
    ] {
        server.get(&path).await.refused(404, "not_found_error");
    }
    // Another spelling of the same segment is the same segment.
    let spelled: String = agent.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(server.get(&format!("/v1/agents/{spelled}")).await.ok()["id"], agent.as_str());
    for method in ["HEAD", "PUT", "OPTIONS", "TRACE", "PROPFIND"] {
        let answer = server.send(server.request(method, "/v1/agents")).await;
        assert_eq!(answer.status, 404, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_queue_with_head_takes_nothing_from_it() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    server.session_with_open_call(&environment).await;
    let poll = format!("/v1/environments/{environment}/work/poll");
    assert_eq!(server.send(server.request_as(&key, "HEAD", &poll)).await.status, 404);
    let item = server.send(server.request_as(&key, "GET", &poll)).await.ok();
    assert_eq!(item["type"], "work");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_bodies_in_json_s_clothes_are_told_apart_by_route() {
    let server = Server::start().await;
    let agent = server.agent().await;
    for body in ["", "{}"] {
        let archive = server.request("POST", &format!("/v1/agents/{agent}/archive")).body(body.as_bytes());
        server.send(archive).await.ok();
    }
    let archive = server.request("POST", &format!("/v1/agents/{agent}/archive")).body(b"{\"x\":1}");
    server.send(archive).await.refused(400, "invalid_request_error");
    for body in ["", "   ", "null", "[]", "true", "{}"] {
        refused(&server, "/v1/agents", body).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_given_up_in_time() {
    let mut limits = short();
    limits.body_time = Duration::from_millis(200);
    let server = Server::start_with(limits).await;
    let head = server.request("POST", "/v1/agents").header("content-length", "1000").bytes();
    let begun = Instant::now();
    let bytes = raw(&server, [head, b"{\"name\":".to_vec()].concat()).await;
    let answer = Response::parse(&bytes);
    answer.refused(400, "invalid_request_error");
    assert_eq!(answer.body["error"]["details"]["error_code"], "request_body_timeout");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_no_http_are_refused_and_the_connection_closed() {
    let server = Server::start().await;
    let long = format!("GET /v1/agents HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(300_000));
    let mut many = String::from("GET /v1/agents HTTP/1.1\r\nhost: x\r\n");
    for index in 0..1000 {
        many.push_str(&format!("x-{index}: 1\r\n"));
    }
    many.push_str("\r\n");
    for request in [
        long.as_str(),
        &many,
        "\0\0\0\0\r\n\r\n",
        "GET /v1/agents HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /v1/agents HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST /v1/agents HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/agents HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
    ] {
        let bytes = raw(&server, request.as_bytes().to_vec()).await;
        let answer = String::from_utf8_lossy(&bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    server.get("/v1/agents").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_a_body_changes_nothing() {
    let server = Server::start().await;
    let head = server.request("POST", "/v1/agents").header("content-length", "1000").bytes();
    let mut socket = connect(server.address);
    socket.write_all(&head).unwrap();
    socket.write_all(b"{\"name\":\"n\",\"model\":\"m\"}").unwrap();
    drop(socket);
    assert_eq!(server.get("/v1/agents").await.ok()["data"], Value::Array(Vec::new()));
}
