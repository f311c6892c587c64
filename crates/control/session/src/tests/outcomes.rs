//! Outcomes: work, grading, revision, and every way it ends.

use postern_model::event::{EventBody, OutcomeProgress, OutcomeResult, StopReason};
use postern_model::session::SessionStatus;
use serde_json::{Value, json};

use super::world::{World, call, text};
use crate::{Counsel, Stop};

const IDLE: [&str; 3] = ["session.thread_status_idle", "session.usage", "session.status_idle"];
const RUN: [&str; 3] = ["session.status_running", "session.thread_status_running", "span.model_request_start"];
const GRADING: [&str; 3] = ["agent.message", "span.model_request_end", "span.outcome_evaluation_start"];

fn outcome(iterations: u32) -> Value {
    let rubric = json!({"type": "text", "content": "it compiles"});
    json!([{"type": "user.define_outcome", "description": "a program", "rubric": rubric, "max_iterations": iterations}])
}

fn defined(iterations: u32) -> World {
    let mut world = World::new();
    assert_eq!(world.send(outcome(iterations)).unwrap(), [&["user.define_outcome"][..], &RUN].concat());
    world
}

fn grade(world: &mut World, result: &str) -> Vec<&'static str> {
    world.consult(Some(&json!({"result": result, "explanation": "line 3 does not"}).to_string()))
}

fn results(world: &World) -> Vec<(u32, OutcomeResult)> {
    let of = |body: &EventBody| match body {
        EventBody::OutcomeEvaluationEnd { iteration, result, .. } => Some((*iteration, *result)),
        _ => None,
    };
    world.log.iter().filter_map(|event| of(&event.body)).collect()
}

#[test]
fn work_is_graded_when_the_agent_ends_and_revised_until_it_holds() {
    let mut world = defined(3);
    let sent = serde_json::to_string(&world.session.primary().conversation().messages()[0].content).unwrap();
    assert!(sent.contains("a program") && sent.contains("it compiles"));
    assert_eq!(world.answer(vec![text("done")], Stop::EndTurn), GRADING);
    let (_, asked) = world.consulting.clone().unwrap();
    assert_eq!(asked.counsel, Counsel::Grader);
    let shown: Value = serde_json::from_str(&asked.text).unwrap();
    assert_eq!((&shown["outcome"], &shown["rubric"]), (&json!("a program"), &json!("it compiles")));
    assert_eq!(shown["transcript"].as_array().unwrap().last().unwrap(), &json!({"by": "agent", "text": "done"}));

    assert_eq!(grade(&mut world, "needs_revision"), ["span.outcome_evaluation_end", "span.model_request_start"]);
    let last = world.session.primary().conversation().messages().last().unwrap();
    assert!(
        serde_json::to_string(&last.content).unwrap().contains("line 3 does not"),
        "the agent is told what is missing"
    );
    world.answer(vec![text("better")], Stop::EndTurn);
    assert_eq!(grade(&mut world, "satisfied"), [&["span.outcome_evaluation_end"][..], &IDLE].concat());
    assert_eq!(results(&world), [(0, OutcomeResult::NeedsRevision), (1, OutcomeResult::Satisfied)]);
    assert_eq!(world.last_stop(), StopReason::EndTurn {});
    let shown = &world.session.primary().state().outcomes()[0];
    assert_eq!((shown.result, shown.iteration), (OutcomeProgress::Satisfied, 1));
    assert!(shown.completed_at.is_some());
    assert_eq!(
        world.session.primary().state().settled_usage().input_tokens,
        10 + 7 + 10 + 7,
        "the grader's tokens are counted"
    );
}

#[test]
fn after_the_last_iteration_there_is_one_turn_and_no_grading() {
    let mut world = defined(1);
    world.answer(vec![text("done")], Stop::EndTurn);
    assert_eq!(grade(&mut world, "needs_revision"), ["span.outcome_evaluation_end", "span.model_request_start"]);
    assert_eq!(results(&world), [(0, OutcomeResult::MaxIterationsReached)]);
    assert_eq!(world.answer(vec![text("what is missing")], Stop::EndTurn)[2..], IDLE);
    assert_eq!(world.session.primary().state().outcomes()[0].result, OutcomeProgress::MaxIterationsReached);
}

#[test]
fn a_grader_that_fails_or_is_unclear_ends_the_outcome_and_says_so() {
    for answer in
        [None, Some(""), Some("great work"), Some("{\"result\": \"perfect\"}"), Some("{\"result\": \"failed\"}")]
    {
        let mut world = defined(3);
        world.answer(vec![text("done")], Stop::EndTurn);
        assert_eq!(world.consult(answer), [&["span.outcome_evaluation_end"][..], &IDLE].concat());
        assert_eq!(results(&world), [(0, OutcomeResult::Failed)], "{answer:?}");
    }
}

#[test]
fn an_interrupt_ends_the_outcome_at_any_point() {
    let interrupt = json!([{"type": "user.interrupt"}]);
    let mut working = defined(3);
    let shown = working.send(interrupt.clone()).unwrap();
    let ended = ["user.interrupt", "span.model_request_end", "span.outcome_evaluation_end"];
    assert_eq!(shown, [&ended[..], &IDLE].concat());

    let mut grading = defined(3);
    grading.answer(vec![text("done")], Stop::EndTurn);
    let (start, _) = grading.consulting.clone().unwrap();
    let shown = grading.send(interrupt).unwrap();
    assert_eq!(shown, [&["user.interrupt", "span.outcome_evaluation_end"][..], &IDLE].concat());
    assert_eq!(grading.consulting, None, "the grader is not waited for");
    let late = crate::Input::Consulted { start, answer: Ok(("{}".into(), Default::default())) };
    assert!(grading.input(late).is_empty());
    for world in [working, grading] {
        assert_eq!(results(&world), [(0, OutcomeResult::Interrupted)]);
        assert_eq!(world.session.primary().state().outcomes()[0].result, OutcomeProgress::Interrupted);
    }
}

#[test]
fn a_crash_while_the_grader_thinks_asks_it_again() {
    let mut world = defined(3);
    world.answer(vec![text("done")], Stop::EndTurn);
    let before = world.consulting.clone();
    assert!(world.crash().is_empty());
    assert_eq!(world.consulting, before, "for the evaluation that is in the log");
    grade(&mut world, "satisfied");
    assert_eq!(results(&world), [(0, OutcomeResult::Satisfied)]);
}

#[test]
fn one_outcome_at_a_time_and_only_while_nothing_else_is_under_way() {
    let mut world = defined(3);
    assert_eq!(world.send(outcome(3)).unwrap_err().status(), 400);
    world.answer(vec![call("bash")], Stop::ToolUse);
    assert_eq!(world.send(outcome(3)).unwrap_err().status(), 400);

    let mut busy = World::new();
    busy.say("hi");
    assert!(busy.send(outcome(3)).unwrap_err().message.contains("idle"));
    busy.answer(vec![call("bash")], Stop::ToolUse);
    assert!(busy.send(outcome(3)).unwrap_err().message.contains("call waits"));

    let mut twice = World::new();
    let both = json!([outcome(1)[0], outcome(1)[0]]);
    assert_eq!(twice.send(both).unwrap_err().status(), 400);
    assert_eq!(twice.session.primary().state().status, SessionStatus::Idle);
}

#[test]
fn a_message_during_the_grading_waits_for_the_next_turn() {
    let mut world = defined(3);
    world.answer(vec![text("done")], Stop::EndTurn);
    assert_eq!(world.say("also in French"), ["user.message"]);
    let shown = grade(&mut world, "satisfied");
    assert_eq!(shown, [&["span.outcome_evaluation_end"][..], &IDLE, &["user.message"], &RUN].concat());
}

#[test]
fn what_is_no_outcome_is_refused_with_its_place() {
    let rubric = json!({"type": "text", "content": "c"});
    for (description, rubric, iterations, part) in [
        ("", rubric.clone(), 1, "description"),
        ("d", json!({"type": "text", "content": " "}), 1, "rubric.content"),
        ("d", json!({"type": "text"}), 1, "rubric"),
        ("d", json!({"type": "file", "file_id": "file_1"}), 1, "file rubrics"),
        ("d", rubric.clone(), 0, "max_iterations"),
        ("d", rubric, 21, "max_iterations"),
    ] {
        let event = json!([{"type": "user.define_outcome", "description": description, "rubric": rubric,
            "max_iterations": iterations}]);
        let problem = World::new().send(event).unwrap_err();
        assert!(problem.status() == 400 && problem.message.contains(part), "{}", problem.message);
    }
}
