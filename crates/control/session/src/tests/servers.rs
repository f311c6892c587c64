//! Journeys with MCP servers: connecting, permissions, parallel calls, failures, crashes.

use postern_model::content::Block;
use postern_model::event::{
    AutoPermission, Evaluation, EventBody, Permission, RetryStatus, SessionErrorKind, StopReason,
};
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;
use serde_json::json;

use super::world::{World, call, server_tool, text};
use crate::{INTERRUPTED, Input, McpFailure, McpFailureKind, McpNews, OUTCOME_UNKNOWN, ServerTool, Stop};

const BEGUN: [&str; 2] = ["session.status_running", "session.thread_status_running"];
const IDLE: [&str; 3] = ["session.thread_status_idle", "session.usage", "session.status_idle"];

/// A turn in which the model has made these calls.
fn called(tools: &[&str]) -> World {
    let mut world = World::with_servers();
    world.say("hi");
    world.connect(&[]);
    world.answer(tools.iter().map(|tool| call(tool)).collect(), Stop::ToolUse);
    world
}

fn confirm(world: &mut World, id: &EventId, result: &str) -> Vec<&'static str> {
    world.send(json!([{"type": "user.tool_confirmation", "tool_use_id": id, "result": result}])).unwrap()
}

fn status(world: &World) -> SessionStatus {
    world.session.primary().state().status
}

#[test]
fn the_first_request_of_a_turn_waits_for_the_servers_and_names_their_tools() {
    let mut world = World::with_servers();
    assert_eq!(world.say("hi"), [&["user.message"][..], &BEGUN].concat());
    assert!(world.request.is_none() && world.session.primary().mcp_tools().is_empty());
    assert_eq!(world.connect(&[]), ["span.model_request_start"]);
    let names: Vec<_> = world.session.primary().mcp_tools().iter().map(|tool| tool.name.as_str()).collect();
    let expected = ["mcp__wiki__search", "mcp__wiki__edit", "mcp__wiki__judge", "mcp__docs__read"];
    assert_eq!(names, expected, "in the agent's order, without what is switched off");
    world.answer(vec![text("done")], Stop::EndTurn);
    world.say("more");
    assert!(world.connecting.is_some(), "the next turn sees that they are connected again");
}

#[test]
fn a_server_that_fails_is_told_once_per_turn_and_blocks_nothing() {
    let mut world = World::with_servers();
    world.say("hi");
    assert_eq!(world.connect(&["wiki"]), ["session.error", "span.model_request_start"]);
    let EventBody::SessionError { error } = &world.log[3].body else { panic!("an error") };
    assert_eq!(error.kind, SessionErrorKind::McpConnectionFailedError);
    assert_eq!((error.mcp_server_name.as_deref(), &error.retry_status), (Some("wiki"), &RetryStatus::Retrying {}));
    assert_eq!(world.session.primary().mcp_tools().len(), 1, "the other server's tools are there");
    world.answer(vec![call("mcp__wiki__search"), call("lookup")], Stop::ToolUse);
    let (answer, is_error) = world.answer_of(&world.calls()[0]).unwrap();
    assert!(is_error && answer.contains("`wiki` is not connected. no route"), "{answer}");
    // The same turn goes on after an answer from outside: the server is not waited for again.
    let id = world.calls()[1].clone();
    world.send(json!([{"type": "user.custom_tool_result", "custom_tool_use_id": id}])).unwrap();
    assert!(world.connecting.is_none() && world.request.is_some(), "asked once in a turn");
    assert_eq!(world.session.primary().mcp_tools().len(), 1, "the other server's tools are there still");
    world.answer(vec![text("done")], Stop::EndTurn);
    assert_eq!(world.session.primary().state().failures, 0, "no failure of the model");
    world.say("again");
    assert_eq!(world.connect(&["wiki"]), ["session.error", "span.model_request_start"], "a new turn tells it again");
    assert!(world.begun.is_empty());
}

#[test]
fn an_answer_that_was_on_its_way_when_the_agent_changed_is_for_nobody() {
    let mut world = World::with_servers();
    world.say("hi");
    let stale = world.connecting.take().unwrap();
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    let mut agent = (**world.session.primary().agent()).clone();
    agent.mcp_servers[0].url = "https://elsewhere.example/mcp".into();
    world.replace_agent(agent);
    world.say("more");
    let asked = world.connecting.take().unwrap();
    assert_ne!(stale, asked, "the old server's tools are not taken for the new one's");
    let tools = vec![server_tool("search")];
    let servers = vec![McpNews { server: "wiki".into(), tools: Ok(tools) }];
    assert!(world.input(Input::McpConnected { attempt: stale, servers }).is_empty());
    assert!(world.session.primary().mcp_tools().is_empty() && world.request.is_none());
}

#[test]
fn a_server_that_refuses_us_is_an_error_of_its_own_and_one_without_an_answer_failed() {
    let mut world = World::with_servers();
    world.say("hi");
    let attempt = world.connecting.take().unwrap();
    let failure = McpFailure { kind: McpFailureKind::Authentication, message: "who?".into() };
    let servers = vec![McpNews { server: "wiki".into(), tools: Err(failure) }];
    let shown = world.input(Input::McpConnected { attempt, servers });
    assert_eq!(shown, ["session.error", "session.error", "span.model_request_start"]);
    let kinds = world.log.iter().filter_map(|event| match &event.body {
        EventBody::SessionError { error } => Some((error.kind, error.mcp_server_name.clone().unwrap())),
        _ => None,
    });
    let expected = [
        (SessionErrorKind::McpAuthenticationFailedError, "wiki".to_owned()),
        (SessionErrorKind::McpConnectionFailedError, "docs".to_owned()),
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[test]
fn tools_beyond_what_a_request_may_carry_are_left_out_and_that_is_said() {
    let named = |count: usize, description: &str| -> Vec<ServerTool> {
        let tool = |n| ServerTool { description: Some(description.into()), ..server_tool(&format!("t{n}")) };
        (0..count).map(tool).collect()
    };
    for (tools, offered, left_out) in [
        (named(256, "d"), 256, None),
        (named(300, "d"), 256, Some("44")),
        (named(5, &"d".repeat(300_000)), 3, Some("2")),
    ] {
        let mut world = World::with_servers();
        world.say("hi");
        let attempt = world.connecting.take().unwrap();
        let news = |server: &str, tools| McpNews { server: server.into(), tools: Ok(tools) };
        world.input(Input::McpConnected { attempt, servers: vec![news("wiki", tools), news("docs", Vec::new())] });
        assert_eq!(world.session.primary().mcp_tools().len(), offered);
        let said = world.log.iter().find_map(|event| match &event.body {
            EventBody::SessionError { error } => Some(error.message.clone()),
            _ => None,
        });
        match left_out {
            Some(count) => assert!(said.unwrap().starts_with(&format!("{count} of its tools are not offered"))),
            None => assert_eq!(said, None),
        }
    }
}

#[test]
fn a_tool_whose_name_cannot_be_read_is_left_out_and_that_is_said() {
    let mut world = World::with_servers();
    world.say("hi");
    let attempt = world.connecting.take().unwrap();
    let tools = ["search", "x\u{1b}[2Jy"].map(server_tool).to_vec();
    let news = |server: &str, tools| McpNews { server: server.into(), tools: Ok(tools) };
    world.input(Input::McpConnected { attempt, servers: vec![news("wiki", tools), news("docs", Vec::new())] });
    assert_eq!(world.session.primary().mcp_tools().len(), 1);
    let said = world.log.iter().find_map(|event| match &event.body {
        EventBody::SessionError { error } => Some(error.message.clone()),
        _ => None,
    });
    assert!(said.unwrap().starts_with("1 of its tools are not offered to the model: a tool's name"));
}

#[test]
fn allowed_calls_run_in_parallel_up_to_the_bound_while_the_session_runs() {
    let mut world = called(&["mcp__wiki__search", "mcp__docs__read", "mcp__docs__read"]);
    let calls = world.calls();
    let EventBody::AgentMcpToolUse { mcp_server_name, name, evaluated_permission, evaluation, .. } =
        &world.log.iter().find(|event| event.id == calls[0]).unwrap().body
    else {
        panic!("an MCP use")
    };
    assert_eq!((mcp_server_name.as_str(), name.as_str()), ("wiki", "search"));
    assert_eq!(*evaluated_permission, Some(Permission::Allow));
    assert_eq!(*evaluation, Some(Evaluation::AlwaysAllow {}));
    assert_eq!((status(&world), world.running.clone()), (SessionStatus::Running, calls[..2].to_vec()));
    assert_eq!(world.end_call("one"), ["agent.mcp_tool_result"]);
    assert_eq!(world.running, calls[1..], "the next begins when there is room");
    world.end_call("two");
    assert_eq!(world.end_call("three"), ["agent.mcp_tool_result", "span.model_request_start"]);
    let results = &world.session.primary().conversation().messages()[2].content;
    let ids: Vec<_> = results.iter().map(|result| result["tool_use_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, calls.iter().map(ToString::to_string).collect::<Vec<_>>());
    let blocks = &world.session.primary().conversation().messages()[1].content;
    assert_eq!(blocks[0]["name"], "mcp__wiki__search", "the model reads the name it called");
    assert_eq!(world.work, 1, "no worker is asked for what the server does itself");
}

#[test]
fn asking_is_the_default_and_a_judge_that_is_not_there_asks_too() {
    let mut world = called(&["mcp__wiki__edit", "mcp__wiki__judge"]);
    let calls = world.calls();
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: calls.clone() });
    let evaluations = world.log.iter().filter_map(|event| match &event.body {
        EventBody::AgentMcpToolUse { evaluated_permission, evaluation, .. } => {
            assert_eq!(*evaluated_permission, Some(Permission::Ask));
            evaluation.clone()
        }
        _ => None,
    });
    let asked = AutoPermission::Ask { reason_code: "indeterminate".into() };
    let expected = [Evaluation::AlwaysAsk {}, Evaluation::Auto { evaluated_permission: asked }];
    assert_eq!(evaluations.collect::<Vec<_>>(), expected);
    assert_eq!(confirm(&mut world, &calls[0], "allow"), [&["user.tool_confirmation"][..], &IDLE].concat());
    assert!(world.begun.is_empty(), "allowed calls run when everything is resolved");
    let shown = confirm(&mut world, &calls[1], "deny");
    assert_eq!(shown, [&["user.tool_confirmation", "agent.mcp_tool_result"][..], &BEGUN].concat());
    assert!(world.answer_of(&calls[1]).unwrap().0.contains("denied"));
    assert_eq!(world.work, 1, "a worker has no part in it");
    assert!(world.connecting.is_none() && world.request.is_none(), "no model request before the call's end");
    assert_eq!(world.begun, calls[..1]);
    assert_eq!(world.end_call("out"), ["agent.mcp_tool_result", "span.model_request_start"]);
    assert_eq!(world.answer_of(&calls[0]), Some(("out".into(), false)));
}

#[test]
fn nobody_else_can_answer_such_a_call() {
    let mut world = called(&["mcp__wiki__edit"]);
    let id = world.calls()[0].clone();
    for event in [
        json!({"type": "user.tool_result", "tool_use_id": id}),
        json!({"type": "user.custom_tool_result", "custom_tool_use_id": id}),
    ] {
        let problem = world.send(json!([event])).unwrap_err();
        assert!(problem.message.contains("this server makes it"), "{}", problem.message);
    }
    assert!(!world.session.primary().state().needs_worker());
}

#[test]
fn calls_of_the_server_end_before_the_session_goes_idle_for_others() {
    let mut world = called(&["bash", "mcp__docs__read", "mcp__wiki__edit"]);
    let calls = world.calls();
    assert_eq!(status(&world), SessionStatus::Running);
    assert_eq!(world.result(&calls[0]).unwrap(), ["user.tool_result"], "a result may come meanwhile");
    assert_eq!(world.end_call("out"), [&["agent.mcp_tool_result"][..], &IDLE].concat());
    assert_eq!(world.last_stop(), StopReason::RequiresAction { event_ids: vec![calls[2].clone()] });
}

#[test]
fn a_tool_that_is_off_or_unknown_is_answered_with_what_there_is() {
    for (name, is_mcp) in [("mcp__wiki__danger", true), ("mcp__docs__nothing", true), ("mcp__nobody__x", false)] {
        let mut world = called(&[name]);
        let use_ = world.log.iter().find(|event| event.body.kind().ends_with("tool_use")).unwrap();
        assert_eq!(use_.body.kind() == "agent.mcp_tool_use", is_mcp, "{name}");
        assert!(world.begun.is_empty() && world.request.is_some(), "{name}: the model is asked again");
        let said = serde_json::to_string(&world.log).unwrap();
        assert!(said.contains("is not enabled for this agent. Use one of:") && said.contains("mcp__docs__read"));
        world.answer(vec![text("done")], Stop::EndTurn);
    }
}

#[test]
fn an_interrupt_cancels_and_answers_at_once_and_says_what_may_have_run() {
    let mut world = called(&["mcp__docs__read", "mcp__wiki__search", "mcp__docs__read"]);
    let calls = world.calls();
    let shown = world.send(json!([{"type": "user.interrupt"}])).unwrap();
    let results = ["agent.mcp_tool_result"; 3];
    assert_eq!(shown, [&["user.interrupt"][..], &results, &IDLE].concat());
    assert!(world.running.is_empty(), "their futures are dropped");
    let begun = world.answer_of(&calls[0]).unwrap();
    assert!(begun.1 && begun.0.starts_with(INTERRUPTED) && begun.0.contains("may have taken effect"), "{}", begun.0);
    assert_eq!(world.answer_of(&calls[2]), Some((INTERRUPTED.into(), true)), "it had not begun");
    let late = Input::Called { call: calls[0].clone(), content: vec![Block::text("late")], is_error: false };
    assert!(world.input(late).is_empty());
}

#[test]
fn an_interrupt_while_connecting_ends_the_turn_and_the_next_connects_anew() {
    let mut world = World::with_servers();
    world.say("hi");
    let attempt = world.connecting.unwrap();
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!((status(&world), world.connecting), (SessionStatus::Idle, None));
    assert!(world.input(Input::McpConnected { attempt, servers: Vec::new() }).is_empty());
    world.say("again");
    assert!(world.connecting.is_some_and(|next| next != attempt));
    assert_eq!(world.connect(&[]), ["span.model_request_start"]);
}

#[test]
fn a_message_during_connecting_waits_for_the_request() {
    let mut world = World::with_servers();
    world.say("one");
    assert_eq!(world.say("two"), ["user.message"]);
    assert!(world.log.last().unwrap().processed_at.is_none());
    assert_eq!(world.connect(&[]), ["user.message", "span.model_request_start"]);
}

#[test]
fn a_worker_that_cannot_serve_ends_the_turn_and_every_call_has_its_answer() {
    let mut world = called(&["bash", "mcp__docs__read"]);
    let calls = world.calls();
    world.input(Input::WorkFailed { code: "zone_none".into(), message: "Add a zone.".into() });
    assert!(world.running.is_empty() && world.session.primary().state().calls.is_empty());
    let (answer, is_error) = world.answer_of(&calls[1]).unwrap();
    assert!(is_error && answer.contains("zone_none") && answer.contains("may have taken effect"), "{answer}");
    assert_eq!(world.last_stop(), StopReason::RetriesExhausted {});
}

#[test]
fn after_a_crash_a_begun_call_is_not_run_again_and_one_that_waited_runs() {
    let mut world = called(&["mcp__docs__read", "mcp__wiki__search", "mcp__docs__read"]);
    let calls = world.calls();
    assert_eq!(world.begun, calls[..2]);
    assert_eq!(world.crash(), ["agent.mcp_tool_result", "agent.mcp_tool_result"]);
    for call in &calls[..2] {
        assert_eq!(world.answer_of(call), Some((OUTCOME_UNKNOWN.into(), true)));
    }
    assert!(world.request.is_none() && world.begun == calls[..2], "not before the servers are connected again");
    world.connect(&[]);
    assert_eq!(world.begun, calls, "the third had not begun");
    assert_eq!(world.end_call("out"), ["agent.mcp_tool_result", "span.model_request_start"]);
}

#[test]
fn after_a_crash_a_confirmed_call_runs_and_one_whose_server_is_gone_is_answered() {
    for failing in [&[][..], &["wiki"]] {
        let mut world = called(&["mcp__wiki__edit"]);
        let id = world.calls()[0].clone();
        // The process that made the call is gone when the answer comes, and so is the next one.
        world.crash();
        confirm(&mut world, &id, "allow");
        world.crash();
        let shown = world.connect(failing);
        if failing.is_empty() {
            assert_eq!(world.begun, std::slice::from_ref(&id));
        } else {
            assert_eq!(shown, ["session.error", "agent.mcp_tool_result", "span.model_request_start"]);
            let (answer, is_error) = world.answer_of(&id).unwrap();
            assert!(is_error && answer.starts_with("The tool was not run"), "{answer}");
        }
    }
}

#[test]
fn a_crash_while_connecting_or_waiting_to_retry_asks_the_servers_again() {
    let mut world = World::with_servers();
    world.say("hi");
    assert!(world.crash().is_empty());
    world.connect(&[]);
    world.fail(crate::FailureKind::Transient);
    world.crash();
    assert_eq!(world.retry(), BEGUN);
    assert_eq!(world.connect(&[]), ["span.model_request_start"]);
    world.fail(crate::FailureKind::Transient);
    assert_eq!(world.retry(), [&BEGUN[..], &["span.model_request_start"]].concat(), "they are known");
}

#[test]
fn an_agent_that_changed_its_tools_is_believed_when_the_call_would_begin() {
    let mut world = called(&["mcp__wiki__edit"]);
    let id = world.calls()[0].clone();
    let mut agent = (**world.session.primary().agent()).clone();
    let off = json!([{"type": "mcp_toolset", "mcp_server_name": "wiki",
        "default_config": {"enabled": false, "permission_policy": {"type": "always_ask"}}, "configs": []}]);
    agent.tools = serde_json::from_value(off).unwrap();
    agent.mcp_servers.truncate(1);
    world.replace_agent(agent);
    confirm(&mut world, &id, "allow");
    world.connect(&[]);
    assert!(world.begun.is_empty());
    assert!(world.answer_of(&id).unwrap().0.contains("not enabled any more"));
}

#[test]
fn a_log_from_before_there_were_servers_reads_the_same_and_goes_on_with_them() {
    // Written by a build without MCP: no field of it is missed, and the turn that was open goes on.
    let log = json!([
        {"id": "sevt_1", "processed_at": "2026-11-01T10:00:00Z", "type": "user.message",
         "content": [{"type": "text", "text": "hi"}]},
        {"id": "sevt_2", "processed_at": "2026-11-01T10:00:00Z", "type": "session.status_running"},
        {"id": "sevt_3", "processed_at": "2026-11-01T10:00:00Z", "type": "session.thread_status_running",
         "agent_name": "smith", "session_thread_id": "sthr_1"},
        {"id": "sevt_4", "processed_at": "2026-11-01T10:00:00Z", "type": "span.model_request_start"},
        {"id": "sevt_5", "processed_at": "2026-11-01T10:00:01Z", "type": "span.model_request_end",
         "model_request_start_id": "sevt_4", "is_error": true, "model_usage": {"input_tokens": 0, "output_tokens": 0,
         "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}},
        {"id": "sevt_6", "processed_at": "2026-11-01T10:00:01Z", "type": "session.error",
         "error": {"type": "model_overloaded_error", "message": "m", "retry_status": {"type": "retrying"}}},
        {"id": "sevt_7", "processed_at": "2026-11-01T10:00:01Z", "type": "session.status_rescheduled"},
        {"id": "sevt_8", "processed_at": "2026-11-01T10:00:01Z", "type": "session.thread_status_rescheduled",
         "agent_name": "smith", "session_thread_id": "sthr_1"}
    ]);
    let mut world = World::with_servers();
    world.log = serde_json::from_value(log).unwrap();
    world.crash();
    assert_eq!(world.session.primary().state().failures, 1);
    assert_eq!(world.retry(), BEGUN);
    assert_eq!(world.connect(&[]), ["span.model_request_start"]);
}
