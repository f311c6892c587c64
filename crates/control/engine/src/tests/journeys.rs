//! Whole turns: what is stored, what is streamed, what the model and the queue get.

use std::time::Duration;

use postern_model::event::{Event, EventBody, Previewable, StopReason};
use postern_model::ids::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId};
use postern_model::session::SessionStatus;
use postern_model::work::WorkError;
use postern_session::{FailureKind, INTERRUPTED};
use postern_store::work;
use serde_json::json;

use super::stage::{Stage, calls, kinds, message};
use crate::create::{self, Begins};

#[tokio::test]
async fn a_streamed_turn_is_in_the_list_before_the_stream_shows_it() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    let sent = stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    assert_eq!(call.body["messages"][0]["content"][0]["text"], "hello");
    assert_eq!((&call.body["output_config"]["effort"], &call.body["stream"]), (&json!("high"), &json!(true)));
    call.says("hi").await;
    let mut shown = Vec::new();
    while shown.last() != Some(&"session.status_idle".to_owned()) {
        let frame = watch.next().await.unwrap();
        let event: Event = serde_json::from_str(&frame.data).unwrap();
        assert_eq!(event.body.kind(), frame.event);
        assert!(stage.log(&id).await.iter().any(|stored| stored.id == event.id), "{} is listed", frame.event);
        shown.push(frame.event.to_owned());
    }
    let log = stage.log(&id).await;
    assert_eq!(kinds(&log), shown);
    assert_eq!(log[0], sent);
    let session = stage.engine.session(&stage.workspace, &id).await.unwrap();
    assert_eq!(session.status, SessionStatus::Idle);
    assert_eq!((session.usage.input_tokens, session.usage.output_tokens), (3, 2));
}

#[tokio::test]
async fn previews_go_to_those_who_asked_and_add_up_to_the_message() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut with = stage.watch(&id, &[Previewable::Message]).await;
    let mut without = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    for piece in ["so", "me ", "text"] {
        call.piece(piece).await;
    }
    with.until("event_start").await;
    call.says("some text").await;
    let mut text = String::new();
    for frame in with.until("agent.message").await {
        if frame.event == "event_delta" {
            let delta: serde_json::Value = serde_json::from_str(&frame.data).unwrap();
            text.push_str(delta["delta"]["content"]["text"].as_str().unwrap());
        }
    }
    assert_eq!(text, "some text");
    assert!(without.until("session.status_idle").await.iter().all(|frame| !frame.event.starts_with("event_")));
}

#[tokio::test]
async fn tools_are_run_by_a_worker_and_their_results_go_to_the_model() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    let mut reader = stage.engine.shared.store.read().await.unwrap();
    assert!(work::live(&mut reader, &id).await.unwrap().is_some(), "work is queued with the message");
    drop(reader);
    stage.script.call().await.uses(&["bash", "read"]).await;
    watch.until("session.status_idle").await;
    let uses = calls(&stage.log(&id).await);
    stage.result(&id, &uses[0]).await.unwrap();
    stage.result(&id, &uses[1]).await.unwrap();
    let call = stage.script.call().await;
    let assistant = &call.body["messages"][1]["content"];
    assert_eq!(assistant[0]["id"], uses[0].id.as_str());
    let results = call.body["messages"][2]["content"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|result| result["content"][0]["text"] == "out"));
    call.says("done").await;
    watch.until("agent.message").await;
    watch.until("session.status_idle").await;
    let again = stage.result(&id, &uses[0]).await.unwrap_err();
    assert_eq!(again.status(), 400);
}

#[tokio::test]
async fn confirmations_and_custom_tools_take_their_ways() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["write", "write", "lookup"]).await;
    watch.until("session.status_idle").await;
    let uses = calls(&stage.log(&id).await);
    let confirm =
        |call: &Event, result| json!({"type": "user.tool_confirmation", "tool_use_id": call.id, "result": result});
    let lookup = json!({"type": "user.custom_tool_result", "custom_tool_use_id": uses[2].id});
    stage.send(&id, json!([confirm(&uses[0], "allow"), confirm(&uses[1], "deny"), lookup])).await.unwrap();
    let session = stage.engine.session(&stage.workspace, &id).await.unwrap();
    assert_eq!(session.status, SessionStatus::Running, "the worker runs what was allowed");
    stage.result(&id, &uses[0]).await.unwrap();
    let call = stage.script.call().await;
    assert_eq!(call.body["messages"][2]["content"].as_array().unwrap().len(), 3);
    assert!(stage.result(&id, &uses[1]).await.is_err(), "what was denied takes no result");
}

#[tokio::test]
async fn an_interrupt_drops_the_model_request_and_answers_at_once() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[Previewable::Message]).await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    call.piece("half").await;
    watch.until("event_delta").await;
    let sent = stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    assert_eq!(kinds(&sent), ["user.interrupt"]);
    call.news.closed().await;
    watch.until("session.status_idle").await;
    let log = stage.log(&id).await;
    assert!(!kinds(&log).contains(&"agent.message"));
    stage.say(&id, "and now?").await;
    let texts = stage.script.call().await.body["messages"][0]["content"].clone();
    assert_eq!((&texts[0]["text"], &texts[1]["text"]), (&json!("hello"), &json!("and now?")));
}

#[tokio::test]
async fn an_interrupt_with_open_calls_is_answered_with_the_interrupt_alone() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    let sent = stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    assert_eq!(kinds(&sent), ["user.interrupt"]);
    let log = stage.log(&id).await;
    assert!(serde_json::to_string(&log).unwrap().contains(INTERRUPTED));
    let EventBody::StatusIdle { stop_reason, .. } = &log.last().unwrap().body else { panic!("idle is last") };
    assert_eq!(*stop_reason, StopReason::EndTurn {});
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_endpoint_asks() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    let wait = Duration::from_secs(1);
    let call = stage.script.call().await;
    let before = std::time::Instant::now();
    call.fails(FailureKind::RateLimited, Some(wait)).await;
    watch.until("session.status_rescheduled").await;
    let session = stage.engine.session(&stage.workspace, &id).await.unwrap();
    assert_eq!(session.status, SessionStatus::Rescheduling);
    let second = stage.script.call().await;
    assert!(before.elapsed() >= wait);
    second.says("hi").await;
    watch.until("session.status_idle").await;
}

#[tokio::test]
async fn a_message_while_running_is_answered_null_and_shown_again() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "one").await;
    let call = stage.script.call().await;
    let waiting = stage.say(&id, "two").await;
    assert_eq!(waiting.processed_at, None);
    assert_eq!(stage.log(&id).await.last().unwrap().id, waiting.id, "what waits is listed last");
    call.says("a").await;
    let second = stage.script.call().await;
    second.says("b").await;
    let shown = watch.until("session.status_idle").await;
    let times = shown.iter().filter(|frame| frame.data.contains(waiting.id.as_str())).count();
    assert_eq!(times, 2);
    let log = stage.log(&id).await;
    let position = |kind: &str| log.iter().position(|event| event.body.kind() == kind).unwrap();
    let place = log.iter().position(|event| event.id == waiting.id).unwrap();
    assert!(place > position("agent.message"), "it stands where it took effect");
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_its_stream_and_holds_nobody_up() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut lazy = stage.watch(&id, &[]).await;
    stage.say(&id, "first").await;
    let _call = stage.script.call().await;
    for round in 0..60 {
        let events: Vec<_> = (0..20).map(|_| json!({"type": "user.interrupt"})).collect();
        stage.send(&id, json!(events)).await.unwrap_or_else(|problem| panic!("{round}: {problem}"));
    }
    let mut frames = 0;
    while lazy.next().await.is_some() {
        frames += 1;
    }
    assert!((1000..1200).contains(&frames), "the stream ended after what was queued: {frames}");
}

#[tokio::test]
async fn worker_items_without_results_are_queued_again_and_then_said_to_be_lost() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    assert!(item_ends(&stage, &id).await && item_ends(&stage, &id).await, "queued again");
    assert!(!item_ends(&stage, &id).await, "not for ever");
    let shown = watch.until("session.status_idle").await;
    assert!(shown.iter().any(|frame| frame.data.contains("worker_left")));
}

/// The environment and the live item of a session.
async fn item_of(stage: &Stage, id: &SessionId) -> (EnvironmentId, WorkId) {
    let mut reader = stage.engine.shared.store.read().await.unwrap();
    let item = work::live(&mut reader, id).await.unwrap().unwrap();
    (stage.environment.parse().unwrap(), item)
}

/// Ends the session's item without an error and says whether another one waits.
async fn item_ends(stage: &Stage, id: &SessionId) -> bool {
    let (environment, item) = item_of(stage, id).await;
    stage.engine.end_work(&environment, &item, true, None).await.unwrap();
    let mut reader = stage.engine.shared.store.read().await.unwrap();
    work::live(&mut reader, id).await.unwrap().is_some()
}

#[tokio::test]
async fn an_item_that_every_worker_lost_is_settled_also_where_nobody_polls_any_more() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    let (environment, item) = item_of(&stage, &id).await;
    for attempt in 0..work::MAX_ATTEMPTS {
        let poll = work::Poll {
            environment: &environment,
            worker: "",
            present: Some(&[]),
            reclaim_older_than: Duration::ZERO,
        };
        let (token, key) = (format!("token {attempt}"), EnvironmentKeyId::generate());
        let claim = work::Claim { poll, ttl: Duration::ZERO, token_digest: &token, key: &key };
        let mut tx = stage.engine.shared.store.write().await.unwrap();
        assert_eq!(work::claim(&mut tx, &claim).await.unwrap().unwrap().work.id, item);
        tx.commit().await.unwrap();
    }
    let shown = watch.until("session.status_idle").await;
    assert!(shown.iter().any(|frame| frame.data.contains("worker_lost")));
}

#[tokio::test]
async fn a_restart_forgets_none_of_the_items_that_ended_in_vain_and_a_result_forgives_them() {
    let mut stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["bash", "bash"]).await;
    watch.until("session.status_idle").await;
    assert!(item_ends(&stage, &id).await && item_ends(&stage, &id).await);
    let call = calls(&stage.log(&id).await).remove(0);
    stage.result(&id, &call).await.unwrap();
    for _ in 0..2 {
        assert!(item_ends(&stage, &id).await, "counted from the result on");
        stage.restart().await;
    }
    let is_told = async || serde_json::to_string(&stage.log(&id).await).unwrap().contains("worker_left");
    assert!(!is_told().await);
    item_ends(&stage, &id).await;
    assert!(is_told().await, "the third since the result");
}

#[tokio::test]
async fn a_worker_that_cannot_serve_ends_the_turn_with_its_reason() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    let (environment, item) = item_of(&stage, &id).await;
    let failure = WorkError { code: "zone_none".into(), message: "Add a zone for this environment.".into() };
    stage.engine.end_work(&environment, &item, true, Some(&failure)).await.unwrap();
    let shown: Vec<_> = watch.until("session.status_idle").await.iter().map(|frame| frame.event).collect();
    let expected =
        ["user.tool_result", "session.error", "session.thread_status_idle", "session.usage", "session.status_idle"];
    assert_eq!(shown, expected);
    stage.send(&id, message("again")).await.unwrap();
    assert!(
        stage.script.call().await.body["messages"][2]["content"][0]["content"][0]["text"]
            .as_str()
            .unwrap()
            .contains("zone_none")
    );
}

#[tokio::test]
async fn whoever_finds_a_session_before_its_creator_begins_it_is_served_by_its_one_task() {
    let stage = Stage::new().await;
    let shared = &stage.engine.shared;
    let request =
        json!({"agent": stage.agent, "environment_id": stage.environment, "initial_events": message("hello")});
    let request = serde_json::from_value(request).unwrap();
    let mut tx = shared.store.write().await.unwrap();
    let begun = create::begin(shared, &mut tx, &stage.workspace, request, (Begins::Session, None)).await.unwrap();
    tx.commit().await.unwrap();
    let there = shared.task(begun.actor.id());
    let id = begun.adopt(shared).id;
    assert!(shared.task(&id).same_channel(&there));
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says("hi").await;
    watch.until("session.status_idle").await;
    assert!(!stage.script.is_called().await, "nobody else asked the model");
}
