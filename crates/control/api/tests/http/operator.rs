//! The operator's socket, and keys.

use serde_json::{Value, json};

use crate::support::{BETA, Request, Response, Server, exchange};

async fn as_operator(server: &Server, request: Request) -> Response {
    let socket = server.socket.clone();
    let request = request.header("anthropic-beta", BETA);
    tokio::task::spawn_blocking(move || {
        #[expect(clippy::disallowed_methods, reason = "the test is the client")]
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        Response::parse(&exchange(stream, &request.bytes()))
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_administers_without_a_key() {
    let server = Server::start().await;
    as_operator(&server, Request::new("GET", "/v1/agents")).await.ok();
    let issued = as_operator(&server, Request::new("POST", "/v1/api_keys").json(&json!({"name": "ci"}))).await.ok();
    assert_eq!(
        (&issued["type"], &issued["name"], &issued["revoked_at"]),
        (&json!("api_key"), &json!("ci"), &Value::Null)
    );
    let key = issued["key"].as_str().unwrap();
    assert!(key.starts_with(issued["hint"].as_str().unwrap()));
    server.send(server.request_as(key, "GET", "/v1/agents")).await.ok();

    let listed = as_operator(&server, Request::new("GET", "/v1/api_keys")).await;
    assert!(!listed.text.contains(key), "a key is shown once");
    assert_eq!(listed.ok()["data"].as_array().unwrap().len(), 2);

    let path = format!("/v1/api_keys/{}", issued["id"].as_str().unwrap());
    let deleted = as_operator(&server, Request::new("DELETE", &path)).await.ok();
    assert_eq!(deleted, json!({"id": issued["id"], "type": "api_key_deleted"}));
    server.send(server.request_as(key, "GET", "/v1/agents")).await.refused(401, "authentication_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_no_worker() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let poll = Request::new("GET", &format!("/v1/environments/{environment}/work/poll"));
    as_operator(&server, poll).await.refused(403, "permission_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_key_is_shown_once_and_revoked_at_once() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let keys = format!("/v1/environments/{environment}/keys");
    let listed = server.get(&keys).await;
    assert!(!listed.text.contains(&key));
    let record = listed.ok()["data"][0].clone();
    assert_eq!((&record["type"], &record["environment_id"]), (&json!("environment_key"), &json!(environment)));
    let poll = format!("/v1/environments/{environment}/work/poll");
    assert_eq!(server.send(server.request_as(&key, "GET", &poll)).await.ok(), Value::Null);
    let path = format!("{keys}/{}", record["id"].as_str().unwrap());
    server.send(server.request("DELETE", &path)).await.ok();
    server.send(server.request_as(&key, "GET", &poll)).await.refused(401, "authentication_error");
    assert!(server.get(&keys).await.ok()["data"][0]["revoked_at"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_the_database() {
    let server = Server::start().await;
    let (_, key) = server.environment("e").await;
    let mut seen = 0;
    for entry in std::fs::read_dir(server.socket.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("control.db") {
            let bytes = std::fs::read(&path).unwrap();
            seen += bytes.len();
            for key in [&key, &server.key] {
                let body = &key.as_bytes()["pst_api_".len() + 4..];
                assert!(!bytes.windows(body.len()).any(|window| window == body), "{}", path.display());
            }
        }
    }
    assert!(seen > 0, "the database was read");
}
