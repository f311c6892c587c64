//! A conversation that grows too long: what the model is sent instead, and what the log says.

use std::sync::Arc;

use postern_model::agent::ContextSettings;
use postern_model::event::{EventBody, RetryStatus, SessionErrorKind, StopReason};
use postern_model::session::SessionAgent;
use serde_json::Value;

use super::world::{World, agent, call, text, tight};
use crate::{ContextLimits, FailureKind, Limits, ModelEvent, Stop};

const SUMMARY: [&str; 3] = ["span.model_request_end", "agent.thread_context_compacted", "span.model_request_start"];
const IDLE: [&str; 3] = ["session.thread_status_idle", "session.usage", "session.status_idle"];

fn asked(world: &World) -> String {
    let asked = world.session.asked(world.session.primary());
    let blocks: Vec<&Value> = asked.messages().iter().flat_map(|message| &message.content).collect();
    serde_json::to_string(&blocks).unwrap()
}

/// A session whose conversation is longer than the limit, at the message that makes the loop notice.
fn grown(limits: Limits) -> World {
    let mut world = World::of(agent(), limits);
    world.say(&"the beginning ".repeat(20));
    world.answer_counted(vec![text("an old answer")], Stop::EndTurn, 500);
    world.say("and now?");
    world
}

#[test]
fn a_conversation_that_grew_too_long_is_summarised_before_the_next_step() {
    let mut world = grown(tight());
    assert!(asked(&world).contains("the beginning") && asked(&world).contains("Write a summary"));
    world.model(ModelEvent::Text { index: 0, text: "SUM".into() });
    assert_eq!(world.previews, [], "the summary is shown to nobody");
    assert_eq!(world.answer(vec![text("SUMMARY"), call("bash")], Stop::ToolUse), SUMMARY);
    let sent = asked(&world);
    assert!(sent.contains("SUMMARY") && sent.contains("and now?"), "{sent}");
    assert!(!sent.contains("the beginning") && !sent.contains("Write a summary"), "{sent}");
    assert_eq!(world.answer(vec![text("done")], Stop::EndTurn)[2..], IDLE);
    let log = serde_json::to_string(&world.log).unwrap();
    assert!(log.contains("the beginning") && !log.contains("SUMMARY"), "the log keeps what was said");
    assert_eq!(
        world.session.primary().state().settled_usage().input_tokens,
        500 + 10 + 10,
        "summaries are counted too"
    );
}

#[test]
fn calls_stay_with_their_results_when_the_rest_is_summarised() {
    let mut world = World::of(agent(), tight());
    world.say(&"the beginning ".repeat(20));
    world.answer_counted(vec![text("let me look"), call("bash")], Stop::ToolUse, 500);
    let id = world.calls()[0].clone();
    world.result(&id).unwrap();
    assert_eq!(world.answer(vec![text("SUMMARY")], Stop::EndTurn), SUMMARY);
    let roles: Vec<_> = world.session.primary().conversation().messages().iter().map(|m| m.content.len()).collect();
    assert_eq!(roles, [1, 2, 1], "the summary, the call, its result");
    assert!(asked(&world).contains("let me look"));
}

#[test]
fn old_results_are_cleared_and_the_newest_stay() {
    let limits = tight();
    let context = ContextLimits { compact_above: None, ..limits.context };
    let mut world = World::of(agent(), Limits { context, ..limits });
    world.say("go");
    for word in ["first", "second"] {
        world.answer_counted(vec![call("bash")], Stop::ToolUse, 500);
        let id = world.calls().pop().unwrap();
        world.result_of(&id, &word.repeat(100)).unwrap();
    }
    let sent = asked(&world);
    assert!(!sent.contains("firstfirst") && sent.contains("secondsecond") && sent.contains("cleared"), "{sent}");
    let log = serde_json::to_string(&world.log).unwrap();
    assert!(log.contains("firstfirst") && !log.contains("agent.thread_context_compacted"));
    world.crash();
    assert_eq!(asked(&world), sent, "another process sends the same");
}

#[test]
fn a_conversation_that_the_endpoint_refuses_is_shortened_and_asked_for_once_more() {
    let mut world = World::new();
    world.say(&"the beginning ".repeat(20));
    world.answer(vec![text("an old answer")], Stop::EndTurn);
    world.say(&"x".repeat(50_000));
    let shown = world.fail(FailureKind::TooLong);
    assert_eq!(shown, ["span.model_request_end", "session.error", "span.model_request_start"]);
    assert!(asked(&world).len() < 20_000, "the summary is asked of less");
    assert_eq!(world.answer(vec![text("SUMMARY")], Stop::EndTurn), SUMMARY);
    assert!(asked(&world).len() < 10_000 && asked(&world).contains("characters left out"));
    let shown = world.fail(FailureKind::TooLong);
    assert_eq!(shown, [&["span.model_request_end", "session.error"][..], &IDLE].concat());
    assert_eq!(last_error(&world), (SessionErrorKind::CompactionLimitReachedError, RetryStatus::Exhausted {}));
    assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
}

#[test]
fn one_message_that_is_too_long_by_itself_is_shortened_without_a_summary() {
    let mut world = World::new();
    world.say(&"x".repeat(50_000));
    let shown = world.fail(FailureKind::TooLong);
    let short =
        ["span.model_request_end", "session.error", "agent.thread_context_compacted", "span.model_request_start"];
    assert_eq!(shown, short);
    assert!(asked(&world).len() < 10_000);
    assert_eq!(world.answer(vec![text("ok")], Stop::EndTurn)[2..], IDLE);
}

#[test]
fn an_answer_that_fills_the_window_is_summarised_and_gone_on_from() {
    let mut world = World::new();
    world.say("write a book");
    let shown = world.answer(vec![text("chapter one")], Stop::ContextExceeded);
    assert_eq!(shown, ["agent.message", "span.model_request_end", "session.error", "span.model_request_start"]);
    assert_eq!(world.answer(vec![text("SUMMARY")], Stop::EndTurn), SUMMARY);
    assert_eq!(world.answer(vec![text("chapter two")], Stop::EndTurn)[2..], IDLE);
    assert!(asked(&world).contains("chapter two") && !asked(&world).contains("chapter one"));
}

#[test]
fn a_summary_that_the_model_does_not_write_ends_the_turn_and_a_message_tries_again() {
    for (blocks, stop) in
        [(vec![], Stop::EndTurn), (vec![call("bash")], Stop::ToolUse), (vec![text("no")], Stop::Refusal(None))]
    {
        let mut world = grown(tight());
        let shown = world.answer(blocks, stop);
        assert_eq!(shown, [&["span.model_request_end", "session.error"][..], &IDLE].concat());
        assert_eq!(last_error(&world).0, SessionErrorKind::CompactionLimitReachedError);
        world.say("again");
        assert!(asked(&world).contains("Write a summary"));
    }
}

#[test]
fn a_crash_or_an_interrupt_while_a_summary_is_written_loses_nothing() {
    let mut world = grown(tight());
    assert_eq!(world.crash(), ["span.model_request_end", "span.model_request_start"]);
    assert!(asked(&world).contains("Write a summary"), "it is asked for again");
    let interrupt = serde_json::json!([{"type": "user.interrupt"}]);
    assert_eq!(world.send(interrupt).unwrap(), [&["user.interrupt", "span.model_request_end"][..], &IDLE].concat());
    assert!(asked(&world).contains("the beginning"));
}

#[test]
fn what_an_agent_says_goes_before_the_server_and_zero_means_never() {
    let limits = ContextLimits::default();
    let own = ContextSettings { clear_above_tokens: Some(0), keep_tool_results: Some(9), compact_above_tokens: None };
    assert_eq!(limits.with(None), limits);
    let expected = ContextLimits { clear_above: None, keep_results: 9, ..limits };
    assert_eq!(limits.with(Some(own)), expected);

    let never = ContextSettings { compact_above_tokens: Some(0), clear_above_tokens: Some(0), ..own };
    let mut world = World::of(Arc::new(SessionAgent { context: Some(never), ..(*agent()).clone() }), tight());
    world.say(&"the beginning ".repeat(20));
    world.answer_counted(vec![text("an old answer")], Stop::EndTurn, 500);
    world.say("and now?");
    assert!(!asked(&world).contains("Write a summary"));
}

fn last_error(world: &World) -> (SessionErrorKind, RetryStatus) {
    let error = world.log.iter().rev().find_map(|event| match &event.body {
        EventBody::SessionError { error } => Some((error.kind, error.retry_status)),
        _ => None,
    });
    error.expect("an error")
}
