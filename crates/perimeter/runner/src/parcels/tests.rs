use postern_net::{HttpClient, TlsRoots};
use serde_json::json;

use super::*;
use crate::hands::{Outcome, ToolCall};
use crate::place::Places;
use crate::remote::{Bearer, Remote};

fn file(path: &str) -> Value {
    json!({
        "type": "file", "id": "sesrsc_1", "file_id": "file_1", "mount_path": path,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    })
}

fn store(mount_path: &str) -> Value {
    json!({
        "type": "memory_store", "memory_store_id": "memstore_1", "access": "read_write", "name": "n", "mount_path": mount_path,
    })
}

#[test]
fn files_are_wanted_by_where_they_go_and_anything_else_is_not_passed_over() {
    let session = |resources: Value| json!({"resources": resources});
    assert!(wanted(&json!({})).unwrap().files.is_empty());
    let two = wanted(&session(json!([file("/mnt/session/uploads/a"), file("/mnt/session/uploads/b/c")]))).unwrap();
    assert_eq!(
        two.files.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), "file_1".to_owned()), ("b/c".to_owned(), "file_1".to_owned())]
    );
    assert_eq!(wanted(&session(json!([store("/mnt/memory/team-notes")]))).unwrap().stores.len(), 1);
    for resource in [
        file("/mnt/session/uploads/../../../etc/cron.d/x"),
        file("/workspace/x"),
        store("/mnt/memory/../session/uploads"),
        store("/mnt/memory/"),
        store("/mnt/memory/a/b"),
        json!({"type": "something_newer"}),
        json!(7),
    ] {
        assert_eq!(wanted(&session(json!([resource]))).unwrap_err().code, "resource_unsupported", "{resource}");
    }
}

#[test]
fn a_server_whose_files_cannot_be_fetched_may_give_none() {
    assert!(nothing_given(&json!({"resources": []})).is_ok());
    assert_eq!(
        nothing_given(&json!({"resources": [file("/mnt/session/uploads/a")]})).unwrap_err().code,
        "resource_unsupported"
    );
}

#[test]
fn what_was_given_is_readable_by_the_sandboxs_user_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let given = directory.path().join("given");
    make_readable(&given).unwrap();
    make_readable_below(&given, &given.join("uploads/a/b")).unwrap();
    for path in ["", "uploads", "uploads/a", "uploads/a/b"] {
        let mode = fs::metadata(given.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{path}");
    }
}

/// Hands whose log takes nothing.
struct Unrecorded;

impl Hands for Unrecorded {
    async fn call(&mut self, _call: &ToolCall) -> Outcome {
        Outcome::failed("not asked for")
    }

    async fn passes(&mut self, _passage: Passage) -> Result<(), String> {
        Err("the log takes no records".to_owned())
    }

    async fn close(self) {}
}

#[tokio::test]
async fn nothing_passes_that_is_not_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true).unwrap();
    fs::create_dir(&place.outputs).unwrap();
    fs::write(place.outputs.join("report.txt"), "text").unwrap();
    // A server that would take it: whoever asks it is found out.
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
    let http = HttpClient::new(postern_policy::permit::configured(&endpoint), &TlsRoots::Platform).unwrap();
    let (remote, key) = (Remote::new(http, "env_1", "worker"), Bearer::new("key".into()));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let lines = parcels.take(subject, &mut Unrecorded).await;
    assert_eq!(lines, ["[postern] output not kept path=report.txt because the log takes no records"]);
    let asked = tokio::time::timeout(std::time::Duration::ZERO, server.accept()).await;
    assert!(asked.is_err(), "the server was asked");
    assert!(!place.sent.exists(), "it is tried again");
}
