//! Threads that work for another: what is stored, who is shown what, and what a restart finds.

use std::collections::HashSet;

use postern_model::event::{Event, EventBody, Previewable, StopReason};
use postern_model::ids::{SessionId, ThreadId};
use postern_model::money::{PerMillion, Price};
use postern_model::session::{SessionStatus, Thread};
use postern_session::{ResponseBlock, Stop};
use serde_json::{Value, json};

use super::stage::{Call, Stage, calls, kinds, settings};
use crate::{EventQuery, Of, Settings, ThreadQuery};

const TOOLS: &str =
    r#"[{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}]"#;

/// A session whose agent has `scout` work for it; its turn has begun.
async fn begun(stage: &mut Stage) -> SessionId {
    let tools: Value = serde_json::from_str(TOOLS).unwrap();
    let scout = stage.agent(json!({"model": "other", "name": "scout", "system": "look", "tools": tools})).await;
    let roster = json!({"type": "coordinator", "agents": [scout, {"type": "self"}]});
    stage.use_agent(json!({"model": "m", "name": "chief", "multiagent": roster})).await;
    let id = stage.session().await;
    stage.say(&id, "go").await;
    id
}

async fn threads(stage: &Stage, id: &SessionId) -> Vec<Thread> {
    stage.engine.list_threads(&stage.workspace, id, &ThreadQuery::default()).await.unwrap().data
}

async fn log_of(stage: &Stage, id: &SessionId, thread: &ThreadId) -> Vec<Event> {
    let of = Of::Thread(thread.clone());
    stage.engine.list_events(&stage.workspace, id, of, &EventQuery::default()).await.unwrap().data
}

/// The coordinator starts the other; then both their models are asked.
async fn sends(stage: &Stage, message: &str) -> (Call, Call) {
    let Value::Object(input) = json!({"agent": "scout", "message": message}) else { panic!("an object") };
    let start = ResponseBlock::ToolUse { name: "start_agent".into(), input: Ok(input) };
    stage.script.call().await.answers(vec![start], Stop::ToolUse).await;
    let (one, other) = (stage.script.call().await, stage.script.call().await);
    if one.body["model"] == "m" { (one, other) } else { (other, one) }
}

#[tokio::test]
async fn each_thread_s_model_is_asked_with_its_own_agent_and_conversation() {
    let mut stage = Stage::new().await;
    let id = begun(&mut stage).await;
    let (chief, scout) = sends(&stage, "find it").await;
    let names: Vec<_> = chief.body["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!(names, ["start_agent", "message_agent"]);
    assert_eq!((&scout.body["model"], &scout.body["system"][0]["text"]), (&json!("other"), &json!("look")));
    assert_eq!(scout.body["messages"][0]["content"][1]["text"], "find it");
    let named = |tool: &Value| tool["name"] == "start_agent";
    assert!(!scout.body["tools"].as_array().unwrap().iter().any(named), "it starts nobody");
    chief.says("waiting").await;
    scout.says("here").await;
    let chief = stage.script.call().await;
    assert!(chief.body["messages"].to_string().contains("here"));
    let mut watch = stage.watch(&id, &[]).await;
    chief.says("done").await;
    watch.until("session.status_idle").await;
    let [primary, child] = &threads(&stage, &id).await[..] else { panic!("two threads") };
    assert_eq!((primary.status, child.status), (SessionStatus::Idle, SessionStatus::Idle));
    assert_eq!((&primary.parent_thread_id, &child.parent_thread_id), (&None, &Some(primary.id.clone())));
    assert_eq!(
        (json!(primary.agent)["name"].clone(), json!(child.agent)["name"].clone()),
        (json!("chief"), json!("scout"))
    );
    let session = stage.engine.session(&stage.workspace, &id).await.unwrap();
    let tokens = |thread: &Thread| thread.usage.unwrap().input_tokens;
    assert_eq!(session.usage.input_tokens, tokens(primary) + tokens(child));
}

#[tokio::test]
async fn a_session_s_readers_and_a_thread_s_readers_are_each_shown_their_own_now_and_later() {
    let mut stage = Stage::new().await;
    let id = begun(&mut stage).await;
    let mut of_session = stage.watch(&id, &[Previewable::Message]).await;
    let (chief, scout) = sends(&stage, "find it").await;
    of_session.until("session.thread_created").await;
    chief.says("waiting").await;
    of_session.until("session.thread_status_idle").await;
    let child = threads(&stage, &id).await[1].id.clone();
    let previews = HashSet::from([Previewable::Message]);
    let of = Of::Thread(child.clone());
    let mut of_child = stage.watch_of(&id, of.clone(), previews, None).await;
    scout.piece("he").await;
    of_child.until("event_delta").await;
    scout.says("here").await;
    let frames = of_child.until("session.thread_status_idle").await;
    let last = stage.script.call().await;
    last.says("done").await;
    let shown: Vec<_> = of_session.until("session.status_idle").await.iter().map(|frame| frame.event).collect();
    let own = shown.iter().filter(|kind| **kind == "agent.message").count();
    assert_eq!(own, 1, "the coordinator's words alone: {shown:?}");
    assert!(shown.contains(&"session.thread_status_idle"));
    // Lists say the same as the streams did, and a reader that comes back misses nothing of its own.
    let listed = log_of(&stage, &id, &child).await;
    assert_eq!(
        kinds(&listed)[..3],
        ["agent.thread_message_received", "session.thread_status_running", "span.model_request_start"]
    );
    assert!(kinds(&listed).ends_with(&["session.thread_status_idle"]));
    let first = frames.iter().find_map(|frame| frame.id).unwrap();
    let mut again = stage.watch_of(&id, of, HashSet::new(), Some(first - 1)).await;
    let again: Vec<_> = again.until("session.thread_status_idle").await.iter().map(|frame| frame.id).collect();
    let before: Vec<_> = frames.iter().map(|frame| frame.id).filter(Option::is_some).collect();
    assert_eq!(again, before);
    assert_eq!(calls(&stage.log(&id).await).len(), 1);
}

#[tokio::test]
async fn a_child_s_call_is_answered_through_the_session_after_a_restart() {
    let mut stage = Stage::new().await;
    let id = begun(&mut stage).await;
    let mut watch = stage.watch(&id, &[]).await;
    let (chief, scout) = sends(&stage, "find it").await;
    chief.says("waiting").await;
    scout.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    stage.restart().await;
    let log = stage.log(&id).await;
    let bash = calls(&log).pop().unwrap();
    let EventBody::AgentToolUse { session_thread_id, .. } = &bash.body else { panic!("a tool use") };
    let thread = session_thread_id.clone().unwrap();
    let Some(EventBody::StatusIdle { stop_reason, .. }) = log.last().map(|event| &event.body) else { panic!("idle") };
    assert_eq!(*stop_reason, StopReason::RequiresAction { event_ids: vec![bash.id.clone()] });
    let allow = json!([{"type": "user.tool_confirmation", "tool_use_id": bash.id, "result": "allow"}]);
    stage.send(&id, allow).await.unwrap();
    let sent = stage.result(&id, &bash).await.unwrap().remove(0);
    let EventBody::UserToolResult { session_thread_id, .. } = sent.body else { panic!("a result") };
    assert_eq!(session_thread_id, Some(thread.clone()));
    let scout = stage.script.call().await;
    assert_eq!(scout.body["model"], "other");
    // Killed at work, it is asked again.
    stage.restart().await;
    let scout = stage.script.call().await;
    assert_eq!((&scout.body["model"], threads(&stage, &id).await[1].status), (&json!("other"), SessionStatus::Running));
    let mut watch = stage.watch(&id, &[]).await;
    scout.says("here").await;
    stage.script.call().await.says("done").await;
    watch.until("session.status_idle").await;
    assert_eq!(threads(&stage, &id).await[1].id, thread);
}

#[tokio::test]
async fn a_thread_is_archived_from_rest_and_lists_are_read_page_by_page() {
    let mut stage = Stage::new().await;
    let id = begun(&mut stage).await;
    let mut watch = stage.watch(&id, &[]).await;
    let (chief, scout) = sends(&stage, "find it").await;
    let [primary, child] = &threads(&stage, &id).await[..] else { panic!("two threads") };
    let archive = async |thread: &ThreadId| stage.engine.archive_thread(&stage.workspace, &id, thread).await;
    assert_eq!(archive(&child.id).await.unwrap_err().status(), 409);
    assert_eq!(archive(&primary.id).await.unwrap_err().status(), 400);
    assert_eq!(archive(&ThreadId::parse("sthr_none").unwrap()).await.unwrap_err().status(), 404);
    chief.says("waiting").await;
    scout.uses(&["bash"]).await;
    watch.until("session.status_idle").await;
    let archived = archive(&child.id).await.unwrap();
    assert_eq!((archived.status, archived.archived_at.is_some()), (SessionStatus::Terminated, true));
    assert_eq!(archive(&child.id).await.unwrap(), archived);
    let page = |limit, page, statuses| ThreadQuery { limit: Some(limit), page, statuses };
    let list = async |query: ThreadQuery| stage.engine.list_threads(&stage.workspace, &id, &query).await.unwrap();
    let first = list(page(1, None, Vec::new())).await;
    let second = list(page(1, first.next_page.clone(), Vec::new())).await;
    assert_eq!((&first.data[0].id, &second.data[0].id, second.next_page), (&primary.id, &child.id, None));
    let over = list(page(10, None, vec![SessionStatus::Terminated])).await.data;
    assert_eq!(over.iter().map(|thread| &thread.id).collect::<Vec<_>>(), [&child.id]);
}

#[tokio::test]
async fn a_budget_needs_the_prices_of_every_model_of_the_roster() {
    let mut stage = Stage::new().await.with(Settings { prices: [("m".to_owned(), cent())].into(), ..settings() }).await;
    begun(&mut stage).await;
    let budget = json!({"type": "limit", "max_list_cost": {"amount": "10", "currency": "USD"}});
    let refused = stage.create(json!({"budget": budget})).await.unwrap_err();
    assert_eq!(refused.error_code, Some("model_not_budgetable"));
    assert!(refused.message.contains("`other`"), "{}", refused.message);
}

pub(super) fn cent() -> Price {
    let PerMillion(each) = "10000".parse().unwrap();
    Price { input: each, output: each, cache_write: each, cache_read: each }
}
