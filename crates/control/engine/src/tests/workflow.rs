//! Workflows: what is stored of a run and its threads, and what a restart makes of it.

use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::SessionId;
use postern_model::session::SessionStatus;
use postern_session::{ResponseBlock, Stop};
use postern_store::sessions;
use serde_json::{Value, json};

use super::stage::{Call, PATIENCE, Stage, kinds, settings};
use crate::{Settings, ThreadQuery};

/// How many model requests a journey may take before the test has failed.
const REQUESTS: usize = 20;

async fn use_conductor(stage: &mut Stage) {
    let parts = json!({"type": "multiagent_20261001", "subagents": {"type": "disabled"}});
    stage.use_agent(json!({"model": "m", "name": "chief", "system": "lead", "multiagent": parts})).await;
}

/// The agent starts a run in which a mole digs, and then one for each of what it returns.
async fn starts(call: Call) {
    let dig = |prompt: &str| json!({"type": "agent", "agent": "mole", "prompt": prompt, "returns": "json"});
    let mut first = dig("dig");
    first["save_as"] = "found".into();
    let workflow = json!({
        "name": "dig", "agents": [{"name": "mole", "system": "You dig."}],
        "phases": [{"name": "one", "steps": [first]}, {"name": "two", "steps": [
            {"type": "for_each", "items": "{{found}}", "as": "item", "steps": [dig("dig at {{item}}")]}]}],
    });
    let Value::Object(input) = workflow else { panic!("an object") };
    let block = ResponseBlock::ToolUse { name: "start_workflow".into(), input: Ok(input) };
    call.answers(vec![block], Stop::ToolUse).await;
}

/// As deep as what an agent returns may nest.
fn deepest() -> String {
    format!("{}{}", "[".repeat(64), "]".repeat(64))
}

/// Plays the models until the session is at rest or the engine is dead.
async fn drive(stage: &Stage, id: &SessionId) {
    for _ in 0..REQUESTS {
        let log = stage.log(id).await;
        if kinds(&log).last() == Some(&"session.status_idle") && kinds(&log).contains(&"workflow_run.status_ended") {
            return;
        }
        let call = tokio::select! {
            call = stage.script.call() => call,
            () = stage.engine.shared.drain.cancelled() => return,
        };
        let seen = stage.log(id).await.len();
        let said = call.body["messages"].to_string();
        let is_mole = call.body["system"].to_string().contains("You dig.");
        match (is_mole, said.contains("dig at"), said.contains("tool_result")) {
            (true, false, _) => call.says(r#"["left", "right"]"#).await,
            (true, true, _) => call.says(&deepest()).await,
            (false, _, false) => starts(call).await,
            (false, _, true) => call.says("done").await,
        }
        stage.wait_for_more(id, seen).await;
    }
    panic!("it does not come to rest");
}

/// Waits until the log has this, without asking the session.
async fn logged(stage: &Stage, id: &SessionId, kind: &str) {
    let looked = async {
        while !kinds(&stage.log(id).await).contains(&kind) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("it is in the log");
}

#[tokio::test]
async fn after_a_crash_at_any_commit_of_a_run_every_agent_has_worked_once() {
    let mut crashes = 0;
    for fuse in 1..=10 {
        let mut stage = Stage::new().await;
        use_conductor(&mut stage).await;
        let id = stage.session().await;
        *stage.engine.shared.fuse.lock().unwrap() = Some(fuse);
        // Whether it was heard the log says.
        drop(stage.send(&id, super::stage::message("go")).await);
        drive(&stage, &id).await;
        if stage.engine.shared.drain.is_cancelled() {
            crashes += 1;
            stage.restart().await;
            if stage.log(&id).await.is_empty() {
                stage.say(&id, "go").await;
            }
            drive(&stage, &id).await;
        }
        let log = stage.log(&id).await;
        let count = |kind: &str| kinds(&log).iter().filter(|found| **found == kind).count();
        for (kind, times) in [
            ("workflow_run.created", 1),
            ("workflow_run.phase_started", 2),
            ("workflow_run.phase_ended", 2),
            ("workflow_run.status_ended", 1),
            ("workflow_run.error", 0),
            ("session.thread_created", 3),
            ("session.thread_status_terminated", 3),
        ] {
            assert_eq!(count(kind), times, "fuse {fuse}, {kind}: {:?}", kinds(&log));
        }
    }
    // What comes together is committed together, so a busy machine has fewer.
    assert!(crashes >= 4, "the journey has several commits: {crashes}");
}

#[tokio::test]
async fn a_run_s_threads_are_archived_when_it_is_done_with_them_and_whatever_they_returned_reads_back() {
    let mut stage = Stage::new().await;
    use_conductor(&mut stage).await;
    let id = stage.session().await;
    stage.say(&id, "go").await;
    drive(&stage, &id).await;
    let threads = stage.engine.list_threads(&stage.workspace, &id, &ThreadQuery::default()).await.unwrap().data;
    let [primary, moles @ ..] = &threads[..] else { panic!("threads") };
    assert_eq!((primary.workflow_run_id.as_ref(), moles.len()), (None, 3));
    for mole in moles {
        assert_eq!((mole.status, mole.archived_at.is_some()), (SessionStatus::Terminated, true));
        assert_eq!(mole.workflow_run_id, moles[0].workflow_run_id);
        assert_eq!((&json!(mole.agent)["type"], &json!(mole.agent)["system"]), (&json!("inline"), &json!("You dig.")));
    }
    assert!(moles[0].workflow_run_id.is_some());
    // The log reads back, whatever depth a model chose.
    stage.restart().await;
    stage.say(&id, "again").await;
    let call = stage.script.call().await;
    assert!(call.body["messages"].to_string().contains(&deepest()), "what they returned was told");
    call.says("done").await;
}

#[tokio::test]
async fn an_overdue_run_ends_also_where_nobody_asks_for_its_session() {
    overdue_run_ends(0).await;
}

#[tokio::test]
async fn overdue_sessions_that_stay_so_hold_up_no_other() {
    overdue_run_ends(50).await;
}

/// A run's lifetime is over beside so many sessions that are overdue for longer and stay so, as those whose logs do not read.
async fn overdue_run_ends(stuck: usize) {
    let mut stage = Stage::new().await;
    let lookup = json!({"type": "custom", "name": "lookup", "description": "d", "input_schema": {"type": "object"}});
    let parts = json!({"type": "multiagent_20261001", "subagents": {"type": "disabled"}});
    stage.use_agent(json!({"model": "m", "name": "chief", "tools": [lookup], "multiagent": parts})).await;
    let id = stage.session().await;
    stage.say(&id, "go").await;
    let workflow = json!({"name": "wait", "lifetime_seconds": 1, "agents": [{"name": "mole", "system": "You dig."}],
        "phases": [{"name": "one", "steps": [{"type": "agent", "agent": "mole", "prompt": "dig"}]}]});
    let uses = |name: &str, input: Value| {
        let Value::Object(input) = input else { panic!("an object") };
        vec![ResponseBlock::ToolUse { name: name.into(), input: Ok(input) }]
    };
    stage.script.call().await.answers(uses("start_workflow", workflow), Stop::ToolUse).await;
    for _ in 0..2 {
        let call = stage.script.call().await;
        match call.body["system"].to_string().contains("You dig.") {
            true => call.answers(uses("lookup", json!({})), Stop::ToolUse).await,
            false => call.says("it runs").await,
        }
    }
    logged(&stage, &id, "session.status_idle").await;
    for _ in 0..stuck {
        let other = stage.session().await;
        let mut tx = stage.engine.shared.store.write().await.unwrap();
        sessions::save_lapse(&mut tx, &other, Some(Timestamp::UNIX_EPOCH)).await.unwrap();
        tx.commit().await.unwrap();
    }
    // Another process: nothing of the session goes on, so nobody reads its log.
    stage.restart().await;
    logged(&stage, &id, "workflow_run.status_ended").await;
    let call = stage.script.call().await;
    assert!(call.body["messages"].to_string().contains("its lifetime is over"));
    call.says("too late").await;
}

#[tokio::test]
async fn a_budget_needs_the_price_of_every_model_that_a_run_may_use() {
    let price = |model: &str| (model.to_owned(), super::threads::cent());
    for (priced, is_fine) in [(vec!["m"], false), (vec!["m", "other"], true)] {
        let prices = priced.into_iter().map(price).collect();
        let mut stage = Stage::new().await.with(Settings { prices, ..settings() }).await;
        let scout = stage.agent(json!({"model": "other", "name": "scout"})).await;
        let parts =
            json!({"type": "multiagent_20261001", "workflows": {"type": "enabled", "predefined_agents": [scout]}});
        stage.use_agent(json!({"model": "m", "name": "chief", "multiagent": parts})).await;
        let budget = json!({"type": "limit", "max_list_cost": {"amount": "10", "currency": "USD"}});
        match stage.create(json!({"budget": budget})).await {
            Ok(_) => assert!(is_fine),
            Err(refused) => {
                assert!(!is_fine && refused.message.contains("`other`"), "{}", refused.message);
                assert_eq!(refused.error_code, Some("model_not_budgetable"));
            }
        }
    }
}
