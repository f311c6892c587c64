//! Budgets: where a session pauses, what it takes meanwhile and how it goes on.

use postern_model::event::{EventBody, StopReason};
use serde_json::json;

use super::world::{World, agent, call, limits, text, tight};
use crate::input::Stop;
use crate::{Counsel, Input, Prices, Spending};

/// Each answer costs eleven cents.
fn world(cents: u64) -> World {
    World::of(agent(), limits()).paying(Some(cents))
}

fn message() -> serde_json::Value {
    json!([{"type": "user.message", "content": [{"type": "text", "text": "x"}]}])
}

/// A turn that needs a tool and reaches the cap with its first answer.
fn paused(cents: u64) -> World {
    let mut world = world(cents);
    world.say("go");
    world.answer(vec![call("bash")], Stop::ToolUse);
    let bash = world.calls()[0].clone();
    world.result(&bash).unwrap();
    world
}

#[test]
fn a_session_pauses_before_the_request_that_it_cannot_pay_in_the_contract_s_order() {
    let mut world = world(11);
    world.say("go");
    world.answer(vec![call("bash")], Stop::ToolUse);
    assert!(matches!(world.last_stop(), StopReason::RequiresAction { .. }), "what was asked for is still answered");
    let bash = world.calls()[0].clone();
    let shown = world.result(&bash).unwrap();
    assert_eq!(shown[3..], ["session.thread_status_idle", "session.usage", "session.status_idle"]);
    assert_eq!((world.last_stop(), world.request.clone()), (StopReason::BudgetReached {}, None));
}

#[test]
fn one_cent_more_than_was_spent_is_enough_for_the_next_request() {
    let world = paused(12);
    assert!(world.request.is_some());
}

#[test]
fn at_the_cap_only_what_settles_is_taken() {
    let mut world = paused(11);
    let outcome =
        json!([{"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}}]);
    for refused in [message(), outcome] {
        let problem = world.send(refused).unwrap_err();
        assert_eq!(problem.status(), 400);
        for named in ["tool_confirmation", "user.tool_result", "custom_tool_result", "user.interrupt"] {
            assert!(problem.message.contains(named), "{problem}");
        }
    }
    let shown = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(
        (shown, world.last_stop()),
        (vec!["user.interrupt", "session.usage", "session.status_idle"], StopReason::BudgetReached {}),
        "and changes nothing"
    );
}

#[test]
fn a_raised_budget_and_a_removed_one_go_on_with_the_turn_that_was_paused() {
    for cents in [Some(100), None] {
        let mut world = paused(11);
        let work = world.work;
        let shown = world.rebudget(cents);
        assert_eq!(shown[..3], ["session.updated", "session.status_running", "session.thread_status_running"]);
        assert!(world.request.is_some() && world.work > work, "the model is asked, and a worker comes back");
        let last = world.sent.last().unwrap();
        assert_eq!(last.content[0]["type"], "tool_result", "with what came meanwhile");
    }
}

#[test]
fn a_budget_that_is_raised_too_little_resumes_nothing_after_a_restart_either() {
    let mut world = paused(11);
    assert_eq!(world.crash(), Vec::<&str>::new());
    assert_eq!(world.rebudget(Some(11)), ["session.updated", "session.usage", "session.status_idle"]);
    assert_eq!(world.crash(), Vec::<&str>::new());
    assert!(world.rebudget(Some(12)).contains(&"session.status_running"));
}

#[test]
fn a_worker_that_gives_up_a_paused_session_leaves_it_to_its_budget() {
    let mut world = paused(11);
    let failed = Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() };
    assert_eq!(world.input(failed), ["session.error", "session.usage", "session.status_idle"]);
    assert_eq!(world.last_stop(), StopReason::BudgetReached {});
    world.crash();
    world.rebudget(Some(100));
    assert!(world.request.is_some(), "the turn goes on");
}

#[test]
fn a_grader_that_cannot_be_paid_is_asked_when_it_can() {
    let mut world = world(11);
    let rubric = json!({"type": "text", "content": "r"});
    world.send(json!([{"type": "user.define_outcome", "description": "d", "rubric": rubric}])).unwrap();
    world.answer(vec![text("done")], Stop::EndTurn);
    assert_eq!((world.last_stop(), world.consulting.is_some()), (StopReason::BudgetReached {}, false));
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    world.crash();
    world.rebudget(Some(50));
    assert_eq!(world.request, None, "the agent had ended its turn");
    assert_eq!(world.consulting.as_ref().map(|(_, asked)| asked.counsel), Some(Counsel::Grader));
    world.consult(Some(r#"{"result":"satisfied","explanation":"e"}"#));
    assert_eq!(world.last_stop(), StopReason::EndTurn {});
}

#[test]
fn where_a_judge_cannot_be_paid_a_person_is_asked() {
    for (cents, is_judged) in [(12, true), (11, false)] {
        let mut world = World::of(super::world::agent_with_servers(), tight()).paying(Some(cents));
        world.say("go");
        world.connect(&[]);
        world.answer(vec![call("mcp__wiki__judge")], Stop::ToolUse);
        assert_eq!(world.consulting.is_some(), is_judged);
    }
}

#[test]
fn tokens_without_a_price_stop_a_budgeted_session_and_show_no_cost() {
    let mut world = world(500);
    world.prices = Prices::default();
    world.session = world.replayed();
    world.say("go");
    world.answer(vec![call("bash")], Stop::ToolUse);
    let bash = world.calls()[0].clone();
    world.result(&bash).unwrap();
    assert_eq!(
        (world.last_stop(), world.session.primary().state().spending),
        (StopReason::BudgetReached {}, Spending::Unknown)
    );
    let shown = world.log.iter().rev().find_map(|event| match &event.body {
        EventBody::SessionUsage { usage, .. } => Some(usage.list_cost),
        _ => None,
    });
    assert_eq!(shown, Some(None), "a sum that leaves something out is none");
    world.rebudget(None);
    assert!(world.request.is_some(), "without a budget it goes on");
}

#[test]
fn what_was_spent_is_in_the_log_whatever_prices_say_later() {
    let mut world = paused(100);
    let spent = world.session.primary().state().spending;
    world.prices = Prices::default();
    world.session = world.replayed();
    assert_eq!(world.session.primary().state().spending, spent);
}
