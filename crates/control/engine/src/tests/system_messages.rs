//! System text in mid-conversation, over the database: who may send it where, where it stands in what the model is sent, and
//! that it stays.

use postern_model::event::EventBody;
use postern_model::ids::SessionId;
use serde_json::{Value, json};

use super::stage::{Stage, calls, kinds, settings};
use crate::{Author, Settings};

const UNSUPPORTED: &str = "model_does_not_support_mid_conversation_system";

fn heard() -> Settings {
    Settings { system_messages: ["m".to_owned()].into(), ..settings() }
}

async fn stage() -> (Stage, SessionId) {
    let stage = Stage::new().await.with(heard()).await;
    let id = stage.session().await;
    (stage, id)
}

fn said(text: &str) -> Value {
    json!({"type": "user.message", "content": [{"type": "text", "text": text}]})
}

fn system(text: &str) -> Value {
    json!({"type": "system.message", "content": [{"type": "text", "text": text}]})
}

/// Roles and texts of what the model is sent.
fn shape(body: &Value) -> Vec<(String, String)> {
    let texts = |content: &Value| -> String {
        let text = |block: &Value| block["text"].as_str().or(block["type"].as_str()).unwrap_or_default().to_owned();
        content.as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("|")
    };
    let messages = body["messages"].as_array().unwrap().iter();
    messages.map(|message| (message["role"].as_str().unwrap().to_owned(), texts(&message["content"]))).collect()
}

fn roles(said: &[(&str, &str)]) -> Vec<(String, String)> {
    said.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn system_text_is_an_event_and_a_message_of_its_own_behind_what_it_follows() {
    let (mut stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    let stored = stage.send(&id, json!([said("go"), system("be brief")])).await.unwrap();
    assert!(stored.iter().all(|event| event.processed_at.is_some()), "{stored:?}");
    let call = stage.script.call().await;
    assert_eq!(shape(&call.body), roles(&[("user", "go"), ("system", "be brief")]));
    assert_eq!(call.body["system"][0]["text"], "s", "the agent's own stays where it is");
    // What is sent while the model thinks waits, and takes effect with the message that it follows.
    let waiting = stage.send(&id, json!([said("more"), system("be kind")])).await.unwrap();
    assert!(waiting.iter().all(|event| event.processed_at.is_none()), "{waiting:?}");
    call.says("first").await;
    let call = stage.script.call().await;
    let whole =
        [("user", "go"), ("system", "be brief"), ("assistant", "first"), ("user", "more"), ("system", "be kind")];
    assert_eq!(shape(&call.body), roles(&whole));
    call.says("second").await;
    watch.until("session.status_idle").await;
    let log = stage.log(&id).await;
    let order: Vec<_> = kinds(&log).into_iter().filter(|kind| kind.ends_with(".message")).collect();
    let messages = ["user.message", "system.message", "agent.message"];
    assert_eq!(order, [messages, messages].concat());
    // From a snapshot too.
    stage.restart_with(heard()).await;
    stage.say(&id, "third").await;
    let asked = shape(&stage.script.call().await.body);
    assert_eq!(asked, [&roles(&whole)[..], &roles(&[("assistant", "second"), ("user", "third")])].concat());
}

#[tokio::test]
async fn after_a_result_it_stands_behind_all_results_of_the_step() {
    let (stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    stage.script.call().await.uses(&["bash", "bash"]).await;
    watch.until("session.status_idle").await;
    let uses = calls(&stage.log(&id).await);
    let result = json!({"type": "user.tool_result", "tool_use_id": uses[0].id});
    let stored = stage.send(&id, json!([result, system("careful")])).await.unwrap();
    assert!(stored[1].processed_at.is_some());
    stage.result(&id, &uses[1]).await.unwrap();
    let asked = shape(&stage.script.call().await.body);
    let end = [
        ("user", "go"),
        ("assistant", "tool_use|tool_use"),
        ("user", "tool_result|tool_result"),
        ("system", "careful"),
    ];
    assert_eq!(asked, roles(&end));
}

#[tokio::test]
async fn where_it_may_not_stand_it_is_refused_with_the_whole_request() {
    let (stage, id) = stage().await;
    let refused = |events: Value| {
        let stage = &stage;
        let id = &id;
        async move { stage.send(id, events).await.unwrap_err() }
    };
    for (events, part) in [
        (json!([system("x")]), "directly after"),
        (json!([said("a"), {"type": "user.interrupt"}, system("x")]), "directly after"),
        (json!([said("a"), system("x"), said("b")]), "as its last event"),
        (json!([said("a"), system("x"), system("y")]), "as its last event"),
        (json!([said("a"), {"type": "system.message", "content": []}]), "1 to 1000"),
    ] {
        let problem = refused(events).await;
        assert_eq!(problem.status(), 400);
        assert!(problem.message.contains(part), "{part}: {}", problem.message);
    }
    let by_worker = stage.send_as(&id, json!([system("obey")]), Author::Worker).await.unwrap_err();
    assert_eq!(by_worker.status(), 403);
    assert!(stage.log(&id).await.is_empty() && !stage.script.is_called().await);
    let begun = stage.create(json!({"initial_events": [said("a"), system("x")]})).await.unwrap_err();
    assert!(begun.message.starts_with("initial_events.1: only user.message"), "{}", begun.message);
}

#[tokio::test]
async fn a_model_that_is_not_named_takes_none_also_where_others_are() {
    let mut stage = Stage::new().await.with(heard()).await;
    stage.use_agent(json!({"model": "m-2", "name": "other"})).await;
    let id = stage.session().await;
    let refused = stage.send(&id, json!([said("go"), system("be brief")])).await.unwrap_err();
    assert_eq!((refused.status(), refused.error_code), (400, Some(UNSUPPORTED)));
    assert!(refused.message.contains("[model] system_messages"), "{}", refused.message);
    assert!(stage.log(&id).await.is_empty());
}

#[tokio::test]
async fn a_summary_takes_the_place_of_no_system_text() {
    let mut stage = Stage::new().await.with(heard()).await;
    let context = json!({"compact_above_tokens": 2000, "clear_above_tokens": 0});
    stage.use_agent(json!({"model": "m", "name": "n", "context": context})).await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.send(&id, json!([said(&"the beginning ".repeat(2000)), system("THE RULE")])).await.unwrap();
    stage.script.call().await.says("an answer").await;
    watch.until("session.status_idle").await;
    stage.say(&id, "and now?").await;
    stage.script.call().await.says("SUMMARY").await;
    let asked = shape(&stage.script.call().await.body);
    assert!(asked[0].1.contains("SUMMARY") && asked[0].1.ends_with("and now?"), "{asked:?}");
    assert!(!asked[0].1.contains("the beginning"), "{asked:?}");
    assert_eq!(asked[1..], roles(&[("system", "THE RULE")]));
}

#[tokio::test]
async fn a_judge_does_not_count_system_text_as_what_the_user_wants() {
    let mut stage = Stage::new().await.with(Settings { judge: Some("the-judge".into()), ..heard() }).await;
    let auto = json!({"permission_policy": {"type": "auto"}});
    let toolset = json!({"type": "agent_toolset_20260401", "default_config": auto});
    stage.use_agent(json!({"model": "m", "name": "n", "tools": [toolset]})).await;
    let id = stage.session().await;
    stage.send(&id, json!([said("look around"), system("DELETE EVERYTHING")])).await.unwrap();
    stage.script.call().await.uses(&["bash"]).await;
    let asked = stage.script.call().await.body;
    assert_eq!(asked["model"], "the-judge");
    let question = asked["messages"].to_string();
    assert!(question.contains("look around") && !question.contains("DELETE EVERYTHING"), "{question}");
}

#[tokio::test]
async fn a_deployment_s_sessions_may_begin_with_system_text() {
    let (stage, _) = stage().await;
    let body = json!({"name": "d", "agent": stage.agent, "environment_id": stage.environment,
        "initial_events": [said("go"), system("be brief")]});
    let body = serde_json::from_value(body).unwrap();
    let deployment = stage.engine.create_deployment(&stage.workspace, body, None).await.unwrap();
    let run = stage.engine.run_deployment(&stage.workspace, &deployment.id, None).await.unwrap();
    assert_eq!(run.error, None);
    let asked = shape(&stage.script.call().await.body);
    assert_eq!(asked, roles(&[("user", "go"), ("system", "be brief")]));
    let log = stage.log(&run.session_id.unwrap()).await;
    assert!(matches!(log[1].body, EventBody::SystemMessage { .. }), "{:?}", log[1]);
}
