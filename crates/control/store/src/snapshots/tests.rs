//! A snapshot is given back as it was kept, with the log it is of, or named as of no use.

use postern_model::Timestamp;
use postern_model::event::{Audience, Event, EventBody};
use postern_model::ids::{EventId, ThreadId, WorkspaceId};

use super::*;
use crate::Store;
use crate::events::{self, Log, Placed};

struct Stage {
    store: Store,
    log: Log,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// A session with three events.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).await.unwrap();
        let log = Log {
            workspace: WorkspaceId::default(),
            session: SessionId::parse("sesn_1").unwrap(),
            thread: ThreadId::parse("sthr_1").unwrap(),
            parent: None,
        };
        let stage = Self { store, log, _directory: directory };
        let mut tx = stage.store.write().await.unwrap();
        let body = serde_json::from_value(serde_json::json!({"name": "here"})).unwrap();
        crate::environments::create(&mut tx, &stage.log.workspace, body, Timestamp::UNIX_EPOCH).await.unwrap();
        tx.commit().await.unwrap();
        stage
            .run(
                "INSERT INTO sessions (workspace_id, id, environment_id, thread_id, agent_id, agent_version, agent, metadata, \
                   status, usage, has_run, has_been_idle, created_at, updated_at) \
                 SELECT workspace_id, 'sesn_1', id, 'sthr_1', 'agent_1', 1, '{}', '{}', 'idle', '{}', TRUE, TRUE, 0, 0 \
                 FROM environments",
            )
            .await;
        for seq in 1..=3 {
            stage.append(seq, &format!("sevt_{seq}")).await;
        }
        stage
    }

    async fn append(&self, seq: i64, id: &str) {
        let at = Timestamp::UNIX_EPOCH;
        let event =
            Event { id: EventId::parse(id).unwrap(), processed_at: Some(at), body: EventBody::StatusRunning {} };
        let mut tx = self.store.write().await.unwrap();
        let placed = Placed { log: self.log.clone(), seq, event: &event, audience: Audience::Session, is_news: true };
        events::append(&mut tx, &[placed], at).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn keep(&self, place: i64) -> Snapshot {
        let snapshot = Snapshot { fold: "this".into(), place, state: format!("state at {place}") };
        let mut tx = self.store.write().await.unwrap();
        keep(&mut tx, &self.log.session, &snapshot).await.unwrap();
        tx.commit().await.unwrap();
        snapshot
    }

    async fn run(&self, sql: &'static str) {
        let mut tx = self.store.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn found(&self) -> Found {
        let mut reader = self.store.read().await.unwrap();
        find(&mut reader, &self.log.session, "this").await.unwrap()
    }
}

#[tokio::test]
async fn the_last_snapshot_is_found_and_the_log_behind_it() {
    let stage = Stage::new().await;
    assert_eq!(stage.found().await, Found::Nothing);
    stage.keep(1).await;
    let last = stage.keep(2).await;
    assert_eq!(stage.found().await, Found::Snapshot(last));
    // The log goes on; the snapshot is still of it.
    stage.append(4, "sevt_4").await;
    assert!(matches!(stage.found().await, Found::Snapshot(Snapshot { place: 2, .. })));
    let mut reader = stage.store.read().await.unwrap();
    let behind = events::replay(&mut reader, &stage.log.session, 2).await.unwrap();
    assert_eq!(behind.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test]
async fn a_snapshot_of_a_place_that_the_log_does_not_have_is_not_kept() {
    let stage = Stage::new().await;
    stage.keep(4).await;
    assert_eq!(stage.found().await, Found::Nothing);
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_is_named_by_what_is_wrong_with_it() {
    let cases = [
        ("UPDATE session_snapshots SET fold = 'older'", Unusable::AnotherFold),
        ("UPDATE session_snapshots SET state = 'stale at 3'", Unusable::Damaged),
        ("UPDATE session_snapshots SET digest = ''", Unusable::Damaged),
        ("UPDATE session_snapshots SET seq = 2, event_id = 'sevt_2'", Unusable::Damaged),
        // Newer than the log: as after a restored backup of the log alone.
        ("UPDATE session_snapshots SET seq = 9", Unusable::NotOfThisLog),
        ("DELETE FROM session_events WHERE seq = 3", Unusable::NotOfThisLog),
        ("UPDATE session_events SET id = 'sevt_other' WHERE seq = 3", Unusable::NotOfThisLog),
    ];
    for (spoil, expected) in cases {
        let stage = Stage::new().await;
        stage.keep(3).await;
        stage.run(spoil).await;
        assert_eq!(stage.found().await, Found::Unusable(expected), "{spoil}");
    }
}

#[tokio::test]
async fn a_snapshot_goes_with_its_session() {
    let stage = Stage::new().await;
    stage.keep(3).await;
    stage.run("DELETE FROM sessions").await;
    assert_eq!(stage.found().await, Found::Nothing);
}
