//! API keys with a role, and for certain vaults.

use serde_json::{Value, json};

use crate::support::{Request, Response, Server};

async fn issue(server: &Server, body: Value) -> String {
    server.operator_post("/v1/api_keys", body).await.ok()["key"].as_str().unwrap().to_owned()
}

async fn post(server: &Server, key: &str, path: &str, body: Value) -> Response {
    server.send(server.request_as(key, "POST", path).json(&body)).await
}

async fn get(server: &Server, key: &str, path: &str) -> Response {
    server.send(server.request_as(key, "GET", path)).await
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_key_is_issued_with_a_role_and_vaults_and_shows_them() {
    let server = Server::start().await;
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let body = json!({"name": "ci", "role": "developer", "vault_ids": [id(&vault)]});
    let issued = server.operator_post("/v1/api_keys", body).await.ok();
    assert_eq!((&issued["role"], &issued["vault_ids"]), (&json!("developer"), &json!([id(&vault)])));
    let plain = server.operator_post("/v1/api_keys", json!({})).await.ok();
    assert_eq!((&plain["role"], &plain["vault_ids"]), (&json!("admin"), &Value::Null));
    server.operator_post("/v1/api_keys", json!({"role": "root"})).await.refused(400, "invalid_request_error");
    server.operator_post("/v1/api_keys", json!({"vault_ids": ["vlt_none"]})).await.refused(404, "not_found_error");
}

#[tokio::test]
async fn a_viewer_s_stream_is_read_and_a_viewer_moves_nothing() {
    let server = Server::start().await;
    let key = issue(&server, json!({"role": "viewer"})).await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let session = server.post("/v1/sessions", json!({"agent": agent, "environment_id": environment})).await.ok();
    let path = format!("/v1/sessions/{}", id(&session));
    get(&server, &key, &path).await.ok();
    get(&server, &key, &format!("{path}/events")).await.ok();
    let message = json!({"events": [{"type": "user.message", "content": [{"type": "text", "text": "x"}]}]});
    let refusal = post(&server, &key, &format!("{path}/events"), message).await.refused(403, "permission_error");
    assert!(refusal.contains("`viewer`") && refusal.contains("`developer`"), "{refusal}");
    assert_eq!(get(&server, &key, &format!("{path}/events")).await.ok()["data"], json!([]));
}

#[tokio::test]
async fn another_vault_and_what_uses_it_is_not_there_for_a_key_of_certain_vaults() {
    let server = Server::start().await;
    let mine = server.post("/v1/vaults", json!({"display_name": "mine"})).await.ok();
    let other = server.post("/v1/vaults", json!({"display_name": "other"})).await.ok();
    let key = issue(&server, json!({"role": "admin", "vault_ids": [id(&mine)]})).await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let body = |vault: &Value| json!({"agent": agent, "environment_id": environment, "vault_ids": [id(vault)]});
    let foreign = server.post("/v1/sessions", body(&other)).await.ok();
    let start = json!([{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]);
    let with = |vault: &Value| {
        let mut body = body(vault);
        body["name"] = json!("d");
        body["initial_events"] = start.clone();
        body
    };
    let deployment = server.post("/v1/deployments", with(&other)).await.ok();

    let own = post(&server, &key, "/v1/sessions", body(&mine)).await.ok();
    post(&server, &key, "/v1/deployments", with(&mine)).await.ok();
    for path in ["/v1/sessions", "/v1/deployments"] {
        let answer = post(&server, &key, path, with(&other)).await;
        answer.refused(400, "invalid_request_error");
        assert_eq!(answer.body["error"]["details"]["error_code"], "vault_not_found", "{}", answer.text);
    }
    for (path, unknown) in [
        (format!("/v1/sessions/{}", id(&foreign)), "/v1/sessions/sesn_none"),
        (format!("/v1/sessions/{}/events", id(&foreign)), "/v1/sessions/sesn_none/events"),
        (format!("/v1/sessions/{}/events/stream", id(&foreign)), "/v1/sessions/sesn_none/events/stream"),
        (format!("/v1/deployments/{}", id(&deployment)), "/v1/deployments/depl_none"),
        (format!("/v1/vaults/{}", id(&other)), "/v1/vaults/vlt_none"),
        (format!("/v1/vaults/{}/credentials", id(&other)), "/v1/vaults/vlt_none/credentials"),
    ] {
        let hidden = get(&server, &key, &path).await;
        hidden.refused(404, "not_found_error");
        let nothing = get(&server, &key, unknown).await;
        let words = |answer: &Response, ids: [&str; 3]| {
            let message = answer.body["error"]["message"].as_str().unwrap().to_owned();
            ids.iter().fold(message, |text, id| text.replace(id, "it"))
        };
        let told = words(&hidden, [id(&foreign), id(&deployment), id(&other)]);
        let none = words(&nothing, ["sesn_none", "depl_none", "vlt_none"]);
        assert_eq!(told, none, "404 tells of a foreign object: {path}");
    }
    let moves = format!("/v1/sessions/{}/events", id(&foreign));
    post(&server, &key, &moves, json!({"events": start})).await.refused(404, "not_found_error");
    post(&server, &key, &format!("/v1/sessions/{}/freeze", id(&foreign)), json!({}))
        .await
        .refused(404, "not_found_error");
    server
        .send(
            Request::new("POST", &format!("/v1/deployments/{}/run", id(&deployment)))
                .header("authorization", &format!("Bearer {key}"))
                .header("anthropic-beta", crate::support::BETAS),
        )
        .await
        .refused(404, "not_found_error");
    post(&server, &key, "/v1/vaults", json!({"display_name": "new"})).await.refused(403, "permission_error");
    for (path, left) in [("/v1/vaults", id(&mine)), ("/v1/sessions", id(&own))] {
        let listed = get(&server, &key, path).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [left]);
    }
    assert_eq!(get(&server, &key, "/v1/deployments").await.ok()["data"].as_array().unwrap().len(), 1);
    get(&server, &key, &format!("/v1/sessions/{}", id(&own))).await.ok();
}
