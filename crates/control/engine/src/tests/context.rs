//! A conversation that grows too long, over the database: what the model receives, before and after a restart.

use postern_model::event::EventBody;
use postern_model::ids::SessionId;
use postern_session::{FailureKind, ResponseBlock, Stop};
use serde_json::{Value, json};

use super::stage::{Call, Stage, calls, kinds};

async fn stage() -> (Stage, SessionId) {
    let mut stage = Stage::new().await;
    let toolset = json!({"type": "agent_toolset_20260401"});
    let context = json!({"compact_above_tokens": 2000, "clear_above_tokens": 0});
    stage.use_agent(json!({"model": "m", "name": "n", "system": "s", "tools": [toolset], "context": context})).await;
    let id = stage.session().await;
    (stage, id)
}

fn text_of(call: &Call) -> String {
    call.body["messages"].to_string()
}

#[tokio::test]
async fn a_summary_takes_the_place_of_what_it_summarises_also_after_a_restart() {
    let (mut stage, id) = stage().await;
    stage.say(&id, &"the beginning ".repeat(2000)).await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says("an answer").await;
    watch.until("session.status_idle").await;
    stage.say(&id, "and now?").await;
    let asked = stage.script.call().await;
    assert!(text_of(&asked).contains("Write a summary"));
    asked.says("SUMMARY").await;
    let asked = stage.script.call().await;
    assert!(text_of(&asked).contains("SUMMARY") && !text_of(&asked).contains("the beginning"));
    asked.says("done").await;
    watch.until("session.status_idle").await;
    let log = stage.log(&id).await;
    assert!(kinds(&log).contains(&"agent.thread_context_compacted"));
    assert!(serde_json::to_string(&log).unwrap().contains("the beginning"), "the log stays whole");

    stage.restart().await;
    stage.say(&id, "go on").await;
    let asked = text_of(&stage.script.call().await);
    assert!(asked.contains("SUMMARY") && asked.contains("go on") && !asked.contains("the beginning"), "{asked}");
}

#[tokio::test]
async fn a_conversation_that_the_endpoint_finds_too_long_is_shortened_once_and_then_given_up() {
    let (stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, &"x".repeat(100_000)).await;
    stage.script.call().await.fails(FailureKind::TooLong, None).await;
    let asked = stage.script.call().await;
    assert!(text_of(&asked).len() < 10_000);
    asked.fails(FailureKind::TooLong, None).await;
    watch.until("session.status_idle").await;
    let log = stage.log(&id).await;
    let error = log.iter().rev().find_map(|event| match &event.body {
        EventBody::SessionError { error } => Some(serde_json::to_value(error).unwrap()),
        _ => None,
    });
    assert_eq!(error.unwrap()["type"], "compaction_limit_reached_error");
}

/// The messages of a body as they lie on the wire, without the cache markers, which are no part of what is cached.
fn messages(body: &Value) -> String {
    let mut messages = body["messages"].clone();
    for message in messages.as_array_mut().unwrap() {
        for block in message["content"].as_array_mut().unwrap() {
            block.as_object_mut().unwrap().shift_remove("cache_control");
        }
    }
    messages.to_string()
}

/// Where the markers stand: message and block.
fn markers(body: &Value) -> Vec<(usize, usize)> {
    let messages = body["messages"].as_array().unwrap().iter().enumerate();
    let blocks = messages.flat_map(|(at, m)| m["content"].as_array().unwrap().iter().enumerate().map(move |b| (at, b)));
    blocks.filter(|(_, (_, block))| block.get("cache_control").is_some()).map(|(at, (index, _))| (at, index)).collect()
}

#[tokio::test]
async fn each_request_begins_with_the_one_before_it_byte_for_byte_up_to_a_marker() {
    let (stage, id) = stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    let mut bodies: Vec<Value> = Vec::new();
    for turn in 0..6 {
        let call = stage.script.call().await;
        bodies.push(call.body.clone());
        if turn % 3 == 2 {
            call.says("done").await;
            watch.until("session.status_idle").await;
            stage.say(&id, "more").await;
            continue;
        }
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "c2ln"});
        let tool = ResponseBlock::ToolUse { name: "bash".into(), input: Ok(serde_json::Map::new()) };
        call.answers(vec![ResponseBlock::Thinking(thinking), tool.clone(), tool], Stop::ToolUse).await;
        watch.until("session.status_idle").await;
        let open = calls(&stage.log(&id).await);
        stage.result(&id, &open[open.len() - 2]).await.unwrap();
        watch.until("session.status_idle").await;
        stage.result(&id, &open[open.len() - 1]).await.unwrap();
    }
    for pair in bodies.windows(2) {
        let (before, now) = (messages(&pair[0]), messages(&pair[1]));
        let shared = &before[..before.len() - "]}]".len()];
        assert!(now.starts_with(shared), "{before}\n{now}");
        assert_eq!((&pair[0]["tools"], &pair[0]["system"]), (&pair[1]["tools"], &pair[1]["system"]));
        let end = *markers(&pair[0]).last().unwrap();
        assert!(markers(&pair[1]).contains(&end), "the cache is looked for where the request before ended");
        let count = pair[1].to_string().matches("cache_control").count();
        assert!(count <= 4, "the endpoint takes four markers, not {count}");
    }
}
