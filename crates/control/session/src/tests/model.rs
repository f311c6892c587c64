//! The loop against a small model of it: whatever happens, in whatever order, with crashes in between, both say the same.
//!
//! The model (`reference`) is written from the contract, keeps no log and knows nothing of how the loop is built.

mod crew;
mod lines;
mod reference;
mod words;

use postern_model::event::StopReason;
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use self::reference::Reference;
use self::words::{Failed, Grade, Seen, Stopped, Tool, Verdict};
use super::world::{World, agent, agent_with_servers, call, limits, text};
use crate::calls::Progress;
use crate::{Counsel, Counsellor, FailureKind, Input, Limits, Stop};

/// The runs that every test does; others are added by `PROPTEST_CASES`.
const SEEDS: [u8; 4] = [1, 2, 3, 4];
const CASES: u32 = 500;
/// After every so many steps the log is read back: each time would take longer than all the rest.
const REPLAYED: usize = 8;
/// By how much the clock is set, in seconds.
const DAY: i64 = 24 * 60 * 60;

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
    /// The judge says this of every call.
    Judge(Verdict),
    /// The MCP servers answer; which of the two fail.
    Connect(bool, bool),
    /// The n-th of the calls that the server runs ends.
    CallEnds(usize),
    /// Somebody sets the clock: forward, or back.
    SetClock(bool),
    Crash,
    WorkFailed,
    Archive,
    Rebudget(Option<u8>),
}

/// What a session has besides a worker's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Nothing,
    /// MCP servers, web tools and a judge.
    Servers,
}

fn act(has: Has) -> impl Strategy<Value = Act> {
    use Tool::{Asks, Composed, Custom, Danger, Disabled, Edit, Free, Judged, Read, Search, WebSearch};
    let tool = match has {
        Has::Nothing => vec![Free, Asks, Custom, Disabled],
        Has::Servers => {
            vec![Free, Asks, Custom, Disabled, Search, Read, Edit, Judged, Judged, Danger, WebSearch, Composed]
        }
    };
    let tool = prop::sample::select(tool);
    let stop = prop::sample::select(vec![Stopped::Refusal, Stopped::Pause, Stopped::Cut, Stopped::Outgrown]);
    let failed = prop::sample::select(vec![Failed::Helpless, Failed::Transient, Failed::TooLong]);
    let verdict = vec![Verdict::Allow, Verdict::Deny, Verdict::Ask, Verdict::Nonsense, Verdict::Silence];
    let served = u32::from(has == Has::Servers);
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
        1 + 5 * served => prop::sample::select(verdict).prop_map(Act::Judge),
        1 + 8 * served => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(wiki, docs)| Act::Connect(wiki, docs)),
        1 + 5 * served => (0_usize..2).prop_map(Act::CallEnds),
        1 => any::<bool>().prop_map(Act::SetClock),
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
            if !model.consults(tools) {
                model.answer(world.calls()[before..].iter().cloned().zip(tools.iter().copied()).collect());
            }
        }
        Act::Stopped(how) if world.request.is_some() => {
            let stop = match how {
                Stopped::Refusal => Stop::Refusal(None),
                Stopped::Pause => Stop::PauseTurn,
                Stopped::Cut => Stop::MaxTokens,
                Stopped::Outgrown => Stop::ContextExceeded,
            };
            world.answer(vec![text("said")], stop);
            model.stopped(*how);
        }
        Act::Fail(how) if world.request.is_some() => {
            world.fail(match how {
                Failed::Helpless => FailureKind::Rejected,
                Failed::Transient => FailureKind::Transient,
                Failed::TooLong => FailureKind::TooLong,
            });
            model.fail(*how);
        }
        Act::RetryDue => {
            world.retry();
            model.retry();
        }
        Act::Grade(grade) if asked(world) == Some(Counsel::Grader) => {
            world.consult(grade.says());
            model.grade(*grade);
        }
        Act::Judge(verdict) if asked(world) == Some(Counsel::Judge) => {
            let before = world.calls().len();
            world.consult(verdict.says().as_deref());
            model.judge(*verdict, &world.calls()[before..]);
        }
        Act::Connect(wiki, docs) if world.connecting.is_some() => {
            let failing = [(wiki, "wiki"), (docs, "docs")].into_iter().filter(|(fails, _)| **fails);
            world.connect(&failing.map(|(_, name)| name).collect::<Vec<_>>());
            model.connected(*wiki, *docs);
        }
        Act::CallEnds(n) if *n < world.running.len() => {
            let call = world.running.remove(*n);
            world.input(Input::Called { call: call.clone(), content: Vec::new(), is_error: false });
            model.called(&call);
        }
        // The model has no clock: none of what it says may depend on one.
        Act::SetClock(is_forward) => world.seconds += if *is_forward { DAY } else { -DAY },
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
        Act::Answer(_)
        | Act::Stopped(_)
        | Act::Fail(_)
        | Act::Grade(_)
        | Act::Judge(_)
        | Act::Connect(..)
        | Act::CallEnds(_)
        | Act::Archive
        | Act::Rebudget(_) => {}
    }
}

/// Who is asked something beside the conversation.
fn asked(world: &World) -> Option<Counsel> {
    world.consulting.as_ref().map(|(_, consultation)| consultation.counsel)
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
        consults: thread == 0 && world.consulting.is_some(),
        queued: state.queue.len(),
        connects: thread == 0 && world.connecting.is_some(),
        running: if thread == 0 { world.running.clone() } else { Vec::new() },
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

fn agree(has: Has, cents: Option<u8>, acts: &[Act]) {
    let cents = cents.map(u64::from);
    let (mut world, mut model) = match has {
        Has::Nothing => (World::of(agent(), limits()).paying(cents), Reference::new(cents, limits())),
        Has::Servers => {
            let limits = Limits { judge: Counsellor::Present, ..limits() };
            (World::of(agent_with_servers(), limits).paying(cents), Reference::served(cents, limits))
        }
    };
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
    let times: Vec<_> = world.log.iter().filter_map(|event| event.processed_at).collect();
    assert!(times.is_sorted(), "no event is earlier than the one before it, whatever the clock says: {times:?}");
    // Each once: what had begun and was not answered is not begun again.
    let mut begun = world.begun.clone();
    begun.sort();
    begun.dedup();
    assert_eq!(begun.len(), world.begun.len(), "a call began twice");
}

fn case(has: Has) -> impl Strategy<Value = (Option<u8>, Vec<Act>)> {
    (prop::option::weighted(0.5, 1_u8..150), prop::collection::vec(act(has), 1..60))
}

fn agree_on_committed_runs(has: Has) {
    // There is more to do in these, and as much time.
    let cases = if has == Has::Servers { CASES / 2 } else { CASES };
    for seed in SEEDS {
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let run = TestRunner::new_with_rng(config, random).run(&case(has), |(cents, acts)| {
            agree(has, cents, &acts);
            Ok(())
        });
        run.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

#[test]
fn the_loop_and_its_model_agree_on_every_committed_run() {
    agree_on_committed_runs(Has::Nothing);
}

#[test]
fn with_servers_web_tools_and_a_judge_they_agree_too() {
    agree_on_committed_runs(Has::Servers);
}

proptest! {
    #[test]
    fn the_loop_and_its_model_agree_on_any_run((cents, acts) in case(Has::Nothing)) {
        agree(Has::Nothing, cents, &acts);
    }

    #[test]
    fn with_servers_web_tools_and_a_judge_they_agree_on_any_run((cents, acts) in case(Has::Servers)) {
        agree(Has::Servers, cents, &acts);
    }
}
