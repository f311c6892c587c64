//! Whatever happens in whatever order: what must hold of every log.

use std::collections::{HashMap, HashSet};

use postern_model::event::{Event, EventBody, Permission, StopReason, Verdict};
use postern_model::ids::EventId;
use postern_model::money::Cost;
use postern_model::session::SessionStatus;
use proptest::prelude::*;
use serde_json::json;

use super::world::{World, agent, agent_with_servers, call, limits, text, tight};
use crate::calls::Owner;
use crate::marks::Mark;
use crate::{Counsel, FailureKind, Input, Lacking, ModelEvent, Stop};

/// One thing that happens to a session.
#[derive(Clone, Debug)]
enum Act {
    Say,
    Interrupt,
    Define,
    InterruptAndSay,
    /// A result for the n-th call ever made, right or wrong.
    Result(usize),
    LongResult(usize),
    CustomResult(usize),
    Confirm(usize, bool),
    Piece,
    Answer(Vec<&'static str>),
    Stopped(u8),
    Fail(u8),
    RetryDue,
    Crash,
    WorkFailed,
    Missing,
    Rename,
    StaleNews,
    Archive,
    /// The servers answer; which of the two fail.
    Connect(bool, bool),
    /// The n-th of the MCP calls that run ends.
    CallEnds(usize),
    StaleMcp,
    /// The judge answers this, nonsense, or nothing.
    Judge(u8),
    StillConsulting,
    /// A budget is raised by this many cents, or removed.
    Rebudget(Option<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let tool = prop::sample::select(vec![
        "bash",
        "write",
        "lookup",
        "grep",
        "mcp__wiki__search",
        "mcp__wiki__edit",
        "mcp__wiki__judge",
        "mcp__wiki__danger",
        "mcp__docs__read",
        "mcp__nobody__x",
        "web_search",
        "web_fetch",
    ]);
    prop_oneof![
        6 => Just(Act::Say),
        2 => Just(Act::Interrupt),
        2 => Just(Act::Define),
        1 => Just(Act::InterruptAndSay),
        6 => (0_usize..8).prop_map(Act::Result),
        3 => (0_usize..8).prop_map(Act::LongResult),
        3 => (0_usize..8).prop_map(Act::CustomResult),
        4 => (0_usize..8, any::<bool>()).prop_map(|(call, allow)| Act::Confirm(call, allow)),
        3 => Just(Act::Piece),
        8 => prop::collection::vec(tool, 0..5).prop_map(Act::Answer),
        1 => (0_u8..4).prop_map(Act::Stopped),
        3 => (0_u8..6).prop_map(Act::Fail),
        3 => Just(Act::RetryDue),
        3 => Just(Act::Crash),
        1 => Just(Act::WorkFailed),
        1 => Just(Act::Missing),
        1 => Just(Act::Rename),
        1 => Just(Act::StaleNews),
        1 => Just(Act::Archive),
        8 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(a, b)| Act::Connect(a, b)),
        6 => (0_usize..3).prop_map(Act::CallEnds),
        1 => Just(Act::StaleMcp),
        6 => (0_u8..5).prop_map(Act::Judge),
        1 => Just(Act::StillConsulting),
        3 => prop::option::weighted(0.9, 1_u8..80).prop_map(Act::Rebudget),
    ]
}

fn play(world: &mut World, act: &Act) {
    let nth = |world: &World, n: usize| {
        let calls = world.calls();
        calls.get(calls.len().saturating_sub(1 + n)).cloned().unwrap_or_else(|| EventId::parse("sevt_none").unwrap())
    };
    // What is refused changes nothing: the invariants are checked after either.
    match act {
        Act::Say => drop(world.send(json!([{"type": "user.message", "content": [{"type": "text", "text": "x"}]}]))),
        Act::Define => {
            let rubric = json!({"type": "text", "content": "r"});
            let outcome =
                json!({"type": "user.define_outcome", "description": "d", "rubric": rubric, "max_iterations": 2});
            drop(world.send(json!([outcome])));
        }
        Act::Interrupt => drop(world.send(json!([{"type": "user.interrupt"}]))),
        Act::InterruptAndSay => drop(world.send(
            json!([{"type": "user.interrupt"}, {"type": "user.message", "content": [{"type": "text", "text": "x"}]}]),
        )),
        Act::Result(n) => drop(world.result(&nth(world, *n))),
        Act::LongResult(n) => drop(world.result_of(&nth(world, *n), &"long ".repeat(200))),
        Act::CustomResult(n) => {
            let id = nth(world, *n);
            drop(world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}])));
        }
        Act::Confirm(n, allow) => {
            let result = if *allow { "allow" } else { "deny" };
            let id = nth(world, *n);
            drop(world.send(json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": result}])));
        }
        Act::Piece if world.request.is_some() => {
            world.model(ModelEvent::Text { index: 0, text: "pi".into() });
        }
        Act::Answer(tools) if world.request.is_some() => {
            let mut blocks = vec![text("piece")];
            blocks.extend(tools.iter().map(|tool| call(tool)));
            world.answer(blocks, if tools.is_empty() { Stop::EndTurn } else { Stop::ToolUse });
        }
        Act::Stopped(way) if world.request.is_some() => {
            let stops = [Stop::Refusal(None), Stop::MaxTokens, Stop::PauseTurn, Stop::ContextExceeded];
            world.answer(vec![text("t")], stops[usize::from(*way)].clone());
        }
        Act::Fail(way) if world.request.is_some() => {
            use FailureKind::{Billing, Overloaded, RateLimited, Rejected, TooLong, Transient};
            world.fail([Billing, Overloaded, RateLimited, Rejected, Transient, TooLong][usize::from(*way)]);
        }
        Act::RetryDue => drop(world.retry()),
        Act::Crash => drop(world.crash()),
        Act::WorkFailed => {
            drop(world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() }));
        }
        Act::Missing => {
            let lacking = Lacking::Something;
            let message = world.log.len().to_string();
            drop(world.input(Input::Missing { code: "c".into(), message, lacking }));
        }
        Act::Rename => drop(world.rename()),
        Act::StaleNews => {
            let stale = EventId::parse("sevt_0").unwrap();
            assert!(world.input(Input::Model(stale, ModelEvent::Text { index: 0, text: "x".into() })).is_empty());
        }
        Act::Archive if world.session.primary().state().status == SessionStatus::Idle => {
            drop(world.input(Input::Archive))
        }
        Act::Connect(wiki, docs) if world.connecting.is_some() => {
            let failing: Vec<_> = [(wiki, "wiki"), (docs, "docs")].iter().filter(|(f, _)| **f).map(|f| f.1).collect();
            world.connect(&failing);
        }
        Act::CallEnds(n) if *n < world.running.len() => {
            let call = world.running.remove(*n);
            world.input(Input::Called { call, content: vec![], is_error: *n == 1 });
        }
        Act::StaleMcp => {
            let stale = Input::McpConnected { attempt: u64::MAX, servers: Vec::new() };
            assert!(world.input(stale).is_empty());
            let ended = world.journal.iter().find(|call| !world.running.contains(call)).cloned();
            let call = ended.unwrap_or_else(|| EventId::parse("sevt_none").unwrap());
            assert!(world.input(Input::Called { call, content: vec![], is_error: false }).is_empty());
        }
        Act::Judge(way) if world.consulting.is_some() => {
            let all = |word: &str| {
                let verdict = |call: usize| json!({"call": call, "decision": word, "reason": "r"});
                json!({"verdicts": (0..5).map(verdict).collect::<Vec<_>>()}).to_string()
            };
            if world.consulting.as_ref().is_some_and(|(_, asked)| asked.counsel == Counsel::Grader) {
                let grade = |result: &str| Some(json!({"result": result, "explanation": "e"}).to_string());
                let all = [grade("satisfied"), grade("needs_revision"), grade("failed"), Some("hm".into()), None];
                world.consult(all[usize::from(*way)].as_deref());
                return;
            }
            let answers = [Some(all("allow")), Some(all("deny")), Some(all("ask")), Some("hm".into()), None];
            world.consult(answers[usize::from(*way)].as_deref());
        }
        Act::StillConsulting => {
            let start = world.consulting.as_ref().map(|(start, _)| start.clone());
            world.input(Input::Consulting(start.unwrap_or_else(|| EventId::parse("sevt_none").unwrap())));
        }
        Act::Rebudget(raise)
            if world.budget.is_some() && world.session.primary().state().status != SessionStatus::Terminated =>
        {
            world.rebudget(raise.map(|cents| spent(&world.log) + u64::from(cents)));
        }
        Act::Judge(_)
        | Act::Rebudget(_)
        | Act::Connect(..)
        | Act::CallEnds(_)
        | Act::Piece
        | Act::Answer(_)
        | Act::Stopped(_)
        | Act::Fail(_)
        | Act::Archive => {}
    }
}

fn world(has_servers: bool, is_tight: bool, cents: Option<u8>) -> World {
    let agent = if has_servers { agent_with_servers() } else { agent() };
    World::of(agent, if is_tight { tight() } else { limits() }).paying(cents.map(u64::from))
}

/// How much a session may spend: a request costs about ten cents.
fn cents() -> impl Strategy<Value = Option<u8>> {
    prop::option::weighted(0.5, 1_u8..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_log_keeps_the_promises_of_the_contract(has_servers: bool, is_tight: bool, cents in cents(), acts in prop::collection::vec(act(), 1..60)) {
        let mut world = world(has_servers, is_tight, cents);
        for act in &acts {
            play(&mut world, act);
            check(&world);
        }
    }

    #[test]
    fn every_session_comes_to_rest_when_everyone_does_their_part(has_servers: bool, is_tight: bool, cents in cents(), acts in prop::collection::vec(act(), 1..40)) {
        let mut world = world(has_servers, is_tight, cents);
        for act in &acts {
            play(&mut world, act);
        }
        settle(&mut world);
        check(&world);
        prop_assert!(world.log.iter().all(|event| event.processed_at.is_some()), "every accepted event takes effect");
        prop_assert!(matches!(world.session.primary().state().status, SessionStatus::Idle | SessionStatus::Terminated));
        prop_assert!(world.session.primary().state().calls.is_empty(), "every call is answered");
        for call in world.calls() {
            prop_assert_eq!(world.log.iter().filter(|event| answered(event) == Some(&call)).count(), 1, "once");
        }
    }
}

/// Answers whatever the session waits for until it waits for nothing.
fn settle(world: &mut World) {
    for _ in 0..200 {
        let open: Vec<_> = world.session.primary().state().calls.iter().map(|call| call.id.clone()).collect();
        if world.session.primary().state().status == SessionStatus::Terminated {
            return;
        }
        if world.consulting.is_some() {
            world.consult(None);
        } else if world.connecting.is_some() {
            world.connect(&[]);
        } else if !world.running.is_empty() {
            world.end_call("done");
        } else if world.request.is_some() {
            world.answer(vec![text("done")], Stop::EndTurn);
        } else if world.session.primary().state().status == SessionStatus::Rescheduling {
            world.retry();
        } else if world.session.primary().state().stop == Some(StopReason::BudgetReached {}) && world.budget.is_some() {
            world.rebudget(None);
        } else if open.is_empty() {
            return;
        }
        for id in open {
            drop(world.send(json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": "allow"}])));
            drop(world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}])));
            drop(world.result(&id));
        }
    }
    panic!("the session does not come to rest");
}

fn check(world: &World) {
    nothing_is_asked_for_that_cannot_be_paid(world);
    each_call_is_answered_at_most_once(&world.log);
    each_server_call_is_begun_at_most_once_and_only_when_allowed(world);
    usage_comes_right_before_idle_and_the_thread_before_it(&world.shown);
    nothing_is_said_after_the_idle_event_of_a_turn_that_is_over(world);
    nothing_happens_between_idle_and_what_ends_it(&world.shown);
    requests_are_closed_before_the_next_begins(&world.log);
    time_never_goes_back(&world.log);
    each_status_follows_from_one_that_allows_it(&world.shown);
    each_idle_names_only_open_calls_or_there_are_none(&world.shown);
    the_end_of_the_log_agrees_with_what_runs(world);
    world.assert_log_says_everything();
    roles_alternate_and_calls_are_answered_next(world);
}

/// What a log has cost in cents, counted again: each token costs one.
fn spent<'a>(log: impl IntoIterator<Item = &'a Event>) -> u64 {
    let tokens = |event: &Event| match &event.body {
        EventBody::ModelRequestEnd { model_usage: usage, .. } | EventBody::OutcomeEvaluationEnd { usage, .. } => {
            usage.input_tokens + usage.output_tokens
        }
        _ => 0,
    };
    log.into_iter().map(tokens).sum()
}

fn cost(cents: u64) -> Cost {
    if cents == 0 { Cost::default() } else { super::world::budget(cents).max_list_cost.cost() }
}

/// A budget read from the events alone.
fn nothing_is_asked_for_that_cannot_be_paid(world: &World) {
    let first = world.shown.iter().find_map(|event| match &event.body {
        EventBody::SessionUsage { budget, .. } => Some(*budget),
        _ => None,
    });
    let mut budget = first.unwrap_or(world.budget);
    for (index, event) in world.shown.iter().enumerate() {
        let spent = spent(&world.shown[..index]);
        let is_reached = budget.is_some_and(|budget| cost(spent) >= budget.max_list_cost.cost());
        let is_aside = Mark::read(world.kept.get(&event.id).map(Vec::as_slice)) == Some(Mark::Aside);
        match &event.body {
            EventBody::SessionUpdated { budget: changed, .. } if !changed.is_absent() => {
                budget = changed.clone().value()
            }
            EventBody::ModelRequestStart {} if is_aside => {}
            EventBody::ModelRequestStart {} | EventBody::OutcomeEvaluationStart { .. } => {
                assert!(!is_reached, "{} after {spent} cents", event.body.kind());
            }
            EventBody::StatusIdle { stop_reason: StopReason::BudgetReached {}, .. } => {
                assert!(is_reached, "{spent} cents")
            }
            EventBody::SessionUsage { usage, budget: said } => {
                assert_eq!(*said, budget);
                let shown = usage.list_cost.map(|cost| cost.cost());
                assert_eq!(shown.unwrap_or_default(), cost(spent), "what is shown is what the tokens cost");
            }
            _ => {}
        }
    }
    if world.session.primary().state().stop == Some(StopReason::BudgetReached {})
        && world.session.primary().state().status == SessionStatus::Idle
    {
        assert!(world.session.is_at_cap(), "nothing stays paused that may go on");
    }
}

fn answered(event: &Event) -> Option<&EventId> {
    match &event.body {
        EventBody::UserToolResult { tool_use_id: id, .. }
        | EventBody::AgentToolResult { tool_use_id: id, .. }
        | EventBody::AgentMcpToolResult { mcp_tool_use_id: id, .. }
        | EventBody::UserCustomToolResult { custom_tool_use_id: id, .. } => Some(id),
        _ => None,
    }
}

fn each_call_is_answered_at_most_once(log: &[Event]) {
    let mut seen = HashSet::new();
    let mut calls = HashSet::new();
    for event in log {
        if event.body.kind().ends_with("tool_use") {
            calls.insert(&event.id);
        }
        if let Some(id) = answered(event) {
            assert!(calls.contains(id), "{id} is answered after it was made");
            assert!(seen.insert(id), "{id} is answered once");
        }
    }
}

fn each_server_call_is_begun_at_most_once_and_only_when_allowed(world: &World) {
    let mut seen = HashSet::new();
    for call in &world.begun {
        assert!(seen.insert(call), "{call} is begun once, whatever died in between");
        let event = world.log.iter().find(|event| event.id == *call).expect("the use is in the log");
        let (EventBody::AgentMcpToolUse { evaluated_permission, .. }
        | EventBody::AgentToolUse { evaluated_permission, .. }) = &event.body
        else {
            panic!("a call that the server makes")
        };
        let is_confirmed = world.log.iter().any(|event| {
            matches!(&event.body, EventBody::UserToolConfirmation { tool_use_id, result: Verdict::Allow, .. }
                if tool_use_id == call)
        });
        assert!(is_confirmed || *evaluated_permission == Some(Permission::Allow), "{call} was allowed");
    }
    assert!(world.running.len() <= limits().parallel_mcp_calls, "no more at once than the bound");
    let started: HashSet<_> = world.session.primary().state().calls.started().map(|call| &call.id).collect();
    assert_eq!(started, world.running.iter().collect(), "a call is open as begun exactly while it runs");
}

fn usage_comes_right_before_idle_and_the_thread_before_it(shown: &[Event]) {
    for (index, event) in shown.iter().enumerate() {
        if matches!(event.body, EventBody::StatusIdle { .. }) {
            let before: Vec<_> = shown[index - 2..index].iter().map(|event| event.body.kind()).collect();
            // Said again after what came later than the thread's end.
            let is_again = matches!(
                before[0],
                "session.error" | "session.updated" | "user.interrupt" | "span.outcome_evaluation_end"
            );
            assert!(
                before[1] == "session.usage" && (is_again || before[0] == "session.thread_status_idle"),
                "{before:?}"
            );
        }
    }
}

/// Workers leave a session when it rests and that is the last they heard.
fn nothing_is_said_after_the_idle_event_of_a_turn_that_is_over(world: &World) {
    let overall = world.session.overall();
    let waits_for_nobody = !matches!(overall.stop, None | Some(StopReason::RequiresAction { .. }));
    if overall.status == SessionStatus::Idle && waits_for_nobody {
        assert_eq!(world.shown.last().map(|event| event.body.kind()), Some("session.status_idle"));
    }
}

/// While idle only client events, their consequences and terminations are shown: never the model's or the loop's own.
fn nothing_happens_between_idle_and_what_ends_it(shown: &[Event]) {
    let mut is_idle = true;
    for event in shown {
        match &event.body {
            EventBody::StatusRunning {} => is_idle = false,
            EventBody::StatusIdle { .. } => is_idle = true,
            EventBody::AgentMessage { .. }
            | EventBody::AgentThinking {}
            | EventBody::AgentToolUse { .. }
            | EventBody::AgentCustomToolUse { .. }
            | EventBody::AgentMcpToolUse { .. }
            | EventBody::AgentThreadContextCompacted {}
            | EventBody::ModelRequestStart {}
            | EventBody::ModelRequestEnd { .. } => assert!(!is_idle, "{} while idle", event.body.kind()),
            _ => {}
        }
    }
}

fn requests_are_closed_before_the_next_begins(log: &[Event]) {
    let mut open: Option<&EventId> = None;
    for event in log {
        match &event.body {
            EventBody::ModelRequestStart {} => {
                assert_eq!(open, None);
                open = Some(&event.id);
            }
            EventBody::ModelRequestEnd { model_request_start_id, .. } => {
                assert_eq!(open, Some(model_request_start_id));
                open = None;
            }
            EventBody::StatusIdle { .. } => assert_eq!(open, None),
            _ => {}
        }
    }
}

/// The arrows between statuses, from the contract alone.
fn each_status_follows_from_one_that_allows_it(shown: &[Event]) {
    let mut status = "idle";
    for event in shown {
        let (next, allowed): (_, &[&str]) = match &event.body {
            EventBody::StatusRunning {} => ("running", &["idle", "rescheduling"]),
            EventBody::StatusRescheduled {} => ("rescheduling", &["running"]),
            // Idle again: the rest of what is waited for.
            EventBody::StatusIdle { .. } => ("idle", &["idle", "running", "rescheduling"]),
            EventBody::StatusTerminated {} => ("terminated", &["idle"]),
            _ => continue,
        };
        assert!(allowed.contains(&status), "{next} after {status}");
        status = next;
    }
}

/// What waits is counted from the events as a client sees them, not from the state.
fn each_idle_names_only_open_calls_or_there_are_none(shown: &[Event]) {
    let mut open = HashSet::new();
    for event in shown {
        if event.body.kind().ends_with("tool_use") {
            open.insert(&event.id);
        }
        if let Some(call) = answered(event) {
            open.remove(call);
        }
        match &event.body {
            EventBody::StatusIdle { stop_reason: StopReason::RequiresAction { event_ids }, .. } => {
                assert!(!event_ids.is_empty(), "somebody is named to act");
                assert!(event_ids.iter().all(|call| open.contains(call)), "only open calls are named");
            }
            EventBody::StatusIdle { stop_reason, .. } => assert!(open.is_empty(), "{stop_reason:?} with open calls"),
            _ => {}
        }
    }
}

fn time_never_goes_back(log: &[Event]) {
    let times: Vec<_> = log.iter().filter_map(|event| event.processed_at).collect();
    assert!(times.is_sorted());
}

fn the_end_of_the_log_agrees_with_what_runs(world: &World) {
    let state = world.session.primary().state();
    let asked =
        |whom| world.consulting.as_ref().filter(|(_, asked)| asked.counsel == whom).map(|(start, _)| start.clone());
    let judging = asked(Counsel::Judge);
    assert_eq!(state.request, world.request.clone().or(judging), "a request is open exactly while one runs");
    let evaluating = state.outcome.as_ref().and_then(|outcome| outcome.evaluating.clone());
    assert_eq!(evaluating, asked(Counsel::Grader), "an evaluation is open exactly while the grader is asked");
    match state.status {
        SessionStatus::Idle => {
            assert_eq!((&world.request, world.connecting, world.running.len()), (&None, None, 0));
            assert_eq!(world.consulting, None);
            let waiting = state.calls.waiting();
            match &state.stop {
                Some(StopReason::RequiresAction { event_ids }) => {
                    assert_eq!(*event_ids, waiting, "exactly what waits is announced");
                    assert!(!waiting.is_empty());
                }
                _ => assert!(state.calls.is_empty() && state.queue.is_empty(), "nothing waits for nobody"),
            }
        }
        SessionStatus::Running => {
            let is_asking = world.connecting.is_some() || world.consulting.is_some();
            assert!(state.request.is_some() || is_asking || !state.calls.is_empty(), "running means work");
            let of_others = state.calls.iter().any(|call| call.owner != Owner::Server);
            assert!(state.request.is_some() || is_asking || of_others || !world.running.is_empty(), "nothing is stuck");
        }
        SessionStatus::Rescheduling => assert!(world.retry_at.is_some()),
        SessionStatus::Terminated => assert!(state.queue.is_empty()),
    }
}

/// What the endpoint demands of a conversation.
fn roles_alternate_and_calls_are_answered_next(world: &World) {
    let messages = world.session.primary().conversation().messages();
    for pair in messages.windows(2) {
        assert_ne!(pair[0].role, pair[1].role);
    }
    for (index, message) in messages.iter().enumerate() {
        let made: HashMap<_, _> =
            message.content.iter().filter(|b| b["type"] == "tool_use").map(|b| (b["id"].as_str(), ())).collect();
        if made.is_empty() {
            continue;
        }
        let Some(next) = messages.get(index + 1) else { continue };
        let results: Vec<_> = next.content.iter().take_while(|b| b["type"] == "tool_result").collect();
        assert!(results.iter().all(|result| made.contains_key(&result["tool_use_id"].as_str())));
        let is_last = index + 2 == messages.len() && !world.session.primary().state().calls.is_empty();
        assert!(is_last || results.len() == made.len(), "each call has its result right behind it");
    }
}
