//! The same with agents that work for another: each thread is a loop of its own, and what they come to is added up.

use std::collections::HashMap;

use postern_model::event::StopReason;
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use super::super::world::{World, advised, ask, call, limits, start, tell, text};
use super::reference::Reference;
use super::words::{Failed, Stopped, Tool};
use super::{CASES, SEEDS, shown};
use crate::advise::MOST_QUESTIONS;
use crate::coordinate::MOST_THREADS;
use crate::{FailureKind, Input, Stop};

/// One thing that a coordinator or another agent wants.
#[derive(Clone, Copy, Debug)]
enum Want {
    Tool(Tool),
    Start,
    Tell(usize),
    Ask,
}

/// What happens; a number picks a thread, the primary one being 0.
#[derive(Clone, Debug)]
enum Act {
    Say,
    Interrupt(Option<usize>),
    Result(usize),
    CustomResult(usize),
    Confirm(usize, bool),
    Answer(usize, Vec<Want>),
    Stopped(usize, Stopped),
    Fail(usize, Failed),
    RetryDue(usize),
    Crash,
    WorkFailed,
    ArchiveThread(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let tool = prop::sample::select(vec![Tool::Free, Tool::Asks, Tool::Custom, Tool::Disabled]);
    let want = prop_oneof![
        3 => tool.prop_map(Want::Tool),
        3 => Just(Want::Start),
        2 => (0_usize..4).prop_map(Want::Tell),
        2 => Just(Want::Ask)];
    let stop = prop::sample::select(vec![Stopped::Refusal, Stopped::Pause, Stopped::Cut]);
    let failed = prop::sample::select(vec![Failed::Helpless, Failed::Transient]);
    let thread = 0_usize..4;
    prop_oneof![
        4 => Just(Act::Say),
        1 => prop::option::of(thread.clone()).prop_map(Act::Interrupt),
        6 => (0_usize..6).prop_map(Act::Result),
        3 => (0_usize..6).prop_map(Act::CustomResult),
        4 => (0_usize..6, any::<bool>()).prop_map(|(call, allow)| Act::Confirm(call, allow)),
        14 => (thread.clone(), prop::collection::vec(want, 0..4)).prop_map(|(n, wants)| Act::Answer(n, wants)),
        2 => (thread.clone(), stop).prop_map(|(n, stop)| Act::Stopped(n, stop)),
        3 => (thread.clone(), failed).prop_map(|(n, failed)| Act::Fail(n, failed)),
        3 => thread.clone().prop_map(Act::RetryDue),
        2 => Just(Act::Crash),
        1 => Just(Act::WorkFailed),
        2 => thread.prop_map(Act::ArchiveThread),
    ]
}

/// The loops of all threads, the primary one first, and which call each advisor is to answer.
struct Crew(Vec<Reference>, HashMap<usize, EventId>);

impl Crew {
    /// What a thread does, and what the primary one hears of it.
    fn as_thread<T>(&mut self, n: usize, act: impl FnOnce(&mut Reference) -> T) -> T {
        let done = act(&mut self.0[n]);
        for _ in 0..std::mem::take(&mut self.0[n].reports) {
            self.0[0].hear();
        }
        self.part_with_advisors();
        done
    }

    /// An advisor that is over has answered its call, and one whose call is closed is over.
    fn part_with_advisors(&mut self) {
        for (n, call) in &self.1 {
            if self.0[*n].is_over() {
                self.0[0].advised(call);
            } else if !self.0[0].has(call) {
                self.0[*n].archive();
            }
        }
    }

    fn of_call(&self, id: &EventId) -> Option<usize> {
        self.0.iter().position(|thread| thread.has(id))
    }

    fn working(&self) -> usize {
        self.0[1..].iter().filter(|thread| !thread.is_over() && !thread.is_advisor()).count()
    }

    /// The model of a thread has answered with these calls.
    fn answer(&mut self, n: usize, calls: Vec<(EventId, Want)>) {
        let mut opened = Vec::new();
        for (id, want) in calls {
            let is_told = |to: usize| to > 0 && to < self.0.len() && !self.0[to].is_over() && !self.0[to].is_advisor();
            let asked = self.0[1..].iter().filter(|thread| !thread.is_over() && thread.is_advisor()).count();
            let tool = match want {
                Want::Tool(_) if self.0[n].is_advisor() => Tool::Disabled,
                Want::Tool(tool) => tool,
                Want::Start if n == 0 && self.working() < MOST_THREADS => {
                    self.0.push(Reference::child(limits()));
                    let last = self.0.len() - 1;
                    self.0[last].hear();
                    Tool::Disabled
                }
                Want::Ask if n == 0 && asked < MOST_QUESTIONS => {
                    self.0.push(Reference::advisor(limits()));
                    let last = self.0.len() - 1;
                    self.0[last].hear();
                    self.1.insert(last, id.clone());
                    Tool::Advised
                }
                Want::Tell(to) if n == 0 && is_told(to) => {
                    self.0[to].hear();
                    Tool::Disabled
                }
                // Answered at once, like whatever is not there.
                Want::Start | Want::Tell(_) | Want::Ask => Tool::Disabled,
            };
            opened.push((id, tool));
        }
        self.as_thread(n, |thread| thread.answer(opened));
    }

    fn work_failed(&mut self) {
        for n in 1..self.0.len() {
            if self.0[n].needs_worker() {
                self.0[n].archive();
            }
        }
        self.as_thread(0, Reference::work_failed);
    }

    /// What the session does, why it rests, and whom it waits for.
    fn comes_to(&self) -> (&'static str, Option<&'static str>, Vec<EventId>) {
        let seen: Vec<_> = self.0.iter().map(Reference::seen).collect();
        let any = |status: &str| seen.iter().any(|thread| thread.status == status);
        if let Some(status) = ["running", "rescheduling"].into_iter().find(|status| any(status)) {
            return (status, None, Vec::new());
        }
        let waiting: Vec<_> = seen.iter().flat_map(|thread| thread.waiting.clone()).collect();
        let reason = if waiting.is_empty() { seen[0].reason } else { Some("requires_action") };
        ("idle", reason, waiting)
    }
}

fn overall(world: &World) -> (&'static str, Option<&'static str>, Vec<EventId>) {
    let overall = world.session.overall();
    let reason = overall.stop.as_ref().filter(|_| overall.status == SessionStatus::Idle);
    let waiting = match reason {
        Some(StopReason::RequiresAction { event_ids }) => event_ids.clone(),
        _ => Vec::new(),
    };
    (overall.status.as_str(), reason.map(super::word), waiting)
}

fn play(world: &mut World, crew: &mut Crew, act: &Act) {
    let nth = |world: &World, n: usize| {
        let calls = world.calls();
        calls.get(calls.len().saturating_sub(1 + n)).cloned().unwrap_or_else(|| EventId::parse("sevt_none").unwrap())
    };
    let count = crew.0.len();
    let agreed = |sent: bool, taken: bool| assert_eq!(sent, taken, "{act:?}: accepted");
    match act {
        Act::Say => {
            let user = json!({"type": "user.message", "content": [{"type": "text", "text": "x"}]});
            agreed(world.send(json!([user])).is_ok(), crew.0[0].say());
        }
        Act::Interrupt(n) => {
            let thread = n.map(|n| world.session.threads[n % count].id.clone());
            world.send(json!([{"type": "user.interrupt", "session_thread_id": thread}])).unwrap();
            for at in (0..count).filter(|at| n.is_none_or(|n| n % count == *at)) {
                assert!(crew.as_thread(at, Reference::interrupt) || at > 0);
            }
        }
        Act::Result(n) => {
            let id = nth(world, *n);
            let taken = crew.of_call(&id).is_some_and(|at| crew.as_thread(at, |thread| thread.result(&id, false)));
            agreed(world.result(&id).is_ok(), taken);
        }
        Act::CustomResult(n) => {
            let id = nth(world, *n);
            let taken = crew.of_call(&id).is_some_and(|at| crew.as_thread(at, |thread| thread.result(&id, true)));
            let result = json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}]);
            agreed(world.send(result).is_ok(), taken);
        }
        Act::Confirm(n, allow) => {
            let id = nth(world, *n);
            let taken = crew.of_call(&id).is_some_and(|at| crew.as_thread(at, |thread| thread.confirm(&id, *allow)));
            let verdict = if *allow { "allow" } else { "deny" };
            let confirmation = json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": verdict}]);
            agreed(world.send(confirmation).is_ok(), taken);
        }
        Act::Answer(n, wants) if world.asks(n % count) => {
            let block = |want: &Want| match want {
                Want::Tool(tool) => call(tool.name()),
                Want::Start => start("scout", "m"),
                Want::Tell(to) => tell(&world.session.threads[to % count].id, "m"),
                Want::Ask => ask("m"),
            };
            let blocks = wants.iter().map(block).chain([text("said")]).collect();
            let wants = wants.iter().map(|want| if let Want::Tell(to) = want { Want::Tell(to % count) } else { *want });
            let wants: Vec<_> = wants.collect();
            let before = world.calls().len();
            world.thread_answers(n % count, blocks, if wants.is_empty() { Stop::EndTurn } else { Stop::ToolUse });
            crew.answer(n % count, world.calls()[before..].iter().cloned().zip(wants).collect());
        }
        Act::Stopped(n, how) if world.asks(n % count) => {
            let stop = match how {
                Stopped::Refusal => Stop::Refusal(None),
                Stopped::Pause => Stop::PauseTurn,
                Stopped::Cut => Stop::MaxTokens,
                Stopped::Outgrown => Stop::ContextExceeded,
            };
            world.thread_answers(n % count, vec![text("said")], stop);
            crew.as_thread(n % count, |thread| thread.stopped(*how));
        }
        Act::Fail(n, how) if world.asks(n % count) => {
            let kind = match how {
                Failed::Helpless => FailureKind::Rejected,
                Failed::Transient => FailureKind::Transient,
                Failed::TooLong => FailureKind::TooLong,
            };
            world.thread_fails(n % count, kind);
            crew.as_thread(n % count, |thread| thread.fail(*how));
        }
        Act::RetryDue(n) => {
            world.input(Input::RetryDue(world.session.threads[n % count].id.clone()));
            crew.as_thread(n % count, Reference::retry);
        }
        Act::Crash => {
            world.crash();
            (0..count).for_each(|n| crew.as_thread(n, Reference::crash));
        }
        Act::WorkFailed => {
            world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() });
            crew.work_failed();
        }
        Act::ArchiveThread(n) if n % count > 0 && crew.0[n % count].is_idle() => {
            world.input(Input::ArchiveThread(world.session.threads[n % count].id.clone()));
            crew.0[n % count].archive();
        }
        Act::Answer(..) | Act::Stopped(..) | Act::Fail(..) | Act::ArchiveThread(_) => {}
    }
}

fn agree(acts: &[Act]) {
    let mut world = World::of(advised(), limits());
    let mut model = Crew(vec![Reference::new(None, limits())], HashMap::new());
    for (at, act) in acts.iter().enumerate() {
        play(&mut world, &mut model, act);
        let seen: Vec<_> = (0..world.session.threads.len()).map(|n| shown(&world, n)).collect();
        let expected: Vec<_> = model.0.iter().map(Reference::seen).collect();
        assert_eq!(seen, expected, "after {:?}", &acts[..=at]);
        assert_eq!(overall(&world), model.comes_to(), "after {:?}", &acts[..=at]);
        if at % super::REPLAYED == 0 {
            world.assert_log_says_everything();
        }
    }
    world.assert_log_says_everything();
}

#[test]
fn threads_and_their_model_agree_on_every_committed_run() {
    for seed in SEEDS {
        let config = Config { cases: CASES / 2, failure_persistence: None, ..Config::default() };
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let run = TestRunner::new_with_rng(config, random).run(&prop::collection::vec(act(), 1..60), |acts| {
            agree(&acts);
            Ok(())
        });
        run.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

proptest! {
    #[test]
    fn threads_and_their_model_agree_on_any_run(acts in prop::collection::vec(act(), 1..60)) {
        agree(&acts);
    }
}
