//! An advisor: asked in the middle of a turn, in a thread of its own, for one answer.

use postern_model::agent::Mind;
use postern_model::event::{EventBody, StopReason};
use postern_model::ids::EventId;
use postern_model::session::{SessionAgent, SessionStatus};
use serde_json::{Value, json};

use super::world::{World, advised, ask, call, crew, limits, tell, text};
use crate::advise::{MOST_QUESTIONS, MOST_REQUESTS};
use crate::coordinate::definitions;
use crate::{Author, FailureKind, INTERRUPTED, Input, Stop};

/// The agent has asked its advisor and waits for it.
fn asking() -> World {
    let mut world = World::of(advised(), limits());
    world.say("build it");
    world.answer(vec![text("I am not sure"), ask("which way?")], Stop::ToolUse);
    world
}

fn asked(world: &World, n: usize) -> Value {
    json!(world.session.asked(&world.session.children()[n]).messages().iter().map(|m| &m.content).collect::<Vec<_>>())
}

fn question(world: &World) -> EventId {
    let is_question = |event: &&postern_model::event::Event| matches!(&event.body, EventBody::AgentToolUse { name, .. } if name == "ask_advisor");
    world.log.iter().find(is_question).expect("the advisor was asked").id.clone()
}

fn status(world: &World) -> SessionStatus {
    world.session.overall().status
}

#[test]
fn an_advisor_is_shown_the_work_and_the_question_answers_once_and_is_over() {
    let mut world = World::of(advised(), limits());
    world.say("build it");
    let shown = world.answer(vec![text("I am not sure"), ask("which way?")], Stop::ToolUse);
    let begun = [
        "agent.message",
        "agent.tool_use",
        "span.model_request_end",
        "session.thread_created",
        "agent.thread_message_received",
        "session.thread_status_running",
        "span.model_request_start",
    ];
    assert_eq!(shown, begun, "the agent's own model waits");
    assert_eq!(world.shown_to_session(begun.len())[3..], ["session.thread_created", "session.thread_status_running"]);
    let sent = asked(&world, 0).to_string();
    assert!(sent.contains("build it") && sent.contains("I am not sure") && sent.contains("which way?"));
    assert_eq!(world.session.children()[0].agent().model.id, "wise");
    assert!(definitions(world.session.children()[0].agent()).is_empty());
    assert!(matches!(world.session.children()[0].mind(), Mind::Advisor(advisor) if advisor.model == "wise"));

    let shown = world.child_answers(0, vec![text("the left one")], Stop::EndTurn);
    let over = [
        "agent.message",
        "span.model_request_end",
        "agent.thread_message_sent",
        "agent.thread_message_received",
        "session.thread_status_idle",
        "session.thread_status_terminated",
        "agent.tool_result",
        "span.model_request_start",
    ];
    assert_eq!(shown, over);
    assert_eq!(world.shown_to_session(over.len()), over[3..]);
    assert_eq!(world.answer_of(&question(&world)), Some(("the left one".into(), false)));
    for event in &world.log {
        match &event.body {
            EventBody::ThreadCreated { agent_name, .. } | EventBody::ThreadStatusTerminated { agent_name, .. } => {
                assert_eq!(agent_name, "anthropic.advisor");
            }
            EventBody::ThreadMessageReceived { from_agent_name: Some(name), .. } => {
                assert_eq!(name, "anthropic.advisor");
            }
            EventBody::ThreadStatusIdle { stop_reason, .. } => assert_eq!(*stop_reason, StopReason::EndTurn {}),
            _ => {}
        }
    }
    let heard = json!(world.session.primary().conversation().messages().last().map(|m| &m.content)).to_string();
    assert_eq!(heard.matches("the left one").count(), 1, "the model hears it once, as the answer of its call: {heard}");
    let shown = world.answer(vec![text("done")], Stop::EndTurn);
    assert_eq!(shown[2..], ["session.thread_status_idle", "session.usage", "session.status_idle"]);
    assert_eq!(world.session.settled_usage().input_tokens, 30, "its tokens are the session's");
    world.assert_log_says_everything();
}

#[test]
fn an_agent_without_an_advisor_asks_nobody_and_has_no_tool_for_it() {
    let mut world = World::of(crew(), limits());
    world.say("go");
    world.answer(vec![ask("which way?")], Stop::ToolUse);
    assert!(world.session.children().is_empty() && world.asks(0));
    assert!(
        world.answer_of(&question(&world)).is_some_and(|(text, is_error)| is_error && text.contains("not enabled"))
    );
    let named = |agent: &SessionAgent| definitions(agent).iter().any(|tool| tool["name"] == "ask_advisor");
    assert!(!named(&crew()) && named(&advised()));
    world.assert_log_says_everything();
}

#[test]
fn a_crash_in_the_middle_asks_the_advisor_again_in_the_same_thread_and_answers_once() {
    let mut world = asking();
    let shown = world.crash();
    assert_eq!(shown, ["span.model_request_end", "span.model_request_start"]);
    assert!(world.asks(1) && !world.asks(0));
    world.child_answers(0, vec![text("left")], Stop::EndTurn);
    let answers = world.log.iter().filter(|event| matches!(event.body, EventBody::AgentToolResult { .. })).count();
    assert_eq!((answers, world.session.children().len()), (1, 1));
    world.crash();
    assert!(world.asks(0) && !world.asks(1), "what was answered is not asked again");
    world.assert_log_says_everything();
}

#[test]
fn an_interrupt_ends_the_consultation_and_the_session_rests_with_its_idle_event() {
    let interrupted = || Some((INTERRUPTED.to_owned(), true));
    for of_agent in [false, true] {
        let mut world = asking();
        let thread = of_agent.then(|| world.session.primary().id().clone());
        let shown = world.send(json!([{"type": "user.interrupt", "session_thread_id": thread}])).unwrap();
        assert_eq!(shown[..2], ["user.interrupt", "span.model_request_end"], "the advisor's request is given up");
        assert_eq!(*shown.last().unwrap(), "session.status_idle");
        assert_eq!((world.answer_of(&question(&world)), status(&world)), (interrupted(), SessionStatus::Idle));
        assert_eq!(world.child_state(0).status, SessionStatus::Terminated);
        assert!(!world.asks(1), "it is cancelled");
        world.assert_log_says_everything();
    }
    // The advisor alone: the agent goes on without it.
    let mut world = asking();
    let thread = world.child(0);
    world.send(json!([{"type": "user.interrupt", "session_thread_id": thread}])).unwrap();
    assert_eq!(world.answer_of(&question(&world)), interrupted());
    assert!(world.asks(0) && world.child_state(0).status == SessionStatus::Terminated);
    world.assert_log_says_everything();
}

#[test]
fn an_advisor_that_does_not_answer_is_a_result_that_says_so() {
    type Play = fn(&mut World);
    let plays: [(&str, Play); 6] = [
        ("why", |world| drop(world.child_fails(0, FailureKind::Rejected))),
        ("Every try failed", |world| {
            for _ in 0..2 {
                world.child_fails(0, FailureKind::Overloaded);
                world.input(Input::RetryDue(world.child(0)));
            }
            world.child_fails(0, FailureKind::Overloaded);
        }),
        ("refused", |world| drop(world.child_answers(0, vec![], Stop::Refusal(None)))),
        ("said nothing", |world| drop(world.child_answers(0, vec![], Stop::EndTurn))),
        ("limit of output tokens", |world| drop(world.child_answers(0, vec![text("cu")], Stop::MaxTokens))),
        ("why", |world| drop(world.child_fails(0, FailureKind::TooLong))),
    ];
    for (part, play) in plays {
        let mut world = asking();
        play(&mut world);
        let (text, is_error) = world.answer_of(&question(&world)).expect(part);
        assert!(is_error && text.contains(part) && text.ends_with("Go on without advice."), "{part}: {text}");
        assert_eq!(world.child_state(0).status, SessionStatus::Terminated, "{part}");
        assert!(world.asks(0) && !world.asks(1), "{part}: the agent goes on");
        world.answer(vec![self::text("done")], Stop::EndTurn);
        assert_eq!(world.last_stop(), StopReason::EndTurn {});
        world.assert_log_says_everything();
    }
}

#[test]
fn an_advisor_has_no_tools_and_is_told_so_a_few_times() {
    let mut world = asking();
    for _ in 0..MOST_REQUESTS {
        assert!(world.asks(1) && world.work == 1 + u32::from(world.work > 1), "no worker is called for it");
        world.child_answers(0, vec![call("bash"), ask("me?")], Stop::ToolUse);
    }
    assert!(world.answer_of(&question(&world)).is_some_and(|(_, is_error)| is_error));
    assert_eq!(world.session.children().len(), 1, "it asks nobody");
    world.assert_log_says_everything();
}

#[test]
fn nobody_answers_for_an_advisor_or_speaks_to_it() {
    let mut world = asking();
    let id = question(&world);
    for author in [Author::Worker, Author::Client] {
        let result = json!([{"type": "user.tool_result", "tool_use_id": id}]);
        assert!(world.send_as(result, author).unwrap_err().message.contains("this server makes itself"));
    }
    assert!(world.send(json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": "allow"}])).is_err());
    world.child_answers(0, vec![text("left")], Stop::EndTurn);
    let thread = world.child(0);
    world.answer(vec![tell(&thread, "and then?")], Stop::ToolUse);
    assert!(!world.asks(1));
    let told = world.calls().last().cloned().unwrap();
    assert!(world.answer_of(&told).is_some_and(|(text, is_error)| is_error && text.contains("first answer")));
}

#[test]
fn some_questions_at_once_and_no_more_and_they_count_as_no_agents() {
    let mut world = World::of(advised(), limits());
    world.say("go");
    world.answer((0..=MOST_QUESTIONS).map(|_| ask("?")).collect(), Stop::ToolUse);
    assert_eq!(world.session.children().len(), MOST_QUESTIONS);
    let last = world.calls().last().cloned().unwrap();
    assert!(world.answer_of(&last).is_some_and(|(text, is_error)| is_error && text.contains("which is the most")));
    // In another order than they were asked: each answers its own call.
    for n in (0..MOST_QUESTIONS).rev() {
        assert!(!world.asks(0));
        world.child_answers(n, vec![text(&format!("advice {n}"))], Stop::EndTurn);
    }
    for (n, id) in world.calls().iter().take(MOST_QUESTIONS).enumerate() {
        assert_eq!(world.answer_of(id), Some((format!("advice {n}"), false)));
    }
    assert!(world.asks(0));
    world.assert_log_says_everything();
}

#[test]
fn an_agent_that_waits_for_somebody_else_too_rests_when_the_advisor_has_answered() {
    let mut world = World::of(advised(), limits());
    world.say("go");
    world.answer(vec![ask("?"), call("lookup")], Stop::ToolUse);
    assert_eq!(status(&world), SessionStatus::Running, "the advisor thinks");
    let shown = world.child_answers(0, vec![text("left")], Stop::EndTurn);
    assert_eq!(shown[shown.len() - 3..], ["agent.tool_result", "session.usage", "session.status_idle"]);
    assert!(matches!(world.last_stop(), StopReason::RequiresAction { event_ids } if event_ids.len() == 1));
    world.assert_log_says_everything();
    // The other way round: the answer of the other does not wake it while the advisor thinks.
    let mut world = World::of(advised(), limits());
    world.say("go");
    world.answer(vec![ask("?"), call("lookup")], Stop::ToolUse);
    let lookup = world.calls()[1].clone();
    world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": lookup}])).unwrap();
    assert!(!world.asks(0));
    world.child_answers(0, vec![text("left")], Stop::EndTurn);
    assert!(world.asks(0));
    world.assert_log_says_everything();
}

#[test]
fn where_the_budget_is_spent_no_advisor_is_asked_and_one_that_waits_is_over() {
    let refused =
        |world: &World| world.answer_of(&question(world)).is_some_and(|(text, e)| e && text.contains("budget"));
    // An answer costs eleven cents.
    let mut world = World::of(advised(), limits()).paying(Some(11));
    world.say("go");
    world.answer(vec![ask("?")], Stop::ToolUse);
    assert!(world.session.children().is_empty() && refused(&world));
    assert_eq!(world.last_stop(), StopReason::BudgetReached {});

    let mut world = World::of(advised(), limits()).paying(Some(12));
    world.say("go");
    world.answer(vec![ask("?"), start()], Stop::ToolUse);
    world.child_fails(0, FailureKind::Overloaded);
    world.child_answers(1, vec![text("found")], Stop::EndTurn);
    world.input(Input::RetryDue(world.child(0)));
    assert!(refused(&world) && world.child_state(0).status == SessionStatus::Terminated);
    assert_eq!((world.last_stop(), status(&world)), (StopReason::BudgetReached {}, SessionStatus::Idle));
    world.rebudget(Some(1_000));
    assert!(world.asks(0), "the agent goes on");
    world.assert_log_says_everything();
}

fn start() -> crate::ResponseBlock {
    super::world::start("scout", "look")
}
