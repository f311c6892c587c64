//! Who may use the memories of a store: clients of the workspace, and workers through what their session has.

use serde_json::{Value, json};

use crate::memory::{memory, store};
use crate::support::{Server, issue_foreign_key};
use crate::work::{Polled, polled};

/// Makes a store one of a session's resources.
pub(crate) async fn attach(server: &Server, session: &str, store: &str, access: &str) {
    let mut tx = server.store.write().await.unwrap();
    sqlx::query("INSERT INTO session_memory_stores (session_id, memory_store_id, access) VALUES (?1, ?2, ?3)")
        .bind(session)
        .bind(store)
        .bind(access)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

fn id(store: &str) -> &str {
    store.rsplit_once('/').unwrap().1
}

async fn worker(server: &Server) -> (Polled, String) {
    let (environment, key) = server.environment("e").await;
    (polled(server, &environment, &key).await, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_writes_where_its_session_may_and_is_written_down() {
    let server = Server::start().await;
    let (item, _) = worker(&server).await;
    let store = store(&server, "s").await;
    attach(&server, &item.session, id(&store), "read_write").await;
    let ask = |method: &str, path: &str| server.request_as(&item.token, method, path);
    let create = ask("POST", &format!("{store}/memories")).json(&json!({"path": "/a", "content": "1"}));
    let made = server.send(create).await.ok();
    let one = format!("{store}/memories/{}", made["id"].as_str().unwrap());
    assert_eq!(server.send(ask("GET", &one)).await.ok()["content"], "1");
    server.send(ask("POST", &one).json(&json!({"content": "2"}))).await.ok();
    assert_eq!(server.send(ask("GET", &format!("{store}/memories"))).await.ok()["data"][0]["path"], "/a");
    server.send(ask("DELETE", &one)).await.ok();
    let versions = server.get(&format!("{store}/memory_versions?session_id={}", item.session)).await.ok();
    let by: Vec<&Value> = versions["data"].as_array().unwrap().iter().map(|version| &version["created_by"]).collect();
    assert_eq!(by, [&json!({"type": "session_actor", "session_id": item.session}); 3]);
    for path in [store.clone(), format!("{store}/memory_versions")] {
        server.send(ask("GET", &path)).await.refused(403, "permission_error");
    }
    server.send(ask("DELETE", &store)).await.refused(403, "permission_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_for_reading_only_is_read_and_not_written() {
    let server = Server::start().await;
    let (item, _) = worker(&server).await;
    let store = store(&server, "s").await;
    let made = memory(&server, &store, "/a", "1").await;
    attach(&server, &item.session, id(&store), "read_only").await;
    let one = format!("{store}/memories/{}", made["id"].as_str().unwrap());
    let ask = |method: &str, path: &str| server.request_as(&item.token, method, path);
    assert_eq!(server.send(ask("GET", &one)).await.ok()["content"], "1");
    server.send(ask("GET", &format!("{store}/memories"))).await.ok();
    for request in [
        ask("POST", &format!("{store}/memories")).json(&json!({"path": "/b", "content": ""})),
        ask("POST", &one).json(&json!({"content": "2"})),
        ask("PATCH", &one).json(&json!({"content": "2"})),
        ask("DELETE", &one),
    ] {
        server.send(request).await.refused(403, "permission_error");
    }
    assert_eq!(server.get(&one).await.ok()["content"], "1");
    assert_eq!(server.get(&format!("{store}/memory_versions")).await.ok()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_the_session_has_not_is_not_there_for_its_worker() {
    let server = Server::start().await;
    let (item, environment_key) = worker(&server).await;
    let (own, other) = (store(&server, "own").await, store(&server, "other").await);
    attach(&server, &item.session, id(&own), "read_write").await;
    let made = memory(&server, &other, "/a", "1").await;
    let name = made["id"].as_str().unwrap();
    for (method, path, body) in [
        ("GET", format!("{other}/memories"), None),
        ("GET", format!("{other}/memories/{name}"), None),
        // The store is the session's, the memory is not in it.
        ("GET", format!("{own}/memories/{name}"), None),
        ("POST", format!("{own}/memories/{name}"), Some(json!({"content": "2"}))),
        ("DELETE", format!("{own}/memories/{name}"), None),
        ("POST", format!("{other}/memories"), Some(json!({"path": "/a", "content": ""}))),
        ("POST", format!("{other}/memories/{name}"), Some(json!({"content": "2"}))),
        ("DELETE", format!("{other}/memories/{name}"), None),
        ("GET", "/v1/memory_stores/memstore_none/memories".to_owned(), None),
    ] {
        let request = server.request_as(&item.token, method, &path);
        let request = body.iter().fold(request, |request, body| request.json(body));
        server.send(request).await.refused(404, "not_found_error");
        let by_environment_key = server.request_as(&environment_key, method, &path);
        server.send(by_environment_key).await.refused(403, "permission_error");
    }
    assert_eq!(server.get(&format!("{other}/memories/{name}")).await.ok()["content"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_workspace_or_another_store_holds_is_not_there() {
    let server = Server::start().await;
    let (own, other) = (store(&server, "own").await, store(&server, "other").await);
    let made = memory(&server, &own, "/a", "1").await;
    let (name, version) = (made["id"].as_str().unwrap(), made["memory_version_id"].as_str().unwrap());
    let foreign = issue_foreign_key(&server.store).await;
    for path in [
        own.clone(),
        format!("{own}/memories"),
        format!("{own}/memories/{name}"),
        format!("{own}/memory_versions"),
        format!("{own}/memory_versions/{version}"),
    ] {
        server.send(server.request_as(&foreign, "GET", &path)).await.refused(404, "not_found_error");
    }
    for path in [format!("{other}/memories/{name}"), format!("{other}/memory_versions/{version}")] {
        server.get(&path).await.refused(404, "not_found_error");
    }
    server.post(&format!("{other}/memory_versions/{version}/redact"), json!({})).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_the_stores_they_have() {
    let server = Server::start().await;
    let (item, _) = worker(&server).await;
    let store = store(&server, "s").await;
    let list = format!("/v1/sessions?memory_store_id={}", id(&store));
    assert_eq!(server.get(&list).await.ok()["data"], json!([]));
    attach(&server, &item.session, id(&store), "read_only").await;
    assert_eq!(server.get(&list).await.ok()["data"][0]["id"], item.session.as_str());
    server.send(server.request("DELETE", &store)).await.ok();
    assert_eq!(server.get(&list).await.ok()["data"], json!([]), "nobody has what is gone");
}
