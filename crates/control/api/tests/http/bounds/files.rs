//! Bounds of uploads.

use postern_api::Limits;
use postern_store::blobs::Quota;
use serde_json::json;

use crate::files::{BOUNDARY, upload, uploaded};
use crate::support::{Request, Server, short};

/// An upload of a file whose media type is this.
fn of_type(server: &Server, mime: &str) -> Request {
    let head = "content-disposition: form-data; name=\"file\"; filename=\"a\"";
    let body = format!("--{BOUNDARY}\r\n{head}\r\ncontent-type: {mime}\r\n\r\na\r\n--{BOUNDARY}--\r\n");
    let request = server.request("POST", "/v1/files").body(body.as_bytes());
    request.header("content-type", &format!("multipart/form-data; boundary={BOUNDARY}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn names_media_types_texts_and_lives_of_files_have_bounds() {
    let server = Server::start().await;
    let expires = |text: &str| {
        let parts = [("file", Some("a"), &b"a"[..]), ("expires_in_seconds", None, text.as_bytes())];
        upload(server.request("POST", "/v1/files"), &parts)
    };
    let padded = |length: usize| format!("{:>length$}", 3600);
    let mime = |length: usize| of_type(&server, &format!("text/{}", "x".repeat(length - 5)));
    let mut wrong = Vec::new();
    for (fits, beyond, place) in [
        (mime(255), mime(256), "file: its media type"),
        (expires(&padded(4096)), expires(&padded(4097)), "at most 4096 bytes"),
        (expires("3600"), expires("3599"), "from 3600 to 7776000"),
        (expires("7776000"), expires("7776001"), "from 3600 to 7776000"),
    ] {
        wrong.extend(super::misjudged("/v1/files", place, &server.send(fits).await, &server.send(beyond).await));
    }
    assert_eq!(wrong, [""; 0]);
    let long = "n".repeat(300);
    let named = upload(server.request("POST", "/v1/files"), &[("file", Some(&long), b"a")]);
    assert_eq!(server.send(named).await.ok()["filename"], json!("n".repeat(255)));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_one_upload_take_the_room_of_one() {
    let storage = Quota { blob: 3_000_000, workspace: 5_000_000 };
    let server = Server::start_with(Limits { storage, ..short() }).await;
    let (environment, _) = server.environment("e").await;
    let file = uploaded(&server, "a", &[7; 2_500_000]).await;
    let copies: Vec<_> = (0..5)
        .map(|number| json!({"type": "file", "file_id": file["id"], "mount_path": format!("/mnt/session/uploads/{number}")}))
        .collect();
    let body = json!({"agent": server.agent().await, "environment_id": environment, "resources": copies});
    let session = server.post("/v1/sessions", body).await.ok();
    assert_eq!(session["resources"].as_array().unwrap().len(), 5);
    uploaded(&server, "b", &[7; 2_400_000]).await;
    let beyond = upload(server.request("POST", "/v1/files"), &[("file", Some("c"), &[7; 200_000])]);
    let refused = server.send(beyond).await;
    assert_eq!(refused.body["error"]["details"]["error_code"], "storage_quota_exceeded");
}
