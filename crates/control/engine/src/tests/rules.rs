//! Creating, listing, changing and ending sessions.

use postern_model::page::Order;
use postern_model::session::{SessionStatus, UpdateSession};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, kinds, message, settings};
use crate::{EventQuery, Of, SessionQuery, Settings, ThreadQuery, TimeRange};

fn update(body: Value) -> UpdateSession {
    serde_json::from_value(body).unwrap()
}

#[tokio::test]
async fn what_this_build_cannot_do_is_refused_with_the_reason() {
    let stage = Stage::new().await;
    let agent = |more: Value| {
        let mut agent = json!({"type": "agent_with_overrides", "id": stage.agent});
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"agent": agent})
    };
    let user = message("x")[0].clone();
    for (body, status, part) in [
        (json!({"budget": {"type": "limit"}}), 400, "budget: must be"),
        (
            json!({"budget": super::budgets::budget("100")}),
            400,
            "the model `m`, which the session can use, has no price",
        ),
        (json!({"budget": null}), 400, "must not be null"),
        (json!({"vault_ids": ["vlt_1"]}), 400, "vault_ids[0]: vault vlt_1 was not found"),
        (json!({"vault_ids": ["nonsense"]}), 400, "vault_ids[0]"),
        (json!({"vault_ids": vec!["vlt_1"; 51]}), 400, "at most 50"),
        (json!({"resources": [{"type": "file", "file_id": "file_1"}]}), 404, "resources[0]: File file_1 was not found"),
        (json!({"initial_events": [{"type": "user.define_outcome", "description": "d", "rubric": {}}]}), 400, "rubric"),
        (json!({"initial_events": [{"type": "user.interrupt"}]}), 400, "may begin a session"),
        (json!({"initial_events": vec![user; 51]}), 400, "at most 50"),
        (json!({"environment_id": "env_unknown"}), 404, "env_unknown"),
        (json!({"environment_id": "nonsense"}), 404, "nonsense"),
        (json!({"agent": "agent_unknown"}), 404, "agent_unknown"),
        (json!({"agent": {"type": "agent", "id": stage.agent, "version": 9}}), 404, "was not found"),
        (agent(json!({"model": null})), 400, "cannot clear the model"),
        (agent(json!({"skills": [{"type": "custom", "skill_id": "skill_none"}]})), 404, "skills[0]: Skill skill_none"),
        (
            agent(json!({"mcp_servers": [{"type": "url", "name": "w", "url": "https://w.example"}]})),
            400,
            "`w` has no mcp_toolset",
        ),
        (agent(json!({"tools": [{"type": "mcp_toolset", "mcp_server_name": "w"}]})), 400, "no server is named `w`"),
        (
            agent(
                json!({"tools": [{"type": "custom", "name": "bash", "description": "d", "input_schema": {"type": "object"}}]}),
            ),
            400,
            "built-in",
        ),
        (json!({"surprise": 1}), 400, "surprise"),
    ] {
        let problem = stage.create(body.clone()).await.expect_err(&body.to_string());
        assert_eq!(problem.status(), status, "{body}: {problem}");
        assert!(problem.message.contains(part), "{body}: {problem}");
    }
    let all = stage.engine.list_sessions(&stage.workspace, &SessionQuery::default()).await.unwrap();
    assert!(all.data.is_empty(), "nothing is left of a refused creation");
}

#[tokio::test]
async fn overrides_replace_whole_fields_and_a_model_override_drops_the_effort() {
    let stage = Stage::new().await;
    let agent = json!({"type": "agent_with_overrides", "id": stage.agent, "model": {"id": "n", "effort": "low"},
        "system": null, "tools": []});
    let session = stage
        .create(json!({"agent": agent, "title": "t", "metadata": {"k": "v"}, "vault_ids": [], "resources": []}))
        .await
        .unwrap();
    assert_eq!((session.agent.model.id.as_str(), session.agent.model.effort), ("n", None));
    assert_eq!((session.agent.system, session.agent.tools.len()), (None, 0));
    assert_eq!((session.agent.id.as_str(), session.agent.version), (stage.agent.as_str(), 1));
}

#[tokio::test]
async fn a_session_with_initial_events_runs_at_once() {
    let stage = Stage::new().await;
    let session = stage.create(json!({"initial_events": message("go")})).await.unwrap();
    assert_eq!(session.status, SessionStatus::Running);
    let call = stage.script.call().await;
    assert_eq!(call.body["messages"][0]["content"][0]["text"], "go");
    let read = stage.engine.session(&stage.workspace, &session.id).await.unwrap();
    assert_eq!((read.status, read.created_at), (session.status, session.created_at));
}

#[tokio::test]
async fn a_title_is_neither_empty_nor_long() {
    let stage = Stage::new().await;
    let longest = "\u{e9}".repeat(500);
    let id = stage.create(json!({"title": longest})).await.unwrap().id;
    for wrong in ["", " \n", &format!("{longest}x")] {
        let update = serde_json::from_value(json!({"title": wrong})).unwrap();
        let created = stage.create(json!({"title": wrong})).await.unwrap_err();
        let updated = stage.engine.update_session(&stage.workspace, &id, update).await.unwrap_err();
        for refused in [created, updated] {
            assert_eq!(refused.status(), 400);
            assert!(refused.message.starts_with("title: must have 1 to 500"), "{}", refused.message);
        }
    }
    assert_eq!(stage.engine.session(&stage.workspace, &id).await.unwrap().title, Some(longest));
}

#[tokio::test]
async fn updates_say_what_changed_and_nothing_else() {
    let stage = Stage::new().await;
    let id = stage.create(json!({"title": "a", "metadata": {"k": "v"}})).await.unwrap().id;
    let apply = async |body: Value| stage.engine.update_session(&stage.workspace, &id, update(body)).await;
    apply(json!({"title": "a"})).await.unwrap();
    assert!(stage.log(&id).await.is_empty(), "no change, no event");
    let session = apply(json!({"title": "b", "metadata": {"k": null, "l": "w"}})).await.unwrap();
    assert_eq!((session.title.as_deref(), session.metadata.0.len()), (Some("b"), 1));
    let event = serde_json::to_value(stage.log(&id).await.last().unwrap()).unwrap();
    assert_eq!((&event["title"], &event["metadata"]), (&json!("b"), &json!({"l": "w"})));
    assert!(event.get("agent").is_none());
    let session = apply(json!({"agent": {"tools": []}})).await.unwrap();
    assert!(session.agent.tools.is_empty());
    let toolset = json!({"type": "mcp_toolset", "mcp_server_name": "w"});
    let server = json!({"type": "url", "name": "w", "url": "https://w.example"});
    for (agent, part) in [
        (json!({"mcp_servers": [server]}), "agent.mcp_servers[0]: `w` has no mcp_toolset"),
        (json!({"tools": [toolset]}), "agent.tools[0]: no server is named `w`"),
    ] {
        let problem = apply(json!({"agent": agent})).await.unwrap_err();
        assert!(problem.message.contains(part), "{problem}");
    }
    let session = apply(json!({"agent": {"mcp_servers": [server], "tools": [toolset]}})).await.unwrap();
    assert_eq!((session.agent.mcp_servers.len(), session.agent.tools.len()), (1, 1));
    assert!(apply(json!({"agent": {"mcp_servers": null}})).await.is_err(), "its toolset is left");
    apply(json!({"agent": {"mcp_servers": null, "tools": []}})).await.unwrap();
    for body in [json!({"vault_ids": []}), json!({"budget": {}}), json!({"agent": null})] {
        assert_eq!(apply(body.clone()).await.unwrap_err().status(), 400, "{body}");
    }
    stage.say(&id, "run").await;
    let call = stage.script.call().await;
    assert_eq!(call.body.get("tools"), None, "the new snapshot is what the model gets");
    assert_eq!(apply(json!({"agent": {"tools": []}})).await.unwrap_err().status(), 409);
    apply(json!({"title": null})).await.unwrap();
}

#[tokio::test]
async fn a_running_session_is_neither_archived_nor_deleted() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "run").await;
    let call = stage.script.call().await;
    assert_eq!(stage.engine.archive_session(&stage.workspace, &id).await.unwrap_err().status(), 409);
    assert_eq!(stage.engine.delete_session(&stage.workspace, &id).await.unwrap_err().status(), 409);
    call.says("done").await;
    watch.until("session.status_idle").await;
    let archived = stage.engine.archive_session(&stage.workspace, &id).await.unwrap();
    assert_eq!(archived.status, SessionStatus::Terminated);
    let again = stage.engine.archive_session(&stage.workspace, &id).await.unwrap();
    assert_eq!(again.archived_at, archived.archived_at);
    assert_eq!(stage.send(&id, message("x")).await.unwrap_err().status(), 400);
    stage.engine.delete_session(&stage.workspace, &id).await.unwrap();
    watch.until("session.deleted").await;
    assert!(watch.next().await.is_none(), "the stream ends");
    assert_eq!(stage.engine.session(&stage.workspace, &id).await.unwrap_err().status(), 404);
    assert_eq!(stage.send(&id, message("x")).await.unwrap_err().status(), 404);
}

#[tokio::test]
async fn another_workspace_sees_nothing_of_it() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let other = "wrkspc_other".parse().unwrap();
    assert_eq!(stage.engine.session(&other, &id).await.unwrap_err().status(), 404);
    assert_eq!(
        stage.engine.list_events(&other, &id, Of::Session, &EventQuery::default()).await.unwrap_err().status(),
        404
    );
    assert_eq!(
        stage.engine.subscribe(&other, &id, Of::Session, Default::default(), None).await.unwrap_err().status(),
        404
    );
    assert_eq!(stage.engine.delete_session(&other, &id).await.unwrap_err().status(), 404);
    assert!(stage.engine.list_sessions(&other, &SessionQuery::default()).await.unwrap().data.is_empty());
}

#[tokio::test]
async fn pages_of_sessions_go_both_ways() {
    let stage = Stage::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(stage.session().await);
    }
    for order in [Order::Asc, Order::Desc] {
        let mut expected = ids.clone();
        if order == Order::Desc {
            expected.reverse();
        }
        let list = async |page: Option<String>| {
            let query = SessionQuery { limit: Some(2), order, page, ..SessionQuery::default() };
            stage.engine.list_sessions(&stage.workspace, &query).await.unwrap()
        };
        let first = list(None).await;
        assert_eq!(first.prev_page, None);
        let second = list(first.next_page.clone()).await;
        let third = list(second.next_page.clone()).await;
        assert_eq!(third.next_page, None);
        let pages = [&first, &second, &third];
        let seen: Vec<_> = pages.iter().flat_map(|page| page.data.iter().map(|s| s.id.clone())).collect();
        assert_eq!(seen, expected);
        let back = list(third.prev_page.clone()).await;
        assert_eq!(
            back.data.iter().map(|s| &s.id).collect::<Vec<_>>(),
            second.data.iter().map(|s| &s.id).collect::<Vec<_>>()
        );
        let start = list(back.prev_page.clone()).await;
        assert_eq!(start.data[0].id, first.data[0].id);
        assert_eq!(start.prev_page, None);
        let other = if order == Order::Asc { Order::Desc } else { Order::Asc };
        let wrong = SessionQuery { order: other, page: first.next_page.clone(), ..SessionQuery::default() };
        assert_eq!(stage.engine.list_sessions(&stage.workspace, &wrong).await.unwrap_err().status(), 400);
    }
}

#[tokio::test]
async fn lists_of_sessions_keep_to_their_filters() {
    let stage = Stage::new().await;
    let idle = stage.session().await;
    let running = stage.create(json!({"initial_events": message("go")})).await.unwrap();
    let archived = stage.session().await;
    stage.engine.archive_session(&stage.workspace, &archived).await.unwrap();
    let base = SessionQuery { order: Order::Asc, ..SessionQuery::default() };
    let at = |gt| TimeRange { gt, ..TimeRange::default() };
    for (query, expected) in [
        (base.clone(), vec![&idle, &running.id]),
        (SessionQuery { include_archived: true, ..base.clone() }, vec![&idle, &running.id, &archived]),
        (SessionQuery { statuses: vec![SessionStatus::Running], ..base.clone() }, vec![&running.id]),
        (
            SessionQuery { agent_id: Some(stage.agent.clone()), agent_version: Some(1), ..base.clone() },
            vec![&idle, &running.id],
        ),
        (SessionQuery { agent_id: Some(stage.agent.clone()), agent_version: Some(2), ..base.clone() }, vec![]),
        (SessionQuery { agent_id: Some("agent_other".into()), ..base.clone() }, vec![]),
        (SessionQuery { deployment_id: Some("depl_1".into()), ..base.clone() }, vec![]),
        (SessionQuery { created_at: at(Some(running.created_at)), ..base.clone() }, vec![]),
    ] {
        let page = stage.engine.list_sessions(&stage.workspace, &query).await.unwrap();
        assert_eq!(page.data.iter().map(|s| &s.id).collect::<Vec<_>>(), expected, "{query:?}");
    }
    for wrong in [
        SessionQuery { agent_version: Some(1), ..base.clone() },
        SessionQuery { limit: Some(0), ..base.clone() },
        SessionQuery { limit: Some(1001), ..base.clone() },
        SessionQuery { page: Some("page_x".into()), ..base.clone() },
    ] {
        assert_eq!(stage.engine.list_sessions(&stage.workspace, &wrong).await.unwrap_err().status(), 400, "{wrong:?}");
    }
}

#[tokio::test]
async fn pages_of_events_follow_order_and_filters() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.says("hi").await;
    watch.until("session.status_idle").await;
    let whole = stage.log(&id).await;
    let list = async |query: EventQuery| stage.engine.list_events(&stage.workspace, &id, Of::Session, &query).await;
    for order in [Order::Asc, Order::Desc] {
        let (mut seen, mut page) = (Vec::new(), None);
        loop {
            let query = EventQuery { limit: Some(3), order, page: page.clone(), ..EventQuery::default() };
            let next = list(query).await.unwrap();
            seen.extend(next.data);
            page = next.next_page;
            if page.is_none() {
                break;
            }
        }
        if order == Order::Desc {
            seen.reverse();
        }
        assert_eq!(seen, whole);
    }
    let types = vec!["user.message".to_owned(), "agent.message".to_owned()];
    let some = list(EventQuery { types, ..EventQuery::default() }).await.unwrap();
    assert_eq!(kinds(&some.data), ["user.message", "agent.message"]);
    let after = TimeRange { gt: whole[0].processed_at, ..TimeRange::default() };
    let later = list(EventQuery { created_at: after, ..EventQuery::default() }).await.unwrap();
    assert!(
        later.data.len() < whole.len() && later.data.iter().all(|event| event.processed_at > whole[0].processed_at)
    );
    let unknown = EventQuery { types: vec!["session.deleted".into()], ..EventQuery::default() };
    assert_eq!(list(unknown).await.unwrap_err().status(), 400);
}

#[tokio::test]
async fn the_primary_thread_shows_null_until_there_is_something_to_show() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let thread = async || {
        stage.engine.list_threads(&stage.workspace, &id, &ThreadQuery::default()).await.unwrap().data.remove(0)
    };
    let before = thread().await;
    assert_eq!((before.stats, before.usage, before.parent_thread_id), (None, None, None));
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    let running = thread().await;
    assert!(running.stats.is_some() && running.usage.is_none());
    call.says("hi").await;
    watch.until("session.status_idle").await;
    assert!(thread().await.usage.is_some());
    let other = "sthr_other".parse().unwrap();
    let problem = stage.engine.thread(&stage.workspace, &id, &other).await.unwrap_err();
    assert_eq!((problem.status(), problem.error_code), (404, Some("thread_not_found")));
}

#[tokio::test]
async fn a_session_at_rest_leaves_memory_and_comes_back_as_it_was() {
    let linger = std::time::Duration::from_millis(1);
    let stage = Stage::new().await.with(Settings { linger, ..settings() }).await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "one").await;
    stage.script.call().await.says("a").await;
    watch.until("session.status_idle").await;
    drop(watch);
    let gone = async {
        // The clock of deployments, the sweeper and who looks for lost work stay.
        while stage.engine.shared.tasks.len() > 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the session's task ends");
    stage.say(&id, "two").await;
    let messages = stage.script.call().await.body["messages"].clone();
    let texts: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["one", "a", "two"]);
}

#[tokio::test]
async fn a_drained_engine_ends_streams_and_takes_nothing_more() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "run").await;
    let call = stage.script.call().await;
    assert!(stage.engine.drain(PATIENCE).await);
    assert!(call.news.is_closed());
    while watch.next().await.is_some() {}
    assert_eq!(stage.send(&id, message("x")).await.unwrap_err().status(), 503);
    assert_eq!(stage.log(&id).await.len(), 4, "lists still answer");
}

#[tokio::test]
async fn a_request_holds_one_to_fifty_events() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let interrupts = |count| json!(vec![json!({"type": "user.interrupt"}); count]);
    for count in [0, 51] {
        assert_eq!(stage.send(&id, interrupts(count)).await.unwrap_err().status(), 400, "{count}");
    }
    assert_eq!(stage.send(&id, interrupts(50)).await.unwrap().len(), 50);
}

#[tokio::test]
async fn a_change_that_could_not_be_stored_is_not_taken_for_made_when_it_is_asked_for_again() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    stage.engine.shared.store.close().await;
    for _ in 0..2 {
        let titled = stage.engine.update_session(&stage.workspace, &id, update(json!({"title": "another"}))).await;
        assert_eq!(titled.unwrap_err().status(), 500);
        let archived = stage.engine.archive_session(&stage.workspace, &id).await;
        assert_eq!(archived.unwrap_err().status(), 500);
    }
}
