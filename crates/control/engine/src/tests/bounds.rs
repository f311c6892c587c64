//! Bounds of what the engine asks of others, and of what it keeps for them.

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::event::{Audience, Event, EventBody, Previewable};
use postern_model::ids::{EventId, SessionId};
use postern_session::{FailureKind, Lacking};
use postern_store::events::{self, Log, Placed};
use postern_store::sessions;
use serde_json::json;

use super::judge;
use super::outcomes::{outcome, shown};
use super::stage::{Call, PATIENCE, Stage, kinds};
use crate::Missing;

/// Lets so much time pass at once, up to which the model is waited for and no longer.
async fn is_waited_for(asked: &Call, time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time - Duration::from_secs(10)).await;
    tokio::task::yield_now().await;
    assert!(!asked.news.is_closed(), "it is given up too soon");
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    tokio::time::timeout(PATIENCE, asked.news.closed()).await.expect("it is given up in time");
}

#[tokio::test]
async fn a_judge_has_a_minute_and_four_thousand_tokens_then_a_person_is_asked() {
    let (stage, id) = judge::stage().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "look around").await;
    let call = stage.script.call().await;
    assert_eq!(call.body["max_tokens"], 32_000, "the agent's own model has more");
    call.uses(&["bash"]).await;
    let asked = stage.script.call().await;
    assert_eq!(asked.body["max_tokens"], 4_096);
    is_waited_for(&asked, Duration::from_secs(60)).await;
    watch.until("session.status_idle").await;
    assert_eq!(judge::permission(&stage.log(&id).await), "ask");
}

/// A session whose grader is asked.
async fn graded() -> (Stage, SessionId) {
    let stage = Stage::new().await;
    let id = stage.create(json!({"initial_events": [outcome()]})).await.unwrap().id;
    stage.script.call().await.says("done").await;
    (stage, id)
}

#[tokio::test]
async fn a_grader_has_ten_minutes_and_sixteen_thousand_tokens() {
    let (stage, id) = graded().await;
    let asked = stage.script.call().await;
    assert_eq!(asked.body["max_tokens"], 16_000);
    let mut watch = stage.watch(&id, &[]).await;
    is_waited_for(&asked, Duration::from_secs(600)).await;
    watch.until("session.status_idle").await;
    assert_eq!(shown(&stage, &id).await[0]["result"], "failed");
}

#[tokio::test]
async fn a_grader_is_tried_four_times() {
    let (stage, id) = graded().await;
    let mut watch = stage.watch(&id, &[]).await;
    for _ in 0..4 {
        stage.script.call().await.fails(FailureKind::Overloaded, None).await;
    }
    watch.until("session.status_idle").await;
    assert!(!stage.script.is_called().await);
    assert_eq!(shown(&stage, &id).await[0]["result"], "failed");
}

#[tokio::test]
async fn what_a_session_was_told_that_it_lacks_counts_also_after_a_restart() {
    let mut stage = Stage::new().await;
    let id = stage.session().await;
    let thing = |n: usize| Missing { code: "c", message: format!("thing {n}"), lacking: Lacking::Something };
    for from in [0, 40] {
        stage.engine.missing(&id, (from..from + 40).map(thing).collect()).await.unwrap();
        stage.restart().await;
    }
    stage.engine.missing(&id, vec![thing(0), thing(99)]).await.unwrap();
    let log = stage.log(&id).await;
    assert_eq!(kinds(&log).iter().filter(|kind| **kind == "session.error").count(), 65);
}

#[tokio::test]
async fn a_failure_of_another_is_told_in_so_many_words() {
    let fake = super::fake_mcp::Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    super::mcp::make(&stage, &id, &["mcp__docs__read"]).await;
    let mut failure = super::fake_mcp::failure("upstream_refused", true);
    failure.message = "m".repeat(10_000);
    failure.next_step = "n".repeat(10_000);
    fake.call().await.answers(Err(failure));
    stage.script.call().await.says("bye").await;
    let log = stage.log(&id).await;
    let (text, _) = super::mcp::answer(&log, &super::stage::calls(&log)[0].id).unwrap();
    let count = |letter: char| text.chars().filter(|one| *one == letter).count();
    assert!((2_000..2_100).contains(&count('m')) && (2_000..2_100).contains(&count('n')), "{}", text.len());
}

#[tokio::test]
async fn more_than_a_hundred_pieces_of_text_are_one() {
    let fake = super::fake_mcp::Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    for (sent, kept) in [(100, 100), (101, 1)] {
        super::mcp::make(&stage, &id, &["mcp__docs__read"]).await;
        let content = vec![postern_model::content::Block::text("t"); sent];
        fake.call().await.answers(Ok(postern_upstream::mcp::ToolResult { content, is_error: false }));
        stage.script.call().await.says("read").await;
        let log = stage.log(&id).await;
        let mut results = log.iter().filter_map(|event| match &event.body {
            EventBody::AgentMcpToolResult { content: Some(content), .. } => Some(content.len()),
            _ => None,
        });
        assert_eq!(results.next_back(), Some(kept), "{sent}");
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_gets_no_more_previews_and_keeps_its_stream() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let (mut watch, mut other) =
        (stage.watch(&id, &[Previewable::Message]).await, stage.watch(&id, &[Previewable::Message]).await);
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    // One piece is one frame where the reader that keeps up has seen the one before.
    for _ in 0..700 {
        call.piece("x").await;
        other.until("event_delta").await;
    }
    call.says(&"x".repeat(700)).await;
    other.until("session.status_idle").await;
    let frames = watch.until("session.status_idle").await;
    let count = |name: &str| frames.iter().filter(|frame| frame.event == name).count();
    assert_eq!(count("agent.message"), 1, "the event tells it all");
    assert!((450..=512).contains(&count("event_delta")), "{}", count("event_delta"));
}

#[tokio::test]
async fn sixty_four_commands_wait_for_a_session() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let shared = &stage.engine.shared;
    for id in [id, SessionId::generate()] {
        assert_eq!(shared.task(&id).max_capacity(), 64, "one that was just made, and one that is looked for");
    }
}

#[tokio::test]
async fn a_session_whose_log_could_not_be_written_rests_for_ten_seconds_and_is_loaded_anew() {
    let stage = Stage::new().await;
    let (id, shared) = (stage.session().await, &stage.engine.shared);
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    let call = stage.script.call().await;
    // Somebody else has written where its log goes on.
    let place = i64::try_from(stage.log(&id).await.len()).unwrap() + 1;
    let mut tx = shared.store.write().await.unwrap();
    let record = sessions::find(&mut tx, &id).await.unwrap().unwrap();
    let log = Log { workspace: record.workspace_id, session: id.clone(), thread: record.thread_id, parent: None };
    let body = EventBody::SessionError {
        error: serde_json::from_value(json!({
        "type": "unknown_error", "message": "theirs", "retry_status": {"type": "retrying"}}))
        .unwrap(),
    };
    let event = Event { id: EventId::generate(), processed_at: Some(Timestamp::now()), body };
    let theirs = Placed { log, seq: place, event: &event, audience: Audience::Session, is_news: true };
    events::append(&mut tx, &[theirs], Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    call.says("lost").await;
    while watch.next().await.is_some() {}
    let is_loaded = || shared.sessions().contains_key(&id);
    let passes = async |time| {
        tokio::time::advance(Duration::from_millis(time)).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::pause();
    passes(0).await;
    assert!(!is_loaded());
    // The clock went on until it was stopped.
    passes(9_000).await;
    assert!(!is_loaded(), "too soon");
    passes(1_100).await;
    assert!(is_loaded(), "it is time");
    tokio::time::resume();
    stage.script.call().await.says("done").await;
}
