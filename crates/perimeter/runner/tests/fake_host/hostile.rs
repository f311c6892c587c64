//! A server that means harm, or is broken: what it can make the worker do stays inside the session's zone, and whoever waits is told why.

use std::time::Duration;

use crate::host::setting::{Double, PATIENCE, Setting, end_of_turn, event, three_tool_uses, tool, with};
use crate::host::{Poll, Script};
use postern_runner::{Ended, Refused};
use serde_json::{Value, json};

fn toolset() -> Value {
    json!([{"type": "agent_toolset_20260401"}])
}

fn answered(id: &str, is_error: bool) -> Value {
    let result = with(event("sevt_answer", "user.tool_result"), "tool_use_id", json!(id));
    with(with(result, "is_error", json!(is_error)), "content", json!([{"type": "text", "text": "x"}]))
}

#[tokio::test]
async fn a_definition_that_changes_during_the_session_is_judged_again_before_anything_runs() {
    let widened = json!([{"type": "agent_toolset_20260401"}, {"type": "mcp_toolset", "mcp_server_name": "more"}]);
    let script = Script {
        definitions: vec![toolset(), widened],
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![
            vec![event("sevt_u", "session.updated"), tool("sevt_2", "bash")],
            vec![end_of_turn("sevt_end")],
        ],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    let facts = setting.perimeter.facts.lock().expect("not poisoned").clone();
    assert_eq!(facts.len(), 2, "judged once for each definition");
    assert_ne!(facts[0].definition_digest, facts[1].definition_digest);
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2"]);
    assert_eq!(*setting.perimeter.closed.lock().expect("not poisoned"), 2, "what the first zone gave was taken down");
}

#[tokio::test]
async fn an_update_that_leaves_the_definition_alone_keeps_the_sandbox() {
    let script = Script {
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![
            vec![event("sevt_u", "session.updated"), tool("sevt_2", "bash")],
            vec![end_of_turn("sevt_end")],
        ],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.perimeter.facts.lock().expect("not poisoned").len(), 1);
    assert_eq!(setting.host.seen().sessions_read, 2);
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2"]);
}

#[tokio::test]
async fn an_update_after_the_turn_does_not_hold_the_worker() {
    let script =
        Script { history: vec![end_of_turn("sevt_1"), event("sevt_u", "session.updated")], ..Script::default() };
    Setting::new(script).await.until_stopped(1).await;
}

#[tokio::test]
async fn the_bearer_does_not_follow_a_redirect() {
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = elsewhere.local_addr().expect("bound").port();
    let script = Script { polls: vec![Poll::Redirect(port), Poll::Forbidden], ..Script::default() };
    let setting = Setting::new(script).await;
    let ended = setting.worker().run(PATIENCE).await;
    assert!(matches!(ended, Ended::Rejected(_)), "{ended:?}");
    assert_eq!(setting.host.seen().polls, 2, "asked again where it was configured to");
    let follower = tokio::time::timeout(Duration::from_millis(50), elsewhere.accept()).await;
    assert!(follower.is_err(), "the worker went where it was sent");
}

#[tokio::test]
async fn a_secret_of_odd_shape_leaves_the_environments_key_in_use() {
    // Not base64; base64 of `[]`; of `{"sessions_token":7}`; of `{"sessions_token":""}`.
    for secret in ["\u{0}!", "W10", "eyJzZXNzaW9uc190b2tlbiI6N30", "eyJzZXNzaW9uc190b2tlbiI6IiJ9"] {
        let script =
            Script { polls: vec![Poll::Secret(secret)], history: vec![end_of_turn("sevt_1")], ..Script::default() };
        // The host takes no other credential than the environment's key.
        Setting::new(script).await.until_stopped(1).await;
    }
}

#[tokio::test]
async fn a_history_that_could_not_be_read_is_read_again() {
    let script = Script { failing_lists: 1, ..three_tool_uses() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
}

#[tokio::test]
async fn a_server_that_answers_with_garbage_for_ever_is_given_up_with_a_reason() {
    let script = Script { garbled_lists: usize::MAX, ours: true, ..three_tool_uses() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    let seen = setting.host.seen();
    assert_eq!(setting.calls(), Vec::<String>::new());
    assert_eq!(seen.stops[0]["error"]["code"], json!("session_unreadable"));
}

#[tokio::test]
async fn frames_that_are_no_events_end_the_stream_and_not_the_worker() {
    for begins in [
        &b"event: agent.tool_use\ndata: {\"id\":\n\n"[..],
        b"event: agent.tool_use\ndata: \xff\xfe\n\n",
        b"event: error\ndata: {}\n\n",
        b"event: agent.tool_use\ndata: [[[[7]]]]\n\nevent: x\ndata: \"agent.tool_use\"\n\n",
    ] {
        let script = Script { stream_begins: begins, ..three_tool_uses() };
        let setting = Setting::new(script).await;
        setting.until_stopped(1).await;
        assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
    }
}

#[tokio::test]
async fn a_line_without_an_end_is_not_read_to_its_end() {
    let bomb: &'static [u8] = vec![b'x'; 9 * 1024 * 1024].leak();
    let script = Script { stream_begins: bomb, ..three_tool_uses() };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
}

#[tokio::test]
async fn a_result_that_the_server_does_not_take_is_answered_for_by_the_reason() {
    let script = Script {
        refused_posts: 1,
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![vec![end_of_turn("sevt_2")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    let results = setting.host.seen().results;
    assert_eq!((results.len(), &results[0]["is_error"]), (1, &json!(true)));
    let text = results[0]["content"][0]["text"].as_str().expect("text");
    assert!(text.contains("reason=result_refused") && text.contains("status=400"), "{text}");
}

#[tokio::test]
async fn a_tool_use_replayed_after_its_result_does_not_run_again() {
    let script = Script {
        history: vec![tool("sevt_1", "bash")],
        after_result: vec![vec![tool("sevt_1", "write"), tool("sevt_2", "bash")], vec![end_of_turn("sevt_end")]],
        ..Script::default()
    };
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2"]);
}

#[tokio::test]
async fn a_session_that_ran_here_and_lost_its_workspace_is_told_so_and_gets_no_empty_one() {
    for ours in [true, false] {
        let setting = Setting::new(Script { ours, ..three_tool_uses() }).await;
        std::fs::create_dir_all(setting.journal().parent().expect("a directory")).expect("made");
        std::fs::write(setting.journal(), "{\"posted\":{\"id\":\"sevt_0\"}}\n").expect("written");
        setting.until_stopped(1).await;
        assert_eq!(setting.calls(), Vec::<String>::new());
        assert!(!setting.journal().with_file_name("workspace").exists());
        assert_told(&setting, ours, "workspace_gone");
    }
}

#[tokio::test]
async fn a_follow_up_on_a_host_that_never_had_the_files_is_told_so() {
    for ours in [true, false] {
        let mut script = Script { ours, ..three_tool_uses() };
        script.history.splice(0..0, [tool("sevt_before", "write"), answered("sevt_before", false)]);
        let setting = Setting::new(script).await;
        setting.until_stopped(1).await;
        assert_eq!(setting.calls(), Vec::<String>::new());
        assert_told(&setting, ours, "workspace_gone");
    }
}

#[tokio::test]
async fn earlier_tool_uses_that_left_nothing_are_no_reason_to_miss_files() {
    let mut script = three_tool_uses();
    let custom = json!({"id": "sevt_c", "type": "agent.custom_tool_use", "name": "bash", "input": {}});
    let searched = [tool("sevt_s", "web_search"), answered("sevt_s", false)];
    script.history.splice(0..0, [tool("sevt_f", "bash"), answered("sevt_f", true), custom].into_iter().chain(searched));
    let setting = Setting::new(script).await;
    setting.until_stopped(1).await;
    assert_eq!(setting.calls(), ["sevt_1", "sevt_2", "sevt_3"]);
}

fn assert_told(setting: &Setting, ours: bool, code: &str) {
    let seen = setting.host.seen();
    if ours {
        assert_eq!(seen.stops[0]["error"]["code"], json!(code));
    } else {
        assert_eq!(seen.results.len(), 3);
        for result in &seen.results {
            let text = result["content"][0]["text"].as_str().expect("text");
            assert!(text.contains(&format!("reason={code}")) && text.contains("Next step"), "{text}");
        }
    }
}

#[tokio::test]
async fn session_ids_that_are_no_names_make_no_directory() {
    for session in ["..", ".", "a/b", "a\u{0}b", "%2e%2e", "sesn_\u{e9}", " "] {
        let setting = Setting::new(Script { session, ours: true, ..Script::default() }).await;
        let worker = setting.worker();
        let drain = worker.drain();
        let running = tokio::spawn(worker.run(PATIENCE));
        setting.host.wait_for(|seen| !seen.stops.is_empty()).await;
        drain.start();
        assert!(matches!(running.await.expect("it ended"), Ended::Drained));
        let made: Vec<_> = std::fs::read_dir(setting.data.path()).expect("there").flatten().collect();
        assert!(made.is_empty(), "{session:?} made {made:?}");
        assert!(setting.host.seen().stops[0]["error"]["code"].is_string(), "{session:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_perimeter_is_said_with_its_reason() {
    for code in ["custody_denied", "egress_unavailable", "audit_unavailable"] {
        let refuses = Some(Refused { code: code.into(), message: "an operator looks".into() });
        let script = Script { ours: true, ..three_tool_uses() };
        let setting = Setting::with(script, Double { refuses, ..Double::default() }).await;
        setting.until_stopped(1).await;
        assert_eq!(setting.host.seen().stops[0]["error"]["code"], json!(code));
        assert_eq!(setting.calls(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_asked_for_five_times_and_given_up_with_a_reason() {
    let long = Value::from("x".repeat(8 << 20));
    let setting = Setting::new(Script { definitions: vec![long], ours: true, ..three_tool_uses() }).await;
    setting.until_stopped(1).await;
    let seen = setting.host.seen();
    assert_eq!((seen.sessions_read, &seen.stops[0]["error"]["code"]), (5, &json!("session_unreadable")));
    assert_eq!(setting.calls(), Vec::<String>::new());
}
