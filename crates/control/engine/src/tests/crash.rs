//! The process dies right after its n-th commit, for every n, and another reads on.

use std::collections::HashSet;

use postern_model::event::{Event, EventBody, StopReason};
use postern_model::ids::SessionId;
use postern_model::session::SessionStatus;

use super::stage::{Stage, calls, message};

/// How often a session may be looked at before the test has failed.
const LOOKS: usize = 200;

#[tokio::test]
async fn after_a_crash_at_any_commit_nothing_is_lost_and_nothing_doubled() {
    let mut crashes = 0;
    for fuse in 1..=12 {
        let mut stage = Stage::new().await;
        let id = stage.session().await;
        *stage.engine.shared.fuse.lock().unwrap() = Some(fuse);
        let mut acknowledged = Vec::new();
        if let Ok(events) = stage.send(&id, message("first")).await {
            acknowledged.extend(events);
        }
        drive(&stage, &id, &mut acknowledged).await;
        if stage.engine.shared.drain.is_cancelled() {
            crashes += 1;
            stage.restart().await;
            // Nobody was told that it was accepted: a client would send it again.
            if stage.log(&id).await.is_empty() {
                acknowledged.extend(stage.send(&id, message("first")).await.unwrap());
            }
            drive(&stage, &id, &mut acknowledged).await;
        }
        check(&stage.log(&id).await, &acknowledged, fuse);
    }
    assert!(crashes >= 5, "the journey has several commits: {crashes}");
}

/// Plays model and worker until the session is at rest or the engine is dead: one request with two tools, then an answer.
async fn drive(stage: &Stage, id: &SessionId, acknowledged: &mut Vec<Event>) {
    for _ in 0..LOOKS {
        if stage.engine.shared.drain.is_cancelled() {
            return;
        }
        let log = stage.log(id).await;
        let is_idle = stage.engine.session(&stage.workspace, id).await.unwrap().status == SessionStatus::Idle;
        let open: Vec<_> = calls(&log).into_iter().filter(|call| !is_answered(&log, call)).collect();
        if is_idle && open.is_empty() && !log.is_empty() {
            return;
        }
        if let Some(call) = open.first() {
            if let Ok(events) = stage.result(id, call).await {
                acknowledged.extend(events);
            }
        } else {
            let next = tokio::select! {
                call = stage.script.call() => call,
                () = stage.engine.shared.drain.cancelled() => return,
            };
            if calls(&log).is_empty() {
                next.uses(&["bash", "read"]).await
            } else {
                next.says("done").await
            }
            wait_for_more(stage, id, said(&log)).await;
        }
    }
    panic!("the session does not come to rest");
}

async fn wait_for_more(stage: &Stage, id: &SessionId, seen: usize) {
    for _ in 0..100_000 {
        if stage.engine.shared.drain.is_cancelled() || said(&stage.log(id).await) > seen {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the model's answer is not stored");
}

/// How much the model has said.
fn said(log: &[Event]) -> usize {
    log.iter().filter(|event| event.body.kind().starts_with("agent.")).count()
}

fn is_answered(log: &[Event], call: &Event) -> bool {
    log.iter()
        .any(|event| matches!(&event.body, EventBody::UserToolResult { tool_use_id, .. } if *tool_use_id == call.id))
}

fn check(log: &[Event], acknowledged: &[Event], fuse: u32) {
    for event in acknowledged {
        assert!(log.iter().any(|stored| stored.id == event.id), "fuse {fuse}: an acknowledged event is there");
    }
    assert_eq!(calls(log).len(), 2, "fuse {fuse}: no call is doubled");
    let mut answered = HashSet::new();
    for event in log {
        if let EventBody::UserToolResult { tool_use_id, .. } = &event.body {
            assert!(answered.insert(tool_use_id), "fuse {fuse}: no result is doubled");
        }
    }
    assert_eq!(answered.len(), 2);
    let messages = log.iter().filter(|event| matches!(event.body, EventBody::UserMessage { .. })).count();
    assert_eq!(messages, 1, "fuse {fuse}");
    let EventBody::StatusIdle { stop_reason, .. } = &log.last().unwrap().body else { panic!("idle is last") };
    assert_eq!(*stop_reason, StopReason::EndTurn {});
}

#[tokio::test]
async fn a_session_that_was_running_goes_on_by_itself() {
    let mut stage = Stage::new().await;
    let id = stage.session().await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    stage.restart().await;
    assert!(call.news.is_closed(), "the request of the old process is dropped");
    let again = stage.script.call().await;
    assert_eq!(again.body, call.body, "the same request is made again");
    let mut watch = stage.watch(&id, &[]).await;
    again.says("hi").await;
    watch.until("session.status_idle").await;
    assert!(!stage.script.is_called().await);
}

#[tokio::test]
async fn what_waited_before_the_crash_still_waits_and_takes_effect_once() {
    let mut stage = Stage::new().await;
    let id = stage.session().await;
    stage.say(&id, "one").await;
    let _call = stage.script.call().await;
    let waiting = stage.say(&id, "two").await;
    stage.restart().await;
    let again = stage.script.call().await;
    let texts = again.body["messages"][0]["content"].as_array().unwrap().len();
    assert_eq!(texts, 2, "it takes effect with the request that is made again");
    let stored = stage.log(&id).await.into_iter().find(|event| event.id == waiting.id).unwrap();
    assert!(stored.processed_at.is_some());
}
