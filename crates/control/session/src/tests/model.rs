//! The loop against a small model of it: whatever happens, in whatever order, with crashes in between, both say the same.
//!
//! The model (`reference`) is written from the contract, keeps no log and knows nothing of how the loop is built.

mod crew;
mod reference;

use postern_model::event::StopReason;
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use self::reference::{Failed, Grade, Reference, Seen, Stopped, Tool};
use super::world::{World, agent, call, limits, text};
use crate::calls::Progress;
use crate::{FailureKind, Input, Stop};

/// The runs that every test does; others are added by `PROPTEST_CASES`.
const SEEDS: [u8; 4] = [1, 2, 3, 4];
const CASES: u32 = 500;
/// After every so many steps the log is read back: each time would take longer than all the rest.
const REPLAYED: usize = 8;

#[derive(Clone, Debug)]
enum Act {
    Say,
    Interrupt,
    Define,
    Result(usize),
    CustomResult(usize),
    Confirm(usize, bool),
    Answer(Vec<Tool>),
    Stopped(Stopped),
    Fail(Failed),
    RetryDue,
    Grade(Grade),
    Crash,
    WorkFailed,
    Archive,
    Rebudget(Option<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let tool = prop::sample::select(vec![Tool::Free, Tool::Asks, Tool::Custom, Tool::Disabled]);
    let stop = prop::sample::select(vec![Stopped::Refusal, Stopped::Pause, Stopped::Cut]);
    let failed = prop::sample::select(vec![Failed::Helpless, Failed::Transient]);
    let grades = vec![Grade::Satisfied, Grade::Revise, Grade::Failed, Grade::Nonsense, Grade::Silence];
    prop_oneof![
        5 => Just(Act::Say),
        2 => Just(Act::Interrupt),
        2 => Just(Act::Define),
        6 => (0_usize..4).prop_map(Act::Result),
        3 => (0_usize..4).prop_map(Act::CustomResult),
        4 => (0_usize..4, any::<bool>()).prop_map(|(call, allow)| Act::Confirm(call, allow)),
        9 => prop::collection::vec(tool, 0..4).prop_map(Act::Answer),
        2 => stop.prop_map(Act::Stopped),
        3 => failed.prop_map(Act::Fail),
        3 => Just(Act::RetryDue),
        4 => prop::sample::select(grades).prop_map(Act::Grade),
        3 => Just(Act::Crash),
        1 => Just(Act::WorkFailed),
        1 => prop::bool::weighted(0.1).prop_map(|ends| if ends { Act::Archive } else { Act::Crash }),
        3 => prop::option::weighted(0.9, 1_u8..60).prop_map(Act::Rebudget),
    ]
}

/// Does the same to both. What one of them takes the other must take.
fn play(world: &mut World, model: &mut Reference, act: &Act) {
    let nth = |world: &World, n: usize| {
        let calls = world.calls();
        calls.get(calls.len().saturating_sub(1 + n)).cloned().unwrap_or_else(|| EventId::parse("sevt_none").unwrap())
    };
    let user = json!({"type": "user.message", "content": [{"type": "text", "text": "x"}]});
    let agreed = |sent: bool, taken: bool| assert_eq!(sent, taken, "{act:?}: accepted");
    match act {
        Act::Say => agreed(world.send(json!([user])).is_ok(), model.say()),
        Act::Interrupt => agreed(world.send(json!([{"type": "user.interrupt"}])).is_ok(), model.interrupt()),
        Act::Define => {
            let rubric = json!({"type": "text", "content": "r"});
            let define =
                json!({"type": "user.define_outcome", "description": "d", "rubric": rubric, "max_iterations": 2});
            agreed(world.send(json!([define])).is_ok(), model.define(2));
        }
        Act::Result(n) => {
            let id = nth(world, *n);
            agreed(world.result(&id).is_ok(), model.result(&id, false));
        }
        Act::CustomResult(n) => {
            let id = nth(world, *n);
            let result = json!({"type": "user.custom_tool_result", "custom_tool_use_id": id});
            agreed(world.send(json!([result])).is_ok(), model.result(&id, true));
        }
        Act::Confirm(n, allow) => {
            let id = nth(world, *n);
            let verdict = if *allow { "allow" } else { "deny" };
            let confirmation = json!({"type": "user.tool_confirmation", "tool_use_id": id, "result": verdict});
            agreed(world.send(json!([confirmation])).is_ok(), model.confirm(&id, *allow));
        }
        Act::Answer(tools) if world.request.is_some() => {
            let blocks = tools.iter().map(|tool| call(tool.name())).chain([text("said")]).collect();
            let before = world.calls().len();
            world.answer(blocks, if tools.is_empty() { Stop::EndTurn } else { Stop::ToolUse });
            model.answer(world.calls()[before..].iter().cloned().zip(tools.iter().copied()).collect());
        }
        Act::Stopped(how) if world.request.is_some() => {
            let stop = match how {
                Stopped::Refusal => Stop::Refusal(None),
                Stopped::Pause => Stop::PauseTurn,
                Stopped::Cut => Stop::MaxTokens,
            };
            world.answer(vec![text("said")], stop);
            model.stopped(*how);
        }
        Act::Fail(how) if world.request.is_some() => {
            world.fail(match how {
                Failed::Helpless => FailureKind::Rejected,
                Failed::Transient => FailureKind::Transient,
            });
            model.fail(*how);
        }
        Act::RetryDue => {
            world.retry();
            model.retry();
        }
        Act::Grade(grade) if world.consulting.is_some() => {
            world.consult(grade.says());
            model.grade(*grade);
        }
        Act::Crash => {
            world.crash();
            model.crash();
        }
        Act::WorkFailed => {
            world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() });
            model.work_failed();
        }
        Act::Archive if world.session.primary().state().status == SessionStatus::Idle => {
            world.input(Input::Archive);
            model.archive();
        }
        Act::Rebudget(raise)
            if world.budget.is_some() && world.session.primary().state().status != SessionStatus::Terminated =>
        {
            let cents = raise.map(|cents| model.spent() + u64::from(cents));
            world.rebudget(cents);
            model.rebudget(cents);
        }
        Act::Answer(_) | Act::Stopped(_) | Act::Fail(_) | Act::Grade(_) | Act::Archive | Act::Rebudget(_) => {}
    }
}

/// What can be seen of the loop of a thread.
fn shown(world: &World, thread: usize) -> Seen {
    let state = world.session.threads[thread].state();
    let reason = state.stop.as_ref().filter(|_| state.status == SessionStatus::Idle);
    Seen {
        status: state.status.as_str(),
        reason: reason.map(word),
        waiting: match reason {
            Some(StopReason::RequiresAction { event_ids }) => event_ids.clone(),
            _ => Vec::new(),
        },
        open: state.calls.iter().map(|call| (call.id.clone(), call.progress == Progress::Asking)).collect(),
        asks_model: world.asks(thread),
        asks_grader: thread == 0 && world.consulting.is_some(),
        queued: state.queue.len(),
    }
}

fn word(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::EndTurn {} => "end_turn",
        StopReason::RequiresAction { .. } => "requires_action",
        StopReason::RetriesExhausted {} => "retries_exhausted",
        StopReason::Refusal {} => "refusal",
        StopReason::BudgetReached {} => "budget_reached",
    }
}

fn agree(cents: Option<u8>, acts: &[Act]) {
    let mut world = World::of(agent(), limits()).paying(cents.map(u64::from));
    let mut model = Reference::new(cents.map(u64::from), limits());
    for (at, act) in acts.iter().enumerate() {
        play(&mut world, &mut model, act);
        assert_eq!(shown(&world, 0), model.seen(), "after {:?}", &acts[..=at]);
        if at % REPLAYED == 0 {
            assert_eq!(
                world.replayed().primary().state(),
                world.session.primary().state(),
                "the log says everything, after {act:?}"
            );
        }
    }
    world.assert_log_says_everything();
}

fn case() -> impl Strategy<Value = (Option<u8>, Vec<Act>)> {
    (prop::option::weighted(0.5, 1_u8..150), prop::collection::vec(act(), 1..60))
}

#[test]
fn the_loop_and_its_model_agree_on_every_committed_run() {
    for seed in SEEDS {
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let run = TestRunner::new_with_rng(config, random).run(&case(), |(cents, acts)| {
            agree(cents, &acts);
            Ok(())
        });
        run.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

proptest! {
    #[test]
    fn the_loop_and_its_model_agree_on_any_run((cents, acts) in case()) {
        agree(cents, &acts);
    }
}
