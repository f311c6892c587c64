//! Pictures and documents that are files, over the database: who may name which, and what the model is sent of them.

use std::time::Duration;

use postern_model::file::{FileMetadata, FileScope, FileTag};
use postern_model::ids::{FileId, SessionId, WorkspaceId};
use postern_model::{Problem, Timestamp};
use postern_session::{FailureKind, Stop};
use postern_store::blobs::{Quota, Writer};
use postern_store::files;
use serde_json::{Value, json};

use super::stage::{Stage, calls, message};
use crate::Author;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nthe picture";

impl Stage {
    /// Stores a file of the workspace, or of a session.
    async fn file(&self, workspace: &WorkspaceId, bytes: &[u8], of: Option<&SessionId>) -> String {
        let metadata = FileMetadata {
            id: FileId::generate(),
            kind: FileTag::File,
            filename: "f".into(),
            mime_type: "application/octet-stream".into(),
            size_bytes: bytes.len() as u64,
            created_at: Timestamp::now(),
            downloadable: false,
            expires_at: None,
            scope: of.map(|id| FileScope::Session { id: id.clone() }),
        };
        self.store_file(workspace, bytes, &metadata).await;
        metadata.id.to_string()
    }

    async fn another_workspace(&self) -> WorkspaceId {
        let body = serde_json::from_value(json!({"name": "another"})).unwrap();
        let mut tx = self.engine.shared.store.write().await.unwrap();
        let workspace = postern_store::workspaces::create(&mut tx, body, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        workspace.id
    }

    async fn store_file(&self, workspace: &WorkspaceId, bytes: &[u8], metadata: &FileMetadata) {
        let store = &self.engine.shared.store;
        let quota = Quota { blob: 1 << 30, workspace: 1 << 30 };
        let mut writer = Writer::begin(store, workspace, quota, metadata.created_at).await.unwrap();
        writer.write(bytes).await.unwrap();
        let blob = writer.finish().await.unwrap();
        let mut tx = store.write().await.unwrap();
        files::create(&mut tx, workspace, metadata, &blob).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn own(&self, bytes: &[u8]) -> String {
        self.file(&self.workspace, bytes, None).await
    }

    async fn delete_file(&self, id: &str) -> FileMetadata {
        let id = FileId::parse(id).unwrap();
        let mut tx = self.engine.shared.store.write().await.unwrap();
        let found = files::find(&mut tx, &self.workspace, &id).await.unwrap().unwrap();
        files::delete(&mut tx, &self.workspace, &id).await.unwrap();
        tx.commit().await.unwrap();
        found.metadata
    }

    /// The file as it is when its time is over.
    async fn expire_file(&self, id: &str) {
        let metadata = self.delete_file(id).await;
        let expired = FileMetadata { expires_at: Some(metadata.created_at), ..metadata };
        self.store_file(&self.workspace, b"words", &expired).await;
    }
}

fn image(id: &str) -> Value {
    json!({"type": "image", "source": {"type": "file", "file_id": id}})
}

fn document(id: &str) -> Value {
    json!({"type": "document", "source": {"type": "file", "file_id": id}, "title": "T"})
}

fn says(content: Value) -> Value {
    json!([{"type": "user.message", "content": content}])
}

fn code(refused: &Problem) -> (u16, Option<&'static str>) {
    (refused.status(), refused.error_code)
}

/// The blocks of the last message of a request, without cache markers.
fn last(body: &Value) -> Vec<Value> {
    let mut content = body["messages"].as_array().unwrap().last().unwrap()["content"].as_array().unwrap().clone();
    for block in &mut content {
        block.as_object_mut().unwrap().shift_remove("cache_control");
    }
    content
}

#[tokio::test]
async fn the_model_gets_what_a_file_holds_and_the_log_keeps_its_id() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let (picture, text) = (stage.own(PNG).await, stage.own("caf\u{e9}".as_bytes()).await);
    let pdf = stage.own(b"%PDF-1.7 p").await;
    let sent = json!([image(&picture), document(&text), document(&pdf), {"type": "text", "text": "look"}]);
    let stored = stage.send(&id, says(sent.clone())).await.unwrap();
    assert_eq!(serde_json::to_value(&stored[0]).unwrap()["content"], sent);
    let call = stage.script.call().await;
    assert_eq!(
        last(&call.body),
        [
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png",
                "data": "iVBORw0KGgp0aGUgcGljdHVyZQ=="}}),
            json!({"type": "document", "title": "T",
                "source": {"type": "text", "media_type": "text/plain", "data": "caf\u{e9}"}}),
            json!({"type": "document", "title": "T",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjcgcA=="}}),
            json!({"type": "text", "text": "look"}),
        ]
    );
    let mut watch = stage.watch(&id, &[]).await;
    call.piece("see").await;
    call.says("seen").await;
    watch.until("session.status_idle").await;
    assert_eq!(serde_json::to_value(&stage.log(&id).await[0]).unwrap()["content"], sent);
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_text_that_says_so_and_the_turn_goes_on_also_after_a_restart() {
    let mut stage = Stage::new().await;
    let id = stage.session().await;
    let (deleted, expired) = (stage.own(PNG).await, stage.own(b"words").await);
    let mut watch = stage.watch(&id, &[]).await;
    stage.send(&id, says(json!([image(&deleted), document(&expired)]))).await.unwrap();
    stage.script.call().await.says("seen").await;
    watch.until("session.status_idle").await;
    stage.delete_file(&deleted).await;
    stage.expire_file(&expired).await;
    stage.restart().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "and now?").await;
    let asked = stage.script.call().await;
    let first = asked.body["messages"][0]["content"].as_array().unwrap().clone();
    for (block, file) in first.iter().zip([&deleted, &expired]) {
        let text = block["text"].as_str().unwrap_or_else(|| panic!("a text: {block}"));
        assert!(text.contains(file.as_str()) && text.contains("deleted or has expired"), "{text}");
    }
    asked.says("gone").await;
    watch.until("session.status_idle").await;
}

#[tokio::test]
async fn results_of_tools_may_be_files_of_their_session_and_a_worker_names_no_others() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    stage.script.call().await.uses(&["bash", "lookup"]).await;
    watch.until("session.status_idle").await;
    let uses = calls(&stage.log(&id).await);
    let (of_session, of_workspace) = (stage.file(&stage.workspace, PNG, Some(&id)).await, stage.own(PNG).await);
    let result =
        |file: &str| json!([{"type": "user.tool_result", "tool_use_id": uses[0].id, "content": [image(file)]}]);
    let other = stage.session().await;
    let of_another = stage.file(&stage.workspace, PNG, Some(&other)).await;
    let expired = stage.own(PNG).await;
    stage.expire_file(&expired).await;
    for hidden in [&of_workspace, &of_another, &expired] {
        let refused = stage.send_as(&id, result(hidden), Author::Worker).await.unwrap_err();
        assert_eq!(code(&refused), (404, Some("file_not_found")), "{}", refused.message);
    }
    stage.send_as(&id, result(&of_session), Author::Worker).await.unwrap();
    let custom = json!([{"type": "user.custom_tool_result", "custom_tool_use_id": uses[1].id,
        "content": [image(&of_workspace)]}]);
    stage.send(&id, custom).await.unwrap();
    let results = last(&stage.script.call().await.body);
    for result in &results {
        assert_eq!(result["content"][0]["source"]["media_type"], "image/png", "{result}");
    }
    assert_eq!(results.len(), 2);
}

#[tokio::test]
async fn what_no_model_could_read_is_refused_with_its_place() {
    let stage = Stage::new().await;
    let (id, other) = (stage.session().await, stage.session().await);
    let foreign = stage.file(&stage.another_workspace().await, PNG, None).await;
    let expired = stage.own(PNG).await;
    stage.expire_file(&expired).await;
    for (block, status, part) in [
        (image("file_unknown"), 404, "was not found"),
        (image("no id"), 404, "was not found"),
        (image(&foreign), 404, "was not found"),
        (image(&expired), 404, "expired"),
        (image(&stage.file(&stage.workspace, PNG, Some(&other)).await), 400, "another session"),
        (image(&stage.own(b"words").await), 400, "no JPEG, PNG, GIF or WebP"),
        (image(&stage.own(&[PNG, &[0; 5_000_000]].concat()).await), 400, "at most 5000000"),
        (document(&stage.own(PNG).await), 400, "no PDF and no text"),
        (document(&stage.own(b"a\0b").await), 400, "no PDF and no text"),
        (document(&stage.own(&[b'x'; 1_000_001]).await), 400, "at most 1000000"),
        (document(&stage.own("\u{e9}".repeat(700_001).as_bytes()).await), 400, "at most 1000000"),
        (document(&stage.own(&[b"%PDF-", &[0_u8; 20_000_000][..]].concat()).await), 400, "at most 20000000"),
    ] {
        let refused = stage.send(&id, says(json!([{"type": "text", "text": "x"}, block]))).await.unwrap_err();
        assert_eq!(refused.status(), status, "{part}: {}", refused.message);
        let placed = refused.message.starts_with("events.0: content.1.source: ");
        assert!(placed && refused.message.contains(part), "{part}: {}", refused.message);
        let begun = stage.create(json!({"initial_events": says(json!([block]))})).await.unwrap_err();
        assert_eq!(begun.status(), status, "{part}: {}", begun.message);
    }
    let file = stage.own(PNG).await;
    let many = stage.send(&id, says(json!(vec![image(&file); 101]))).await.unwrap_err();
    assert!(many.message.contains("more than 100 files"), "{}", many.message);
    assert!(stage.log(&id).await.is_empty() && !stage.script.is_called().await);
}

#[tokio::test]
async fn the_newest_files_are_sent_as_long_as_there_is_room() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let pdf = [b"%PDF-", &[b'x'; 12_000_000][..]].concat();
    let (older, newer) = (stage.own(&pdf).await, stage.own(&pdf).await);
    stage.send(&id, says(json!([document(&older), document(&newer), document(&newer)]))).await.unwrap();
    let sent = last(&stage.script.call().await.body);
    let left_out = sent[0]["text"].as_str().unwrap();
    assert!(left_out.contains(&older) && left_out.contains("left out"), "{left_out}");
    assert_eq!(sent[1]["source"]["media_type"], "application/pdf");
    assert_eq!(sent[1], sent[2], "a file that stands twice is read once");
}

#[tokio::test]
async fn an_interrupt_while_files_are_read_drops_the_request() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let file = stage.own(PNG).await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.send(&id, says(json!([image(&file)]))).await.unwrap();
    stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    watch.until("session.status_idle").await;
    stage.send(&id, message("again")).await.unwrap();
    // Whether or not the first had reached the model: what is answered is the second.
    let call = loop {
        let call = stage.script.call().await;
        if call.body.to_string().contains("again") {
            break call;
        }
        tokio::time::timeout(Duration::from_secs(20), call.news.closed()).await.expect("the first is dropped");
    };
    call.fails(FailureKind::Transient, None).await;
    let call = stage.script.call().await;
    call.answers(vec![postern_session::ResponseBlock::Text("done".into())], Stop::EndTurn).await;
    watch.until("session.status_idle").await;
}
