//! Bad input: a clear error in the envelope, and nothing changed.

use serde_json::json;

use crate::support::{Request, Server, connect, exchange};

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_of_a_body_is_a_400_that_names_its_place_and_changes_nothing() {
    let server = Server::start().await;
    for (path, body, expected) in [
        ("/v1/agents", &b""[..], "empty"),
        ("/v1/agents", b"{\"name\":", "not valid JSON"),
        ("/v1/agents", b"[\"m\",\"n\"]", "must be a JSON object"),
        ("/v1/agents", b"{\"name\":\"\xff\",\"model\":\"m\"}", "not UTF-8"),
        ("/v1/agents", b"{\"name\":\"n\",\"model\":\"m\"} {}", "after its JSON"),
        ("/v1/agents", b"{\"name\":\"n\"}", "missing field `model`"),
        ("/v1/agents", b"{\"name\":1,\"model\":\"m\"}", "name: invalid type"),
        ("/v1/agents", b"{\"name\":\"n\",\"model\":\"m\",\"colour\":1}", "colour: unknown field"),
        ("/v1/agents", b"{\"name\":\"n\",\"model\":\"m\",\"tools\":[{\"type\":\"hammer\"}]}", "tools[0]"),
        ("/v1/agents", b"{\"name\":\"n\",\"model\":\"m\",\"metadata\":{\"k\":1}}", "metadata.k: invalid type"),
        ("/v1/environments", b"{\"name\":\"n\",\"config\":{\"type\":\"cloud\"}}", "self_hosted"),
        ("/v1/environments", b"{\"name\":\"n\",\"config\":{\"type\":\"self_hosted\",\"networking\":{}}}", "networking"),
        ("/v1/environments", b"{\"name\":\"\"}", "name"),
        ("/v1/environments", b"{\"name\":\"n\",\"scope\":\"account\"}", "scope"),
        ("/v1/sessions", b"{}", "missing field"),
    ] {
        let message = server.send(server.request("POST", path).body(body)).await.refused(400, "invalid_request_error");
        assert!(message.contains(expected), "{path}: {message:?} should name {expected:?}");
    }
    for path in ["/v1/agents", "/v1/environments", "/v1/sessions"] {
        assert_eq!(server.get(path).await.ok()["data"], json!([]), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_before_it_is_read() {
    let server = Server::start().await;
    let huge = server.request("POST", "/v1/agents").header("content-length", "33554433");
    server.send(huge).await.refused(413, "request_too_large");
    let long = server.request("POST", "/v1/agents").body(&vec![b' '; 2 * 1024 * 1024]);
    server.send(long).await.refused(413, "request_too_large");
    let chunked = server.request("POST", "/v1/agents").header("transfer-encoding", "chunked");
    let mut bytes = chunked.header("content-length", "0").bytes();
    let head = String::from_utf8(bytes.clone()).unwrap().replace("content-length: 0\r\n", "");
    bytes = head.into_bytes();
    for _ in 0..3 {
        bytes.extend_from_slice(b"80000\r\n");
        bytes.extend_from_slice(&vec![b' '; 0x80000]);
        bytes.extend_from_slice(b"\r\n");
    }
    let address = server.address;
    let response = tokio::task::spawn_blocking(move || exchange(connect(address), &bytes)).await.unwrap();
    crate::support::Response::parse(&response).refused(413, "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_unknown_makes_the_server_read_a_body() {
    let server = Server::start().await;
    let request = Request::new("POST", "/v1/agents").header("content-length", "33554432");
    server.send(request).await.refused(401, "authentication_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_clients_differ_in_are_all_accepted() {
    let server = Server::start().await;
    let plain = server.request("GET", "/v1/agents?beta=true");
    for request in [
        plain.clone().header("accept", "application/xml"),
        plain.clone().header("anthropic-version", "2026-10-21"),
        plain.clone().header("anthropic-version", "2023-06-01"),
        plain.clone().header("anthropic-beta", "mine-2026-01-01, managed-agents-2026-04-01"),
        plain.clone().header("anthropic-workspace-id", "wrkspc_default"),
        plain.clone().without("authorization").header("x-api-key", &server.key),
    ] {
        let response = server.send(request).await;
        assert_eq!(response.header("anthropic-workspace-id"), Some("wrkspc_default"));
        assert!(response.header("request-id").unwrap().starts_with("req_"));
        response.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_workspace_two_credentials_and_unknown_parameters_are_refused() {
    let server = Server::start().await;
    let plain = server.request("GET", "/v1/agents");
    server.send(plain.clone().header("anthropic-workspace-id", "wrkspc_other")).await.refused(403, "permission_error");
    server.send(plain.header("x-api-key", "pst_api_other")).await.refused(401, "authentication_error");
    for path in [
        "/v1/agents?limit=0",
        "/v1/agents?limit=101",
        "/v1/agents?limti=1",
        "/v1/agents?created_at[gte]=monday",
        "/v1/agents?page=page_x",
        "/v1/agents?include_archived=yes",
        "/v1/sessions?order=up",
        "/v1/sessions?statuses[]=busy",
        "/v1/sessions?agent_version=1",
        "/v1/agents?page=%ff",
    ] {
        server.get(path).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_another_form_name_nothing() {
    let server = Server::start().await;
    for path in [
        "/v1/agents/nonsense",
        "/v1/agents/agent_unknown",
        "/v1/agents/sesn_1",
        "/v1/agents/%2e%2e%2fx",
        "/v1/agents/a%20b",
        "/v1/agents/%ff",
        "/v1/environments/env_unknown",
        "/v1/environments/env_unknown/work/stats",
        "/v1/sessions/sesn_unknown",
        "/v1/sessions/sesn_unknown/events",
        "/v1/sessions/sesn_unknown/events/stream",
        "/v1/models/unknown",
        "/v1/environments/env_unknown/keys",
    ] {
        server.get(path).await.refused(404, "not_found_error");
    }
}
