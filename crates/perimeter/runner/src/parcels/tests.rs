use serde_json::json;

use super::*;

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
