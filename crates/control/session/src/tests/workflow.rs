//! Workflows: what an agent writes, what becomes of it, and what it costs.

use std::sync::Arc;

use postern_model::agent::{Mind, SessionMultiagent, ThreadAgent};
use postern_model::event::{Event, EventBody, StopReason, WorkflowErrorKind, WorkflowResult};
use postern_model::ids::AgentId;
use postern_model::session::{SessionAgent, SessionStatus};
use serde_json::{Value, json};

use super::world::{World, agent, call, limits, text, tool};
use crate::workflow::{MOST_RUNS, MOST_WORKING};
use crate::{FailureKind, Input, ResponseBlock, Stop};

const ON: fn() -> Value = || json!({"type": "enabled"});

/// An agent that may start runs, in which `scout` may work and agents that it defines.
pub(super) fn conductor() -> Arc<SessionAgent> {
    of_workflows(json!({"type": "enabled", "inline_agents": ON(), "predefined_agents": [scout()]}))
}

fn scout() -> ThreadAgent {
    let smith = (*agent()).clone();
    ThreadAgent::from(SessionAgent { id: AgentId::parse("agent_2").unwrap(), name: "scout".into(), ..smith })
}

fn of_workflows(workflows: Value) -> Arc<SessionAgent> {
    let off = json!({"type": "disabled"});
    let parts = json!({"type": "multiagent_20261001", "advisor": off, "subagents": off, "workflows": workflows});
    let multiagent: SessionMultiagent = serde_json::from_value(parts).unwrap();
    Arc::new(SessionAgent { multiagent: Some(multiagent), ..(*agent()).clone() })
}

pub(super) fn begin(workflow: Value) -> ResponseBlock {
    tool("start_workflow", workflow)
}

/// A step in which `scout` works.
fn ask(prompt: &str) -> Value {
    json!({"type": "agent", "agent": "scout", "prompt": prompt})
}

/// A workflow of one phase.
pub(super) fn workflow(steps: Value) -> Value {
    json!({"name": "w", "phases": [{"name": "only", "steps": steps}]})
}

/// Several agents at once.
fn many(count: usize) -> Value {
    let items: Vec<usize> = (0..count).collect();
    workflow(json!([{"type": "for_each", "items": items, "as": "n", "steps": [ask("do {{n}}")]}]))
}

fn started(workflow: Value) -> World {
    let mut world = World::of(conductor(), limits());
    world.say("go");
    world.answer(vec![begin(workflow)], Stop::ToolUse);
    world
}

fn told(world: &World) -> (String, bool) {
    world.answer_of(world.calls().last().expect("a call")).expect("an answer")
}

fn says(world: &mut World, child: usize, said: &str) {
    world.child_answers(child, vec![text(said)], Stop::EndTurn);
}

/// What this child's model was asked, and what the session's agent knows.
fn knows(world: &World, child: Option<usize>) -> String {
    let thread = child.map_or(world.session.primary(), |child| &world.session.children()[child]);
    json!(thread.conversation().messages().iter().map(|message| &message.content).collect::<Vec<_>>()).to_string()
}

fn run_events(world: &World) -> Vec<&'static str> {
    let kinds = world.shown.iter().map(|event| event.body.kind());
    kinds.filter_map(|kind| kind.strip_prefix("workflow_run.")).collect()
}

fn result(world: &World) -> Option<WorkflowResult> {
    world.log.iter().rev().find_map(|event| match &event.body {
        EventBody::WorkflowRunEnded { result, .. } => Some(result.clone()),
        _ => None,
    })
}

fn error_kind(world: &World) -> Option<WorkflowErrorKind> {
    match result(world) {
        Some(WorkflowResult::Error { error }) => Some(error.kind),
        _ => None,
    }
}

fn run_id(world: &World) -> String {
    let created = |event: &Event| match &event.body {
        EventBody::WorkflowRunCreated { workflow_run_id, .. } => Some(workflow_run_id.to_string()),
        _ => None,
    };
    world.log.iter().rev().find_map(created).expect("a run was created")
}

fn of_run(tool_name: &str, world: &World) -> ResponseBlock {
    tool(tool_name, json!({"workflow_run_id": run_id(world)}))
}

fn contracts() -> Value {
    json!({
        "name": "Review contracts", "description": "Finds a clause.", "lifetime_seconds": 1800,
        "agents": [{"name": "lister", "system": "You list files."}],
        "phases": [
            {"name": "Find", "steps": [
                {"type": "agent", "agent": "lister", "prompt": "List them.", "returns": "json", "save_as": "files"}]},
            {"name": "Read", "description": "One each.", "steps": [
                {"type": "for_each", "items": "{{files}}", "as": "file", "save_as": "findings", "steps": [
                    {"type": "agent", "agent": "scout", "prompt": "Read {{file}}.", "returns": "json",
                     "fields": ["clause"], "on_failure": "continue"}]}]},
        ],
        "result": {"read": "{{files}}", "first": "{{findings.0.clause}}", "all": "{{findings}}"},
    })
}

#[test]
fn a_run_fans_out_over_what_an_agent_returned_and_tells_the_agent_what_it_came_to_whatever_crashes() {
    for crashes in [false, true] {
        let mut world = started(contracts());
        let crash = |world: &mut World| {
            world.assert_log_says_everything();
            if crashes {
                world.crash();
            }
        };
        let (text_, is_error) = told(&world);
        assert!(!is_error && text_.contains("in the background, for 1800 seconds"), "{text_}");
        assert_eq!(run_events(&world), ["created", "status_running", "phase_started"]);
        crash(&mut world);
        // The agent ends its turn; the session goes on running.
        world.answer(vec![text("It runs.")], Stop::EndTurn);
        assert_eq!(world.session.overall().status, SessionStatus::Running);
        crash(&mut world);
        let lister = &world.session.children()[0];
        assert_eq!(lister.agent().system.as_deref(), Some("You list files."));
        assert!(matches!(lister.mind(), Mind::Inline(_)) && lister.agent().multiagent.is_none());
        assert_eq!(lister.workflow_run_id().map(ToString::to_string), Some(run_id(&world)));
        assert!(knows(&world, Some(0)).contains("It must be one JSON value"));
        says(&mut world, 0, "```json\n[\"a.txt\", \"b.txt\", \"c.txt\"]\n```");
        crash(&mut world);
        assert_eq!(world.session.children()[0].state().status, SessionStatus::Terminated);
        let phases = ["created", "status_running", "phase_started", "phase_ended", "phase_started"];
        assert_eq!(run_events(&world), phases);
        assert!((1..=3).all(|at| world.asks(at + 1)), "all three work at once");
        let scout = &world.session.children()[2];
        assert!(matches!(scout.mind(), Mind::Agent(_)) && knows(&world, Some(2)).contains("Read b.txt."));
        // In whatever order they end, the list is that of the items; one that returns something else failed, and was let go.
        says(&mut world, 3, "no JSON at all");
        crash(&mut world);
        says(&mut world, 2, r#"{"clause": "none"}"#);
        crash(&mut world);
        assert!(!world.asks(0), "the agent is not told before the end");
        says(&mut world, 1, r#"{"clause": "§ 7"}"#);
        crash(&mut world);
        assert_eq!(result(&world), Some(WorkflowResult::Completed {}));
        let ended = [&phases[..], &["phase_ended", "status_ended"]].concat();
        assert_eq!(run_events(&world), ended);
        // The agent has a turn with it, and then the session rests: not before.
        assert!(world.asks(0) && knows(&world, None).contains("it came to its end"));
        let expected = r##"{\"read\":[\"a.txt\",\"b.txt\",\"c.txt\"],\"first\":\"§ 7\",\"all\":[{\"clause\":\"§ 7\"},{\"clause\":\"none\"},null]}"##;
        assert!(knows(&world, None).contains(expected), "{}", knows(&world, None));
        let rests = world.log.iter().filter(|event| matches!(event.body, EventBody::StatusIdle { .. })).count();
        assert_eq!(rests, 0);
        world.answer(vec![text("One has.")], Stop::EndTurn);
        assert_eq!((world.last_stop(), world.session.has_open_runs()), (StopReason::EndTurn {}, false));
        world.assert_log_says_everything();
    }
}

#[test]
fn those_who_watch_the_session_see_a_run_and_its_threads_and_none_of_what_they_say() {
    let mut world = started(contracts());
    let before = world.shown.len();
    says(&mut world, 0, "[\"a.txt\"]");
    let shown = world.shown_to_session(world.shown.len() - before);
    let kinds = [
        "session.thread_status_idle",
        "session.thread_status_terminated",
        "workflow_run.phase_ended",
        "workflow_run.phase_started",
        "session.thread_created",
        "session.thread_status_running",
    ];
    assert_eq!(shown, kinds);
    let of_thread = |event: &&Event| matches!(&event.body, EventBody::ThreadCreated { workflow_run_id: Some(_), .. });
    assert_eq!(world.log.iter().filter(of_thread).count(), 2);
    let created = |event: &&Event| matches!(&event.body, EventBody::WorkflowRunCreated { .. });
    let created = json!(world.log.iter().find(created).unwrap());
    assert_eq!((&created["name"], &created["description"]), (&json!("Review contracts"), &json!("Finds a clause.")));
    let [find, read] = created["phases"].as_array().unwrap().as_slice() else { panic!("two phases") };
    assert_eq!(
        (&find["name"], &find["description"], &read["description"]),
        (&json!("Find"), &Value::Null, &json!("One each."))
    );
    let open = |event: &&Event| matches!(&event.body, EventBody::WorkflowRunPhaseStarted { .. });
    let opened: Vec<Value> = world.log.iter().filter(open).map(|event| json!(event)).collect();
    assert_eq!((&opened[0]["workflow_run_phase_id"], &opened[1]["workflow_run_phase_id"]), (&find["id"], &read["id"]));
    let closed = |event: &&Event| matches!(&event.body, EventBody::WorkflowRunPhaseEnded { .. });
    assert_eq!(json!(world.log.iter().find(closed).unwrap())["phase_started_id"], opened[0]["id"]);
}

#[test]
fn what_could_not_run_is_refused_with_its_place_and_nothing_begins() {
    let step = |step: Value| workflow(json!([step]));
    let deep = (0..9).fold(ask("x"), |inner, _| json!({"type": "repeat", "at_most": 1, "steps": [inner]}));
    let defining = |agent: Value| {
        let mut whole = workflow(json!([ask("x")]));
        whole["agents"] = json!([agent]);
        whole
    };
    let loud = |message: &str| json!({"type": "agent", "agent": "scout", "prompt": message, "loud": true});
    for (workflow, why) in [
        (json!({"name": "w"}), "phases"),
        (json!({"name": "w", "phases": []}), "`phases` has 1 to 32"),
        (json!({"name": " ", "phases": [{"name": "p", "steps": [ask("x")]}]}), "has no name"),
        (workflow(json!([])), "phases[0].steps: has no steps"),
        (workflow(json!(vec![ask("x"); 201])), "at most 200 steps"),
        (step(deep), "8 deep"),
        (step(json!({"type": "shell", "command": "id"})), "phases[0].steps[0]"),
        (step(loud("x")), "unknown field `loud`"),
        (
            step(json!({"type": "agent", "agent": "ghost", "prompt": "x"})),
            "there is no agent `ghost`. Use one of: scout.",
        ),
        (step(ask("{{what}}")), "nothing before it is saved as `what`. It can use: now."),
        (step(ask("{{what")), "has no `}}`"),
        (step(ask("{{a..b}}")), "is no place"),
        (step(json!({"type": "repeat", "at_most": 101, "steps": [ask("x")]})), "from 1 to 100"),
        (step(json!({"type": "set", "value": 1, "save_as": "now"})), "is not `now`"),
        (step(json!({"type": "set", "value": 1, "save_as": "9"})), "begins with no digit"),
        (
            step(json!({"type": "if", "condition": {"value": "x"}, "then": [ask("x")]})),
            "phases[0].steps[0].condition: a condition is",
        ),
        (
            step(json!({"type": "agent", "agent": "scout", "prompt": "x", "returns": "json", "fields": vec!["a"; 65]})),
            "phases[0].steps[0].fields: at most 64",
        ),
        (
            step(json!({"type": "agent", "agent": "scout", "prompt": "x", "fields": ["a"]})),
            "`fields` are of an agent that returns `json`",
        ),
        (
            json!({"name": "w", "lifetime_seconds": 86401, "phases": [{"name": "p", "steps": [ask("x")]}]}),
            "from 1 to 86400",
        ),
        (
            json!({"name": "w", "lifetime_seconds": 0, "phases": [{"name": "p", "steps": [ask("x")]}]}),
            "from 1 to 86400",
        ),
        (step(ask(&"x".repeat(128 << 10))), "may have 131072"),
        (defining(json!({"name": "mole"})), "agents[0]"),
        (defining(json!({"name": "scout", "system": "s"})), "another's name"),
        (defining(json!({"name": "mole", "system": "s", "model": "dearest"})), "not one of yours"),
    ] {
        let mut world = started(workflow.clone());
        let (text_, is_error) = told(&world);
        assert!(is_error && text_.contains(why), "{workflow}: {text_}");
        assert!(world.session.children().is_empty() && !world.session.has_open_runs() && world.asks(0));
        let error = world.log.iter().find_map(|event| match &event.body {
            EventBody::WorkflowRunError { error, workflow_run_id } => Some((error.clone(), workflow_run_id.clone())),
            _ => None,
        });
        let (error, id) = error.expect("those who watch hear of it");
        assert_eq!((error.kind, id), (WorkflowErrorKind::ProgramError, None));
        let shown = ["ghost", "mole", "dearest", "scout", "shell", "loud"];
        assert!(!shown.iter().any(|word| error.message.split(' ').any(|said| said == *word)), "{}", error.message);
        assert_eq!(run_events(&world), ["error"]);
        world.answer(vec![text("Well.")], Stop::EndTurn);
        assert_eq!(world.last_stop(), StopReason::EndTurn {});
        world.assert_log_says_everything();
    }
    // Names and descriptions are cut.
    let world = started(
        json!({"name": "n".repeat(70), "description": "d".repeat(300), "phases": [{"name": "p", "steps": [ask("x")]}]}),
    );
    let created = world.log.iter().find(|event| matches!(event.body, EventBody::WorkflowRunCreated { .. })).unwrap();
    let created = json!(created);
    assert_eq!((created["name"].as_str().unwrap().len(), created["description"].as_str().unwrap().len()), (64, 256));
}

#[test]
fn agents_are_defined_and_saved_ones_used_only_where_the_agent_may() {
    let inline = json!({"name": "mole", "system": "You dig."});
    let digs = json!({"name": "w", "agents": [inline], "phases": [{"name": "p", "steps": [
        {"type": "agent", "agent": "mole", "prompt": "dig"}]}]});
    let refused = |agent: Arc<SessionAgent>, workflow: &Value| {
        let mut world = World::of(agent, limits());
        world.say("go");
        world.answer(vec![begin(workflow.clone())], Stop::ToolUse);
        told(&world)
    };
    let saved_alone = json!({"type": "enabled", "inline_agents": {"type": "disabled"}, "predefined_agents": [scout()]});
    assert!(refused(of_workflows(saved_alone), &digs).0.contains("cannot define agents"));
    let none_saved = of_workflows(json!({"type": "enabled", "inline_agents": ON(), "predefined_agents": []}));
    assert!(refused(Arc::clone(&none_saved), &workflow(json!([ask("x")]))).0.contains("there is no agent `scout`"));
    assert!(!refused(none_saved, &digs).1);
    let (text_, is_error) = refused(of_workflows(json!({"type": "disabled"})), &digs);
    assert!(is_error && text_.contains("`start_workflow` is not enabled"), "{text_}");
    // Whoever works in a run starts none.
    let mut world = started(digs);
    world.child_answers(0, vec![begin(workflow(json!([ask("x")])))], Stop::ToolUse);
    assert!(told(&world).0.contains("`start_workflow` is not enabled"));
}

#[test]
fn an_agent_that_fails_ends_the_run_unless_the_workflow_lets_it_go() {
    type Fails = fn(&mut World);
    let fails: [(Fails, &str); 4] = [
        (|world| drop(world.child_fails(0, FailureKind::Billing)), "why"),
        (|world| drop(world.child_answers(0, vec![text("No.")], Stop::Refusal(None))), "the model refused"),
        (|world| drop(world.child_answers(0, vec![text("cu")], Stop::MaxTokens)), "limit of output tokens"),
        (|world| says(world, 0, &"x".repeat((64 << 10) + 1)), "may have 65536"),
    ];
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (said, why) in [("{", "is no JSON value"), ("[]", "has no `a`"), (&deep(65), "nests more than 64 deep")] {
        let fields = if why.contains("has no") { json!(["a"]) } else { json!([]) };
        let step = json!({"type": "agent", "agent": "scout", "prompt": "x", "returns": "json", "fields": fields});
        let mut world = started(workflow(json!([step])));
        world.answer(vec![text("It runs.")], Stop::EndTurn);
        says(&mut world, 0, said);
        assert!(knows(&world, None).contains(why), "{}", knows(&world, None));
    }
    for (fail, why) in fails {
        let mut world = started(workflow(json!([ask("x"), ask("y")])));
        world.answer(vec![text("It runs.")], Stop::EndTurn);
        fail(&mut world);
        assert_eq!(error_kind(&world), Some(WorkflowErrorKind::ProgramError));
        assert_eq!(run_events(&world)[3..], ["phase_ended", "error", "status_ended"]);
        assert!(knows(&world, None).contains(why) && world.asks(0), "{}", knows(&world, None));
        assert!(!json!(result(&world)).to_string().contains(why), "those who watch see nothing of what it said");
        assert_eq!(world.session.children().len(), 1);
        world.assert_log_says_everything();
        let mut lenient = ask("x");
        lenient["on_failure"] = "continue".into();
        lenient["save_as"] = "first".into();
        let mut world = started(workflow(json!([lenient, ask("then {{first}}")])));
        fail(&mut world);
        assert!(knows(&world, Some(1)).contains("then null"));
        says(&mut world, 1, "done");
        assert_eq!(result(&world), Some(WorkflowResult::Completed {}));
        world.assert_log_says_everything();
    }
}

#[test]
fn a_run_stays_within_its_limits() {
    // Those that work at once: the next begins when one is done.
    let mut world = started(many(MOST_WORKING + 2));
    assert_eq!(world.session.children().len(), MOST_WORKING);
    says(&mut world, 5, "done");
    assert_eq!(world.session.children().len(), MOST_WORKING + 1);
    // Those of a run in all.
    for (count, kind) in [(1000, None), (1001, Some(WorkflowErrorKind::UnknownError))] {
        assert_eq!(error_kind(&started(many(count))), kind, "items of a list");
    }
    let twice = json!([{"type": "parallel", "branches": [
        many(999)["phases"][0]["steps"], many(2)["phases"][0]["steps"]]}]);
    let world = started(workflow(twice));
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::ThreadLimitError));
    assert!(world.session.children().is_empty());
    // Open at once in a session: paused ones count.
    let mut world = World::of(conductor(), limits());
    world.say("go");
    let blocks = (0..=MOST_RUNS).map(|_| begin(workflow(json!([ask("x")])))).collect();
    world.answer(blocks, Stop::ToolUse);
    let (text_, is_error) = told(&world);
    assert!(is_error && text_.contains("10 runs are open or"), "{text_}");
    let refused = world.log.iter().find_map(|event| match &event.body {
        EventBody::WorkflowRunError { error, workflow_run_id: None } => Some(error.kind),
        _ => None,
    });
    assert_eq!(refused, Some(WorkflowErrorKind::MaxWorkflowRunsError));
    // Those that end while the agent speaks count as well.
    let mut world = World::of(conductor(), limits());
    world.say("go");
    let at_once = || begin(workflow(json!([{"type": "set", "value": "x", "save_as": "v"}])));
    world.answer((0..=MOST_RUNS).map(|_| at_once()).collect(), Stop::ToolUse);
    assert!(told(&world).1 && !world.session.has_open_runs());
    // What values and prompts weigh together.
    let double = |n: usize| json!({"type": "set", "value": format!("{{{{v{n}}}}}{{{{v{n}}}}}"), "save_as": format!("v{}", n + 1)});
    let mut steps = vec![json!({"type": "set", "value": "x".repeat(1000), "save_as": "v0"})];
    steps.extend((0..60).map(double));
    let world = started(workflow(json!(steps)));
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::UnknownError));
    assert!(knows(&world, None).contains("more than 16777216 bytes"));
    // Loops without an agent.
    // Conditions that look at much and change nothing.
    let zeros = json!({"value": vec![0; 20_000], "equals": 1});
    let looks = json!({"type": "if", "condition": zeros, "then": [{"type": "set", "value": 1, "save_as": "a"}]});
    let looks = json!({"type": "repeat", "at_most": 100, "steps": [looks]});
    assert_eq!(error_kind(&started(workflow(json!([looks])))), Some(WorkflowErrorKind::UnknownError));
    let idle = (0..4).fold(
        json!({"type": "set", "value": 1, "save_as": "a"}),
        |inner, _| json!({"type": "repeat", "at_most": 100, "steps": [inner]}),
    );
    assert_eq!(error_kind(&started(workflow(json!([idle])))), Some(WorkflowErrorKind::UnknownError));
    // How deep a value nests that grows around itself.
    let mut around = json!({"type": "set", "value": ["{{v}}"], "save_as": "v"});
    around = json!({"type": "repeat", "at_most": 65, "steps": [around]});
    let first = json!({"type": "set", "value": 0, "save_as": "v"});
    let mut world = started(workflow(json!([first, around])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::ProgramError));
    assert!(knows(&world, None).contains("round[65][0]: a value nests at most 64 deep"), "{}", knows(&world, None));
    // What its agents return.
    let mut world = started(many(100));
    for child in 0..70 {
        if error_kind(&world).is_none() {
            says(&mut world, child, &"x".repeat(64 << 10));
        }
    }
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::UnknownError));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert!(knows(&world, None).contains("returned more than 4194304 bytes"));
}

#[test]
fn a_run_that_outlives_its_time_ends_and_so_does_whatever_works_for_it() {
    let mut one = workflow(json!([ask("x")]));
    one["lifetime_seconds"] = 60.into();
    let mut world = started(one.clone());
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    world.child_answers(0, vec![call("bash")], Stop::ToolUse);
    assert!(world.last_stop() != StopReason::EndTurn {}, "it waits for a worker");
    let bash = world.calls().pop().unwrap();
    assert!(world.input(Input::Lapsed).is_empty(), "not before its time");
    assert!(world.session.next_lapse().is_some());
    world.seconds += 60;
    world.input(Input::Lapsed);
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::TimeoutError));
    assert!(world.session.next_lapse().is_none() && world.asks(0) && world.result(&bash).is_err());
    world.assert_log_says_everything();
    // Also where nobody was there to see it: nothing begins anew for it.
    let mut world = started(one);
    world.seconds += 60;
    let seen = world.crash();
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::TimeoutError));
    assert_eq!(seen.iter().filter(|kind| **kind == "span.model_request_start").count(), 1, "the agent's own: {seen:?}");
    // And where its agent was at rest: it is asked once.
    let mut world = started(workflow(json!([{"type": "agent", "agent": "scout", "prompt": "x"}])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    world.seconds += 24 * 60 * 60;
    let seen = world.crash();
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::TimeoutError));
    let asked = seen.iter().filter(|kind| kind.starts_with("span.model_request")).collect::<Vec<_>>();
    // The run's agent was being asked when the process died.
    assert_eq!(asked, [&"span.model_request_end", &"span.model_request_start"], "{seen:?}");
    world.assert_log_says_everything();
}

#[test]
fn an_interrupt_pauses_runs_until_the_agent_has_them_go_on_or_stops_them() {
    for stops in [false, true] {
        let mut world = started(many(2));
        world.answer(vec![text("It runs.")], Stop::EndTurn);
        world.child_answers(1, vec![call("bash")], Stop::ToolUse);
        let bash = world.calls().pop().unwrap();
        world.send(json!([{"type": "user.interrupt"}])).unwrap();
        assert_eq!(run_events(&world).last(), Some(&"status_idle"));
        assert!((0..3).all(|thread| !world.asks(thread)), "nothing goes on");
        assert_eq!((world.last_stop(), world.session.has_open_runs()), (StopReason::EndTurn {}, true));
        assert!(world.result(&bash).is_err(), "its calls are answered");
        world.assert_log_says_everything();
        world.crash();
        assert!((0..3).all(|thread| !world.asks(thread)), "nor after a restart");
        world.say("and now?");
        assert!(knows(&world, None).contains("interrupt paused workflow run"));
        assert!(!world.asks(1) && !world.asks(2));
        world.answer(vec![tool("check_workflow", json!({}))], Stop::ToolUse);
        assert!(told(&world).0.contains("paused: the user interrupted it"));
        if stops {
            let block = of_run("stop_workflow", &world);
            world.answer(vec![block], Stop::ToolUse);
            assert_eq!(result(&world), Some(WorkflowResult::Stopped {}));
            assert!(!world.asks(1) && !world.session.has_open_runs());
            let again = of_run("continue_workflow", &world);
            world.answer(vec![again], Stop::ToolUse);
            assert!(told(&world).0.contains("no open workflow run"));
        } else {
            let block = of_run("continue_workflow", &world);
            world.answer(vec![block], Stop::ToolUse);
            assert!(world.asks(1) && world.asks(2), "both go on from where they were");
            says(&mut world, 0, "done");
            says(&mut world, 1, "done");
            assert_eq!(result(&world), Some(WorkflowResult::Completed {}));
        }
        world.answer(vec![text("Well.")], Stop::EndTurn);
        world.assert_log_says_everything();
    }
}

#[test]
fn one_of_a_run_s_threads_is_not_interrupted_or_spoken_to_alone_and_the_primary_thread_is() {
    let mut world = started(many(2));
    let child = world.child(0);
    let refused = world.send(json!([{"type": "user.interrupt", "session_thread_id": child}])).unwrap_err();
    assert_eq!(refused.error_code, Some("workflow_run_open"));
    assert!(world.asks(1));
    let primary = world.session.primary().id().clone();
    world.send(json!([{"type": "user.interrupt", "session_thread_id": primary}])).unwrap();
    assert!(!world.asks(0) && world.asks(1), "its turn alone ends");
    assert_eq!(world.session.overall().status, SessionStatus::Running);
    world.assert_log_says_everything();
}

#[test]
fn at_the_budget_a_run_waits_and_goes_on_when_it_is_raised() {
    let mut world = World::of(conductor(), limits()).paying(Some(30));
    world.say("go");
    world.answer(vec![begin(many(2))], Stop::ToolUse);
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    world.child_answers(0, vec![call("lookup"), call("grep")], Stop::ToolUse);
    let lookup = world.calls()[1].clone();
    // The second of them finds the budget spent, and what it returned is not lost.
    says(&mut world, 1, "two");
    let answer = json!([{"type": "user.custom_tool_result", "custom_tool_use_id": lookup,
        "content": [{"type": "text", "text": "out"}]}]);
    world.send(answer).unwrap();
    assert_eq!(run_events(&world).last(), Some(&"status_idle"));
    assert_eq!(
        (world.last_stop(), world.session.overall().status),
        (StopReason::BudgetReached {}, SessionStatus::Idle)
    );
    assert!((0..3).all(|thread| !world.asks(thread)));
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    world.crash();
    world.assert_log_says_everything();
    world.rebudget(Some(1000));
    assert_eq!(run_events(&world).last(), Some(&"status_running"));
    assert!(world.asks(1) && world.session.overall().status == SessionStatus::Running);
    says(&mut world, 0, "one");
    assert!(knows(&world, None).contains(r#"[\"one\",\"two\"]"#), "{}", knows(&world, None));
    world.assert_log_says_everything();
}

#[test]
fn an_outcome_is_graded_when_no_run_is_open() {
    let mut world = World::of(conductor(), limits());
    world
        .send(json!([{"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}}]))
        .unwrap();
    world.answer(vec![begin(workflow(json!([ask("x")])))], Stop::ToolUse);
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert!(world.consulting.is_none(), "the work is not done");
    says(&mut world, 0, "done");
    world.answer(vec![text("Here it is.")], Stop::EndTurn);
    assert!(world.consulting.is_some());
    world.consult(Some(r#"{"result": "satisfied", "explanation": "e"}"#));
    assert_eq!(world.last_stop(), StopReason::EndTurn {});
    world.assert_log_says_everything();
}

#[test]
fn an_outcome_that_the_budget_kept_from_being_graded_is_not_graded_before_its_agent_has_heard_of_its_run() {
    let mut world = World::of(conductor(), limits()).paying(Some(20));
    world
        .send(json!([{"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}}]))
        .unwrap();
    world.answer(vec![begin(workflow(json!([ask("x")])))], Stop::ToolUse);
    says(&mut world, 0, "done");
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert_eq!(world.last_stop(), StopReason::BudgetReached {});
    assert_eq!(result(&world), None, "the run waits too");
    world.crash();
    world.rebudget(Some(1000));
    assert_eq!(result(&world), Some(WorkflowResult::Completed {}));
    assert!(world.consulting.is_none() && world.asks(0), "it has not heard what its run came to");
    world.answer(vec![text("Here it is.")], Stop::EndTurn);
    assert!(world.consulting.is_some());
    world.assert_log_says_everything();
}

#[test]
fn what_asks_in_a_run_asks_those_who_watch_and_an_archived_session_has_no_open_run() {
    let mut world = started(workflow(json!([ask("x")])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    world.child_answers(0, vec![call("write")], Stop::ToolUse);
    let write = world.calls().pop().unwrap();
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: vec![write] });
    world.input(Input::Archive);
    assert_eq!(result(&world), Some(WorkflowResult::Stopped {}));
    let kinds: Vec<_> = world.log.iter().rev().take(6).map(|event| event.body.kind()).collect();
    let at = |kind: &str| kinds.iter().position(|other| *other == kind);
    assert!(at("session.status_terminated") == Some(0) && at("workflow_run.status_ended") > Some(0));
    assert!(!world.session.has_open_runs());
    world.assert_log_says_everything();
}

#[test]
fn a_workflow_repeats_chooses_and_has_several_do_different_things_at_once() {
    let program = workflow(json!([
        {"type": "agent", "agent": "scout", "prompt": "Draft at {{now}}.", "save_as": "draft"},
        {"type": "repeat", "at_most": 3, "until": {"value": "{{review.passed}}", "equals": true}, "save_as": "last", "steps": [
            {"type": "agent", "agent": "scout", "prompt": "Review {{draft}}.", "returns": "json", "fields": ["passed", "score"], "save_as": "review"},
            {"type": "if", "condition": {"all": [{"not": {"value": "{{review.passed}}", "equals": true}}, {"value": "{{review.score}}", "at_least": 3}]},
             "then": [{"type": "agent", "agent": "scout", "prompt": "Revise, round {{round}}.", "save_as": "draft"}],
             "else": [{"type": "set", "value": "{{draft}}!", "save_as": "draft"}]}]},
        {"type": "parallel", "branches": [[ask("left of {{draft}}")], [ask("right"), ask("then right")]], "save_as": "both"},
    ]));
    let mut world = started(program);
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert!(knows(&world, Some(0)).contains("Draft at 1970-01-12T"), "{}", knows(&world, Some(0)));
    says(&mut world, 0, "D");
    assert!(knows(&world, Some(1)).contains("Review D."));
    says(&mut world, 1, r#"{"passed": false, "score": 5}"#);
    assert!(knows(&world, Some(2)).contains("Revise, round 1."));
    says(&mut world, 2, "E");
    assert!(knows(&world, Some(3)).contains("Review E."));
    says(&mut world, 3, r#"{"passed": true, "score": 9}"#);
    world.crash();
    assert!(world.asks(5) && world.asks(6) && world.session.children().len() == 6);
    assert!(knows(&world, Some(4)).contains("left of E!"));
    says(&mut world, 5, "r");
    says(&mut world, 6, "rr");
    says(&mut world, 4, "l");
    assert!(knows(&world, None).contains(r#"[\"l\",\"rr\"]"#), "{}", knows(&world, None));
    world.assert_log_says_everything();
    // A place that leads nowhere is the workflow's fault, and is said.
    let mut world = started(workflow(json!([
        {"type": "agent", "agent": "scout", "prompt": "x", "returns": "json", "save_as": "v"}, ask("{{v.a.0}}")])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    says(&mut world, 0, r#"{"a": []}"#);
    assert!(knows(&world, None).contains("phases[0].steps[1]: `v` has no `0`."), "{}", knows(&world, None));
}

#[test]
fn what_a_run_says_to_an_agent_and_at_its_end_has_bounds() {
    for (value, fits) in [(" ".to_owned(), false), ("x".repeat(100_000), true), ("x".repeat(100_001), false)] {
        let set = json!({"type": "set", "value": value, "save_as": "v"});
        let world = started(workflow(json!([set, ask("{{v}}")])));
        assert_eq!(
            error_kind(&world),
            (!fits).then_some(WorkflowErrorKind::ProgramError),
            "{} characters",
            value.len()
        );
    }
    for (count, is_cut) in [(100_000, false), (100_001, true)] {
        let mut world = started(workflow(json!([{"type": "set", "value": "x".repeat(count), "save_as": "v"}])));
        world.answer(vec![text("It runs.")], Stop::EndTurn);
        assert_eq!(knows(&world, None).contains("[cut here: it has 100001 bytes]"), is_cut);
    }
}

#[test]
fn a_run_that_ends_with_its_agent_s_turn_is_told_in_one_more() {
    // No worker can serve the session: the run's agent fails, and so does the turn of whoever started it.
    let mut world = started(workflow(json!([ask("x")])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    world.child_answers(0, vec![call("bash")], Stop::ToolUse);
    world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() });
    assert_eq!(error_kind(&world), Some(WorkflowErrorKind::ProgramError));
    assert!(world.asks(0) && knows(&world, None).contains("zone_none"), "{}", knows(&world, None));
    world.assert_log_says_everything();
    // Its model fails for good while the run ends: one more turn, and no third.
    let mut world = started(workflow(json!([ask("x")])));
    says(&mut world, 0, "done");
    world.fail(FailureKind::Billing);
    assert!(world.asks(0) && knows(&world, None).contains("it came to its end"));
    // Nor for a run that ends in the turn that came for the first: it is told with whatever comes next.
    world.answer(vec![begin(workflow(json!([ask("x")])))], Stop::ToolUse);
    says(&mut world, 1, "twice");
    world.fail(FailureKind::Billing);
    assert!(!world.asks(0) && world.last_stop() == StopReason::RetriesExhausted {});
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert!(!world.asks(0) && knows(&world, None).contains("twice"));
    world.assert_log_says_everything();
}

#[test]
fn each_round_of_each_repeat_has_its_own_number() {
    let inner =
        json!({"type": "repeat", "at_most": 2, "steps": [{"type": "set", "value": "{{round}}", "save_as": "i"}]});
    let note = json!({"type": "set", "value": "{{all}}{{i}}{{round}} ", "save_as": "all"});
    let first = json!({"type": "set", "value": "", "save_as": "all"});
    let outer =
        json!({"type": "repeat", "at_most": 3, "until": {"value": "{{round}}", "equals": 3}, "steps": [inner, note]});
    let mut world = started(workflow(json!([first, outer])));
    world.answer(vec![text("It runs.")], Stop::EndTurn);
    assert!(knows(&world, None).contains("21 22 23 "), "{}", knows(&world, None));
}
