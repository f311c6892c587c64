//! Calls that a judge decides, over the database: the judge's request and what its answer lets happen.

use postern_model::event::EventBody;
use postern_model::ids::SessionId;
use postern_session::FailureKind;
use serde_json::{Value, json};

use super::stage::{Stage, calls, kinds, settings};
use crate::Settings;

pub(super) async fn stage() -> (Stage, SessionId) {
    let mut stage = Stage::new().await.with(Settings { judge: Some("the-judge".into()), ..settings() }).await;
    let auto = json!({"permission_policy": {"type": "auto"}});
    let toolset = json!({"type": "agent_toolset_20260401", "default_config": auto});
    stage.use_agent(json!({"model": "m", "name": "n", "system": "s", "tools": [toolset]})).await;
    let id = stage.session().await;
    (stage, id)
}

pub(super) fn permission(log: &[postern_model::event::Event]) -> Value {
    let EventBody::AgentToolUse { evaluated_permission, .. } = &calls(log)[0].body else { panic!("a tool use") };
    json!(evaluated_permission)
}

#[tokio::test]
async fn the_judge_s_model_is_asked_before_anything_is_on_record_and_its_verdict_counts() {
    for (decision, waits) in [("allow", true), ("ask", true), ("deny", false)] {
        let (stage, id) = stage().await;
        let mut watch = stage.watch(&id, &[]).await;
        stage.say(&id, "look around").await;
        stage.script.call().await.uses(&["bash"]).await;
        let asked = stage.script.call().await;
        assert_eq!((&asked.body["model"], asked.body.get("tools")), (&json!("the-judge"), None));
        assert!(asked.body["messages"].to_string().contains("look around"));
        assert!(calls(&stage.log(&id).await).is_empty());
        asked.says(&json!({"verdicts": [{"call": 0, "decision": decision, "reason": "so"}]}).to_string()).await;
        if !waits {
            let next = stage.script.call().await;
            assert!(next.body["messages"].to_string().contains("judged too dangerous"));
            next.says("never mind").await;
        }
        watch.until("session.status_idle").await;
        let log = stage.log(&id).await;
        assert_eq!(permission(&log), decision);
        assert_eq!(kinds(&log).contains(&"agent.tool_result"), !waits);
    }
}

#[tokio::test]
async fn a_judge_that_is_away_means_that_a_person_is_asked() {
    let (stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "look around").await;
    stage.script.call().await.uses(&["bash"]).await;
    stage.script.call().await.fails(FailureKind::Overloaded, None).await;
    watch.until("session.status_idle").await;
    assert_eq!(permission(&stage.log(&id).await), "ask");
}

#[tokio::test]
async fn an_interrupt_while_the_judge_thinks_ends_the_turn_and_the_next_one_goes_on() {
    let (stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "look around").await;
    stage.script.call().await.uses(&["bash"]).await;
    let judge = stage.script.call().await;
    stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    watch.until("session.status_idle").await;
    judge.news.closed().await;
    stage.say(&id, "again").await;
    stage.script.call().await.says("done").await;
    watch.until("session.status_idle").await;
    assert!(calls(&stage.log(&id).await).is_empty());
}
