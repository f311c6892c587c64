//! Workspaces: apart from each other, and erased whole.

use std::io::{Read, Write};
use std::net::TcpStream;

use postern_edge::TunnelEntry;
use postern_secret::seal;
use postern_store::list::ListQuery;
use postern_store::workspaces;
use serde_json::json;

use crate::credentials::bearer;
use crate::support::{Request, Response, Server, connect, exchange, hex};

#[tokio::test]
async fn a_key_of_a_new_workspace_sees_that_alone_until_it_is_erased() {
    let server = Server::start().await;
    let made = server.operator_post("/v1/workspaces", json!({"name": "legal", "retention_days": 30})).await.ok();
    let workspace = made["id"].as_str().unwrap();
    let body = json!({"name": "k", "workspace_id": workspace});
    let key = server.operator_post("/v1/api_keys", body).await.ok()["key"].as_str().unwrap().to_owned();
    server.operator_post("/v1/api_keys", json!({"workspace_id": "wrkspc_none"})).await.refused(404, "not_found_error");
    let ours = server.agent().await;
    let agent = json!({"name": "theirs", "model": "m"});
    let theirs = server.send(server.request_as(&key, "POST", "/v1/agents").json(&agent)).await.ok();
    let listed = server.send(server.request_as(&key, "GET", "/v1/agents")).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&theirs["id"]]);
    server.send(server.request_as(&key, "GET", &format!("/v1/agents/{ours}"))).await.refused(404, "not_found_error");

    let path = format!("/v1/workspaces/{workspace}");
    assert_eq!(server.operator(Request::new("GET", &path)).await.ok(), made);
    let changed = server.operator(Request::new("POST", &path).json(&json!({"retention_days": null}))).await.ok();
    assert_eq!((changed["name"].as_str(), changed["retention_days"].is_null()), (Some("legal"), true));
    server.operator(Request::new("DELETE", &path)).await.ok();
    server.operator(Request::new("GET", &path)).await.refused(404, "not_found_error");
    server.send(server.request_as(&key, "GET", "/v1/agents")).await.refused(401, "authentication_error");
    server.get(&format!("/v1/agents/{ours}")).await.ok();
    let mut reader = server.store.read().await.unwrap();
    let left = workspaces::list(&mut reader, &ListQuery { limit: 10, ..ListQuery::default() }).await.unwrap();
    assert_eq!(left.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["wrkspc_default"]);
}

#[tokio::test]
async fn the_operator_acts_in_the_workspace_that_it_names() {
    let server = Server::start().await;
    let made = server.operator_post("/v1/workspaces", json!({"name": "legal"})).await.ok();
    let workspace = made["id"].as_str().unwrap();
    let there = |method: &str, path: &str| Request::new(method, path).header("anthropic-workspace-id", workspace);
    let ids = |list: serde_json::Value| {
        list["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let issued = server.operator(there("POST", "/v1/api_keys").json(&json!({"name": "k"}))).await;
    assert_eq!(issued.header("anthropic-workspace-id"), Some(workspace));
    let issued = issued.ok();
    let (id, key) = (issued["id"].as_str().unwrap(), issued["key"].as_str().unwrap());
    assert_eq!(ids(server.operator(there("GET", "/v1/api_keys")).await.ok()), [id]);
    assert!(!ids(server.operator(Request::new("GET", "/v1/api_keys")).await.ok()).contains(&id.to_owned()));

    // A perimeter there is what credentials there are sealed to.
    let as_key = |method: &str, path: &str| server.request_as(key, method, path);
    let vault = server.send(as_key("POST", "/v1/vaults").json(&json!({"display_name": "v"}))).await.ok();
    let credentials = format!("/v1/vaults/{}/credentials", vault["id"].as_str().unwrap());
    let before = server.send(as_key("POST", &credentials).json(&bearer("https://mcp.example/mcp"))).await;
    assert_eq!(before.body["error"]["details"]["error_code"], "perimeter_none", "{}", before.text);
    let (public, _) = seal::suite().generate_key_pair().unwrap();
    let body = json!({"name": "p", "public_key": hex(&public.0)});
    let environment = server.send(as_key("POST", "/v1/environments").json(&json!({"name": "e"}))).await.ok();
    let body = {
        let mut body = body;
        body["environment_id"] = environment["id"].clone();
        body
    };
    let perimeter = server.operator(there("POST", "/v1/perimeters").json(&body)).await.ok();
    assert_eq!(ids(server.send(as_key("GET", "/v1/perimeters")).await.ok()), [perimeter["id"].as_str().unwrap()]);
    assert!(ids(server.get("/v1/perimeters").await.ok()).is_empty());
    server.send(as_key("POST", &credentials).json(&bearer("https://mcp.example/mcp"))).await.ok();

    let path = format!("/v1/api_keys/{id}");
    server.operator(Request::new("DELETE", &path)).await.refused(404, "not_found_error");
    server.operator(there("DELETE", &path)).await.ok();
    server.send(as_key("GET", "/v1/vaults")).await.refused(401, "authentication_error");
}

#[tokio::test]
async fn a_workspace_is_named_by_the_operator_alone_and_must_be_there() {
    let server = Server::start().await;
    let made = server.operator_post("/v1/workspaces", json!({"name": "legal"})).await.ok();
    for named in ["wrkspc_none", "legal", ""] {
        let request = Request::new("GET", "/v1/agents").header("anthropic-workspace-id", named);
        server.operator(request).await.refused(404, "not_found_error");
    }
    let named = server.request("GET", "/v1/agents").header("anthropic-workspace-id", made["id"].as_str().unwrap());
    server.send(named).await.refused(403, "permission_error");
    let own = server.request("GET", "/v1/agents").header("anthropic-workspace-id", "wrkspc_default");
    server.send(own).await.ok();
}

#[tokio::test]
async fn the_operator_s_own_workspace_is_not_erased() {
    let server = Server::start().await;
    let answer = server.operator(Request::new("DELETE", "/v1/workspaces/wrkspc_default")).await;
    let refusal = answer.refused(400, "invalid_request_error");
    assert!(refusal.contains("data directory"), "{refusal}");
}

#[tokio::test]
async fn the_tunnels_of_an_erased_workspace_carry_nothing_and_those_of_others_stay_as_they_are() {
    let server = Server::start().await;
    let made = server.operator_post("/v1/workspaces", json!({"name": "legal"})).await.ok();
    let workspace = made["id"].as_str().unwrap();
    let body = json!({"name": "k", "workspace_id": workspace});
    let key = server.operator_post("/v1/api_keys", body).await.ok()["key"].as_str().unwrap().to_owned();
    let ours = server.post("/v1/tunnels", json!({})).await.ok();
    let theirs = server.send(server.request_as(&key, "POST", "/v1/tunnels").json(&json!({}))).await.ok();
    let host = |tunnel: &serde_json::Value| format!("wiki.{}", tunnel["domain"].as_str().unwrap());
    let directory = server.edge.directory();
    assert!(directory.by_host(&host(&theirs)).is_some());
    // Newer than what the database said when the erasure looked: a revocation whose turn it is.
    let revoked = TunnelEntry { token_digest: None, ..directory.by_id(ours["id"].as_str().unwrap()).unwrap() };
    directory.put(revoked.clone());
    server.operator(Request::new("DELETE", &format!("/v1/workspaces/{workspace}"))).await.ok();
    assert!(directory.by_host(&host(&theirs)).is_none());
    assert_eq!(directory.by_id(&revoked.id), Some(revoked), "the directory never goes back to an older state");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_before_a_workspace_was_erased_does_not_come_to_be_after_it() {
    let server = Server::start().await;
    let made = server.operator_post("/v1/workspaces", json!({"name": "legal"})).await.ok();
    let workspace = made["id"].as_str().unwrap();
    let body = json!({"name": "k", "workspace_id": workspace});
    let key = server.operator_post("/v1/api_keys", body).await.ok()["key"].as_str().unwrap().to_owned();
    let creations = [
        ("/v1/agents", json!({"name": "a", "model": "m"})),
        ("/v1/environments", json!({"name": "e"})),
        ("/v1/vaults", json!({"display_name": "v"})),
        ("/v1/memory_stores", json!({"name": "m"})),
        ("/v1/tunnels", json!({})),
    ];
    let begun = creations.map(|(path, body)| {
        let body = body.to_string();
        let request = server.request_as(&key, "POST", path).header("anthropic-beta", EVERY_BETA);
        let length = body.len().to_string();
        (path, admitted(&server, request.header("content-length", &length)), body)
    });
    server.operator(Request::new("DELETE", &format!("/v1/workspaces/{workspace}"))).await.ok();
    for (path, stream, body) in begun {
        let answer = tokio::task::spawn_blocking(move || exchange(stream, body.as_bytes())).await.unwrap();
        let refusal = Response::parse(&answer).refused(404, "not_found_error");
        assert!(refusal.contains("erased"), "{path}: {refusal}");
    }
}

const EVERY_BETA: &str = "managed-agents-2026-04-01,mcp-tunnels-2026-06-22,agent-memory-2026-07-22";

/// A connection whose request the server knows who made, and wants the body of.
fn admitted(server: &Server, request: Request) -> TcpStream {
    let mut stream = connect(server.address);
    let request = request.header("content-type", "application/json").header("expect", "100-continue");
    stream.write_all(&request.bytes()).unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}
