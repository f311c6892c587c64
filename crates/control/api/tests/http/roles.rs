//! API keys with a role, and for certain vaults.

use serde_json::{Value, json};

use crate::memory_access::attach;
use crate::support::{Request, Response, Server};
use crate::work::polled_with_vaults;

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
async fn a_key_has_a_name_and_vaults_up_to_a_bound() {
    let server = Server::start().await;
    let name = |length: usize| json!({"name": "x".repeat(length)});
    server.operator_post("/v1/api_keys", name(256)).await.ok();
    let many: Vec<String> = (0..51).map(|number| format!("vlt_{number}")).collect();
    for (body, place) in [(name(257), "name"), (json!({"vault_ids": many}), "vault_ids")] {
        let message = server.operator_post("/v1/api_keys", body).await.refused(400, "invalid_request_error");
        assert!(message.contains(place), "{message}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_certain_vaults_learns_of_a_hidden_session_by_no_list_and_no_file() {
    let server = Server::start().await;
    let mine = server.post("/v1/vaults", json!({"display_name": "mine"})).await.ok();
    let other = server.post("/v1/vaults", json!({"display_name": "other"})).await.ok();
    let key = issue(&server, json!({"vault_ids": [id(&mine)]})).await;
    let (environment, environment_key) = server.environment("e").await;
    let hidden = polled_with_vaults(&server, &environment, &environment_key, &[id(&other)]).await;
    let own = polled_with_vaults(&server, &environment, &environment_key, &[id(&mine)]).await;
    let output = |token: String, session: String| {
        let request = server.request_as(&token, "POST", &format!("/v1/sessions/{session}/outputs?path=out.txt"));
        server.send(request.body(b"said").header("content-type", "application/octet-stream"))
    };
    let secret = output(hidden.token.clone(), hidden.session.clone()).await.ok();
    let shown = output(own.token.clone(), own.session.clone()).await.ok();
    let ids = |list: Value| list["data"].as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<Vec<_>>();

    let listed = |session: &str| format!("/v1/files?scope_id={session}");
    assert_eq!(ids(get(&server, &key, &listed(&hidden.session)).await.ok()), Vec::<String>::new());
    assert_eq!(ids(get(&server, &key, &listed(&own.session)).await.ok()), [id(&shown)]);
    let both = format!("/v1/files?ids[]={}&ids[]={}", id(&secret), id(&shown));
    assert_eq!(ids(get(&server, &key, &both).await.ok()), [id(&shown)]);
    assert_eq!(ids(server.get(&both).await.ok()).len(), 2);
    let content = |file: &Value| format!("/v1/files/{}/content", id(file));
    get(&server, &key, &content(&secret)).await.refused(404, "not_found_error");
    assert_eq!(get(&server, &key, &content(&shown)).await.text, "said");

    let work = format!("/v1/environments/{environment}/work");
    assert_eq!(ids(get(&server, &key, &work).await.ok()), [own.work.as_str()]);
    get(&server, &key, &format!("{work}/{}", hidden.work)).await.refused(404, "not_found_error");
    get(&server, &key, &format!("{work}/{}", own.work)).await.ok();

    // A file of a hidden session is unknown where it is named, too.
    let resources = format!("/v1/sessions/{}/resources", own.session);
    let named = post(&server, &key, &resources, json!({"type": "file", "file_id": id(&secret)})).await;
    let unknown = post(&server, &key, &resources, json!({"type": "file", "file_id": "file_none"})).await;
    named.refused(404, "not_found_error");
    assert_eq!(named.body["error"]["details"], unknown.body["error"]["details"]);
    let outcome = json!({"events": [{"type": "user.define_outcome", "description": "d",
                                     "rubric": {"type": "file", "file_id": id(&secret)}}]});
    let events = format!("/v1/sessions/{}/events", own.session);
    let named = post(&server, &key, &events, outcome).await;
    assert_eq!((named.status, &named.body["error"]["details"]["error_code"]), (404, &json!("file_not_found")));

    // Where both wrote, the history shows what is known.
    let store = server.post("/v1/memory_stores", json!({"name": "s"})).await.ok();
    let memories = format!("/v1/memory_stores/{}/memories", id(&store));
    let mut versions = Vec::new();
    for item in [&hidden, &own] {
        attach(&server, &item.session, id(&store), "read_write").await;
        let body = json!({"path": format!("/{}", item.work), "content": "x"});
        versions.push(post(&server, &item.token, &memories, body).await.ok()["memory_version_id"].clone());
    }
    let history = format!("/v1/memory_stores/{}/memory_versions", id(&store));
    assert_eq!(ids(get(&server, &key, &history).await.ok()), [versions[1].as_str().unwrap()]);
    assert_eq!(ids(server.get(&history).await.ok()).len(), 2);
    let redact = format!("{history}/{}/redact", versions[0].as_str().unwrap());
    post(&server, &key, &redact, json!({})).await.refused(404, "not_found_error");
}

#[tokio::test]
async fn a_run_is_known_to_a_key_of_the_vaults_of_its_deployment_alone() {
    let server = Server::start().await;
    let mine = server.post("/v1/vaults", json!({"display_name": "mine"})).await.ok();
    let other = server.post("/v1/vaults", json!({"display_name": "other"})).await.ok();
    let key = issue(&server, json!({"role": "viewer", "vault_ids": [id(&mine)]})).await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let mut runs = Vec::new();
    for vault in [&other, &mine] {
        let start = json!([{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]);
        let body = json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": start,
                          "vault_ids": [id(vault)]});
        let deployment = server.post("/v1/deployments", body).await.ok();
        let path = format!("/v1/deployments/{}/run", id(&deployment));
        runs.push(server.send(server.request("POST", &path)).await.ok());
    }
    let listed = get(&server, &key, "/v1/deployment_runs").await.ok();
    assert_eq!(listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [id(&runs[1])]);
    let run = |run: &Value| format!("/v1/deployment_runs/{}", id(run));
    get(&server, &key, &run(&runs[0])).await.refused(404, "not_found_error");
    get(&server, &key, &run(&runs[1])).await.ok();
    // Its session is gone: the deployment says whose the run is.
    let session = runs[1]["session_id"].as_str().unwrap();
    server.send(server.request("DELETE", &format!("/v1/sessions/{session}"))).await.ok();
    get(&server, &key, &run(&runs[1])).await.ok();
}

#[tokio::test]
async fn a_key_of_certain_vaults_issues_nothing_that_reaches_further() {
    let server = Server::start().await;
    let mine = server.post("/v1/vaults", json!({"display_name": "mine"})).await.ok();
    let (environment, _) = server.environment("e").await;
    let tunnel = server.post("/v1/tunnels", json!({})).await.ok();
    for role in ["admin", "worker"] {
        let key = issue(&server, json!({"role": role, "vault_ids": [id(&mine)]})).await;
        let keys = format!("/v1/environments/{environment}/keys");
        let refusal = post(&server, &key, &keys, json!({})).await.refused(403, "permission_error");
        assert!(refusal.contains("takes a key for every vault"), "{refusal}");
        get(&server, &key, &keys).await.ok();
    }
    let key = issue(&server, json!({"vault_ids": [id(&mine)]})).await;
    let path = format!("/v1/tunnels/{}", id(&tunnel));
    let webhook = json!({"url": "https://hooks.example/", "enabled_events": ["session.updated"]});
    for (path, body) in [
        (format!("{path}/reveal_token"), json!({})),
        (format!("{path}/rotate_token"), json!({})),
        (format!("{path}/certificates"), json!({"ca_certificate_pem": "x"})),
        ("/v1/webhooks".to_owned(), webhook),
    ] {
        let refusal = post(&server, &key, &path, body).await.refused(403, "permission_error");
        assert!(refusal.contains("takes a key for every vault"), "{refusal}");
    }
    get(&server, &key, "/v1/webhooks").await.refused(403, "permission_error");
}
