//! Memory stores, memories and their versions: limits, pages, preconditions, and what a version keeps.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Response, Server};

pub(crate) async fn store(server: &Server, name: &str) -> String {
    let made = server.post("/v1/memory_stores", json!({"name": name})).await.ok();
    format!("/v1/memory_stores/{}", made["id"].as_str().unwrap())
}

pub(crate) async fn memory(server: &Server, store: &str, path: &str, content: &str) -> Value {
    server.post(&format!("{store}/memories"), json!({"path": path, "content": content})).await.ok()
}

async fn delete(server: &Server, path: &str) -> Response {
    server.send(server.request("DELETE", path)).await
}

fn strings<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["data"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_else(|| panic!("{field} of {object}"))
}

fn code(response: &Response) -> &str {
    text(&response.body["error"]["details"], "error_code")
}

const SHA_OF_EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_made_found_changed_archived_and_deleted() {
    let server = Server::start().await;
    let body = json!({"name": "notes", "description": "d", "metadata": {"a": "1", "b": "2"}});
    let created = server.post("/v1/memory_stores", body).await.ok();
    let mut keys: Vec<&String> = created.as_object().unwrap().keys().collect();
    keys.sort();
    let expected = ["archived_at", "created_at", "description", "id", "metadata", "name", "type", "updated_at"];
    assert_eq!(keys, expected);
    assert_eq!((text(&created, "type"), &created["archived_at"]), ("memory_store", &Value::Null));
    let path = format!("/v1/memory_stores/{}", text(&created, "id"));
    assert!(path.starts_with("/v1/memory_stores/memstore_"));
    assert_eq!(server.get(&path).await.ok(), created);
    assert_eq!(server.post(&path, json!({})).await.ok(), created, "nothing changes");
    for (change, field, expected) in [
        (json!({"name": "other"}), "name", json!("other")),
        (json!({"description": ""}), "description", json!("")),
        (json!({"metadata": {"a": null, "c": ""}}), "metadata", json!({"b": "2", "c": ""})),
    ] {
        assert_eq!(server.post(&path, change).await.ok()[field], expected, "{field}");
    }
    let kept = memory(&server, &path, "/kept", "text").await;
    let archive = format!("{path}/archive");
    let archived = server.send(server.request("POST", &archive)).await.ok();
    assert_eq!(server.send(server.request("POST", &archive)).await.ok(), archived, "again");
    let one = format!("{path}/memories/{}", text(&kept, "id"));
    for (path, body) in [
        (path.clone(), json!({"name": "x"})),
        (format!("{path}/memories"), json!({"path": "/new", "content": ""})),
        (one.clone(), json!({"content": "new"})),
    ] {
        let refused = server.post(&path, body).await;
        refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), "memory_store_archived", "{path}");
    }
    assert_eq!(server.get(&one).await.ok()["content"], "text");
    assert_eq!(delete(&server, &one).await.ok(), json!({"id": kept["id"], "type": "memory_deleted"}));
    let version = format!("{path}/memory_versions/{}", text(&kept, "memory_version_id"));
    assert!(server.send(server.request("POST", &format!("{version}/redact"))).await.ok()["redacted_at"].is_string());
    assert_eq!(delete(&server, &path).await.ok(), json!({"id": created["id"], "type": "memory_store_deleted"}));
    for path in [path.clone(), format!("{path}/memories"), format!("{path}/memory_versions"), version, one] {
        server.get(&path).await.refused(404, "not_found_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_listed_newest_first_in_pages_archived_ones_on_demand() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(store(&server, &format!("s{n}")).await.rsplit_once('/').unwrap().1.to_owned());
    }
    made.reverse();
    let first = server.get("/v1/memory_stores?limit=2").await.ok();
    assert_eq!(strings(&first, "id"), made[..2]);
    let second = server.get(&format!("/v1/memory_stores?limit=2&page={}", text(&first, "next_page"))).await.ok();
    assert_eq!((strings(&second, "id"), &second["next_page"]), (vec![made[2].as_str()], &Value::Null));
    server.post(&format!("/v1/memory_stores/{}/archive", made[0]), json!({})).await.ok();
    assert_eq!(strings(&server.get("/v1/memory_stores").await.ok(), "id"), made[1..]);
    assert_eq!(strings(&server.get("/v1/memory_stores?include_archived=true").await.ok(), "id"), made);
    let future = "/v1/memory_stores?created_at[gte]=2999-01-01T00:00:00Z";
    assert_eq!(server.get(future).await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_or_a_memory_cannot_be_is_400_and_names_the_place() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let memories = format!("{store}/memories");
    let one = format!("{memories}/{}", text(&memory(&server, &store, "/a", "").await, "id"));
    for (path, body, place) in [
        ("/v1/memory_stores", json!({}), "name"),
        ("/v1/memory_stores", json!({"name": ""}), "name"),
        ("/v1/memory_stores", json!({"name": "a\u{7}"}), "name"),
        ("/v1/memory_stores", json!({"name": "x".repeat(256)}), "name"),
        ("/v1/memory_stores", json!({"name": "n", "description": "x".repeat(1025)}), "description"),
        (&store, json!({"name": null}), "name"),
        (&memories, json!({"path": "/b"}), "content"),
        (&memories, json!({"content": ""}), "path"),
        (&memories, json!({"path": "b", "content": ""}), "path"),
        (&memories, json!({"path": "/b/../c", "content": ""}), "path"),
        (&memories, json!({"path": "/b", "content": "x".repeat(102_401)}), "content"),
        (&one, json!({"path": "/b/"}), "path"),
        (&one, json!({"content": null}), "content"),
        (&one, json!({"precondition": {"type": "etag", "content_sha256": SHA_OF_EMPTY}}), "precondition"),
        (&one, json!({"precondition": {"type": "content_sha256"}}), "content_sha256"),
        (&one, json!({"precondition": {"type": "content_sha256", "content_sha256": "X"}}), "content_sha256"),
    ] {
        let message = server.post(path, body.clone()).await.refused(400, "invalid_request_error");
        assert!(message.contains(place), "{body}: {message}");
    }
    for query in [
        "depth=2",
        "depth=-1",
        "limit=0",
        "limit=101",
        "view=all",
        "path_prefix=",
        "path_prefix=/a",
        "path_prefix=a/",
        "path_prefix=//",
        "page=page_x",
        "order=asc",
    ] {
        server.get(&format!("{memories}?{query}")).await.refused(400, "invalid_request_error");
    }
    for query in ["operation=renamed", "limit=101", "view=x", "page=page_x"] {
        server.get(&format!("{store}/memory_versions?{query}")).await.refused(400, "invalid_request_error");
    }
    delete(&server, &format!("{one}?expected_content_sha256=x")).await.refused(400, "invalid_request_error");
    assert_eq!(server.get(&memories).await.ok()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_keeps_its_id_and_each_change_leaves_a_version() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let made = memory(&server, &store, "/a", "").await;
    assert_eq!((text(&made, "content_sha256"), &made["content_size_bytes"]), (SHA_OF_EMPTY, &json!(0)));
    assert_eq!(made["content"], Value::Null, "a basic view");
    let one = format!("{store}/memories/{}", text(&made, "id"));
    let written = server.post(&format!("{one}?view=full"), json!({"content": "h\u{e9}"})).await.ok();
    assert_eq!((text(&written, "content"), &written["content_size_bytes"]), ("h\u{e9}", &json!(3)));
    let request = server.request("PATCH", &one).json(&json!({"path": "/b"}));
    let renamed = server.send(request).await.ok();
    assert_eq!((text(&renamed, "path"), &renamed["id"]), ("/b", &made["id"]));
    assert_eq!(renamed["content_sha256"], written["content_sha256"]);
    let same = server.post(&one, json!({"content": "h\u{e9}", "path": "/b"})).await.ok();
    assert_eq!(same, renamed, "what changes nothing leaves no version");
    let shown = server.get(&one).await.ok();
    assert_eq!((text(&shown, "content"), text(&shown, "path")), ("h\u{e9}", "/b"));
    assert_eq!(server.get(&format!("{one}?view=basic")).await.ok()["content"], Value::Null);
    delete(&server, &one).await.ok();
    server.get(&one).await.refused(404, "not_found_error");

    let list = format!("{store}/memory_versions?view=full&memory_id={}", text(&made, "id"));
    let versions = server.get(&list).await.ok();
    assert_eq!(strings(&versions, "operation"), ["deleted", "modified", "modified", "created"]);
    assert_eq!(strings(&versions, "path"), ["/b", "/b", "/a", "/a"]);
    let contents: Vec<&Value> = versions["data"].as_array().unwrap().iter().map(|item| &item["content"]).collect();
    assert_eq!(contents, [&Value::Null, &json!("h\u{e9}"), &json!("h\u{e9}"), &json!("")]);
    assert_eq!(versions["data"][0]["content_sha256"], Value::Null);
    assert_eq!(versions["data"][1]["id"], renamed["memory_version_id"]);
    for version in versions["data"].as_array().unwrap() {
        assert_eq!(text(&version["created_by"], "type"), "api_actor");
        let path = format!("{store}/memory_versions/{}", text(version, "id"));
        assert_eq!(server.get(&path).await.ok(), *version);
    }
    let key = text(&versions["data"][0]["created_by"], "api_key_id");
    for (filter, count) in [
        (format!("api_key_id={key}"), 4),
        ("api_key_id=apikey_x".into(), 0),
        ("session_id=sesn_x".into(), 0),
        ("service_account_id=svac_x".into(), 0),
        ("operation=modified".into(), 2),
        ("memory_id=mem_x".into(), 0),
        ("created_at[gte]=2999-01-01T00:00:00Z".into(), 0),
    ] {
        let page = server.get(&format!("{store}/memory_versions?{filter}")).await.ok();
        assert_eq!(page["data"].as_array().unwrap().len(), count, "{filter}");
    }
    let first = server.get(&format!("{store}/memory_versions?limit=3")).await.ok();
    let next = format!("{store}/memory_versions?limit=3&page={}", text(&first, "next_page"));
    assert_eq!(strings(&server.get(&next).await.ok(), "operation"), ["created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_taken_once_and_the_conflict_says_by_whom() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let (first, second) = (memory(&server, &store, "/a", "1").await, memory(&server, &store, "/A", "2").await);
    let second_path = format!("{store}/memories/{}", text(&second, "id"));
    for refused in [
        server.post(&format!("{store}/memories"), json!({"path": "/a", "content": "3"})).await,
        server.post(&second_path, json!({"path": "/a"})).await,
    ] {
        refused.refused(409, "memory_path_conflict_error");
        let details = &refused.body["error"]["details"];
        assert_eq!((&details["conflicting_memory_id"], text(details, "conflicting_path")), (&first["id"], "/a"));
    }
    assert_eq!(server.get(&second_path).await.ok()["path"], "/A");
    // What no directory has a place for beside the first is taken all the same.
    for path in ["/a/b", &format!("/{}", "x".repeat(256))] {
        assert_eq!(memory(&server, &store, path, "3").await["path"], path);
    }
    delete(&server, &format!("{store}/memories/{}", text(&first, "id"))).await.ok();
    assert_eq!(server.post(&second_path, json!({"path": "/a"})).await.ok()["path"], "/a", "it is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_knows_another_content_is_refused() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let made = memory(&server, &store, "/a", "1").await;
    let one = format!("{store}/memories/{}", text(&made, "id"));
    let expecting =
        |sha: &str| json!({"content": "2", "precondition": {"type": "content_sha256", "content_sha256": sha}});
    server.post(&one, expecting(SHA_OF_EMPTY)).await.refused(409, "memory_precondition_failed_error");
    let stale = format!("{one}?expected_content_sha256={SHA_OF_EMPTY}");
    delete(&server, &stale).await.refused(409, "memory_precondition_failed_error");
    assert_eq!(server.get(&format!("{one}?view=basic")).await.ok(), made, "untouched");
    let changed = server.post(&one, expecting(text(&made, "content_sha256"))).await.ok();
    let known = format!("{one}?expected_content_sha256={}", text(&changed, "content_sha256"));
    delete(&server, &known).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_with_one_precondition_exactly_one_wins() {
    let server = Arc::new(Server::start().await);
    let store = store(&server, "s").await;
    let made = memory(&server, &store, "/a", "0").await;
    let one = format!("{store}/memories/{}", text(&made, "id"));
    let mut writers = tokio::task::JoinSet::new();
    for n in 1..=8 {
        let precondition = json!({"type": "content_sha256", "content_sha256": made["content_sha256"]});
        let body = json!({"content": n.to_string(), "precondition": precondition});
        let (server, one) = (Arc::clone(&server), one.clone());
        writers.spawn(async move { (n, server.post(&one, body).await) });
    }
    let mut winners = Vec::new();
    while let Some(written) = writers.join_next().await {
        let (n, response) = written.unwrap();
        match response.status {
            200 => winners.push(n.to_string()),
            _ => drop(response.refused(409, "memory_precondition_failed_error")),
        }
    }
    assert_eq!(winners, [text(&server.get(&one).await.ok(), "content")]);
    let versions = server.get(&format!("{store}/memory_versions")).await.ok();
    assert_eq!(strings(&versions, "operation"), ["modified", "created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redacted_version_has_lost_its_text_and_the_head_cannot() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let made = memory(&server, &store, "/secret-path", "a leaked passphrase").await;
    let version = format!("{store}/memory_versions/{}", text(&made, "memory_version_id"));
    let redact = server.request("POST", &format!("{version}/redact"));
    let refused = server.send(redact.clone()).await;
    refused.refused(400, "invalid_request_error");
    assert_eq!(code(&refused), "memory_version_is_current");
    let one = format!("{store}/memories/{}", text(&made, "id"));
    server.post(&one, json!({"content": "clean"})).await.ok();
    let redacted = server.send(redact.clone()).await.ok();
    for field in ["path", "content", "content_sha256", "content_size_bytes"] {
        assert_eq!(redacted[field], Value::Null, "{field}");
    }
    assert_eq!(text(&redacted["redacted_by"], "type"), "api_actor");
    assert_eq!(server.get(&version).await.ok(), redacted);
    assert_eq!(server.send(redact).await.ok(), redacted, "again");
    server.post(&format!("{version}/redact"), json!({"x": 1})).await.refused(400, "invalid_request_error");
    assert_eq!(server.get(&one).await.ok()["content"], "clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_are_listed_as_a_tree_in_pages() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    let paths = ["/b", "/notes-archive/todo.md", "/notes/a/1", "/notes/a/2", "/notes/todo.md", "/z/deep/er"];
    for path in paths {
        memory(&server, &store, path, path).await;
    }
    let list = async |query: &str| server.get(&format!("{store}/memories?{query}")).await.ok();
    assert_eq!(strings(&list("").await, "path"), paths);
    assert_eq!(strings(&list("path_prefix=/notes/").await, "path"), &paths[2..5]);
    let children = list("depth=1").await;
    assert_eq!(strings(&children, "path"), ["/b", "/notes-archive/", "/notes/", "/z/"]);
    assert_eq!(strings(&children, "type"), ["memory", "memory_prefix", "memory_prefix", "memory_prefix"]);
    assert_eq!(children["data"][1], json!({"type": "memory_prefix", "path": "/notes-archive/"}));
    assert_eq!(strings(&list("depth=1&path_prefix=/notes/").await, "path"), ["/notes/a/", "/notes/todo.md"]);
    assert_eq!(list("path_prefix=/none/").await["data"], json!([]));
    let full = list("view=full&path_prefix=/notes/a/").await;
    assert_eq!(strings(&full, "content"), ["/notes/a/1", "/notes/a/2"]);

    let first = list("depth=1&limit=3").await;
    assert_eq!(strings(&first, "path"), ["/b", "/notes-archive/", "/notes/"]);
    let page = text(&first, "next_page");
    assert_eq!(strings(&list(&format!("depth=1&limit=3&page={page}")).await, "path"), ["/z/"]);
    for other in [format!("page={page}"), format!("depth=1&path_prefix=/z/&page={page}")] {
        server.get(&format!("{store}/memories?{other}")).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_contents_holds_twenty_whatever_was_asked() {
    let server = Server::start().await;
    let store = store(&server, "s").await;
    for n in 0..21 {
        memory(&server, &store, &format!("/{n}"), "x").await;
    }
    for list in ["memories", "memory_versions"] {
        let full = server.get(&format!("{store}/{list}?view=full&limit=100")).await.ok();
        assert_eq!(full["data"].as_array().unwrap().len(), 20, "{list}");
        assert!(full["next_page"].is_string(), "{list}");
        let basic = server.get(&format!("{store}/{list}?limit=100")).await.ok();
        assert_eq!(basic["data"].as_array().unwrap().len(), 21, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_made_with_null_is_an_empty_one() {
    let server = Server::start().await;
    let store = server.post("/v1/memory_stores", json!({"name": "s"})).await.ok();
    let memories = format!("/v1/memory_stores/{}/memories", text(&store, "id"));
    let made = server.post(&format!("{memories}?view=full"), json!({"path": "/a", "content": null})).await.ok();
    assert_eq!((&made["content"], &made["content_sha256"]), (&json!(""), &json!(SHA_OF_EMPTY)));
}
