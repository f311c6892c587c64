//! Advisors: what their model is sent, what is stored of them, and what a restart makes of a consultation.

use postern_model::ids::SessionId;
use postern_model::session::SessionStatus;
use postern_session::{ResponseBlock, Stop};
use serde_json::{Value, json};

use super::stage::{Call, Stage, kinds, settings};
use crate::{Settings, ThreadQuery};

/// How many model requests a journey may take before the test has failed.
const REQUESTS: usize = 20;

async fn use_advised(stage: &mut Stage) {
    let roster = json!({"type": "coordinator", "agents": [{"type": "advisor", "model": "wise"}]});
    stage.use_agent(json!({"model": "m", "name": "chief", "system": "build", "multiagent": roster})).await;
}

/// The agent asks.
async fn asks(call: Call) {
    let Value::Object(input) = json!({"question": "which way?"}) else { panic!("an object") };
    let ask = ResponseBlock::ToolUse { name: "ask_advisor".into(), input: Ok(input) };
    call.answers(vec![ask], Stop::ToolUse).await;
}

#[tokio::test]
async fn an_advisor_s_model_is_asked_without_tools_and_its_thread_shows_it_and_its_tokens() {
    let mut stage = Stage::new().await;
    use_advised(&mut stage).await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "the door or the wall").await;
    let chief = stage.script.call().await;
    let names: Vec<_> = chief.body["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!(names, ["ask_advisor"]);
    asks(chief).await;
    let wise = stage.script.call().await;
    assert_eq!((&wise.body["model"], wise.body.get("tools")), (&json!("wise"), None));
    let sent = wise.body["messages"].to_string();
    assert!(sent.contains("the door or the wall") && sent.contains("which way?"));
    assert!(!wise.body["system"].to_string().contains("build"));
    wise.says("the door").await;
    let chief = stage.script.call().await;
    assert!(chief.body["messages"].to_string().contains("the door\""));
    chief.says("done").await;
    watch.until("session.status_idle").await;

    let threads = stage.engine.list_threads(&stage.workspace, &id, &ThreadQuery::default()).await.unwrap().data;
    let [primary, advisor] = &threads[..] else { panic!("two threads") };
    assert_eq!(json!(advisor.agent), json!({"type": "advisor", "model": "wise"}));
    assert_eq!((advisor.status, &advisor.parent_thread_id), (SessionStatus::Terminated, &Some(primary.id.clone())));
    let session = stage.engine.session(&stage.workspace, &id).await.unwrap();
    let tokens = |usage: Option<postern_model::session::Usage>| usage.unwrap().input_tokens;
    assert!(tokens(advisor.usage) > 0);
    assert_eq!(session.usage.input_tokens, tokens(primary.usage) + tokens(advisor.usage));
    assert_eq!(
        json!(session.agent)["multiagent"],
        json!({"type": "coordinator", "agents": [{"type": "advisor", "model": "wise"}]})
    );
}

#[tokio::test]
async fn after_a_crash_at_any_commit_of_a_consultation_it_is_answered_once() {
    let mut crashes = 0;
    for fuse in 1..=8 {
        let mut stage = Stage::new().await;
        use_advised(&mut stage).await;
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
        for once in [
            "agent.tool_use",
            "agent.tool_result",
            "session.thread_created",
            "agent.thread_message_received",
            "session.thread_status_terminated",
            "session.status_idle",
        ] {
            assert_eq!(count(once), 1, "fuse {fuse}, {once}: {:?}", kinds(&log));
        }
    }
    // What comes together is committed together, so a busy machine has fewer.
    assert!(crashes >= 3, "the journey has several commits: {crashes}");
}

/// Plays both models until the session is at rest or the engine is dead.
async fn drive(stage: &Stage, id: &SessionId) {
    for _ in 0..REQUESTS {
        if kinds(&stage.log(id).await).last() == Some(&"session.status_idle") {
            return;
        }
        let call = tokio::select! {
            call = stage.script.call() => call,
            () = stage.engine.shared.drain.cancelled() => return,
        };
        let seen = stage.log(id).await.len();
        let is_advised = call.body["messages"].to_string().contains("tool_result");
        match (call.body["model"] == "wise", is_advised) {
            (true, _) => call.says("the door").await,
            (false, true) => call.says("done").await,
            (false, false) => asks(call).await,
        }
        stage.wait_for_more(id, seen).await;
    }
    panic!("it does not come to rest");
}

#[tokio::test]
async fn a_budget_needs_the_price_of_the_advisor_s_model() {
    let price = |model: &str| (model.to_owned(), super::threads::cent());
    for (priced, is_fine) in [(vec!["m"], false), (vec!["m", "wise"], true)] {
        let prices = priced.into_iter().map(price).collect();
        let mut stage = Stage::new().await.with(Settings { prices, ..settings() }).await;
        use_advised(&mut stage).await;
        let budget = json!({"type": "limit", "max_list_cost": {"amount": "10", "currency": "USD"}});
        match stage.create(json!({"budget": budget})).await {
            Ok(_) => assert!(is_fine),
            Err(refused) => {
                assert!(!is_fine && refused.message.contains("`wise`"), "{}", refused.message);
                assert_eq!(refused.error_code, Some("model_not_budgetable"));
            }
        }
    }
}
