//! Sessions that are forgotten after a time, and workspaces that are erased.

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::{EnvironmentId, SessionId};
use postern_store::answers::Asked;
use postern_store::{answers, sessions, work, workspaces};
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

#[tokio::test]
async fn what_is_kept_for_a_day_is_gone_then_though_nothing_of_its_kind_happens_any_more() {
    let stage = Stage::new().await;
    let two_days_ago = Timestamp::now() - jiff::SignedDuration::from_hours(48);
    let session = SessionId::generate();
    let once = Asked {
        workspace: &stage.workspace,
        caller: "apikey_1",
        route: "POST /v1/vaults",
        key: "k",
        target: "/v1/vaults",
        body: b"{}",
    };
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    answers::remember(&mut tx, &once.once(), &1, two_days_ago).await.unwrap();
    let environment = EnvironmentId::parse(&stage.environment).unwrap();
    let item = work::enqueue(&mut tx, &stage.workspace, &environment, &session).await.unwrap();
    work::stop_all(&mut tx, &session).await.unwrap();
    sessions::delete(&mut tx, &stage.workspace, &session, two_days_ago).await.unwrap();
    tx.commit().await.unwrap();
    stage.engine.look_for_litter();
    let gone = async {
        loop {
            let mut reader = stage.engine.shared.store.read().await.unwrap();
            let item = work::find(&mut reader, &environment, &item).await.unwrap();
            let answer = answers::earlier(&mut reader, &once.once(), two_days_ago).await.unwrap();
            if item.is_none() && answer.is_none() {
                return;
            }
            drop(reader);
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("both are removed");
}
