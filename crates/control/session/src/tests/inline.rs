//! Agents that a coordinator defines when it starts them.

use std::sync::Arc;

use postern_model::agent::{Mind, SessionMultiagent, ThreadAgent};
use postern_model::event::EventBody;
use postern_model::ids::AgentId;
use postern_model::session::{SessionAgent, SessionStatus};
use serde_json::{Value, json};

use super::world::{World, agent, call, crew, limits, start, tell, text, tool};
use crate::coordinate::{MOST_THREADS, definitions};
use crate::{FailureKind, Input, ResponseBlock, Stop};

/// An agent that may define others, and has `scout` with a model of its own; with an advisor.
fn definer() -> Arc<SessionAgent> {
    let smith = (*agent()).clone();
    let mut scout = SessionAgent { id: AgentId::parse("agent_2").unwrap(), name: "scout".into(), ..smith.clone() };
    scout.model.id = "other".into();
    let subagents = json!({
        "type": "enabled", "inline_agents": {"type": "enabled"}, "predefined_agents": [ThreadAgent::from(scout)]});
    let parts = json!({
        "type": "multiagent_20261001", "advisor": {"type": "enabled", "model": "wise"}, "subagents": subagents,
        "workflows": {"type": "disabled"}});
    let multiagent: SessionMultiagent = serde_json::from_value(parts).unwrap();
    Arc::new(SessionAgent { multiagent: Some(multiagent), ..smith })
}

fn define(definition: Value) -> ResponseBlock {
    tool("start_agent", json!({"inline_agent": definition, "message": "dig"}))
}

fn mole() -> Value {
    json!({"name": "mole", "system": "You dig."})
}

fn started(block: ResponseBlock) -> World {
    let mut world = World::of(definer(), limits());
    world.say("go");
    world.answer(vec![block], Stop::ToolUse);
    world
}

fn answer(world: &World) -> (String, bool) {
    world.answer_of(world.calls().last().expect("a call")).expect("an answer")
}

#[test]
fn a_defined_agent_works_with_its_coordinator_s_tools_and_reports_and_hears() {
    let mut world = started(define(json!({"name": "mole", "system": "You dig.", "model": "other"})));
    assert!(answer(&world).0.contains("`mole` works in thread"));
    let child = &world.session.children()[0];
    assert_eq!((child.agent().system.as_deref(), child.agent().model.id.as_str()), (Some("You dig."), "other"));
    assert_eq!((&child.agent().tools, &child.agent().multiagent), (&agent().tools, &None));
    let Mind::Inline(shown) = child.mind() else { panic!("inline") };
    let shown = json!(shown);
    assert_eq!((&shown["type"], &shown["name"], shown.get("id")), (&json!("inline"), &json!("mole"), None));
    assert!(shown.get("version").is_none() && shown.get("multiagent").is_none());
    // What asks of its coordinator asks of it.
    world.child_answers(0, vec![call("write")], Stop::ToolUse);
    let write = world.calls().last().unwrap().clone();
    let allow = json!([{"type": "user.tool_confirmation", "tool_use_id": write, "result": "allow"}]);
    assert!(world.result(&write).is_err() && world.send(allow).is_ok());
    world.crash();
    world.result(&write).unwrap();
    world.child_answers(0, vec![text("a worm")], Stop::EndTurn);
    let said = |event: &postern_model::event::Event| match &event.body {
        EventBody::ThreadMessageReceived { from_agent_name, .. } => from_agent_name.clone(),
        _ => None,
    };
    assert_eq!(world.log.iter().find_map(said).as_deref(), Some("mole"));
    world.answer(vec![text("more")], Stop::EndTurn);
    let thread = world.child(0);
    world.answer(vec![tell(&thread, "deeper")], Stop::ToolUse);
    assert!(world.asks(1));
    world.crash();
    assert_eq!(
        world.session.children()[0].agent().system.as_deref(),
        Some("You dig."),
        "the log says how it was defined"
    );
    world.assert_log_says_everything();
}

#[test]
fn what_defines_no_agent_starts_none_and_the_model_is_told_why() {
    let long = |n: usize| "x".repeat(n);
    for (definition, why) in [
        (json!("mole"), "needs `name` and `system`"),
        (json!({"name": "mole"}), "needs `name` and `system`"),
        (json!({"name": "mole", "system": "s", "tools": []}), "needs `name` and `system`"),
        (json!({"name": " ", "system": "s"}), "`name` of"),
        (json!({"name": long(257), "system": "s"}), "`name` of"),
        (json!({"name": "mole", "system": ""}), "`system` of"),
        (json!({"name": "mole", "system": long(100_001)}), "`system` of"),
        (json!({"name": "mole", "system": "s", "description": long(2_049)}), "`description` of"),
        (json!({"name": "scout", "system": "s"}), "another's name"),
        (json!({"name": "smith", "system": "s"}), "another's name"),
        (json!({"name": "anthropic.advisor", "system": "s"}), "another's name"),
        (json!({"name": "mole", "system": "s", "model": "dearest"}), "not one of yours. Use one of: m, other."),
        (json!({"name": "mole", "system": "s", "model": "wise"}), "not one of yours"),
    ] {
        let world = started(define(definition.clone()));
        let (text, is_error) = answer(&world);
        assert!(is_error && text.contains(why), "{definition}: {text}");
        assert!(world.session.children().is_empty() && world.asks(0), "{definition}");
        world.assert_log_says_everything();
    }
    let both = tool("start_agent", json!({"agent": "scout", "inline_agent": mole(), "message": "m"}));
    assert!(answer(&started(both)).0.contains("not both"));
    // A coordinator of saved agents alone defines none.
    let mut world = World::of(crew(), limits());
    world.say("go");
    world.answer(vec![define(mole())], Stop::ToolUse);
    assert!(answer(&world).0.contains("cannot define agents") && world.session.children().is_empty());
}

#[test]
fn an_agent_is_told_of_what_it_may_do_and_of_nothing_else() {
    let schema = |agent: &SessionAgent| {
        let tools = definitions(agent);
        let named =
            |name: &str| tools.iter().find(|tool| tool["name"] == name).map(|tool| tool["input_schema"].clone());
        (named("start_agent"), named("ask_advisor").is_some())
    };
    let (both, is_advised) = schema(&definer());
    let both = both.unwrap();
    assert_eq!((&both["required"], is_advised), (&json!(["message"]), true));
    assert_eq!(both["properties"]["agent"]["enum"], json!(["scout"]));
    assert_eq!(both["properties"]["inline_agent"]["properties"]["model"]["enum"], json!(["m", "other"]));
    let (saved, _) = schema(&crew());
    let saved = saved.unwrap();
    assert_eq!((&saved["required"], saved["properties"].get("inline_agent")), (&json!(["agent", "message"]), None));
    let alone = |subagents: Value| {
        let parts = json!({
            "type": "multiagent_20261001", "advisor": {"type": "disabled"}, "subagents": subagents,
            "workflows": {"type": "disabled"}});
        SessionAgent { multiagent: serde_json::from_value(parts).unwrap(), ..(*agent()).clone() }
    };
    let on = json!({"type": "enabled", "inline_agents": {"type": "enabled"}, "predefined_agents": []});
    let (defined, is_advised) = schema(&alone(on));
    assert_eq!((&defined.unwrap()["required"], is_advised), (&json!(["inline_agent", "message"]), false));
    assert_eq!(schema(&alone(json!({"type": "disabled"}))), (None, false));
}

#[test]
fn defined_agents_count_and_fail_and_change_like_any_other() {
    let mut world = World::of(definer(), limits());
    world.say("go");
    let mut blocks = vec![define(mole()); MOST_THREADS];
    blocks.push(start("scout", "m"));
    world.answer(blocks, Stop::ToolUse);
    assert_eq!(world.session.children().len(), MOST_THREADS, "two may have one name");
    assert!(answer(&world).0.contains("which is the most"));
    world.child_fails(0, FailureKind::Rejected);
    assert_eq!(world.child_state(0).status, SessionStatus::Terminated);
    world.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert_eq!(world.session.overall().status, SessionStatus::Idle);
    let mut changed = (*definer()).clone();
    changed.tools.pop();
    world.replace_agent(changed.clone());
    assert_eq!(world.session.children()[1].agent().tools, changed.tools, "they have their coordinator's tools");
    world.input(Input::ArchiveThread(world.child(1)));
    world.assert_log_says_everything();
}
