//! Rubrics from files: read once, by whoever may send an outcome.

use serde_json::{Value, json};

use crate::files::{upload, uploaded};
use crate::support::{Server, issue_foreign_key};
use crate::work::polled;

fn outcome(file: &str) -> Value {
    json!({"type": "user.define_outcome", "description": "d", "rubric": {"type": "file", "file_id": file}})
}

async fn session(server: &Server, environment: &str, file: &str) -> crate::support::Response {
    let body = json!({"agent": server.agent().await, "environment_id": environment, "initial_events": [outcome(file)]});
    server.post("/v1/sessions", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rubric_from_a_file_is_its_text_from_then_on() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let file = uploaded(&server, "rubric.md", "it runs, caf\u{e9}".as_bytes()).await["id"].as_str().unwrap().to_owned();
    let begun = session(&server, &environment, &file).await.ok();
    let body = json!({"agent": server.agent().await, "environment_id": environment});
    let idle = server.post("/v1/sessions", body).await.ok();
    let events = format!("/v1/sessions/{}/events", idle["id"].as_str().unwrap());
    server.post(&events, json!({"events": [outcome(&file)]})).await.ok();
    server.send(server.request("DELETE", &format!("/v1/files/{file}"))).await.ok();
    for id in [&begun["id"], &idle["id"]] {
        let log = server.get(&format!("/v1/sessions/{}/events", id.as_str().unwrap())).await.ok();
        let log = log["data"].as_array().unwrap().clone();
        let defined = log.iter().find(|event| event["type"] == "user.define_outcome").unwrap();
        assert_eq!(defined["rubric"], json!({"type": "text", "content": "it runs, caf\u{e9}"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_rubric_is_refused_with_its_place() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let mut cases = Vec::new();
    for (name, bytes, part) in [
        ("binary", b"\xff\xfe".to_vec(), "not text"),
        ("blank", b" \n".to_vec(), "rubric.content"),
        ("long", vec![b'x'; 262_145], "262144"),
        ("longer", vec![b'x'; 1024 * 1024 + 1], "262144"),
    ] {
        cases.push((uploaded(&server, name, &bytes).await["id"].as_str().unwrap().to_owned(), part));
    }
    let resources = format!("/v1/sessions/{}/resources", polled(&server, &environment, &key).await.session);
    let upload_id = uploaded(&server, "a", b"a").await["id"].clone();
    let given = server.post(&resources, json!({"type": "file", "file_id": upload_id})).await.ok();
    cases.push((given["file_id"].as_str().unwrap().to_owned(), "another session"));
    for (file, part) in cases {
        let message = session(&server, &environment, &file).await.refused(400, "invalid_request_error");
        assert!(message.starts_with("events.0: ") && message.contains(part), "{part}: {message}");
    }
    let foreign = issue_foreign_key(&server.store).await;
    let form = upload(server.request_as(&foreign, "POST", "/v1/files"), &[("file", Some("a"), b"a")]);
    let foreign = server.send(form).await.ok()["id"].as_str().unwrap().to_owned();
    for file in [foreign.as_str(), "file_none", "x"] {
        session(&server, &environment, file).await.refused(404, "not_found_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_learns_of_no_file_by_naming_it_as_a_rubric() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let file = uploaded(&server, "a", b"a").await["id"].as_str().unwrap().to_owned();
    let events = format!("/v1/sessions/{}/events", item.session);
    let mut answers = Vec::new();
    for file in [file.as_str(), "file_none"] {
        for credential in [&item.token, &key] {
            let request = server.request_as(credential, "POST", &events).json(&json!({"events": [outcome(file)]}));
            let answer = server.send(request).await;
            answers.push((answer.status, answer.body["error"].clone()));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 403), "{answers:?}");
}
