//! Whatever happens to runs of workflows in whatever order: what must hold of every log.

use std::collections::{BTreeMap, HashMap, HashSet};

use postern_model::event::{Event, EventBody, StopReason, WorkflowResult};
use postern_model::ids::{EventId, ThreadId, WorkflowRunId};
use postern_model::session::SessionStatus;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::workflow::{begin, conductor, workflow};
use super::world::{World, call, limits, text, tool};
use crate::{FailureKind, Input, Stop};

/// One thing that happens to a session.
#[derive(Clone, Debug)]
enum Act {
    Say,
    Interrupt,
    /// The model of the n-th thread that is asked says this; with the n-th workflow, where it starts one.
    Answer(usize, Word),
    Fail(usize, bool),
    /// A result for the n-th call from the end.
    Result(usize),
    Crash,
    WorkFailed,
    /// So many minutes go by.
    Later(u8),
    Rebudget(Option<u8>),
    Archive,
    Define,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Done,
    Json,
    Bash,
    Lookup,
    Start(usize),
    StopRun,
    ContinueRun,
    Check,
    Refuse,
}

fn act() -> impl Strategy<Value = Act> {
    let word = prop_oneof![
        4 => Just(Word::Done),
        4 => Just(Word::Json),
        2 => Just(Word::Bash),
        1 => Just(Word::Lookup),
        4 => (0_usize..5).prop_map(Word::Start),
        1 => Just(Word::StopRun),
        2 => Just(Word::ContinueRun),
        1 => Just(Word::Check),
        1 => Just(Word::Refuse),
    ];
    prop_oneof![
        4 => Just(Act::Say),
        1 => Just(Act::Interrupt),
        16 => (0_usize..6, word).prop_map(|(thread, word)| Act::Answer(thread, word)),
        2 => (0_usize..6, any::<bool>()).prop_map(|(thread, passes)| Act::Fail(thread, passes)),
        4 => (0_usize..6).prop_map(Act::Result),
        2 => Just(Act::Crash),
        1 => Just(Act::WorkFailed),
        1 => (1_u8..4).prop_map(Act::Later),
        2 => prop::option::weighted(0.9, 1_u8..120).prop_map(Act::Rebudget),
        1 => Just(Act::Archive),
        1 => Just(Act::Define),
    ]
}

/// Some workflows: one that needs no agent, one that fans out over what an agent says, one that repeats, one that lets failures
/// go, one that is none.
fn some(n: usize) -> Value {
    let ask = |prompt: &str| json!({"type": "agent", "agent": "scout", "prompt": prompt});
    let asks = |returns: &str, more: Value| {
        let mut step = json!({"type": "agent", "agent": "scout", "prompt": "x", "returns": returns});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    };
    let mut whole = match n {
        0 => workflow(json!([{"type": "set", "value": "a", "save_as": "a"}])),
        1 => json!({"name": "fan", "phases": [
            {"name": "one", "steps": [asks("json", json!({"save_as": "list"}))]},
            {"name": "two", "steps": [{"type": "for_each", "items": "{{list}}", "as": "item", "steps": [ask("{{item}}"), ask("y")]}]}]}),
        2 => workflow(json!([{"type": "repeat", "at_most": 3, "until": {"value": "{{v}}", "contains": "done"},
            "steps": [asks("text", json!({"save_as": "v"}))]}])),
        3 => workflow(json!([{"type": "parallel", "branches": [
            [asks("json", json!({"on_failure": "continue"}))], [asks("text", json!({"on_failure": "continue"}))]]}])),
        _ => workflow(json!([ask("{{nothing}}")])),
    };
    whole["lifetime_seconds"] = 300.into();
    whole
}

fn asked(world: &World) -> Vec<usize> {
    (0..=world.session.children().len()).filter(|thread| world.asks(*thread)).collect()
}

fn open_run(world: &World) -> Value {
    let id = world.session.runs.iter().next().map(|run| run.id.to_string());
    json!({"workflow_run_id": id.unwrap_or_else(|| "wrun_none".into())})
}

fn play(world: &mut World, act: &Act) {
    // What is refused changes nothing: the invariants are checked after either.
    match act {
        Act::Say => drop(world.send(json!([{"type": "user.message", "content": [{"type": "text", "text": "x"}]}]))),
        Act::Interrupt => drop(world.send(json!([{"type": "user.interrupt"}]))),
        Act::Define => {
            let rubric = json!({"type": "text", "content": "r"});
            drop(world.send(json!([{"type": "user.define_outcome", "description": "d", "rubric": rubric}])));
        }
        Act::Answer(thread, word) => {
            let asked = asked(world);
            if asked.is_empty() {
                return;
            }
            let thread = asked[thread % asked.len()];
            let (block, stop) = match word {
                Word::Done => (text("done"), Stop::EndTurn),
                Word::Json => (text("[1, 2, 3]"), Stop::EndTurn),
                Word::Bash => (call("bash"), Stop::ToolUse),
                Word::Lookup => (call("lookup"), Stop::ToolUse),
                Word::Start(n) => (begin(some(*n)), Stop::ToolUse),
                Word::StopRun => (tool("stop_workflow", open_run(world)), Stop::ToolUse),
                Word::ContinueRun => (tool("continue_workflow", open_run(world)), Stop::ToolUse),
                Word::Check => (tool("check_workflow", json!({})), Stop::ToolUse),
                Word::Refuse => (text("no"), Stop::Refusal(None)),
            };
            world.thread_answers(thread, vec![block], stop);
        }
        Act::Fail(thread, passes) => {
            let asked = asked(world);
            if let Some(thread) = asked.get(thread % asked.len().max(1)) {
                world.thread_fails(*thread, if *passes { FailureKind::Transient } else { FailureKind::Billing });
                wait(world);
            }
        }
        Act::Result(n) => {
            let calls = world.calls();
            if let Some(id) = calls.get(calls.len().wrapping_sub(1 + n)).cloned() {
                drop(world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}])));
                drop(world.result(&id));
            }
        }
        Act::Crash => {
            world.crash();
            wait(world);
        }
        Act::WorkFailed => {
            drop(world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() }));
        }
        Act::Later(minutes) => {
            world.seconds += 60 * i64::from(*minutes);
            world.input(Input::Lapsed);
        }
        Act::Rebudget(cents) if world.budget.is_some() && !is_over(world) => {
            world.rebudget(cents.map(|cents| spent(&world.log) + u64::from(cents)));
        }
        Act::Archive if world.session.overall().status == SessionStatus::Idle => drop(world.input(Input::Archive)),
        Act::Rebudget(_) | Act::Archive => {}
    }
    if world.consulting.is_some() {
        world.consult(Some(r#"{"result": "satisfied", "explanation": "e"}"#));
    }
}

/// Every wait to try again is over.
fn wait(world: &mut World) {
    let waits = |world: &World| -> Vec<ThreadId> {
        let threads = world.session.threads.iter();
        threads
            .filter(|thread| thread.state().status == SessionStatus::Rescheduling)
            .map(|thread| thread.id().clone())
            .collect()
    };
    for thread in waits(world) {
        world.input(Input::RetryDue(thread));
    }
}

fn is_over(world: &World) -> bool {
    world.session.overall().status == SessionStatus::Terminated
}

fn spent(log: &[Event]) -> u64 {
    let tokens = |event: &Event| match &event.body {
        EventBody::ModelRequestEnd { model_usage: usage, .. } | EventBody::OutcomeEvaluationEnd { usage, .. } => {
            usage.input_tokens + usage.output_tokens
        }
        _ => 0,
    };
    log.iter().map(tokens).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_run_keeps_the_promises_of_the_contract(cents in prop::option::weighted(0.4, 20_u8..200), acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::of(conductor(), limits()).paying(cents.map(u64::from));
        for act in &acts {
            play(&mut world, act);
            check(&world);
        }
        settle(&mut world);
        check(&world);
        prop_assert!(!world.session.has_open_runs());
        prop_assert!(world.session.threads.iter().all(|thread| thread.state().calls.is_empty()), "every call is answered");
    }
}

/// Everyone does their part, until the session waits for nothing.
fn settle(world: &mut World) {
    for _ in 0..400 {
        if is_over(world) {
            return;
        }
        let asked = asked(world);
        let calls: Vec<EventId> = world
            .session
            .threads
            .iter()
            .flat_map(|thread| thread.state().calls.iter())
            .map(|call| call.id.clone())
            .collect();
        if world.consulting.is_some() {
            world.consult(None);
        } else if let Some(thread) = asked.last() {
            let paused = world.session.runs.iter().any(|run| run.pace == crate::workflow::PaceOfRun::Interrupted);
            let block =
                if *thread == 0 && paused { tool("continue_workflow", open_run(world)) } else { text("[\"done\"]") };
            let stop = if *thread == 0 && paused { Stop::ToolUse } else { Stop::EndTurn };
            world.thread_answers(*thread, vec![block], stop);
        } else if !calls.is_empty() {
            for id in calls {
                drop(world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}])));
                drop(world.result(&id));
            }
            // An answer that nobody asked for any more is no way out.
            if world.session.overall().stop == Some(StopReason::BudgetReached {}) && world.budget.is_some() {
                world.rebudget(None);
            }
        } else if world.session.overall().stop == Some(StopReason::BudgetReached {})
            && world.session.overall().status == SessionStatus::Idle
            && world.budget.is_some()
        {
            world.rebudget(None);
        } else if world.session.has_open_runs() && world.budget.is_some() {
            // An interrupt came first: nothing says that the budget is spent too.
            world.rebudget(None);
        } else if world.session.has_open_runs() {
            let sent = world.send(json!([{"type": "user.message", "content": [{"type": "text", "text": "go on"}]}]));
            sent.expect("an idle session takes a message");
        } else {
            return;
        }
        wait(world);
    }
    panic!("the session does not come to rest: {:?}", world.session);
}

fn check(world: &World) {
    world.assert_log_says_everything();
    nothing_is_graded_while_a_run_is_open(&world.log);
    no_turn_ends_before_its_agent_has_heard_of_a_run_that_ended(world);
    nobody_does_the_same_step_of_a_run_twice(world);
    each_run_is_told_from_its_beginning_to_its_end(&world.log);
    the_log_and_the_state_agree_on_what_is_open(world);
    nothing_works_for_a_run_that_is_over(world);
    a_running_run_keeps_its_session_running_or_waits_for_somebody(world);
}

fn of_run(event: &Event) -> Option<&WorkflowRunId> {
    match &event.body {
        EventBody::WorkflowRunCreated { workflow_run_id: id, .. }
        | EventBody::WorkflowRunRunning { workflow_run_id: id }
        | EventBody::WorkflowRunIdle { workflow_run_id: id }
        | EventBody::WorkflowRunPhaseStarted { workflow_run_id: id, .. }
        | EventBody::WorkflowRunPhaseEnded { workflow_run_id: id, .. }
        | EventBody::WorkflowRunEnded { workflow_run_id: id, .. } => Some(id),
        EventBody::WorkflowRunError { workflow_run_id: id, .. } => id.as_ref(),
        _ => None,
    }
}

fn each_run_is_told_from_its_beginning_to_its_end(log: &[Event]) {
    let mut runs: HashMap<&WorkflowRunId, Vec<&Event>> = HashMap::new();
    for event in log {
        if let Some(id) = of_run(event) {
            runs.entry(id).or_default().push(event);
        }
    }
    for events in runs.values() {
        let kinds: Vec<&str> = events.iter().map(|event| event.body.kind()).collect();
        assert_eq!(kinds[0], "workflow_run.created");
        assert!(kinds.iter().skip(1).all(|kind| *kind != "workflow_run.created"));
        let ends = kinds.iter().filter(|kind| **kind == "workflow_run.status_ended").count();
        assert!(ends == 0 || (ends == 1 && kinds.last() == Some(&"workflow_run.status_ended")), "{kinds:?}");
        let paces: Vec<&&str> =
            kinds.iter().filter(|kind| kind.ends_with("_running") || kind.ends_with("_idle")).collect();
        assert!(paces.windows(2).all(|pair| pair[0] != pair[1]), "running and idle by turns: {kinds:?}");
        let mut open: Option<(&EventId, Value)> = None;
        let mut entered = Vec::new();
        for event in events {
            match &event.body {
                EventBody::WorkflowRunPhaseStarted { workflow_run_phase_id, .. } => {
                    assert!(open.is_none(), "one phase at a time");
                    open = Some((&event.id, json!(workflow_run_phase_id)));
                    entered.push(workflow_run_phase_id);
                }
                EventBody::WorkflowRunPhaseEnded { workflow_run_phase_id, phase_started_id, .. } => {
                    assert_eq!(open.take(), Some((phase_started_id, json!(workflow_run_phase_id))));
                }
                EventBody::WorkflowRunEnded { result, .. } => {
                    assert!(open.is_none(), "what began has ended");
                    let before = events.iter().rev().nth(1).map(|event| &event.body);
                    let error = match before {
                        Some(EventBody::WorkflowRunError { error, .. }) => Some(error),
                        _ => None,
                    };
                    let expected = match result {
                        WorkflowResult::Error { error } => Some(error),
                        WorkflowResult::Completed {} | WorkflowResult::Stopped {} => None,
                    };
                    assert_eq!(error, expected, "an error is told before the end");
                    let errors = kinds.iter().filter(|kind| **kind == "workflow_run.error").count();
                    assert_eq!(errors, usize::from(expected.is_some()), "and no other");
                }
                _ => {}
            }
        }
        let once: HashSet<_> = entered.iter().collect();
        assert_eq!(once.len(), entered.len(), "each phase at most once");
    }
}

fn nothing_is_graded_while_a_run_is_open(log: &[Event]) {
    let mut open = 0;
    for event in log {
        match &event.body {
            EventBody::WorkflowRunCreated { .. } => open += 1,
            EventBody::WorkflowRunEnded { .. } => open -= 1,
            EventBody::OutcomeEvaluationStart { .. } => assert_eq!(open, 0, "what a run comes to is part of the work"),
            _ => {}
        }
    }
}

/// After a run's end with a notice, the session's agent is asked before the session rests at the end of a turn, unless somebody
/// interrupts.
fn no_turn_ends_before_its_agent_has_heard_of_a_run_that_ended(world: &World) {
    let primary = world.session.primary().id();
    let mut unheard = false;
    for event in &world.log {
        match &event.body {
            EventBody::WorkflowRunEnded { .. } => {
                unheard |= crate::marks::read_notice(world.kept.get(&event.id).map(Vec::as_slice)).is_some();
            }
            EventBody::ModelRequestStart {} if world.owners.get(&event.id) == Some(primary) => unheard = false,
            EventBody::UserInterrupt { .. } => unheard = false,
            EventBody::StatusIdle { stop_reason: StopReason::EndTurn {}, .. } => {
                assert!(!unheard, "it has not heard of it")
            }
            _ => {}
        }
    }
}

fn nobody_does_the_same_step_of_a_run_twice(world: &World) {
    let mut done = HashSet::new();
    for errand in world.session.threads.iter().filter_map(|thread| thread.errand()) {
        assert!(done.insert(json!(errand).to_string()), "{errand:?}");
    }
}

fn the_log_and_the_state_agree_on_what_is_open(world: &World) {
    let mut open = BTreeMap::new();
    for event in &world.log {
        match &event.body {
            EventBody::WorkflowRunCreated { workflow_run_id, .. } => drop(open.insert(workflow_run_id.to_string(), ())),
            EventBody::WorkflowRunEnded { workflow_run_id, .. } => drop(open.remove(workflow_run_id.as_str())),
            _ => {}
        }
    }
    let known: BTreeMap<_, _> = world.session.runs.iter().map(|run| (run.id.to_string(), ())).collect();
    assert_eq!(open, known);
    assert!(!is_over(world) || known.is_empty(), "a session that is over has no run");
}

fn nothing_works_for_a_run_that_is_over(world: &World) {
    for (at, thread) in world.session.threads.iter().enumerate() {
        let Some(run) = thread.workflow_run_id() else { continue };
        let is_open = world.session.runs.iter().any(|open| open.id == *run);
        let is_alive = thread.state().status != SessionStatus::Terminated;
        assert!(is_open || !is_alive, "a thread outlives its run");
        assert!(is_alive || (!world.asks(at) && thread.state().calls.is_empty()), "what is over asks nothing");
    }
}

fn a_running_run_keeps_its_session_running_or_waits_for_somebody(world: &World) {
    let runs = || world.session.runs.iter();
    let overall = world.session.overall();
    if runs().any(|run| run.pace == crate::workflow::PaceOfRun::Running) && overall.status == SessionStatus::Idle {
        assert!(matches!(overall.stop, Some(StopReason::RequiresAction { .. })), "{:?}", overall.stop);
    }
    for run in runs().filter(|run| run.pace != crate::workflow::PaceOfRun::Running) {
        let works = |thread: &&crate::Thread| thread.workflow_run_id() == Some(&run.id);
        let mut threads = world.session.threads.iter().filter(works);
        let begins = |thread: &crate::Thread| {
            thread.state().status == SessionStatus::Running && thread.state().request.is_none()
        };
        assert!(!threads.any(begins), "nothing new begins for a run that waits");
    }
}
