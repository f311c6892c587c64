//! One test for each journey of contract 3.4 to 3.11.

use postern_model::event::{EventBody, ModelUsage, Permission, Preview, StopReason};
use postern_model::session::SessionStatus;
use serde_json::json;

use super::world::{World, call, text};
use crate::{Author, FailureKind, INTERRUPTED, Input, Lacking, ModelEvent, ModelFailure, ResponseBlock, Role, Stop};

const RUN: [&str; 3] = ["session.status_running", "session.thread_status_running", "span.model_request_start"];
const IDLE: [&str; 3] = ["session.thread_status_idle", "session.usage", "session.status_idle"];

fn all(parts: &[&[&'static str]]) -> Vec<&'static str> {
    parts.concat()
}

#[test]
fn a_turn_has_exactly_the_order_of_the_contract() {
    let mut world = World::new();
    assert_eq!(world.say("hi"), all(&[&["user.message"], &RUN]));
    assert_eq!(world.work, 1);
    let thinking = ResponseBlock::Thinking(json!({"type": "thinking", "thinking": "hm", "signature": "s"}));
    let shown = world.answer(vec![thinking, text("a"), text("b")], Stop::EndTurn);
    assert_eq!(shown, all(&[&["agent.thinking", "agent.message", "span.model_request_end"], &IDLE]));
    assert_eq!(world.last_stop(), StopReason::EndTurn {});
    assert!(world.log.iter().all(|event| event.processed_at.is_some()));
}

#[test]
fn what_the_model_thought_goes_back_word_for_word_and_to_no_client() {
    let mut world = World::new();
    world.say("hi");
    let thinking = json!({"type": "thinking", "thinking": "secret plan", "signature": "c2ln"});
    world.answer(vec![ResponseBlock::Thinking(thinking.clone()), call("bash")], Stop::ToolUse);
    let assistant = &world.session.primary().conversation().messages()[1];
    assert_eq!(assistant.role, Role::Assistant);
    assert_eq!(assistant.content[0], thinking);
    assert_eq!(assistant.content[1]["id"], world.calls()[0].as_str());
    assert!(!serde_json::to_string(&world.shown).unwrap().contains("secret plan"));
}

#[test]
fn calls_of_a_worker_wait_in_requires_action_and_partial_answers_announce_the_rest() {
    let mut world = World::new();
    world.say("hi");
    let shown = world.answer(vec![text("t"), call("bash"), call("read")], Stop::ToolUse);
    let said = ["agent.message", "agent.tool_use", "agent.tool_use", "span.model_request_end"];
    assert_eq!(shown, all(&[&said, &IDLE]));
    let calls = world.calls();
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: calls.clone() });

    assert_eq!(world.result(&calls[0]).unwrap(), all(&[&["user.tool_result"], &IDLE]));
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: vec![calls[1].clone()] });
    assert_eq!(world.result(&calls[1]).unwrap(), all(&[&["user.tool_result"], &RUN]));
    let results = &world.session.primary().conversation().messages()[2];
    assert_eq!(results.content.len(), 2);
    assert_eq!(results.content[0]["tool_use_id"], calls[0].as_str());
}

#[test]
fn a_second_result_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("bash")], Stop::ToolUse);
    let id = world.calls()[0].clone();
    world.result(&id).unwrap();
    let before = world.log.clone();
    let problem = world.result(&id).unwrap_err();
    assert_eq!(problem.status(), 400);
    assert!(problem.message.contains("already answered"), "{}", problem.message);
    assert_eq!(world.log, before);
}

#[test]
fn an_allowed_call_is_executed_while_the_session_runs() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("write"), call("bash")], Stop::ToolUse);
    let calls = world.calls();
    assert_eq!(world.result(&calls[0]).unwrap_err().status(), 400, "not before it is confirmed");
    let allow = json!([{"type": "user.tool_confirmation", "tool_use_id": calls[0], "result": "allow"}]);
    assert_eq!(world.send(allow.clone()).unwrap(), all(&[&["user.tool_confirmation"], &IDLE]));
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: vec![calls[1].clone()] });
    assert_eq!(world.send(allow).unwrap_err().status(), 400, "one confirmation for one call");
    let running = ["user.tool_result", "session.status_running", "session.thread_status_running"];
    assert_eq!(world.result(&calls[1]).unwrap(), running);
    assert_eq!(world.result(&calls[0]).unwrap(), ["user.tool_result", "span.model_request_start"]);
}

#[test]
fn a_denied_call_never_runs_and_the_model_is_told_why() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("write")], Stop::ToolUse);
    let id = world.calls()[0].clone();
    let deny =
        json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": "deny", "deny_message": "not today"}]);
    assert_eq!(world.send(deny).unwrap(), all(&[&["user.tool_confirmation", "agent.tool_result"], &RUN]));
    let result = &world.session.primary().conversation().messages()[2].content[0];
    assert_eq!((&result["is_error"], &result["content"][0]["text"]), (&json!(true), &json!("not today")));
    assert!(world.result(&id).unwrap_err().message.contains("already answered"));
}

#[test]
fn a_tool_that_is_not_enabled_is_denied_at_once() {
    for name in ["grep", "web_fetcher", "repl"] {
        let mut world = World::new();
        world.say("hi");
        let shown = world.answer(vec![call(name)], Stop::ToolUse);
        let denied = ["agent.tool_use", "span.model_request_end", "agent.tool_result", "span.model_request_start"];
        assert_eq!(shown, denied, "{name}");
        let EventBody::AgentToolUse { evaluated_permission, evaluation, .. } = &world.shown[4].body else { panic!() };
        assert_eq!((evaluated_permission, evaluation), (&Some(Permission::Deny), &None));
    }
}

#[test]
fn input_that_is_no_object_is_answered_instead_of_run() {
    let mut world = World::new();
    world.say("hi");
    let broken = ResponseBlock::ToolUse { name: "bash".into(), input: Err("EOF".into()) };
    let shown = world.answer(vec![broken], Stop::ToolUse);
    assert_eq!(shown[2..], ["agent.tool_result", "span.model_request_start"]);
}

#[test]
fn a_custom_tool_waits_for_its_owner() {
    let mut world = World::new();
    world.say("hi");
    let work = world.work;
    assert_eq!(world.answer(vec![call("lookup")], Stop::ToolUse)[0], "agent.custom_tool_use");
    assert_eq!(world.work, work, "no worker is needed for it");
    let id = world.calls()[0].clone();
    assert_eq!(world.result(&id).unwrap_err().status(), 400, "user.tool_result is the wrong kind");
    let result = json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}]);
    assert_eq!(world.send_as(result, Author::Worker).unwrap(), all(&[&["user.custom_tool_result"], &RUN]));
}

#[test]
fn messages_sent_while_running_wait_and_are_shown_again_when_they_take_effect() {
    let mut world = World::new();
    world.say("one");
    assert_eq!(world.say("two"), ["user.message"]);
    let waiting = world.log.last().unwrap().clone();
    assert_eq!(waiting.processed_at, None);
    let shown = world.answer(vec![text("t")], Stop::EndTurn);
    assert_eq!(shown, ["agent.message", "span.model_request_end", "user.message", "span.model_request_start"]);
    let again = world.shown.iter().filter(|event| event.id == waiting.id).collect::<Vec<_>>();
    assert_eq!(again.len(), 2);
    assert!(again[1].processed_at.is_some());
}

#[test]
fn a_message_behind_open_calls_follows_their_results() {
    let mut world = World::new();
    world.say("one");
    world.answer(vec![call("bash")], Stop::ToolUse);
    assert_eq!(world.say("two"), ["user.message"]);
    let id = world.calls()[0].clone();
    let shown = world.result(&id).unwrap();
    let resumed = [
        "user.tool_result",
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "span.model_request_start",
    ];
    assert_eq!(shown, resumed);
    let last = world.session.primary().conversation().messages().last().unwrap();
    assert_eq!(
        (last.content[0]["type"].as_str(), last.content[1]["text"].as_str()),
        (Some("tool_result"), Some("two"))
    );
}

#[test]
fn an_interrupt_stops_a_streaming_answer_at_once() {
    let mut world = World::new();
    world.say("hi");
    world.model(ModelEvent::Text { index: 0, text: "half a tho".into() });
    let shown = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(shown, all(&[&["user.interrupt", "span.model_request_end"], &IDLE]));
    assert_eq!(world.request, None);
    assert_eq!(world.last_stop(), StopReason::EndTurn {});
    assert!(!world.shown.iter().any(|event| event.body.kind() == "agent.message"));
    assert_eq!(world.say("else"), all(&[&["user.message"], &RUN]));
}

#[test]
fn an_interrupt_closes_open_calls_so_that_no_worker_runs_them_later() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("bash"), call("write"), call("lookup")], Stop::ToolUse);
    let shown = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    let closed = ["user.interrupt", "user.tool_result", "user.tool_result", "user.custom_tool_result"];
    assert_eq!(shown, all(&[&closed, &IDLE]));
    assert!(serde_json::to_string(&world.log).unwrap().contains(INTERRUPTED));
    for id in world.calls() {
        assert!(world.result(&id).unwrap_err().message.contains("already answered"));
    }
}

#[test]
fn an_interrupt_goes_ahead_of_messages_that_wait() {
    let mut world = World::new();
    world.say("one");
    world.say("two");
    let shown = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(shown, all(&[&["user.interrupt", "span.model_request_end"], &IDLE, &["user.message"], &RUN]));
}

#[test]
fn an_interrupt_or_a_new_title_changes_nothing_of_an_idle_session_which_says_again_that_it_rests() {
    let mut world = World::new();
    assert_eq!(world.send(json!([{"type": "user.interrupt"}])).unwrap(), ["user.interrupt"]);
    assert_eq!(world.rename(), ["session.updated"], "it did not rest before");
    world.say("hi");
    assert_eq!(world.rename(), ["session.updated"], "it runs");
    world.answer(vec![text("t")], Stop::EndTurn);
    let stop = world.last_stop();
    let interrupted = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(interrupted, ["user.interrupt", "session.usage", "session.status_idle"]);
    assert_eq!(world.rename(), ["session.updated", "session.usage", "session.status_idle"]);
    assert_eq!(world.last_stop(), stop);
}

#[test]
fn an_interrupt_ends_a_retry_that_waits() {
    let mut world = World::new();
    world.say("hi");
    world.fail(FailureKind::Overloaded);
    assert_eq!(world.send(json!([{"type": "user.interrupt"}])).unwrap(), all(&[&["user.interrupt"], &IDLE]));
    assert!(world.retry().is_empty());
}

#[test]
fn failures_are_retried_after_the_time_the_endpoint_asks_for() {
    let mut world = World::new();
    world.say("hi");
    let retry_after = Some(std::time::Duration::from_secs(40));
    let failure = ModelFailure {
        kind: FailureKind::RateLimited,
        message: "slow down".into(),
        retry_after,
        usage: Default::default(),
    };
    let shown = world.model(ModelEvent::Failed(failure));
    let rescheduled =
        ["span.model_request_end", "session.error", "session.status_rescheduled", "session.thread_status_rescheduled"];
    assert_eq!(shown, rescheduled);
    assert_eq!(world.retry_at.unwrap().as_second(), world.seconds + 40);
    let error = serde_json::to_value(&world.shown[world.shown.len() - 3]).unwrap();
    assert_eq!(error["error"]["type"], "model_rate_limited_error");
    assert_eq!(error["error"]["retry_status"]["type"], "retrying");
    assert_eq!(world.retry(), RUN);
}

#[test]
fn the_last_retry_ends_the_turn_and_takes_what_waited_along() {
    let mut world = World::new();
    world.say("hi");
    world.fail(FailureKind::Transient);
    world.retry();
    world.fail(FailureKind::Transient);
    world.retry();
    world.say("are you there?");
    let shown = world.fail(FailureKind::Transient);
    assert_eq!(shown, all(&[&["span.model_request_end", "session.error", "user.message"], &IDLE]));
    assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
    world.say("again");
    assert_eq!(world.fail(FailureKind::Transient)[2], "session.status_rescheduled", "a new turn has new retries");
}

#[test]
fn what_retrying_cannot_help_ends_the_turn_at_once() {
    for kind in [FailureKind::Rejected, FailureKind::Billing] {
        let mut world = World::new();
        world.say("hi");
        assert_eq!(world.fail(kind), all(&[&["span.model_request_end", "session.error"], &IDLE]));
        assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
    }
}

#[test]
fn an_interrupted_request_costs_what_the_endpoint_had_counted() {
    let mut world = World::new();
    world.say("hi");
    let usage = ModelUsage { input_tokens: 50, output_tokens: 1, ..ModelUsage::default() };
    assert!(world.model(ModelEvent::Counted(usage)).is_empty());
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(world.session.primary().state().settled_usage().input_tokens, 50);
    world.say("again");
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(world.session.primary().state().settled_usage().input_tokens, 50, "each request has its own count");
}

#[test]
fn a_clock_that_is_set_back_changes_no_wait_and_no_order() {
    let mut world = World::new();
    world.say("hi");
    world.seconds -= 86_400;
    world.fail(FailureKind::Transient);
    let wait = world.retry_at.unwrap().as_second() - world.seconds;
    assert_eq!(wait, 1, "a day earlier it is the same wait");
    let times: Vec<_> = world.log.iter().filter_map(|event| event.processed_at).collect();
    assert!(times.is_sorted());
    world.seconds += 2 * 86_400;
    world.retry();
    world.answer(vec![text("done")], Stop::EndTurn);
    assert!(world.session.primary().state().settled_usage().active_seconds >= 0.0);
}

#[test]
fn every_way_a_response_stops_ends_in_the_right_reason() {
    let usual = |stop| {
        let mut world = World::new();
        world.say("hi");
        world.answer(vec![text("t")], stop);
        (world.session.primary().state().status, world.session.primary().state().stop.clone())
    };
    let idle = SessionStatus::Idle;
    assert_eq!(usual(Stop::EndTurn), (idle, Some(StopReason::EndTurn {})));
    assert_eq!(usual(Stop::Refusal(None)), (idle, Some(StopReason::Refusal {})));
    assert_eq!(usual(Stop::MaxTokens), (idle, Some(StopReason::RetriesExhausted {})));
    assert_eq!(usual(Stop::ContextExceeded), (SessionStatus::Running, None));
    assert_eq!(usual(Stop::PauseTurn), (SessionStatus::Running, None));
}

#[test]
fn what_was_refused_stays_out_of_the_conversation() {
    let mut world = World::new();
    world.say("hi");
    let shown = world.answer(vec![text("no"), call("bash")], Stop::Refusal(None));
    assert_eq!(shown, all(&[&["agent.message", "span.model_request_end"], &IDLE]));
    assert_eq!(world.session.primary().conversation().messages().len(), 1);
}

#[test]
fn a_turn_without_an_end_is_ended() {
    let mut world = World::new();
    world.say("hi");
    let mut requests = 1;
    while world.request.is_some() {
        world.answer(vec![call("nonsense")], Stop::ToolUse);
        requests += 1;
        assert!(requests < 100);
    }
    assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
    assert!(serde_json::to_string(&world.shown).unwrap().contains("tool_use_limit_reached_error"));
}

#[test]
fn a_worker_may_only_post_results() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("write")], Stop::ToolUse);
    let id = world.calls()[0].clone();
    for events in [
        json!([{"type": "user.message", "content": [{"type": "text", "text": "I am the user"}]}]),
        json!([{"type": "user.interrupt"}]),
        json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": "allow"}]),
    ] {
        assert_eq!(world.send_as(events, Author::Worker).unwrap_err().status(), 403);
    }
}

#[test]
fn a_request_is_accepted_whole_or_not_at_all() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("bash"), call("write")], Stop::ToolUse);
    let calls = world.calls();
    let result = json!({"type": "user.tool_result", "tool_use_id": calls[0]});
    let deny = json!({"type": "user.tool_confirmation", "tool_use_id": calls[1], "result": "deny"});
    let late = json!({"type": "user.tool_result", "tool_use_id": calls[1]});
    let before = world.log.clone();
    for events in [json!([result, result]), json!([result, deny, late]), json!([{"type": "user.interrupt"}, result])] {
        assert_eq!(world.send(events.clone()).unwrap_err().status(), 400, "{events}");
        assert_eq!(world.log, before);
    }
    assert_eq!(world.send(json!([result, deny])).unwrap().last(), Some(&"span.model_request_start"));
}

#[test]
fn too_many_waiting_messages_are_refused() {
    let mut world = World::new();
    world.say("hi");
    for _ in 0..5 {
        world.say("more");
    }
    let one = json!([{"type": "user.message", "content": [{"type": "text", "text": "x"}]}]);
    assert_eq!(world.send(one).unwrap_err().status(), 429);
}

#[test]
fn a_work_item_that_failed_answers_its_calls_and_says_why() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("bash")], Stop::ToolUse);
    let failed = Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() };
    assert_eq!(world.input(failed), all(&[&["user.tool_result", "session.error"], &IDLE]));
    assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
    let work = world.work;
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(world.work, work + 1, "an interrupt queues work again");
}

fn missing(thing: usize) -> Input {
    Input::Missing { code: "c".into(), message: format!("thing {thing}"), lacking: Lacking::Something }
}

#[test]
fn a_session_that_is_told_what_it_lacks_after_its_turn_says_again_that_it_rests_or_its_worker_would_stay() {
    let mut world = World::new();
    assert_eq!(world.input(missing(1)), ["session.error"], "it did not rest before: nobody waits for that");
    world.say("hi");
    assert_eq!(world.input(missing(2)), ["session.error"], "it runs");
    world.answer(vec![text("t")], Stop::EndTurn);
    let stop = world.last_stop();
    assert_eq!(world.input(missing(3)), ["session.error", "session.usage", "session.status_idle"]);
    assert_eq!(world.last_stop(), stop);
    world.say("again");
    assert!(world.request.is_some(), "and goes on with what comes next");
}

#[test]
fn a_session_is_told_each_thing_once_in_its_life_and_after_sixty_four_only_that_there_are_more() {
    let mut world = World::new();
    for n in 0..70 {
        world.input(missing(n));
        world.input(missing(n));
        world.crash();
    }
    world.input(missing(0));
    let errors: Vec<_> = world
        .log
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::SessionError { error } => Some(error.message.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!((errors.len(), errors[63]), (65, "c: thing 63"));
    assert!(errors[64].starts_with("limit_session_notices: ") && errors[64].contains("Next step"), "{}", errors[64]);
}

#[test]
fn whoever_is_waited_for_is_not_asked_again_for_what_a_session_lacks() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("write")], Stop::ToolUse);
    assert!(matches!(world.last_stop(), StopReason::RequiresAction { .. }));
    assert_eq!(world.input(missing(4)), ["session.error"]);
    assert_eq!(world.rename(), ["session.updated"]);
}

#[test]
fn a_work_item_that_failed_stops_the_model_too() {
    let mut world = World::new();
    world.say("hi");
    let failed = Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() };
    assert_eq!(world.input(failed), all(&[&["span.model_request_end", "session.error"], &IDLE]));
    assert_eq!(world.request, None);
}

#[test]
fn a_crash_in_mid_request_closes_it_and_asks_again() {
    let mut world = World::new();
    world.say("hi");
    let messages = world.session.primary().conversation().clone();
    assert_eq!(world.crash(), ["span.model_request_end", "span.model_request_start"]);
    assert_eq!(*world.session.primary().conversation(), messages);
    world.answer(vec![call("bash")], Stop::ToolUse);
    assert!(world.crash().is_empty(), "calls wait as before");
    assert_eq!(world.calls().len(), 1);
}

#[test]
fn a_crash_while_a_retry_waits_tries_soon() {
    let mut world = World::new();
    world.say("hi");
    world.fail(FailureKind::Overloaded);
    assert!(world.crash().is_empty());
    assert!(world.retry_at.is_some());
    assert_eq!(world.retry(), RUN);
}

#[test]
fn an_archived_session_takes_nothing_more() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![text("t")], Stop::EndTurn);
    let over = ["session.thread_status_terminated", "session.status_terminated"];
    assert_eq!(world.input(Input::Archive), over);
    assert_eq!(world.send(json!([{"type": "user.interrupt"}])).unwrap_err().status(), 400);
    assert!(world.crash().is_empty());
}

#[test]
fn previews_announce_the_ids_of_the_events_and_are_prefixes_of_them() {
    let mut world = World::new();
    world.say("hi");
    world.model(ModelEvent::ThinkingStarted { index: 0 });
    for (index, piece) in [(1, "on"), (1, "e"), (2, "two")] {
        world.model(ModelEvent::Text { index, text: piece.into() });
    }
    let thinking = ResponseBlock::Thinking(json!({"type": "thinking"}));
    world.answer(vec![thinking, text("one"), text("two")], Stop::EndTurn);
    let ids: Vec<_> = world
        .previews
        .iter()
        .map(|preview| match preview {
            Preview::EventStart { event } => event.id.clone(),
            Preview::EventDelta { event_id, .. } => event_id.clone(),
        })
        .collect();
    let said: Vec<_> = world.log.iter().filter(|e| e.body.kind().starts_with("agent.")).map(|e| e.id.clone()).collect();
    assert_eq!(ids, [&said[0], &said[1], &said[1], &said[1], &said[1]].map(Clone::clone));
    let last = serde_json::to_value(world.previews.last().unwrap()).unwrap();
    assert_eq!(last["delta"], json!({"type": "content_delta", "index": 1, "content": {"type": "text", "text": "two"}}));
}

#[test]
fn running_time_counts_while_it_runs_and_not_while_it_waits() {
    let mut world = World::new();
    world.say("hi");
    world.answer(vec![call("bash")], Stop::ToolUse);
    world.seconds += 100;
    let id = world.calls()[0].clone();
    world.result(&id).unwrap();
    world.answer(vec![text("t")], Stop::EndTurn);
    let now = postern_model::Timestamp::from_second(world.seconds + 1000).unwrap();
    let usage = world.session.primary().state().usage(now);
    assert!((usage.active_seconds - 2.0).abs() < 1e-9, "{usage:?}");
    assert_eq!((usage.input_tokens, usage.output_tokens), (20, 2));
}
