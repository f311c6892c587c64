//! A session through a host that accepts only what the official environment worker sends: methods, paths, query parameters, headers and bodies,
//! **by documentation** (contract part 4), since the hosted platform itself is not reachable from a test.

mod host;
mod hostile;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::setting::{Double, PATIENCE, Setting, end_of_turn, event, remember_lease, three_tool_uses, tool, with};
use host::{Poll, Script};
use postern_runner::{Ended, Refused};
use serde_json::json;

#[tokio::test]
async fn a_session_with_three_tool_uses_is_served_to_the_end_of_its_turn() {
    let setting = Setting::new(three_tool_uses()).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    let seen = setting.host.seen();
    let results: Vec<_> = seen
        .results
        .iter()
        .map(|result| (result["tool_use_id"].as_str(), result["content"][0]["text"].as_str()))
        .collect();
    assert_eq!(
        results,
        [
            (Some("sevt_1"), Some("bash of sevt_1")),
            (Some("sevt_2"), Some("write of sevt_2")),
            (Some("sevt_3"), Some("read of sevt_3"))
        ]
    );
    assert_eq!(seen.stops, [json!({"force": true})]);
    assert_eq!(seen.acknowledged, 1);
    assert!(seen.heartbeats >= 1);
    assert_eq!(*setting.perimeter.closed.lock().expect("not poisoned"), 1);
}

#[tokio::test]
async fn the_perimeter_judges_the_effective_definition_and_our_own_environment() {
    let setting = Setting::new(Script { history: vec![end_of_turn("sevt_1")], ..Script::default() }).await;
    setting.until_stopped(1).await;
    let facts = setting.perimeter.facts.lock().expect("not poisoned").clone();
    assert_eq!(facts.len(), 1);
    assert_eq!((facts[0].environment.as_str(), facts[0].agent().as_str()), (host::ENVIRONMENT, "agent_1@3"));
    assert_eq!(facts[0].definition_digest, postern_runner::definition_digest(&host::session()["agent"]));
}

#[tokio::test]
async fn the_three_kinds_of_nothing_are_all_nothing() {
    for nothing in [Poll::Null, Poll::NoContent, Poll::Empty] {
        let script =
            Script { polls: vec![nothing, Poll::Item], history: vec![end_of_turn("sevt_1")], ..Script::default() };
        Setting::new(script).await.until_stopped(1).await;
    }
}

#[tokio::test]
async fn an_item_that_is_no_session_is_only_stopped() {
    let script = Script { polls: vec![Poll::Healthcheck], ..Script::default() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    let seen = setting.host.seen();
    assert_eq!((seen.stops.len(), seen.heartbeats, seen.sessions_read), (1, 0, 0));
}

#[tokio::test]
async fn a_terminated_session_is_only_stopped() {
    let setting =
        Setting::new(Script { status: "terminated", history: vec![tool("sevt_1", "bash")], ..Script::default() }).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn the_items_own_token_is_used_for_the_session_and_the_environments_key_for_the_queue() {
    let script = Script {
        session_token: Some("token-of-the-item"),
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![vec![end_of_turn("sevt_2")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    // The host refuses any other credential on each route.
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1"]);
}

#[tokio::test]
async fn a_lost_lease_ends_the_work_without_a_stop() {
    let slow = Arc::new(tokio::sync::Notify::new());
    let script =
        Script { history: vec![tool("sevt_1", "bash")], ttl_seconds: 6, conflict_after: Some(1), ..Script::default() };
    let setting = Setting::with(script, Double { slow: Some(slow), ..Double::default() }).await;
    let worker = setting.worker();
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(PATIENCE));
    setting.host.wait_for(|seen| seen.conflicts == 1).await;
    drain.start();
    assert!(matches!(running.await.expect("it ended"), Ended::Drained));
    setting.host.assert_no_violation();
    let seen = setting.host.seen();
    assert_eq!((seen.stops.len(), seen.results.len()), (0, 0));
    assert_eq!(*setting.perimeter.closed.lock().expect("not poisoned"), 1);
}

#[tokio::test]
async fn a_stop_from_the_server_ends_the_work_with_a_stop() {
    let slow = Arc::new(tokio::sync::Notify::new());
    let script =
        Script { history: vec![tool("sevt_1", "bash")], ttl_seconds: 6, stopping_after: Some(1), ..Script::default() };
    let setting = Setting::with(script, Double { slow: Some(slow), ..Double::default() }).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.host.seen().results.len(), 0);
}

#[tokio::test]
async fn gated_denied_and_foreign_tool_uses_are_left_alone() {
    let script = Script {
        history: vec![
            with(tool("sevt_denied", "bash"), "evaluated_permission", json!("deny")),
            with(tool("sevt_foreign", "web_fetch"), "evaluated_permission", json!("allow")),
            json!({"id": "sevt_custom", "type": "agent.custom_tool_use", "name": "bash", "input": {}, "processed_at": "2026-01-01T00:00:00Z"}),
            with(tool("sevt_refused", "bash"), "evaluated_permission", json!("ask")),
            with(
                with(event("sevt_v", "user.tool_confirmation"), "tool_use_id", json!("sevt_refused")),
                "result",
                json!("deny"),
            ),
            tool("sevt_ours", "bash"),
        ],
        after_result: vec![vec![end_of_turn("sevt_end")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_ours"]);
    assert_eq!(setting.host.seen().results.len(), 1);
}

#[tokio::test]
async fn a_result_is_posted_again_until_it_is_taken() {
    let script = Script {
        failing_posts: 2,
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![vec![end_of_turn("sevt_2")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1"], "posted three times, run once");
    assert_eq!(setting.host.seen().results.len(), 1);
}

#[tokio::test]
async fn a_refused_result_is_given_up_when_its_reason_is_refused_too() {
    let script = Script {
        refused_posts: 2,
        history: vec![tool("sevt_1", "bash"), tool("sevt_2", "bash")],
        after_result: vec![vec![end_of_turn("sevt_3")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2"]);
    assert_eq!(setting.host.seen().results.len(), 1);
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_nothing_runs_twice() {
    let script = Script { streams_end_after_history: 2, ..three_tool_uses() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    assert_eq!(setting.host.seen().results.len(), 3);
}

#[tokio::test]
async fn a_history_of_several_pages_is_read_to_its_end() {
    let mut script = three_tool_uses();
    script.page_size = 1;
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
}

#[tokio::test]
async fn what_a_dead_worker_started_is_not_run_again_and_what_it_finished_is_posted() {
    let script = Script {
        history: vec![tool("sevt_1", "bash"), tool("sevt_2", "bash"), tool("sevt_3", "bash")],
        after_result: vec![vec![], vec![], vec![end_of_turn("sevt_4")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    let lines = concat!(
        r#"{"started":{"id":"sevt_1","tool":"bash"}}"#,
        "\n",
        r#"{"started":{"id":"sevt_2","tool":"bash"}}"#,
        "\n",
        r#"{"done":{"id":"sevt_2","is_error":false,"content":[{"type":"text","text":"from before"}]}}"#,
        "\n",
        r#"{"started":{"id":"sev"#,
    );
    std::fs::create_dir_all(setting.journal().parent().expect("a directory")).expect("made");
    std::fs::create_dir(setting.journal().with_file_name("workspace")).expect("made before the first tool use");
    std::fs::write(setting.journal(), lines).expect("written");
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_3"]);
    let results = setting.host.seen().results;
    let unknown = results[0]["content"][0]["text"].as_str().expect("text");
    assert!(
        unknown.contains("outcome unknown") && unknown.contains("not run again") && unknown.contains("Check first"),
        "{unknown}"
    );
    assert_eq!((&results[0]["is_error"], &results[1]["content"][0]["text"]), (&json!(true), &json!("from before")));
    let journal = std::fs::read_to_string(setting.journal()).expect("kept");
    assert_eq!(journal.lines().filter(|line| line.contains("posted")).count(), 3);
}

#[tokio::test]
async fn a_session_that_no_zone_covers_hears_why_from_a_host_that_knows_no_stop_with_an_error() {
    let refuses = Some(Refused { code: "zone_none".into(), message: "add a zone for agent_1".into() });
    let setting = Setting::with(three_tool_uses(), Double { refuses, ..Double::default() }).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), Vec::<String>::new());
    let seen = setting.host.seen();
    assert_eq!(seen.stops, [json!({"force": true})]);
    assert_eq!(seen.results.len(), 3);
    for result in &seen.results {
        assert_eq!(result["is_error"], json!(true));
        assert_eq!(
            result["content"][0]["text"],
            json!("[postern] not run reason=zone_none next=add a zone for agent_1")
        );
    }
}

#[tokio::test]
async fn our_own_server_is_told_with_the_stop() {
    let refuses = Some(Refused { code: "zone_none".into(), message: "add a zone for agent_1".into() });
    let script = Script { ours: true, ..three_tool_uses() };
    let setting = Setting::with(script, Double { refuses, ..Double::default() }).await;
    setting.until_stopped(1).await;
    let seen = setting.host.seen();
    assert_eq!(
        seen.stops,
        [json!({"force": true, "error": {"code": "zone_none", "message": "add a zone for agent_1"}})]
    );
    assert_eq!(seen.results.len(), 0);
}

#[tokio::test]
async fn a_drain_lets_a_running_tool_use_end_and_leaves_an_open_turn_to_the_next_worker() {
    let slow = Arc::new(tokio::sync::Notify::new());
    let setting = Setting::with(three_tool_uses(), Double { slow: Some(Arc::clone(&slow)), ..Double::default() }).await;
    let worker = setting.worker();
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(PATIENCE));
    let calls = Arc::clone(&setting.perimeter.calls);
    setting.host.wait_for(move |_| !calls.lock().expect("not poisoned").is_empty()).await;
    drain.start();
    slow.notify_one();
    assert!(matches!(running.await.expect("it ended"), Ended::Drained));
    let seen = setting.host.seen();
    assert_eq!((seen.results.len(), seen.stops.len()), (1, 0));
    setting.host.assert_no_violation();
}

#[tokio::test]
async fn a_rejected_key_ends_the_worker_and_trouble_does_not() {
    let setting = Setting::new(Script { polls: vec![Poll::Trouble, Poll::Forbidden], ..Script::default() }).await;
    let ended = setting.worker().run(PATIENCE).await;
    assert!(matches!(ended, Ended::Rejected(_)), "{ended:?}");
    assert_eq!(setting.host.seen().polls, 2);
}

#[tokio::test]
async fn an_acknowledgement_that_was_taken_and_not_answered_is_said_again_and_the_item_served_at_once() {
    let setting = Setting::new(Script { unanswered_acks: 1, ..three_tool_uses() }).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    assert_eq!(setting.host.seen().acknowledged, 2);
}

#[tokio::test]
async fn an_acknowledgement_that_a_proxy_answers_for_a_server_that_is_away_is_said_again() {
    let setting = Setting::new(Script { failing_acks: 2, ..three_tool_uses() }).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    assert_eq!(setting.host.seen().acknowledged, 3);
}

#[tokio::test]
async fn an_item_whose_acknowledgement_is_never_answered_is_given_up_before_another_worker_may_have_it() {
    let setting = Setting::new(Script { unanswered_acks: usize::MAX, ..three_tool_uses() }).await;
    let worker = setting.worker();
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(PATIENCE));
    setting.host.wait_for(|seen| seen.acknowledged > 1).await;
    drain.start();
    // A drain waits for what was claimed.
    assert!(matches!(running.await.expect("it ended"), Ended::Drained));
    setting.host.assert_no_violation();
    let seen = setting.host.seen();
    assert_eq!((seen.sessions_read, seen.heartbeats, seen.stops.len()), (0, 0, 0));
    assert!(seen.acknowledged_after < Duration::from_secs(5), "{:?}", seen.acknowledged_after);
}

#[tokio::test]
async fn a_hostile_session_id_makes_no_directory() {
    let script = Script { session: "../../escape", ours: true, ..Script::default() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.host.seen().stops[0]["error"]["code"], json!("worker_storage"));
    assert!(!Path::new(&setting.data.path().join("escape")).exists());
    assert!(!setting.data.path().join("perimeter/escape").exists());
}

#[tokio::test]
async fn a_worker_that_was_killed_goes_on_with_its_item_at_once() {
    let script = Script { polls: vec![], earlier_heartbeat: Some("before #7"), ..three_tool_uses() };
    let setting = Setting::new(script).await;
    remember_lease(&setting, "before #7");
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    assert_eq!(setting.host.seen().acknowledged, 0);
    assert!(!setting.journal().with_file_name("lease").exists());
}

#[tokio::test]
async fn an_item_that_went_to_another_worker_meanwhile_is_left_to_it() {
    let script =
        Script { polls: vec![], earlier_heartbeat: Some("before #7"), conflict_after: Some(0), ..three_tool_uses() };
    let setting = Setting::new(script).await;
    remember_lease(&setting, "before #7");
    let worker = setting.worker();
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(PATIENCE));
    setting.host.wait_for(|seen| seen.conflicts == 1).await;
    drain.start();
    assert!(matches!(running.await.expect("it ended"), Ended::Drained));
    let seen = setting.host.seen();
    assert_eq!((setting.calls().len(), seen.sessions_read, seen.stops.len()), (0, 0, 0));
    assert!(!setting.journal().with_file_name("lease").exists());
}

/// Waits until a tool use runs.
async fn until_a_tool_use_runs(setting: &Setting) {
    let calls = Arc::clone(&setting.perimeter.calls);
    setting.host.wait_for(move |_| !calls.lock().expect("not poisoned").is_empty()).await;
}

#[tokio::test]
async fn a_worker_that_has_no_room_asks_for_no_further_item() {
    let slow = Arc::new(tokio::sync::Notify::new());
    let script = Script {
        polls: vec![Poll::Item, Poll::Item],
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![vec![end_of_turn("sevt_2")]],
        ..Script::default()
    };
    let setting = Setting::with(script, Double { slow: Some(Arc::clone(&slow)), ..Double::default() }).await;
    let worker = setting.worker_of(1);
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(PATIENCE));
    until_a_tool_use_runs(&setting).await;
    assert_eq!(setting.host.seen().polls, 1);
    slow.notify_one();
    setting.host.wait_for(|seen| seen.stops.len() == 2).await;
    drain.start();
    assert!(matches!(running.await.expect("it ended"), Ended::Drained));
}

#[tokio::test]
async fn a_drain_waits_for_a_running_tool_use_as_long_as_it_may() {
    let slow = Arc::new(tokio::sync::Notify::new());
    let setting = Setting::with(three_tool_uses(), Double { slow: Some(slow), ..Double::default() }).await;
    let worker = setting.worker();
    let drain = worker.drain();
    let running = tokio::spawn(worker.run(Duration::from_millis(200)));
    until_a_tool_use_runs(&setting).await;
    drain.start();
    let ended = tokio::time::timeout(PATIENCE, running).await.expect("it does not wait for ever");
    assert!(matches!(ended.expect("it ended"), Ended::DrainedLate(1)));
}

#[tokio::test]
async fn an_item_that_cannot_be_stopped_is_left_after_five_tries() {
    let script = Script { history: vec![end_of_turn("sevt_1")], failing_stops: usize::MAX, ..Script::default() };
    let setting = Setting::new(script).await;
    setting.until_stopped(5).await;
    assert_eq!(setting.host.seen().stops.len(), 5);
}
