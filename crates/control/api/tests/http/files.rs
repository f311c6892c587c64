//! Files, what sessions are given of them, and what sessions put out.

use std::time::Duration;

use postern_api::Limits;
use postern_store::blobs::Quota;
use serde_json::{Value, json};

use crate::repositories::{errors, poll};
use crate::support::{Request, Server, issue_foreign_key, short};
use crate::work::polled;

pub(crate) const BOUNDARY: &str = "----postern-test";

/// A form of these parts: name, file name, bytes.
pub(crate) fn upload(request: Request, parts: &[(&str, Option<&str>, &[u8])]) -> Request {
    let mut body = Vec::new();
    for (name, filename, bytes) in parts {
        let filename = filename.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        body.extend(format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{filename}\r\n").bytes());
        if !filename.is_empty() {
            body.extend(b"content-type: text/plain\r\n");
        }
        body.extend(b"\r\n");
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    request.body(&body).header("content-type", &format!("multipart/form-data; boundary={BOUNDARY}"))
}

pub(crate) async fn uploaded(server: &Server, name: &str, bytes: &[u8]) -> Value {
    server.send(upload(server.request("POST", "/v1/files"), &[("file", Some(name), bytes)])).await.ok()
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_uploaded_listed_and_deleted_and_its_bytes_stay_here() {
    let server = Server::start().await;
    let file = uploaded(&server, "../dir/report.txt", b"one two").await;
    let mut keys: Vec<&String> = file.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(
        keys,
        ["created_at", "downloadable", "expires_at", "filename", "id", "mime_type", "scope", "size_bytes", "type"]
    );
    assert_eq!((&file["filename"], &file["mime_type"]), (&json!("report.txt"), &json!("text/plain")));
    assert_eq!((&file["size_bytes"], &file["downloadable"]), (&json!(7), &json!(false)));
    let path = format!("/v1/files/{}", id(&file));
    assert_eq!(server.get(&path).await.ok(), file);
    let second = uploaded(&server, "b", b"").await;
    assert_eq!(server.get("/v1/files").await.ok()["data"], json!([second, file]), "newest first");
    let first = server.get("/v1/files?limit=1").await.ok();
    let next = first["next_page"].as_str().unwrap();
    assert!(next.starts_with("page_"));
    assert_eq!(
        server.get(&format!("/v1/files?limit=1&page={next}")).await.ok(),
        json!({"data": [file], "next_page": null})
    );
    let some = server.get(&format!("/v1/files?ids[]={}&ids[]=file_none&ids[]={}", id(&file), id(&file))).await.ok();
    assert_eq!(some, json!({"data": [file], "next_page": null}));
    server.get("/v1/files?ids[]=file_1&limit=3").await.refused(400, "invalid_request_error");

    let refused = server.get(&format!("{path}/content")).await;
    assert_eq!(refused.body["error"]["details"]["error_code"], "file_not_downloadable");
    let deleted = server.send(server.request("DELETE", &path)).await.ok();
    assert_eq!(deleted, json!({"id": id(&file), "type": "file_deleted"}));
    server.get(&path).await.refused(404, "not_found_error");
    server.send(server.request("DELETE", &path)).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_not_an_upload_stores_nothing() {
    let server = Server::start().await;
    let form = |parts: &[(&str, Option<&str>, &[u8])]| upload(server.request("POST", "/v1/files"), parts);
    let file: (&str, Option<&str>, &[u8]) = ("file", Some("a"), b"a");
    for (request, expected) in [
        (server.request("POST", "/v1/files").json(&json!({"file": "a"})), "multipart/form-data"),
        (server.request("POST", "/v1/files"), "multipart/form-data"),
        (form(&[]), "file: is missing"),
        (form(&[("file", None, b"a")]), "it has no name"),
        (form(&[file, file]), "file: was sent more than once"),
        (form(&[file, ("other", None, b"a")]), "other: is not a part"),
        (form(&[file, ("expires_in_seconds", None, b"3599")]), "from 3600 to 7776000"),
        (form(&[file, ("expires_in_seconds", None, b"7776001")]), "from 3600 to 7776000"),
        (form(&[file, ("expires_in_seconds", None, b"soon")]), "from 3600 to 7776000"),
        (form(&[file]).header("content-encoding", "gzip"), "Encoded request bodies"),
        (
            server
                .request("POST", "/v1/files")
                .body(b"--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\ncut")
                .header("content-type", "multipart/form-data; boundary=x"),
            "cut off",
        ),
    ] {
        let message = server.send(request).await.refused(400, "invalid_request_error");
        assert!(message.contains(expected), "{expected}: {message}");
    }
    assert_eq!(server.get("/v1/files").await.ok()["data"], json!([]));
    let unnamed = server.send(form(&[("file", Some(""), b"a")])).await.ok();
    assert_eq!((&unnamed["filename"], &unnamed["mime_type"]), (&json!("unnamed.txt"), &json!("text/plain")));
    let soon = server.send(form(&[file, ("expires_in_seconds", None, b"3600")])).await.ok();
    assert!(soon["expires_at"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_has_bounds_and_what_is_deleted_makes_room() {
    let storage = Quota { blob: 3_000_000, workspace: 5_000_000 };
    let server = Server::start_with(Limits { storage, ..short() }).await;
    let form = |size: usize| upload(server.request("POST", "/v1/files"), &[("file", Some("a"), &vec![7; size])]);
    // What was refused or deleted is removed in the background and counts until then.
    let stored = async |size: usize| {
        let stored = async {
            loop {
                let answer = server.send(form(size)).await;
                if answer.status == 200 {
                    return answer.body;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stored).await.unwrap()
    };
    let message = server.send(form(3_000_001)).await.refused(413, "request_too_large");
    assert!(message.contains("3 MB"), "{message}");
    let first = stored(3_000_000).await;
    // Two that begin when there is room for either: not both are taken.
    let both = tokio::join!(server.send(form(1_800_000)), server.send(form(1_800_000)));
    assert_eq!([both.0.status, both.1.status].iter().filter(|status| **status == 200).count(), 1);
    let refused = server.send(form(2_500_000)).await;
    assert_eq!(refused.body["error"]["details"]["error_code"], "storage_quota_exceeded");
    server.send(server.request("DELETE", &format!("/v1/files/{}", id(&first)))).await.ok();
    stored(2_500_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_falls_silent_ends() {
    let limits = Limits { upload_patience: Duration::from_millis(50), ..short() };
    let server = Server::start_with(limits).await;
    let request = server.request("POST", "/v1/files").header("content-type", "multipart/form-data; boundary=x");
    let silent = request
        .body(b"--x\r\n")
        .header("content-type", "multipart/form-data; boundary=x")
        .header("content-length", "1000");
    let answer = server.send(silent).await;
    assert_eq!((answer.status, &answer.body["error"]["details"]["error_code"]), (400, &json!("request_body_timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_given_its_own_copy_which_its_worker_reads() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let other = polled(&server, &environment, &key).await;
    let big: Vec<u8> = (0..2_500_000_u32).map(|number| b'a' + (number % 23) as u8).collect();
    let file = uploaded(&server, "data.csv", &big).await;
    let resources = format!("/v1/sessions/{}/resources", item.session);
    let added = server.post(&resources, json!({"type": "file", "file_id": id(&file)})).await.ok();
    assert_ne!(added["file_id"], file["id"]);
    assert_eq!(added["mount_path"], format!("/mnt/session/uploads/{}", id(&file)));
    assert_eq!(server.get(&resources).await.ok(), json!({"data": [added], "next_page": null}));
    assert_eq!(server.get(&format!("{resources}/{}", id(&added))).await.ok(), added);
    assert_eq!(server.get(&format!("/v1/sessions/{}", item.session)).await.ok()["resources"], json!([added]));
    // The upload may go: the copy stays.
    server.send(server.request("DELETE", &format!("/v1/files/{}", id(&file)))).await.ok();
    let content = format!("/v1/files/{}/content", added["file_id"].as_str().unwrap());
    for credential in [&item.token, &key] {
        let read = server.send(server.request_as(credential, "GET", &content)).await;
        assert_eq!((read.status, read.text.as_bytes() == big), (200, true));
        assert_eq!(read.header("content-disposition"), Some("attachment; filename*=UTF-8''data%2Ecsv"));
        assert_eq!(read.header("x-content-type-options"), Some("nosniff"));
    }
    server.send(server.request_as(&other.token, "GET", &content)).await.refused(404, "not_found_error");
    let scoped = server.get(&format!("/v1/files?scope_id={}", item.session)).await.ok();
    assert_eq!(scoped["data"][0]["scope"], json!({"type": "session", "id": item.session}));
    assert_eq!(server.get("/v1/files").await.ok()["data"], json!([]), "a session's files are listed with it");

    let gone = server.send(server.request("DELETE", &format!("{resources}/{}", id(&added)))).await.ok();
    assert_eq!(gone, json!({"id": id(&added), "type": "session_resource_deleted"}));
    server.send(server.request_as(&item.token, "GET", &content)).await.refused(404, "not_found_error");
    server.get(&format!("{resources}/{}", id(&added))).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_given_what_cannot_be_and_then_it_is_not_made() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let file = uploaded(&server, "a", b"a").await;
    let file = id(&file);
    let at =
        |path: &str| json!({"type": "file", "file_id": file, "mount_path": format!("/mnt/session/uploads/{path}")});
    let foreign = {
        let key = issue_foreign_key(&server.store).await;
        let request = server.request_as(&key, "POST", "/v1/files");
        server.send(upload(request, &[("file", Some("a"), b"a")])).await.ok()
    };
    for (resources, status, expected) in [
        (json!([{"type": "file", "file_id": "file_none"}]), 404, "resources[0]: File file_none was not found"),
        (json!([{"type": "file", "file_id": foreign["id"]}]), 404, "was not found"),
        (json!([at("a"), at("a/b")]), 400, "resources[1]: mount_path"),
        (json!([at("../../etc/passwd")]), 400, "plain path"),
        (json!([{"type": "file", "file_id": file, "mount_path": "/workspace/a"}]), 400, "must lie below"),
        (json!([{"type": "file"}]), 400, "file_id"),
        (
            json!([{"type": "memory_store", "memory_store_id": "memstore_1"}]),
            404,
            "resources[0]: Memory store memstore_1",
        ),
        (json!([["file", file]]), 400, "resources[0]"),
        (Value::Array(vec![at("a"); 501]), 400, "mount_path"),
    ] {
        let body = json!({"agent": agent, "environment_id": environment, "resources": resources});
        let answer = server.post("/v1/sessions", body).await;
        let message = answer.body["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{message}");
        assert!(message.contains(expected), "{expected}: {message}");
    }
    assert_eq!(server.get("/v1/sessions").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_puts_out_is_found_with_it_and_can_be_downloaded() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let put = |session: &str, path: &str, bytes: &[u8]| {
        let path = format!("/v1/sessions/{session}/outputs{path}");
        server.request_as(&item.token, "POST", &path).body(bytes).header("content-type", "application/octet-stream")
    };
    let first = server.send(put(&item.session, "?path=out/report.txt", b"draft")).await.ok();
    let file = server.send(put(&item.session, "?path=out/report.txt", b"final")).await.ok();
    assert_eq!((&file["filename"], &file["downloadable"]), (&json!("report.txt"), &json!(true)));
    let listed = server.get(&format!("/v1/files?scope_id={}", item.session)).await.ok();
    assert_eq!(listed["data"], json!([file]), "the newer takes the place of the older");
    assert_eq!(server.get(&format!("/v1/files/{}/content", id(&file))).await.text, "final");
    server.get(&format!("/v1/files/{}", id(&first))).await.refused(404, "not_found_error");
    for path in ["", "?path=", "?path=/etc/x", "?path=../x", "?path=a//b", "?path=a%00b"] {
        server.send(put(&item.session, path, b"a")).await.refused(400, "invalid_request_error");
    }
    let other = polled(&server, &environment, &key).await;
    server.send(put(&other.session, "?path=x", b"a")).await.refused(404, "not_found_error");
    // With the session its files go.
    server.post(&format!("/v1/environments/{environment}/work/{}/stop", item.work), json!({"force": true})).await.ok();
    server
        .post(&format!("/v1/sessions/{}/events", item.session), json!({"events": [{"type": "user.interrupt"}]}))
        .await
        .ok();
    let idle = async {
        while server.send(server.request("DELETE", &format!("/v1/sessions/{}", item.session))).await.status == 409 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), idle).await.unwrap();
    server.get(&format!("/v1/files/{}", id(&file))).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_thousand_outputs_each_of_which_can_be_put_out_anew() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let put = async |number: usize| {
        let path = format!("/v1/sessions/{}/outputs?path=out/{number}", item.session);
        let request = server.request_as(&item.token, "POST", &path).body(b"a");
        server.send(request.header("content-type", "application/octet-stream")).await
    };
    for number in 0..1000 {
        put(number).await.ok();
    }
    let refusal = put(1000).await.refused(400, "invalid_request_error");
    assert!(refusal.contains("1000 outputs"), "{refusal}");
    put(999).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_older_beta_page_through_files_by_id_in_both_directions() {
    let server = Server::start().await;
    let mut newest_first = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        newest_first.insert(0, id(&uploaded(&server, name, b"x").await).to_owned());
    }
    let list = async |query: &str| {
        let request = server.request("GET", &format!("/v1/files{query}"));
        server.send(request.header("anthropic-beta", "files-api-2025-04-14")).await
    };
    let ids = |page: &Value| page["data"].as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<Vec<_>>();
    let all = &newest_first;
    for (query, expected, more) in [
        ("?limit=2".to_owned(), &all[..2], true),
        (format!("?limit=2&after_id={}", all[1]), &all[2..4], true),
        (format!("?limit=2&after_id={}", all[3]), &all[4..], false),
        (format!("?limit=2&after_id={}", all[4]), &all[5..], false),
        (format!("?limit=2&before_id={}", all[4]), &all[2..4], true),
        (format!("?limit=2&before_id={}", all[2]), &all[..2], false),
        (format!("?limit=2&before_id={}", all[0]), &all[..0], false),
        (format!("?ids[]={}", all[3]), &all[3..4], false),
    ] {
        let page = list(&query).await.ok();
        assert_eq!((ids(&page), &page["has_more"]), (expected.to_vec(), &json!(more)), "{query}");
        assert_eq!((&page["first_id"], &page["last_id"]), (&json!(expected.first()), &json!(expected.last())));
        assert!(page.get("next_page").is_none(), "{page}");
    }
    for (query, place) in [
        (format!("?after_id={0}&before_id={0}", all[0]), "before_id"),
        ("?after_id=file_gone".to_owned(), "after_id"),
        ("?page=page_x".to_owned(), "page"),
    ] {
        let refusal = list(&query).await.refused(400, "invalid_request_error");
        assert!(refusal.contains(place), "{refusal}");
    }
    // Today's clients name no beta, and know no ids here.
    let page = server.get("/v1/files?limit=2").await.ok();
    assert!(page["next_page"].is_string() && page.get("has_more").is_none(), "{page}");
    server.get(&format!("/v1/files?after_id={}", all[0])).await.refused(400, "invalid_request_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_brings_no_files_leaves_the_session_told_of_each() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let (one, two) = (uploaded(&server, "one.txt", b"1").await, uploaded(&server, "two.txt", b"2").await);
    let given = json!({"resources": [
        {"type": "file", "file_id": id(&one), "mount_path": "/mnt/session/uploads/one.txt"},
        {"type": "file", "file_id": id(&two), "mount_path": "/mnt/session/uploads/two.txt"}]});
    for (agent, expected) in [("Anthropic/Python 2.12.0", vec!["one.txt", "two.txt"]), ("postern/0.1.0", vec![])] {
        let (session, _) = server.session_and_open_call(&environment, given.clone()).await;
        poll(&server, &environment, &key, agent).await;
        let told = errors(&server, &session).await;
        assert_eq!(told.len(), expected.len(), "{agent}: {told:?}");
        for (error, name) in told.iter().zip(expected) {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("resource_unsupported") && message.contains(name), "{message}");
            assert!(message.contains("Next step"), "{message}");
        }
    }
}
