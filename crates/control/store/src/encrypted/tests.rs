//! What lies in the file when keys were given, and which servers open it.

use std::path::Path;

use postern_model::Timestamp;
use postern_model::agent::CreateAgent;
use postern_model::event::{Audience, Event, EventBody, OutcomeEvaluation, OutcomeProgress};
use postern_model::ids::{AgentId, OutcomeId, ThreadId};
use postern_model::session::SessionAgent;
use postern_secret::Secret;
use serde_json::json;

use super::*;
use crate::events::{self, EventList, Log, Placed};
use crate::{EventKeys, answers, sessions, snapshots};

const CANARY: &str = "canary-that-must-not-lie-in-the-file";

async fn open(path: &Path, keys: &[char]) -> Result<Store, StoreError> {
    let file: String = keys.iter().map(|digit| digit.to_string().repeat(64) + "\n").collect();
    let keys = (!keys.is_empty()).then(|| EventKeys::parse(&Secret::new(file.into_bytes())).unwrap());
    Store::open_with(path, keys).await
}

fn log() -> Log {
    Log {
        workspace: WorkspaceId::default(),
        session: SessionId::parse("sesn_1").unwrap(),
        thread: ThreadId::parse("sthr_1").unwrap(),
        parent: None,
    }
}

fn message(id: &str) -> Event {
    let body = json!({"type": "user.message", "content": [{"type": "text", "text": CANARY}]});
    let body: EventBody = serde_json::from_value(body).unwrap();
    Event { id: EventId::parse(id).unwrap(), processed_at: Some(Timestamp::UNIX_EPOCH), body }
}

async fn with_session(store: &Store) {
    let mut tx = store.write().await.unwrap();
    let body = serde_json::from_value(json!({"name": "here"})).unwrap();
    crate::environments::create(&mut tx, &log().workspace, body, Timestamp::UNIX_EPOCH).await.unwrap();
    sqlx::query(
        "INSERT INTO sessions (workspace_id, id, environment_id, thread_id, agent_id, agent_version, agent, metadata, \
           status, usage, has_run, has_been_idle, created_at, updated_at) \
         SELECT workspace_id, 'sesn_1', id, 'sthr_1', 'agent_1', 1, ?1, '{}', 'idle', ?2, TRUE, TRUE, 0, 0 FROM environments",
    )
    .bind(agent())
    .bind(json!(postern_model::session::Usage::default()).to_string())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

fn agent() -> String {
    let create: CreateAgent = serde_json::from_value(json!({"name": "a", "model": "m"})).unwrap();
    let definition = create.resolve(Vec::new(), None).unwrap();
    json!(SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, definition)).to_string()
}

/// Puts the canary wherever sessions put what was said.
async fn say(store: &Store, seq: i64) {
    let (log, event) = (log(), message(&format!("sevt_{seq}")));
    let mut tx = store.write().await.unwrap();
    let placed = Placed { log: log.clone(), seq, event: &event, audience: Audience::Session, is_news: true };
    events::append(&mut tx, &[placed], Timestamp::UNIX_EPOCH).await.unwrap();
    events::keep(&mut tx, &log, &event.id, &[json!({"type": "thinking", "thinking": CANARY})]).await.unwrap();
    let snapshot = snapshots::Snapshot { fold: "this".into(), place: seq, state: CANARY.into() };
    snapshots::keep(&mut tx, &log.session, &snapshot).await.unwrap();
    let mut progress = sessions::find(&mut tx, &log.session).await.unwrap().unwrap().progress;
    progress.outcomes = vec![OutcomeEvaluation {
        outcome_id: OutcomeId::generate(),
        description: CANARY.into(),
        iteration: 0,
        result: OutcomeProgress::Running,
        explanation: None,
        completed_at: None,
    }];
    sessions::save_progress(&mut tx, &log.session, &progress, Timestamp::UNIX_EPOCH).await.unwrap();
    answers::remember(&mut tx, &once(seq), &json!({"said": CANARY}), Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();
}

fn once(seq: i64) -> answers::Once {
    let (key, workspace) = (seq.to_string(), WorkspaceId::default());
    let asked = answers::Asked { workspace: &workspace, caller: "c", route: "r", key: &key, target: "/", body: b"" };
    asked.once()
}

/// Reads all of it back.
async fn assert_said(store: &Store, seqs: &[i64]) {
    let mut reader = store.read().await.unwrap();
    let session = log().session;
    let entries = events::replay(&mut reader, &session, 0).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), seqs);
    for entry in &entries {
        assert_eq!(entry.event, message(entry.event.id.as_str()));
        assert_eq!(entry.kept.as_ref().unwrap()[0]["thinking"], CANARY);
        let answer = answers::earlier(&mut reader, &once(entry.seq), Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(answer.unwrap(), json!({"said": CANARY}).to_string());
    }
    let query = EventList { limit: 10, types: vec!["user.message".into()], ..EventList::default() };
    assert_eq!(events::list(&mut reader, &session, &query).await.unwrap().len(), seqs.len());
    let snapshots::Found::Snapshot(snapshot) = snapshots::find(&mut reader, &session, "this").await.unwrap() else {
        panic!("the snapshot is found");
    };
    assert_eq!(snapshot.state, CANARY);
    let record = sessions::find(&mut reader, &session).await.unwrap().unwrap();
    assert_eq!(record.progress.outcomes[0].description, CANARY);
}

/// Whether any file of the database has these bytes.
fn lies_in_files(directory: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(directory).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[tokio::test]
async fn with_keys_nothing_that_was_said_lies_in_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    for (keys, is_found) in [(&['a'][..], false), (&[], true)] {
        let place = path.with_extension(if is_found { "open" } else { "sealed" });
        std::fs::create_dir(&place).unwrap();
        let store = open(&place.join("db"), keys).await.unwrap();
        with_session(&store).await;
        say(&store, 1).await;
        assert_said(&store, &[1]).await;
        // With the log of writes beside the file, and once it went into it.
        assert_eq!(lies_in_files(&place, CANARY), is_found);
        store.close().await;
        assert_eq!(lies_in_files(&place, CANARY), is_found);
    }
}

#[tokio::test]
async fn each_encrypted_column_is_one_that_a_missing_key_is_looked_for_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = open(&path, &['a']).await.unwrap();
    with_session(&store).await;
    say(&store, 1).await;
    let mut reader = store.read().await.unwrap();
    for (table, column) in COLUMNS {
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {column} LIKE 'enc1:%'");
        let sealed: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut reader).await.unwrap();
        assert_eq!(sealed, 1, "{table}.{column}");
    }
}

#[tokio::test]
async fn what_was_stored_before_the_option_and_under_earlier_keys_stays_readable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let histories: [&[char]; 3] = [&[], &['a'], &['b', 'a']];
    for (seq, keys) in (1..).zip(histories) {
        let store = open(&path, keys).await.unwrap();
        if seq == 1 {
            with_session(&store).await;
        }
        say(&store, seq).await;
        assert_said(&store, &(1..=seq).collect::<Vec<_>>()).await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_server_without_a_key_that_is_needed_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = open(&path, &['a']).await.unwrap();
    with_session(&store).await;
    say(&store, 1).await;
    store.close().await;
    for keys in [&[][..], &['b']] {
        assert!(matches!(open(&path, keys).await, Err(StoreError::EventKeyMissing { .. })), "{keys:?}");
    }
    let store = open(&path, &['b', 'a']).await.unwrap();
    assert_said(&store, &[1]).await;
}

#[tokio::test]
async fn a_key_that_nothing_needs_any_more_may_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = open(&path, &['a']).await.unwrap();
    with_session(&store).await;
    say(&store, 1).await;
    let mut tx = store.write().await.unwrap();
    sessions::delete(&mut tx, &log().workspace, &log().session, Timestamp::UNIX_EPOCH).await.unwrap();
    sqlx::query("DELETE FROM request_answers").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    open(&path, &['b']).await.unwrap().close().await;
    open(&path, &['b']).await.unwrap();
}

#[tokio::test]
async fn what_was_moved_to_another_row_does_not_open() {
    let moves = [
        "UPDATE session_events SET body = (SELECT body FROM session_events WHERE seq = 1) WHERE seq = 2",
        "UPDATE model_blocks SET blocks = (SELECT blocks FROM model_blocks WHERE event_id = 'sevt_1') WHERE event_id = 'sevt_2'",
        "UPDATE session_events SET body = (SELECT blocks FROM model_blocks WHERE event_id = 'sevt_1') WHERE seq = 1",
    ];
    for sql in moves {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("db"), &['a']).await.unwrap();
        with_session(&store).await;
        say(&store, 1).await;
        say(&store, 2).await;
        let mut tx = store.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let mut reader = store.read().await.unwrap();
        let read = events::replay(&mut reader, &log().session, 0).await;
        assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{sql}");
    }
}
