//! What an upload comes to that goes on for too long, and how much one transaction removes.

use jiff::SignedDuration;
use postern_model::file::{FileMetadata, FileTag};
use postern_model::ids::{FileId, WorkspaceId};

use super::*;
use crate::files;

const PIECE_BYTES: &[u8] = &[7; PIECE];
const QUOTA: Quota = Quota { blob: 500_000_000, workspace: 20_000_000_000 };

struct Shelf {
    store: Store,
    workspace: WorkspaceId,
    began: Timestamp,
    _directory: tempfile::TempDir,
}

impl Shelf {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        let began = "2026-11-22T12:00:00Z".parse().unwrap();
        Self { store, workspace: WorkspaceId::default(), began, _directory: directory }
    }

    async fn writer(&self) -> Writer {
        Writer::begin(&self.store, &self.workspace, QUOTA, self.began).await.unwrap()
    }

    /// How many pieces there are after each look of the sweeper, which looks until there is no more for it.
    async fn swept(&self, after: SignedDuration) -> Vec<i64> {
        let mut left = Vec::new();
        loop {
            let mut tx = self.store.write().await.unwrap();
            let more = sweep(&mut tx, self.began + after).await.unwrap();
            tx.commit().await.unwrap();
            left.push(self.pieces().await);
            if !more {
                return left;
            }
        }
    }

    async fn pieces(&self) -> i64 {
        let mut reader = self.store.read().await.unwrap();
        sqlx::query_scalar("SELECT COUNT(*) FROM blob_chunks").fetch_one(&mut *reader).await.unwrap()
    }

    async fn used(&self) -> u64 {
        used(&mut self.store.write().await.unwrap(), &self.workspace).await.unwrap()
    }

    async fn file(&self, blob: &Blob) -> Result<(), StoreError> {
        let metadata = metadata(self.began, None);
        let mut tx = self.store.write().await.unwrap();
        files::create(&mut tx, &self.workspace, &metadata, blob).await?;
        tx.commit().await
    }
}

fn metadata(created_at: Timestamp, expires_at: Option<Timestamp>) -> FileMetadata {
    FileMetadata {
        id: FileId::generate(),
        kind: FileTag::File,
        filename: "a".into(),
        mime_type: "text/plain".into(),
        size_bytes: 0,
        created_at,
        downloadable: false,
        expires_at,
        scope: None,
    }
}

/// `None` for a success, else the code of the refusal, empty where it has none.
fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Option<&'static str> {
    match result {
        Ok(_) => None,
        Err(StoreError::Refused(problem)) => Some(problem.error_code.unwrap_or_default()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_upload_that_lasts_for_two_hours_is_removed_and_takes_nothing_more() {
    let shelf = Shelf::new().await;
    let mut writer = shelf.writer().await;
    writer.write(PIECE_BYTES).await.unwrap();
    let two_hours = SignedDuration::from_hours(2);
    assert_eq!(shelf.swept(two_hours).await, [1], "it may still end");
    assert_eq!(shelf.swept(two_hours + SignedDuration::from_micros(1)).await.last(), Some(&0));
    assert_eq!(refusal(writer.write(PIECE_BYTES).await), Some("request_body_timeout"));
    assert_eq!((shelf.pieces().await, shelf.used().await), (0, 0), "nothing is stored that nobody counts");
    writer.abandon().await.unwrap();
}

#[tokio::test]
async fn an_upload_of_which_some_was_removed_becomes_no_file() {
    let shelf = Shelf::new().await;
    let mut writer = shelf.writer().await;
    writer.write(PIECE_BYTES).await.unwrap();
    let blob = writer.finish().await.unwrap();
    let mut tx = shelf.store.write().await.unwrap();
    assert!(sweep(&mut tx, shelf.began + SignedDuration::from_hours(3)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(refusal(shelf.file(&blob).await), Some("request_body_timeout"));
}

#[tokio::test]
async fn a_transaction_removes_eight_mebibytes() {
    let shelf = Shelf::new().await;
    let mut writer = shelf.writer().await;
    for _ in 0..20 {
        writer.write(PIECE_BYTES).await.unwrap();
    }
    writer.abandon().await.unwrap();
    assert_eq!(shelf.swept(SignedDuration::ZERO).await, [12, 4, 0, 0, 0]);
    assert_eq!(shelf.used().await, 0);
}

#[tokio::test]
async fn an_expired_file_says_so_for_a_day_and_is_forgotten_then() {
    let shelf = Shelf::new().await;
    let blob = shelf.writer().await.finish().await.unwrap();
    let expires_at = shelf.began + SignedDuration::from_hours(1);
    let metadata = metadata(shelf.began, Some(expires_at));
    let mut tx = shelf.store.write().await.unwrap();
    files::create(&mut tx, &shelf.workspace, &metadata, &blob).await.unwrap();
    let day = SignedDuration::from_hours(24);
    for (now, expected) in [
        (expires_at - SignedDuration::from_micros(1), None),
        (expires_at, Some("file_expired")),
        (expires_at + day, Some("file_expired")),
        (expires_at + day + SignedDuration::from_micros(1), Some("")),
    ] {
        files::forget_expired(&mut tx, now).await.unwrap();
        let found = files::required(&mut tx, &shelf.workspace, &metadata.id, now).await;
        assert_eq!(refusal(found), expected, "{now}");
    }
}

#[tokio::test]
async fn an_upload_to_a_workspace_that_is_erased_meanwhile_is_refused_and_removed() {
    let shelf = Shelf::new().await;
    let mut tx = shelf.store.write().await.unwrap();
    let body = serde_json::from_value(serde_json::json!({"name": "legal"})).unwrap();
    let workspace = workspaces::create(&mut tx, body, shelf.began).await.unwrap().id;
    tx.commit().await.unwrap();
    let shelf = Shelf { workspace, ..shelf };
    let (mut whole, mut half) = (shelf.writer().await, shelf.writer().await);
    whole.write(PIECE_BYTES).await.unwrap();
    half.write(PIECE_BYTES).await.unwrap();
    let blob = whole.finish().await.unwrap();
    let mut tx = shelf.store.write().await.unwrap();
    workspaces::erase(&mut tx, &shelf.workspace).await.unwrap();
    tx.commit().await.unwrap();
    // Asked for by a request that came in time, too.
    let late = Writer::begin(&shelf.store, &shelf.workspace, QUOTA, shelf.began).await.err().unwrap();
    for refused in [late, shelf.file(&blob).await.unwrap_err(), half.write(PIECE_BYTES).await.unwrap_err()] {
        assert!(matches!(refused, StoreError::Refused(problem) if problem.status() == 404));
    }
    assert_eq!(shelf.swept(SignedDuration::ZERO).await.last(), Some(&0), "their bytes go at the next look");
}
