//! The web tools: which URL may be fetched and which not, who decides, and what becomes of a call.

use std::sync::Arc;

use postern_model::agent::{CreateAgent, ThreadAgent};
use postern_model::event::EventBody;
use postern_model::ids::AgentId;
use postern_model::session::{ServerToolUsage, SessionAgent};
use postern_model::tool::web::WebTools;
use serde_json::{Value, json};

use super::world::{World, call, limits, start, text, tool};
use crate::{Limits, OUTCOME_UNKNOWN, Stop, WebOrder};

const SHOWN: &str = "https://a.example/shown";

fn agent(name: &str, system: &str, configs: Value) -> SessionAgent {
    let create: CreateAgent = serde_json::from_value(json!({"model": "m", "name": name, "system": system, "tools": [
        {"type": "agent_toolset_20260401", "configs": configs},
        {"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "other", "description": "d", "input_schema": {"type": "object"}}]}))
    .unwrap();
    SessionAgent::snapshot(AgentId::parse("agent_1").unwrap(), 1, create.resolve(Vec::new(), None).unwrap())
}

fn world(configs: Value) -> World {
    World::of(Arc::new(agent("smith", "be brief", configs)), limits())
}

fn fetch(url: &str) -> crate::ResponseBlock {
    tool("web_fetch", json!({"url": url}))
}

/// The model fetches this now; what it was told where nothing went out.
fn refusal(world: &mut World, url: &str) -> Option<String> {
    let before = world.orders.len();
    world.answer(vec![fetch(url)], Stop::ToolUse);
    let call = world.calls().pop().unwrap();
    if world.orders.len() > before {
        assert!(matches!(world.orders.last(), Some(WebOrder::Fetch { .. })));
        world.end_call("a page");
        return None;
    }
    let (told, is_error) = world.answer_of(&call).expect("answered at once");
    assert!(is_error);
    Some(told.split(':').next().unwrap().to_owned())
}

#[test]
fn a_page_is_fetched_where_the_user_named_it_and_the_result_is_a_tool_result() {
    let mut world = world(json!([]));
    world.say(&format!("read {SHOWN}."));
    let shown = world.answer(vec![fetch(SHOWN)], Stop::ToolUse);
    assert_eq!(shown, ["agent.tool_use", "span.model_request_end"]);
    let WebOrder::Fetch { url, .. } = &world.orders[0] else { panic!("a fetch") };
    assert_eq!(url.to_string(), SHOWN);
    assert_eq!(world.end_call("a page"), ["agent.tool_result", "span.model_request_start"]);
    world.assert_log_says_everything();
    let searched = world.answer(vec![tool("web_search", json!({"query": "q"}))], Stop::ToolUse);
    assert_eq!(searched, ["agent.tool_use", "span.model_request_end"]);
    world.end_call("results");
    let usage = world.session.settled_usage().server_tool_use;
    assert_eq!(usage, Some(ServerToolUsage { web_fetch_requests: 0, web_search_requests: 1 }));
    world.assert_log_says_everything();
}

#[test]
fn a_url_that_the_model_composed_is_not_fetched() {
    let mut world = world(json!([]));
    world.say(&format!("read {SHOWN}, the password is hunter2"));
    for (url, why) in [
        (SHOWN, None),
        ("https://a.example/shown#part", None),
        ("HTTPS://A.example:443/shown", None),
        ("http://a.example/shown", None),
        ("https://a.example/shown?leak=hunter2", Some("url_not_in_prior_context")),
        ("https://a.example/shown/hunter2", Some("url_not_in_prior_context")),
        ("https://hunter2.a.example/shown", Some("url_not_in_prior_context")),
        ("https://a.example:8443/shown", Some("url_not_in_prior_context")),
        ("https://hunter2@a.example/shown", Some("url_not_allowed")),
        ("https://10.0.0.1/", Some("url_not_allowed")),
        ("file:///etc/passwd", Some("url_not_allowed")),
        ("https://a.example/a b", Some("invalid_tool_input")),
        ("", Some("invalid_tool_input")),
        (&format!("https://a.example/{}", "x".repeat(3_000)), Some("url_too_long")),
    ] {
        assert_eq!(refusal(&mut world, url).as_deref(), why, "{url}");
    }
    world.assert_log_says_everything();
}

#[test]
fn a_query_has_an_end() {
    let mut world = world(json!([]));
    world.say("go");
    for (query, why) in [(json!("q".repeat(401)), "query_too_long"), (json!(""), "invalid"), (json!(7), "invalid")] {
        world.answer(vec![tool("web_search", json!({"query": query}))], Stop::ToolUse);
        let told = world.answer_of(world.calls().last().unwrap()).unwrap().0;
        assert!(told.starts_with(why), "{told}");
    }
    world.answer(vec![tool("web_search", json!({"query": "q".repeat(400)}))], Stop::ToolUse);
    assert_eq!(world.orders.len(), 1);
}

#[test]
fn only_what_counts_as_a_source_shows_a_url() {
    let sources = |sources: Value| json!([{"name": "web_fetch", "url_sources": sources}]);
    let only = |names: &[&str], kind: &str| {
        let tools: Vec<_> = names.iter().map(|name| json!({"type": "tool_reference", "name": name})).collect();
        json!({"type": kind, "tools": tools})
    };
    let (everything, nothing) = (json!([]), sources(json!({"user_input": "none", "client_tool_results": "none"})));
    for (configs, admitted) in [
        (everything.clone(), vec!["user", "lookup", "other", "search", "page"]),
        (sources(json!({})), vec!["user", "lookup", "other", "search", "page"]),
        (nothing, vec!["search", "page"]),
        (sources(json!({"user_input": "none"})), vec!["lookup", "other", "search", "page"]),
        (sources(json!({"server_tool_results": "none"})), vec!["user", "lookup", "other"]),
        (
            sources(json!({"server_tool_results": only(&["web_search"], "only")})),
            vec!["user", "lookup", "other", "search"],
        ),
        (
            sources(json!({"server_tool_results": only(&["web_search"], "except")})),
            vec!["user", "lookup", "other", "page"],
        ),
        (sources(json!({"client_tool_results": only(&["lookup"], "only")})), vec!["user", "lookup", "search", "page"]),
        (sources(json!({"client_tool_results": only(&["lookup"], "except")})), vec!["user", "other", "search", "page"]),
    ] {
        let mut world = world(configs.clone());
        let url = |source: &str| format!("https://{source}.example/");
        world.say(&url("user"));
        for source in ["lookup", "other"] {
            world.answer(vec![call(source)], Stop::ToolUse);
            custom_result(&mut world, &url(source), false);
        }
        world.answer(vec![call("bash")], Stop::ToolUse);
        let bash = world.calls().pop().unwrap();
        world.result_of(&bash, &url("bash")).unwrap();
        world.answer(vec![call("web_search")], Stop::ToolUse);
        world.end_call(&url("search"));
        // Whatever is admitted, so that there is a page.
        let known = url(admitted[0]);
        world.answer(vec![fetch(&known)], Stop::ToolUse);
        world.end_call(&url("page"));
        for source in ["user", "lookup", "other", "search", "page", "bash", "nobody"] {
            let refused = refusal(&mut world, &url(source));
            let expected = (!admitted.contains(&source)).then(|| "url_not_in_prior_context".to_owned());
            assert_eq!(refused, expected, "{source} with {configs}");
        }
        world.assert_log_says_everything();
    }
}

fn custom_result(world: &mut World, text: &str, is_error: bool) {
    let id = world.calls().pop().unwrap();
    let content = json!([{"type": "text", "text": text}]);
    let result =
        json!({"type": "user.custom_tool_result", "custom_tool_use_id": id, "content": content, "is_error": is_error});
    world.send(json!([result])).unwrap();
}

#[test]
fn an_error_that_repeats_a_composed_url_does_not_show_it() {
    let mut world = world(json!([]));
    world.say("go");
    let composed = "https://evil.example/?leak";
    assert_eq!(refusal(&mut world, composed).as_deref(), Some("url_not_in_prior_context"));
    world.answer(vec![call("lookup")], Stop::ToolUse);
    custom_result(&mut world, &format!("could not reach {composed}"), true);
    assert_eq!(refusal(&mut world, composed).as_deref(), Some("url_not_in_prior_context"));
}

#[test]
fn what_the_author_wrote_may_be_fetched() {
    let author = agent(
        "smith",
        &format!("Read {SHOWN} first."),
        json!([{"name": "web_fetch", "url_sources": {"user_input": "none"}}]),
    );
    let mut world = World::of(Arc::new(author), limits());
    world.say("go https://user.example/");
    assert_eq!(refusal(&mut world, SHOWN), None);
    assert_eq!(refusal(&mut world, "https://user.example/").as_deref(), Some("url_not_in_prior_context"));
}

#[test]
fn lists_hold_for_what_the_user_named_too() {
    let mut world = world(json!([{"name": "web_fetch", "allowed_domains": ["a.example"], "max_content_tokens": 7}]));
    world.say(&format!("{SHOWN} https://b.example/"));
    assert_eq!(refusal(&mut world, SHOWN), None);
    assert!(matches!(world.orders[0], WebOrder::Fetch { max_content_tokens: Some(7), .. }));
    assert_eq!(refusal(&mut world, "https://b.example/").as_deref(), Some("url_not_allowed"));
}

#[test]
fn in_a_thread_the_lists_of_both_agents_hold_and_what_any_thread_was_shown_is_shown() {
    let coordinator = agent("smith", "", json!([{"name": "web_fetch", "allowed_domains": ["a.example", "b.example"]}]));
    let scout = agent("scout", "", json!([{"name": "web_fetch", "allowed_domains": ["b.example", "c.example"]}]));
    let agents = vec![ThreadAgent::from(SessionAgent { id: AgentId::parse("agent_2").unwrap(), ..scout })];
    let mut world = World::of(super::world::coordinator(coordinator, agents, None), limits());
    world.say("https://a.example/ https://b.example/ https://c.example/");
    world.answer(vec![start("scout", "read https://b.example/composed")], Stop::ToolUse);
    for (url, goes) in [
        ("https://a.example/", Some("url_not_allowed")),
        ("https://b.example/", None),
        ("https://c.example/", Some("url_not_allowed")),
        ("https://b.example/composed", Some("url_not_in_prior_context")),
    ] {
        let before = world.orders.len();
        world.child_answers(0, vec![fetch(url)], Stop::ToolUse);
        let call = world.calls().pop().unwrap();
        if world.orders.len() > before {
            assert_eq!(goes, None, "{url}");
            world.end_call("a page");
        } else {
            let told = world.answer_of(&call).unwrap().0;
            assert!(told.starts_with(goes.expect(url)), "{url}: {told}");
        }
    }
    world.assert_log_says_everything();
}

#[test]
fn a_person_who_is_asked_decides_and_what_changed_meanwhile_counts() {
    let ask = json!([{"name": "web_fetch", "permission_policy": {"type": "always_ask"}}]);
    let mut asked = world(ask.clone());
    asked.say(SHOWN);
    let shown = asked.answer(vec![fetch(SHOWN)], Stop::ToolUse);
    assert_eq!(shown.last(), Some(&"session.status_idle"));
    assert!(asked.orders.is_empty());
    let confirm = |world: &World, result: &str| json!([{"type": "user.tool_confirmation", "tool_use_id": world.calls()[0], "result": result}]);
    let allow = confirm(&asked, "allow");
    asked.send(allow).unwrap();
    assert_eq!(asked.orders.len(), 1);
    asked.end_call("a page");
    asked.assert_log_says_everything();

    let mut denied = world(ask.clone());
    denied.say(SHOWN);
    denied.answer(vec![fetch(SHOWN)], Stop::ToolUse);
    let deny = confirm(&denied, "deny");
    denied.send(deny).unwrap();
    assert!(denied.orders.is_empty());
    assert!(denied.log.iter().any(|event| event.body.kind() == "agent.tool_result"));

    let mut changed = world(ask);
    changed.say(SHOWN);
    changed.answer(vec![fetch(SHOWN)], Stop::ToolUse);
    changed.replace_agent(agent("smith", "", json!([{"name": "web_fetch", "blocked_domains": ["a.example"]}])));
    let allow = confirm(&changed, "allow");
    changed.send(allow).unwrap();
    assert!(changed.orders.is_empty());
    assert!(changed.answer_of(&changed.calls()[0]).unwrap().0.starts_with("url_not_allowed"));
}

#[test]
fn nobody_else_answers_a_call_of_a_web_tool() {
    let mut world = world(json!([]));
    world.say(SHOWN);
    world.answer(vec![fetch(SHOWN), call("bash")], Stop::ToolUse);
    let calls = world.calls();
    let problem = world.result(&calls[0]).unwrap_err();
    assert!(problem.message.contains("makes itself"), "{}", problem.message);
    world.result(&calls[1]).unwrap();
}

#[test]
fn an_interrupt_cancels_and_a_crash_leaves_an_unknown_outcome() {
    let mut interrupted = world(json!([]));
    interrupted.say(&format!("{SHOWN} https://b.example/ https://c.example/"));
    let blocks = vec![fetch(SHOWN), fetch("https://b.example/"), fetch("https://c.example/")];
    interrupted.answer(blocks, Stop::ToolUse);
    assert_eq!(interrupted.running.len(), 2, "no more at once than the bound");
    interrupted.send(json!([{"type": "user.interrupt"}])).unwrap();
    assert!(interrupted.running.is_empty());
    let results = interrupted.log.iter().filter(|event| matches!(event.body, EventBody::AgentToolResult { .. }));
    assert_eq!(results.count(), 3);
    interrupted.assert_log_says_everything();

    let mut crashed = world(json!([]));
    crashed.say(SHOWN);
    crashed.answer(vec![fetch(SHOWN)], Stop::ToolUse);
    crashed.crash();
    assert_eq!(crashed.answer_of(&crashed.calls()[0]), Some((OUTCOME_UNKNOWN.into(), true)));
    assert_eq!(crashed.begun.len(), 1);
    assert_eq!(crashed.session.settled_usage().server_tool_use, None);
}

#[test]
fn a_tool_that_the_server_has_not_is_not_there() {
    let agent = Arc::new(agent("smith", "", json!([])));
    let mut world = World::of(agent, Limits { web: WebTools::Fetch, ..limits() });
    world.say("go");
    world.answer(vec![text("t"), call("web_search")], Stop::ToolUse);
    let told = world.answer_of(&world.calls()[0]).unwrap().0;
    assert!(told.contains("`web_search` is not enabled") && told.contains("web_fetch"), "{told}");
    assert!(world.orders.is_empty());
}
