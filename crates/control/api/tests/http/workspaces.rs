//! Workspaces: apart from each other, and erased whole.

use postern_store::list::ListQuery;
use postern_store::workspaces;
use serde_json::json;

use crate::support::{Request, Server};

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
async fn the_operator_s_own_workspace_is_not_erased() {
    let server = Server::start().await;
    let answer = server.operator(Request::new("DELETE", "/v1/workspaces/wrkspc_default")).await;
    let refusal = answer.refused(400, "invalid_request_error");
    assert!(refusal.contains("data directory"), "{refusal}");
}
