//! Snapshots of sessions: read instead of the log before them, and of no use where they do not fit.

use postern_model::ids::SessionId;
use postern_session::FOLD;
use postern_store::snapshots::{self, Found, Snapshot};

use super::stage::{Stage, settings};
use crate::Settings;

async fn found(stage: &Stage, id: &SessionId) -> Found {
    let mut reader = stage.engine.shared.store.read().await.unwrap();
    snapshots::find(&mut reader, id, FOLD).await.unwrap()
}

async fn keep(stage: &Stage, id: &SessionId, snapshot: &Snapshot) {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    snapshots::keep(&mut tx, id, snapshot).await.unwrap();
    tx.commit().await.unwrap();
}

/// A session after one turn, with a snapshot, and no task of it alive.
async fn rested(stage: &mut Stage) -> (SessionId, Snapshot) {
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "the first question").await;
    stage.script.call().await.says("the first answer").await;
    watch.until("session.status_idle").await;
    stage.restart().await;
    let Found::Snapshot(snapshot) = found(stage, &id).await else { panic!("a snapshot was kept") };
    (id, snapshot)
}

/// What the model is asked after another message.
async fn asked(stage: &Stage, id: &SessionId) -> String {
    stage.say(id, "the second question").await;
    stage.script.call().await.body.to_string()
}

#[tokio::test]
async fn a_session_goes_on_from_its_snapshot() {
    let mut stage = Stage::new().await;
    let (id, snapshot) = rested(&mut stage).await;
    // What only the snapshot says shows that it was read.
    let state = snapshot.state.replace("the first answer", "what the snapshot says");
    keep(&stage, &id, &Snapshot { state, ..snapshot }).await;
    let asked = asked(&stage, &id).await;
    assert!(asked.contains("the first question") && asked.contains("what the snapshot says"), "{asked}");
    assert!(!asked.contains("the first answer"), "{asked}");
}

#[tokio::test]
async fn a_snapshot_of_another_build_or_of_another_shape_is_not_used() {
    let other_fold = |snapshot: Snapshot| Snapshot { fold: "another".into(), ..snapshot };
    let other_shape =
        |snapshot: Snapshot| Snapshot { state: snapshot.state.replace("\"conversation\"", "\"talk\""), ..snapshot };
    let other_session =
        |snapshot: Snapshot| Snapshot { state: snapshot.state.replace("sthr_", "sthr_other"), ..snapshot };
    let spoils: [fn(Snapshot) -> Snapshot; 3] = [other_fold, other_shape, other_session];
    for spoil in spoils {
        let mut stage = Stage::new().await;
        let (id, snapshot) = rested(&mut stage).await;
        let state = snapshot.state.replace("the first answer", "what the snapshot says");
        keep(&stage, &id, &spoil(Snapshot { state, ..snapshot })).await;
        let asked = asked(&stage, &id).await;
        assert!(asked.contains("the first answer") && !asked.contains("what the snapshot says"), "{asked}");
        // The next one takes its place.
        stage.restart().await;
        assert!(matches!(found(&stage, &id).await, Found::Snapshot(_)));
    }
}

#[tokio::test]
async fn between_two_snapshots_come_so_many_events() {
    let mut stage = Stage::new().await.with(Settings { events_between_snapshots: 1000, ..settings() }).await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.says("hello").await;
    watch.until("session.status_idle").await;
    stage.restart().await;
    assert_eq!(found(&stage, &id).await, Found::Nothing);
}

#[tokio::test]
async fn a_deleted_session_takes_its_snapshot_along() {
    let mut stage = Stage::new().await;
    let (id, _) = rested(&mut stage).await;
    stage.engine.delete_session(&stage.workspace, &id).await.unwrap();
    assert_eq!(found(&stage, &id).await, Found::Nothing);
}
