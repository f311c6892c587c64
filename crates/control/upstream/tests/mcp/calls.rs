//! Sessions with servers that keep to the protocol: rmcp's own, with JSON answers and with event streams.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::{BodyExt, Full};
use postern_tunnel::Lane;
use postern_tunnel::identity::Purpose;
use postern_upstream::mcp::{Mcp, McpServer, VaultCredential};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams,
    ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tower::ServiceExt as _;

use crate::harness::*;

#[derive(Clone)]
struct Wiki;

impl ServerHandler for Wiki {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = serde_json::json!({"type": "object", "properties": {"text": {"type": "string"}}});
        let tool = Tool::new("echo", "Says it again", schema.as_object().unwrap().clone());
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match request.arguments.as_ref().and_then(|arguments| arguments["text"].as_str()) {
            Some("fail") => {
                Ok(CallToolResponse::Complete(CallToolResult::error(vec![ContentBlock::text("it failed")])))
            }
            Some(text) if request.name == "echo" => {
                Ok(CallToolResponse::Complete(CallToolResult::success(vec![ContentBlock::text(text)])))
            }
            _ => Err(ErrorData::invalid_params("no such tool", None)),
        }
    }
}

/// rmcp's streamable HTTP server.
fn rmcp_server(with_sessions: bool, as_json: bool) -> Serve {
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(["wiki.abc.tunnel.localhost"])
        .with_legacy_session_mode(with_sessions)
        .with_json_response(as_json);
    let service = StreamableHttpService::new(|| Ok(Wiki), Arc::new(LocalSessionManager::default()), config);
    Arc::new(move |seen: Seen| {
        let service = service.clone();
        Box::pin(async move {
            let mut request = http::Request::builder().method(seen.method).uri(seen.path);
            *request.headers_mut().unwrap() = seen.headers;
            let request = request.body(Full::new(seen.body)).unwrap();
            let answer = service.oneshot(request).await.unwrap();
            Ok(answer.map(|body| body.map_err(|never| match never {}).boxed()))
        })
    })
}

#[tokio::test]
async fn a_session_with_rmcps_own_server_lists_and_calls() {
    for (with_sessions, as_json) in [(true, false), (false, true), (false, false)] {
        let world = World::new(rmcp_server(with_sessions, as_json));
        let client = world.client();
        let connection = connect(&client, URL).await.unwrap();
        assert_eq!(connection.tools().len(), 1);
        assert_eq!(connection.tools()[0].name, "echo");
        assert_eq!(connection.tools()[0].description.as_deref(), Some("Says it again"));

        let result = call(&connection, "hello").await.unwrap();
        assert_eq!((texts(&result), result.is_error), (vec!["hello".to_owned()], false));
        let result = call(&connection, "fail").await.unwrap();
        assert_eq!((texts(&result), result.is_error), (vec!["it failed".to_owned()], true));
        let unknown = connection.call("sevt_3".to_owned(), "nothing".to_owned(), arguments("x")).await.unwrap();
        assert!(unknown.is_error && texts(&unknown)[0].contains("no such tool"), "{unknown:?}");

        drop(connection);
        if with_sessions {
            world.has_come("DELETE").await;
        }
        assert_eq!(world.calls(), 3, "sessions {with_sessions}, json {as_json}");
        assert!(!world.rpcs().contains(&"GET".to_owned()), "no stream is opened that nobody reads");
    }
}

#[tokio::test]
async fn every_request_carries_an_identity_of_its_own() {
    let world = World::new(good_server());
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    call(&connection, "a").await.unwrap();
    drop(connection);
    world.has_come("DELETE").await;
    let mut ids = HashSet::new();
    for seen in world.seen() {
        let claims = world.claims(&seen);
        assert!(ids.insert(claims.jti.clone()));
        assert_eq!((claims.aud.as_str(), claims.sub.as_str(), claims.purpose), (TUNNEL, "sesn_1", Purpose::Call));
        assert_eq!((claims.agent.as_str(), claims.agent_version), ("agent_1", 2));
        let expected = (seen.rpc() == "tools/call").then(|| "sevt_1".to_owned());
        assert_eq!(claims.tool_use, expected, "{}", seen.rpc());
        assert_eq!(seen.header("host"), Some("wiki.abc.tunnel.localhost"));
        assert!(seen.header("authorization").is_none() && seen.header("postern-credential").is_none());
        if seen.rpc() != "initialize" {
            assert_eq!(seen.header("mcp-session-id"), Some("mcp-1"), "{}", seen.rpc());
            assert!(seen.header("mcp-protocol-version").is_some(), "{}", seen.rpc());
        }
    }
    assert_eq!(ids.len(), 5, "{:?}", world.rpcs());
}

#[tokio::test]
async fn connections_are_used_again() {
    let world = World::new(good_server());
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    for _ in 0..10 {
        call(&connection, "a").await.unwrap();
    }
    assert_eq!(by_connection(&world.seen()).len(), 1);
    let more = connect(&client, URL).await.unwrap();
    call(&more, "b").await.unwrap();
    assert_eq!(world.opened.load(Ordering::SeqCst), 1, "also by another session");
}

#[tokio::test]
async fn calls_run_beside_each_other() {
    let gate = Arc::new(tokio::sync::Barrier::new(20));
    let world = World::new(answering_calls(move |seen| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            gate.wait().await;
            Ok(good(&seen))
        })
    }));
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|number| {
            let connection = Arc::clone(&connection);
            tokio::spawn(async move { texts(&call(&connection, &number.to_string()).await.unwrap()) })
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), [number.to_string()]);
    }
}

#[tokio::test]
async fn large_arguments_take_the_bulk_lane() {
    let world = World::new(good_server());
    let client = world.client();
    let connection = connect(&client, URL).await.unwrap();
    let large = "x".repeat(100_000);
    assert_eq!(texts(&call(&connection, &large).await.unwrap()), [large]);
    let lanes: Vec<(String, Lane)> = world.seen().iter().map(|seen| (seen.rpc(), seen.lane)).collect();
    for (rpc, lane) in lanes {
        assert_eq!(lane == Lane::Bulk, rpc == "tools/call", "{rpc}");
    }
    let refused = call(&connection, &"x".repeat(5 * 1024 * 1024)).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.started), ("request_too_large", false));
    assert_eq!(world.calls(), 1);
}

#[tokio::test]
async fn a_vaults_credential_travels_sealed_and_only_into_a_tunnel() {
    let world = World::new(good_server());
    let client = world.client();
    let credential = || VaultCredential {
        vault_id: "vlt_1".to_owned(),
        credential_id: "vcrd_1".to_owned(),
        kind: "static_bearer".to_owned(),
        sealed: "c2VhbGVk".to_owned(),
    };
    let server = |url: &str| McpServer { name: "s".to_owned(), url: url.to_owned() };
    let connection = client.connect(facts(), server(URL), Some(credential())).await.unwrap();
    call(&connection, "a").await.unwrap();
    assert!(world.seen().iter().all(|seen| seen.header("postern-credential") == Some("c2VhbGVk")));
    assert!(world.seen().iter().all(|seen| seen.header("postern-route-url").is_none()));

    // A public server whose URL a gateway's route names: through the tunnel.
    let before = world.seen().len();
    let public = server("https://PUBLIC.example/mcp/");
    client.connect(facts(), public, Some(credential())).await.unwrap();
    for seen in &world.seen()[before..] {
        assert_eq!(seen.header("postern-route-url"), Some("https://public.example/mcp"));
        assert_eq!(seen.header("host"), Some("mcp-url.abc.tunnel.localhost"));
        assert_eq!(seen.header("postern-credential"), Some("c2VhbGVk"));
    }
    // One that none names: nowhere.
    let other = server("https://other.example/mcp");
    let failure = client.connect(facts(), other, Some(credential())).await.err().unwrap();
    assert_eq!(failure.code, "credential_needs_route");
    assert_eq!(failure.kind, postern_upstream::mcp::McpFailureKind::Authentication);
}
