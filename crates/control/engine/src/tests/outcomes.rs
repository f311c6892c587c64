//! Outcomes over the database: who grades, what the session shows, and a restart in between.

use postern_session::FailureKind;
use serde_json::{Value, json};

use super::stage::{Stage, kinds, settings};
use crate::Settings;

pub(super) fn outcome() -> Value {
    json!({"type": "user.define_outcome", "description": "a program", "rubric": {"type": "text", "content": "it compiles"}})
}

fn verdict(result: &str) -> String {
    json!({"result": result, "explanation": "because"}).to_string()
}

pub(super) async fn shown(stage: &Stage, id: &postern_model::ids::SessionId) -> Value {
    let session = stage.engine.session(&stage.workspace, id).await.unwrap();
    serde_json::to_value(session.outcome_evaluations).unwrap()
}

#[tokio::test]
async fn a_session_that_begins_with_an_outcome_works_is_graded_and_shows_it() {
    let stage = Stage::new().await;
    let id = stage.create(json!({"initial_events": [outcome()]})).await.unwrap().id;
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says("first try").await;
    let grader = stage.script.call().await;
    assert_eq!((&grader.body["model"], grader.body.get("tools")), (&json!("m"), None), "the agent's own model grades");
    assert_eq!(shown(&stage, &id).await[0]["result"], "evaluating");
    grader.says(&verdict("needs_revision")).await;
    let again = stage.script.call().await;
    assert!(again.body["messages"].to_string().contains("does not hold yet. because"));
    again.says("second try").await;
    stage.script.call().await.says(&verdict("satisfied")).await;
    watch.until("session.status_idle").await;
    let evaluations = shown(&stage, &id).await;
    assert_eq!(evaluations.as_array().unwrap().len(), 1);
    assert_eq!((&evaluations[0]["result"], &evaluations[0]["iteration"]), (&json!("satisfied"), &json!(1)));
    assert_eq!(evaluations[0]["type"], "outcome_evaluation");
    let log = stage.log(&id).await;
    assert_eq!(kinds(&log).iter().filter(|kind| **kind == "span.outcome_evaluation_end").count(), 2);
}

#[tokio::test]
async fn a_grader_that_is_overloaded_is_asked_again_and_a_restart_asks_it_too() {
    let mut stage = Stage::new().await;
    let id = stage.create(json!({"initial_events": [outcome()]})).await.unwrap().id;
    stage.script.call().await.says("done").await;
    stage.script.call().await.fails(FailureKind::Overloaded, None).await;
    let _unanswered = stage.script.call().await;
    stage.restart().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says(&verdict("satisfied")).await;
    watch.until("session.status_idle").await;
    assert_eq!(shown(&stage, &id).await[0]["result"], "satisfied");
}

#[tokio::test]
async fn while_a_grader_thinks_watchers_are_told_so_and_afterwards_no_more() {
    let heartbeat = std::time::Duration::from_millis(20);
    let stage = Stage::new().await.with(Settings { heartbeat, ..settings() }).await;
    let id = stage.create(json!({"initial_events": [outcome()]})).await.unwrap().id;
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says("done").await;
    let grader = stage.script.call().await;
    let frames = watch.until("span.outcome_evaluation_ongoing").await;
    let told: Value = serde_json::from_str(&frames.last().unwrap().data).unwrap();
    assert_eq!((&told["iteration"], told["outcome_id"].as_str().map(|id| &id[..5])), (&json!(0), Some("outc_")));
    watch.until("span.outcome_evaluation_ongoing").await;
    grader.says(&verdict("satisfied")).await;
    watch.until("span.outcome_evaluation_end").await;
    let idle = watch.until("session.status_idle").await;
    assert!(idle.iter().all(|frame| frame.event != "span.outcome_evaluation_ongoing"));
}
