//! Sessions that are forgotten after a time, and workspaces that are erased.

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::SessionId;
use postern_store::{sessions, workspaces};
use serde_json::json;
use tokio::time::timeout;

use super::stage::Stage;

async fn keep_for(stage: &Stage, days: u32) {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let body = serde_json::from_value(json!({"retention_days": days})).unwrap();
    workspaces::update(&mut tx, &stage.workspace, body, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
}

/// As if nothing had happened in the session for so long.
async fn age(stage: &Stage, id: &SessionId, days: i64) {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let mut record = sessions::find(&mut tx, id).await.unwrap().unwrap();
    record.updated_at = Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
    sessions::save_record(&mut tx, &record).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_session_is_forgotten_once_it_rested_for_longer_than_its_workspace_keeps_it() {
    let stage = Stage::new().await;
    let (old, recent, busy) = (stage.session().await, stage.session().await, stage.session().await);
    stage.say(&busy, "go on").await;
    let _under_way = stage.script.call().await;
    for (id, days) in [(&old, 31), (&recent, 29), (&busy, 31)] {
        age(&stage, id, days).await;
    }
    stage.engine.look_for_litter();
    tokio::task::yield_now().await;
    assert!(
        stage.engine.session(&stage.workspace, &old).await.is_ok(),
        "kept for good unless the workspace says otherwise"
    );
    keep_for(&stage, 30).await;
    stage.engine.look_for_litter();
    let gone = async {
        while stage.engine.session(&stage.workspace, &old).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("the old session is deleted");
    for id in [&recent, &busy] {
        assert!(stage.engine.session(&stage.workspace, id).await.is_ok());
    }
}

#[tokio::test]
async fn a_workspace_with_a_session_at_work_is_not_erased() {
    let stage = Stage::new().await;
    let (resting, busy) = (stage.session().await, stage.session().await);
    stage.say(&busy, "go on").await;
    let call = stage.script.call().await;
    let mut watch = stage.watch(&busy, &[]).await;
    let refused = stage.engine.erase_workspace(&stage.workspace).await.unwrap_err();
    assert_eq!(refused.status(), 409);
    call.says("done").await;
    watch.until("session.status_idle").await;
    stage.engine.erase_workspace(&stage.workspace).await.unwrap();
    for id in [&resting, &busy] {
        assert_eq!(stage.engine.session(&stage.workspace, id).await.unwrap_err().status(), 404);
    }
    assert_eq!(stage.engine.erase_workspace(&stage.workspace).await.unwrap_err().status(), 404, "it is gone");
}
