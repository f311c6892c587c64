//! `Idempotency-Key`: a creation that comes again creates nothing, whoever is first and however its answer was lost.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Request, Server, issue_api_key, issue_foreign_key};

fn keyed(server: &Server, path: &str, key: &str, body: &Value) -> Request {
    server.request("POST", path).header("idempotency-key", key).json(body)
}

async fn count(server: &Server, path: &str) -> usize {
    server.get(path).await.ok()["data"].as_array().unwrap().len()
}

/// Each creation that takes a key, with a body.
async fn creations(server: &Server) -> Vec<(&'static str, Value)> {
    let agent = server.agent().await;
    let (environment, _) = server.environment("e").await;
    let start = json!([{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]);
    vec![
        ("/v1/agents", json!({"name": "a", "model": "m-1"})),
        ("/v1/environments", json!({"name": "once"})),
        ("/v1/vaults", json!({"display_name": "v"})),
        ("/v1/memory_stores", json!({"name": "s"})),
        ("/v1/tunnels", json!({"display_name": "t"})),
        ("/v1/sessions", json!({"agent": agent, "environment_id": environment, "initial_events": start})),
        (
            "/v1/deployments",
            json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": start}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_comes_again_is_answered_as_before() {
    let server = Server::start().await;
    for (path, body) in creations(&server).await {
        let before = count(&server, path).await;
        let first = server.send(keyed(&server, path, "k", &body)).await;
        assert_eq!(first.header("idempotency-replayed"), Some("false"), "{path}: {}", first.text);
        let again = server.send(keyed(&server, path, "k", &body)).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{path}: {}", again.text);
        assert_eq!((again.status, &again.text), (200, &first.text), "{path}");
        assert_eq!(count(&server, path).await, before + 1, "{path}");
        let plain = server.post(path, json!({"unknown": 1})).await;
        assert_eq!(plain.header("idempotency-replayed"), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_for_again_begins_one_session() {
    let server = Server::start().await;
    let (_, body) = creations(&server).await.pop().unwrap();
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(server.post("/v1/deployments", body.clone()).await.ok()["id"].as_str().unwrap().to_owned());
    }
    let run = |deployment: &str| {
        let path = format!("/v1/deployments/{deployment}/run");
        server.send(server.request("POST", &path).header("idempotency-key", "k"))
    };
    let (first, again) = (run(&made[0]).await, run(&made[0]).await);
    assert_eq!((first.status, again.header("idempotency-replayed")), (200, Some("true")), "{}", first.text);
    assert_eq!(first.text, again.text);
    assert_eq!(count(&server, "/v1/sessions").await, 1);
    assert_eq!(run(&made[1]).await.body["error"]["details"]["error_code"], "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request() {
    let server = Server::start().await;
    server.send(keyed(&server, "/v1/vaults", "k", &json!({"display_name": "v"}))).await.ok();
    let other = server.send(keyed(&server, "/v1/vaults", "k", &json!({"display_name": "w"}))).await;
    other.refused(409, "conflict_error");
    assert_eq!(other.body["error"]["details"]["error_code"], "idempotency_key_reused");
    assert_eq!(count(&server, "/v1/vaults").await, 1);
    for key in ["", &"k".repeat(256), "k\u{e9}"] {
        let refused = server.send(keyed(&server, "/v1/vaults", key, &json!({"display_name": "v"}))).await;
        assert!(refused.refused(400, "invalid_request_error").starts_with("Idempotency-Key:"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_caller_s_on_one_route() {
    let server = Server::start().await;
    let body = json!({"display_name": "v"});
    let first = server.send(keyed(&server, "/v1/vaults", "k", &body)).await.ok();
    for credential in [issue_api_key(&server.store).await, issue_foreign_key(&server.store).await] {
        let request = keyed(&server, "/v1/vaults", "k", &body).header("authorization", &format!("Bearer {credential}"));
        assert_ne!(server.send(request).await.ok()["id"], first["id"]);
    }
    let operator = Request::new("POST", "/v1/vaults").header("idempotency-key", "k").json(&body);
    assert_ne!(server.operator(operator).await.ok()["id"], first["id"]);
    let tunnel = server.send(keyed(&server, "/v1/tunnels", "k", &body)).await;
    assert_eq!(tunnel.header("idempotency-replayed"), Some("false"), "{}", tunnel.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_tried_again() {
    let server = Server::start().await;
    let body = json!({"name": "taken"});
    let (environment, _) = server.environment("taken").await;
    server.send(keyed(&server, "/v1/environments", "k", &body)).await.refused(409, "conflict_error");
    server.send(server.request("DELETE", &format!("/v1/environments/{environment}"))).await.ok();
    server.send(keyed(&server, "/v1/environments", "k", &body)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_creates_and_all_are_answered_alike() {
    let server = Arc::new(Server::start().await);
    for (path, body) in [("/v1/vaults", json!({"display_name": "v"})), ("/v1/environments", json!({"name": "e"}))] {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let request = keyed(&server, path, "k", &body);
            let server = Arc::clone(&server);
            clients.spawn(async move { server.send(request).await });
        }
        let answers: Vec<Value> = clients.join_all().await.into_iter().map(|answer| answer.ok()).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(count(&server, path).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_kept_for_a_key() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let path = format!("/v1/environments/{environment}/keys");
    let first = server.send(keyed(&server, &path, "k", &json!({}))).await.ok();
    let second = server.send(keyed(&server, &path, "k", &json!({}))).await;
    assert_eq!(second.header("idempotency-replayed"), None);
    let issued = [first, second.ok()].map(|key| key["key"].as_str().unwrap().to_owned());
    assert_ne!(issued[0], issued[1]);
    let database = server.database();
    for key in issued {
        assert!(!database.windows(key.len()).any(|window| window == key.as_bytes()));
    }
}
