//! The process dies right after its n-th commit, for every n, in a turn that calls MCP servers: each call reaches its
//! server once at most, and each use is answered once.

use std::collections::HashSet;
use std::sync::Arc;

use postern_model::event::{Event, EventBody, StopReason};
use postern_model::ids::SessionId;
use postern_model::session::SessionStatus;
use postern_session::OUTCOME_UNKNOWN;
use serde_json::json;

use super::fake_mcp::Fake;
use super::mcp::{answer, make};
use super::stage::{Stage, calls, message};

/// How often a session may be looked at before the test has failed.
const LOOKS: usize = 2_000;

#[tokio::test]
async fn after_a_crash_at_any_commit_each_call_ran_once_at_most_and_is_answered_once() {
    let (mut crashes, mut unknown) = (0, 0);
    for fuse in 1..=14 {
        let fake = Fake::new();
        let mut stage = fake.stage().await;
        let id = stage.session().await;
        *stage.engine.shared.fuse.lock().unwrap() = Some(fuse);
        drop(stage.send(&id, message("first")).await);
        drive(&stage, &fake, &id).await;
        if stage.engine.shared.drain.is_cancelled() {
            crashes += 1;
            stage.restart().await;
            // Nobody was told that it was accepted: a client would send it again.
            if stage.log(&id).await.is_empty() {
                stage.send(&id, message("first")).await.unwrap();
            }
            drive(&stage, &fake, &id).await;
        }
        unknown += check(&stage.log(&id).await, &fake, fuse);
    }
    assert!(crashes >= 7, "the journey has several commits: {crashes}");
    assert!(unknown > 0, "a crash came between the mark of a call and its result");
}

/// Plays the model, a person and the servers until the session is at rest or the engine is dead: two calls that are
/// allowed and one that asks, then an answer.
async fn drive(stage: &Stage, fake: &Arc<Fake>, id: &SessionId) {
    for _ in 0..LOOKS {
        if stage.engine.shared.drain.is_cancelled() {
            return;
        }
        let log = stage.log(id).await;
        let status = stage.engine.session(&stage.workspace, id).await.unwrap().status;
        let open: Vec<_> = calls(&log).into_iter().filter(|call| answer(&log, &call.id).is_none()).collect();
        if status == SessionStatus::Idle && open.is_empty() && !log.is_empty() {
            return;
        }
        if status == SessionStatus::Idle && !open.is_empty() {
            let allow =
                |call: &Event| json!({"type": "user.tool_confirmation", "tool_use_id": call.id, "result": "allow"});
            drop(stage.send(id, open.iter().map(allow).collect()).await);
        }
        tokio::select! {
            biased;
            () = stage.engine.shared.drain.cancelled() => return,
            call = fake.call() => call.says("out"),
            call = stage.script.call() => match calls(&log).is_empty() {
                true => call.uses(&["mcp__wiki__search", "mcp__docs__read", "mcp__wiki__edit"]).await,
                false => call.says("done").await,
            },
            // Something else happens: an event, or the session comes to rest.
            () = tokio::task::yield_now() => {}
        }
    }
    panic!("the session does not come to rest");
}

/// Returns how many calls ended with an unknown outcome.
fn check(log: &[Event], fake: &Fake, fuse: u32) -> usize {
    let uses = calls(log);
    assert_eq!(uses.len(), 3, "fuse {fuse}: no use is doubled");
    let ran = fake.ran.lock().unwrap();
    assert_eq!(ran.iter().collect::<HashSet<_>>().len(), ran.len(), "fuse {fuse}: no call reached its server twice");
    let mut answered = HashSet::new();
    for event in log {
        if let EventBody::AgentMcpToolResult { mcp_tool_use_id, .. } = &event.body {
            assert!(answered.insert(mcp_tool_use_id), "fuse {fuse}: no use is answered twice");
        }
    }
    assert_eq!(answered.len(), 3, "fuse {fuse}");
    let mut unknown = 0;
    for call in &uses {
        let (text, is_error) = answer(log, &call.id).unwrap();
        if text == OUTCOME_UNKNOWN {
            unknown += 1;
        } else {
            assert!(!is_error && text == "out" && ran.contains(&call.id.to_string()), "fuse {fuse}: {text}");
        }
    }
    let EventBody::StatusIdle { stop_reason, .. } = &log.last().unwrap().body else { panic!("idle is last") };
    assert_eq!(*stop_reason, StopReason::EndTurn {});
    unknown
}

#[tokio::test]
async fn a_call_that_ran_when_the_process_died_is_not_run_again() {
    let fake = Fake::new();
    let mut stage = fake.stage().await;
    let id = stage.session().await;
    make(&stage, &id, &["mcp__wiki__search"]).await;
    let mut served = fake.call().await;
    stage.restart().await;
    served.is_dropped().await;
    stage.script.call().await.says("I see").await;
    let log = stage.log(&id).await;
    assert_eq!(answer(&log, &calls(&log)[0].id), Some((OUTCOME_UNKNOWN.into(), true)));
    assert_eq!(fake.ran.lock().unwrap().len(), 1);
    assert!(!fake.is_called().await);
}
