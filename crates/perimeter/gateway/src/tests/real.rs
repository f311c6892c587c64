//! A real MCP server, on the MCP project's own SDK, behind the gateway: it wants its bearer and reflects its headers.

use postern_audit::{Kind, Memory};
use postern_secret::detect::Detector;
use postern_testkit::private_mcp::{Manner, PrivateMcp};
use serde_json::{Value, json};

use super::stand::{Call, Got, SECRET, Stand, document, order};
use crate::process;

/// The message in an answer, whether it came as JSON or as events.
fn message(got: &Got) -> Value {
    let text = got.text();
    let last = text.lines().filter_map(|line| line.strip_prefix("data: ")).rfind(|data| data.starts_with('{'));
    serde_json::from_str(last.unwrap_or(&text)).unwrap_or_else(|_| panic!("{} {text}", got.status))
}

#[tokio::test]
async fn a_session_with_a_real_server_works_and_never_shows_its_secret() {
    for json in [false, true] {
        let server = PrivateMcp::start("127.0.0.1:0".parse().unwrap(), SECRET, Manner { json, ..Manner::default() })
            .await
            .unwrap();
        let stand = Stand::before(server.address.port(), Memory::new(), Default::default());
        let mut wider = document(server.address.port());
        wider.text = wider.text.replace("\"read_*\"", "\"read_*\", \"reflect_headers\"");
        assert!(process::reload(&stand.gateway, order(wider)).await.is_empty());

        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        }});
        let began = stand.send(Call::on("wiki", hello.to_string())).await;
        assert_eq!(message(&began)["id"], 1, "{}", began.text());
        let session = began.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        let say = |body: Value| {
            let call = Call::on("wiki", body.to_string()).with("mcp-protocol-version", "2025-06-18");
            match &session {
                Some(id) => call.with("mcp-session-id", id),
                None => call,
            }
        };
        let noted = stand.send(say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))).await;
        assert_eq!(noted.status, 202, "{}", noted.text());
        let listed = stand.send(say(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}))).await;
        assert!(listed.text().contains("reflect_headers"), "{}", listed.text());
        let call = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call",
            "params": {"name": "reflect_headers", "arguments": {}}});
        let reflected = stand.send(say(call)).await;
        assert!(reflected.text().contains("uthorization"), "{}", reflected.text());

        let detector = Detector::new([SECRET.as_bytes()]);
        for got in [&began, &noted, &listed, &reflected] {
            assert!(!detector.is_in(&got.all()), "{}", got.text());
        }
        let scrubbed: u64 = stand.records(Kind::McpOutcome).iter().map(|one| one.counts["scrubbed"]).sum();
        assert!(scrubbed >= 1, "the server did reflect it");
    }
}
