//! What a session's model is told of its skills: the same with every request, whatever becomes of the skill.

use postern_model::Timestamp;
use postern_model::skill::SkillName;
use postern_store::blobs::{Quota, Writer};
use postern_store::skills::{self, NewVersion};
use serde_json::json;

use super::stage::Stage;

#[tokio::test]
async fn a_sessions_model_is_told_the_same_of_its_skills_also_when_they_are_gone_and_after_a_restart() {
    let mut stage = Stage::new().await;
    let store = stage.engine.shared.store.clone();
    let now = Timestamp::now();
    let quota = Quota { blob: 1000, workspace: 1000 };
    let archive = Writer::begin(&store, &stage.workspace, quota, now).await.unwrap().finish().await.unwrap();
    let new = NewVersion { name: SkillName::parse("ledger").unwrap(), description: "Reads it.".to_owned(), archive };
    let mut tx = store.write().await.unwrap();
    let skill = skills::create(&mut tx, &stage.workspace, None, new, now).await.unwrap();
    tx.commit().await.unwrap();

    let named = json!([{"type": "custom", "skill_id": skill.id}]);
    let agent = json!({"type": "agent_with_overrides", "id": stage.agent, "skills": named});
    let id = stage.create(json!({"agent": agent})).await.unwrap().id;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    let asked = stage.script.call().await;
    let told = asked.body["system"].clone();
    assert!(
        told[1]["text"].as_str().unwrap().ends_with("\n- /mnt/session/skills/ledger/SKILL.md: Reads it."),
        "{told}"
    );
    asked.says("done").await;
    watch.until("session.status_idle").await;

    let mut tx = store.write().await.unwrap();
    skills::delete(&mut tx, &stage.workspace, &skill.id).await.unwrap();
    tx.commit().await.unwrap();
    stage.restart().await;
    stage.say(&id, "go on").await;
    assert_eq!(stage.script.call().await.body["system"], told);
}
