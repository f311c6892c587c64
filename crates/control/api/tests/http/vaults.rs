//! Vaults: limits, updates in three values, pages, archive and delete.

use serde_json::{Value, json};

use crate::support::{Server, issue_foreign_key};

async fn vault(server: &Server, name: &str) -> String {
    server.post("/v1/vaults", json!({"display_name": name})).await.ok()["id"].as_str().unwrap().to_owned()
}

fn ids(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_made_found_and_changed_in_three_values() {
    let server = Server::start().await;
    let created = server.post("/v1/vaults", json!({"display_name": "v", "metadata": {"a": "1", "b": "2"}})).await.ok();
    let mut keys: Vec<&String> = created.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["archived_at", "created_at", "display_name", "id", "metadata", "type", "updated_at"]);
    assert_eq!((&created["type"], &created["archived_at"]), (&json!("vault"), &Value::Null));
    let path = format!("/v1/vaults/{}", created["id"].as_str().unwrap());
    assert!(path.starts_with("/v1/vaults/vlt_"));
    assert_eq!(server.get(&path).await.ok(), created);
    assert_eq!(server.post(&path, json!({})).await.ok(), created, "nothing changes");
    for (change, field, expected) in [
        (json!({"display_name": "w"}), "display_name", json!("w")),
        (json!({"metadata": {"a": null, "c": "3"}}), "metadata", json!({"b": "2", "c": "3"})),
        (json!({"metadata": {"c": ""}}), "metadata", json!({"b": "2", "c": ""})),
        (json!({"metadata": null}), "metadata", json!({})),
    ] {
        assert_eq!(server.post(&path, change).await.ok()[field], expected, "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vault_cannot_be_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let path = format!("/v1/vaults/{}", vault(&server, "v").await);
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    for (path, body, place) in [
        ("/v1/vaults", json!({}), "display_name"),
        ("/v1/vaults", json!({"display_name": ""}), "display_name"),
        ("/v1/vaults", json!({"display_name": null}), "display_name"),
        ("/v1/vaults", json!({"display_name": "x".repeat(256)}), "display_name"),
        ("/v1/vaults", json!({"display_name": "v", "metadata": many}), "metadata"),
        ("/v1/vaults", json!({"display_name": "v", "colour": 1}), "colour"),
        (&path, json!({"display_name": null}), "display_name"),
        (&path, json!({"display_name": ""}), "display_name"),
        (&path, json!({"metadata": {"k": "x".repeat(513)}}), "metadata"),
        (&path, json!({"archived_at": null}), "archived_at"),
    ] {
        let message = server.post(path, body.clone()).await.refused(400, "invalid_request_error");
        assert!(message.contains(place), "{body}: {message}");
    }
    assert_eq!(server.get("/v1/vaults").await.ok()["data"].as_array().unwrap().len(), 1);
    for query in ["limit=101", "limit=0", "page=page_x", "order=asc", "include_archived=1"] {
        server.get(&format!("/v1/vaults?{query}")).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_are_listed_newest_first_in_pages_archived_ones_on_demand() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(vault(&server, &format!("v{n}")).await);
    }
    made.reverse();
    let first = server.get("/v1/vaults?limit=2").await.ok();
    assert_eq!(ids(&first), made[..2]);
    let second = server.get(&format!("/v1/vaults?limit=2&page={}", first["next_page"].as_str().unwrap())).await.ok();
    assert_eq!((ids(&second), &second["next_page"]), (vec![made[2].as_str()], &Value::Null));
    server.post(&format!("/v1/vaults/{}/archive", made[0]), json!({})).await.ok();
    assert_eq!(ids(&server.get("/v1/vaults").await.ok()), made[1..]);
    assert_eq!(ids(&server.get("/v1/vaults?include_archived=true").await.ok()), made);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_vault_stays_as_it_is_and_a_deleted_one_is_gone() {
    let server = Server::start().await;
    let path = format!("/v1/vaults/{}", vault(&server, "v").await);
    let archived = server.send(server.request("POST", &format!("{path}/archive"))).await.ok();
    assert!(archived["archived_at"].is_string());
    assert_eq!(server.send(server.request("POST", &format!("{path}/archive"))).await.ok(), archived, "again");
    for (path, body) in [
        (path.clone(), json!({"display_name": "w"})),
        (format!("{path}/credentials"), crate::credentials::bearer("https://a.example/mcp")),
    ] {
        let response = server.post(&path, body).await;
        response.refused(400, "invalid_request_error");
        assert_eq!(response.body["error"]["details"]["error_code"], "vault_archived", "{path}");
    }
    server.post(&format!("{path}/archive"), json!({"x": 1})).await.refused(400, "invalid_request_error");
    let deleted = server.send(server.request("DELETE", &path)).await.ok();
    assert_eq!(deleted, json!({"id": archived["id"], "type": "vault_deleted"}));
    server.get(&path).await.refused(404, "not_found_error");
    server.send(server.request("DELETE", &path)).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_of_another_workspace_is_not_there() {
    let server = Server::start().await;
    server.perimeter().await;
    let path = format!("/v1/vaults/{}", vault(&server, "v").await);
    let credentials = format!("{path}/credentials");
    let made = server.post(&credentials, crate::credentials::bearer("https://a.example/mcp")).await.ok();
    let one = format!("{credentials}/{}", made["id"].as_str().unwrap());
    let foreign = issue_foreign_key(&server.store).await;
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("POST", path.clone(), Some(json!({"display_name": "w"}))),
        ("POST", format!("{path}/archive"), None),
        ("DELETE", path.clone(), None),
        ("GET", credentials.clone(), None),
        ("POST", credentials.clone(), Some(crate::credentials::bearer("https://b.example/mcp"))),
        ("GET", one.clone(), None),
        ("POST", one.clone(), Some(json!({"display_name": "w"}))),
        ("POST", format!("{one}/archive"), None),
        ("POST", format!("{one}/mcp_oauth_validate"), None),
        ("DELETE", one.clone(), None),
    ] {
        let request = server.request_as(&foreign, method, &path);
        let request = body.iter().fold(request, |request, body| request.json(body));
        server.send(request).await.refused(404, "not_found_error");
    }
    assert_eq!(server.send(server.request_as(&foreign, "GET", "/v1/vaults")).await.ok()["data"], json!([]));
    assert_eq!(server.get(&one).await.ok(), made, "untouched");
}
