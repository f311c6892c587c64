//! Budgets over the database: which sessions can have one, how it is raised, and a restart at the cap.

use postern_model::money::{PerMillion, Price};
use postern_model::session::UpdateSession;
use postern_session::Stop;
use serde_json::{Value, json};

use super::stage::{Stage, message, settings};
use crate::Settings;

pub(super) fn budget(cents: &str) -> Value {
    json!({"type": "limit", "max_list_cost": {"amount": cents, "currency": "USD"}})
}

/// A cent for each token: an answer of the stage's model costs five.
fn priced() -> Settings {
    let PerMillion(each) = "10000".parse().unwrap();
    let price = Price { input: each, output: each, cache_write: each, cache_read: each };
    Settings { prices: [("m".to_owned(), price)].into(), ..settings() }
}

fn update(body: Value) -> UpdateSession {
    serde_json::from_value(body).unwrap()
}

#[tokio::test]
async fn a_session_pauses_at_its_budget_stays_paused_over_a_restart_and_goes_on_when_it_is_raised() {
    let mut stage = Stage::new().await.with(priced()).await;
    let id = stage.create(json!({"budget": budget("5")})).await.unwrap().id;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "go").await;
    stage.script.call().await.answers(vec![], Stop::PauseTurn).await;
    watch.until("session.status_idle").await;
    stage.restart_with(priced()).await;
    let shown = stage.engine.session(&stage.workspace, &id).await.unwrap();
    let shown = serde_json::to_value(shown).unwrap();
    assert_eq!((&shown["budget"], &shown["usage"]["list_cost"]["amount"]), (&budget("5"), &json!("5")));
    let refused = stage.send(&id, message("more")).await.unwrap_err();
    assert!(refused.message.contains("user.tool_confirmation, user.tool_result"), "{refused}");
    let apply = async |body: Value| stage.engine.update_session(&stage.workspace, &id, update(body)).await;
    let problem = apply(json!({"budget": budget("5")})).await.unwrap_err();
    assert_eq!(problem.error_code, Some("budget_not_raised"));
    apply(json!({"budget": budget("100")})).await.unwrap();
    stage.script.call().await.says("done").await;
}

#[tokio::test]
async fn a_budget_that_is_removed_is_gone_for_good_and_one_that_never_was_cannot_be_added() {
    let stage = Stage::new().await.with(priced()).await;
    let with = stage.create(json!({"budget": budget("5")})).await.unwrap().id;
    let without = stage.create(json!({})).await.unwrap().id;
    for id in [&with, &without] {
        let apply = async |body: Value| stage.engine.update_session(&stage.workspace, id, update(body)).await;
        assert_eq!(apply(json!({"budget": null})).await.unwrap().budget, None);
        let problem = apply(json!({"budget": budget("100")})).await.unwrap_err();
        assert_eq!((problem.status(), problem.error_code), (400, Some("budget_create_only")));
    }
    let updates = async |id| {
        let log = stage.log(id).await;
        log.into_iter().filter(|event| event.body.kind() == "session.updated").collect::<Vec<_>>()
    };
    let told = serde_json::to_value(updates(&with).await).unwrap();
    assert_eq!(told[0].get("budget"), Some(&Value::Null), "null says that it is gone");
    assert!(updates(&without).await.is_empty(), "nothing was removed");
}

#[tokio::test]
async fn a_deployment_s_budget_is_checked_when_it_is_made_and_given_to_its_sessions() {
    let stage = Stage::new().await.with(priced()).await;
    let create = async |budget: Value| {
        let body = json!({"name": "d", "agent": stage.agent, "environment_id": stage.environment, "budget": budget,
            "initial_events": message("go")});
        stage.engine.create_deployment(&stage.workspace, serde_json::from_value(body).unwrap(), None).await
    };
    assert_eq!(create(budget("0")).await.unwrap_err().status(), 400);
    let deployment = create(budget("7")).await.unwrap();
    let run = stage.engine.run_deployment(&stage.workspace, &deployment.id, None).await.unwrap();
    let session = stage.engine.session(&stage.workspace, &run.session_id.unwrap()).await.unwrap();
    assert_eq!(serde_json::to_value(session.budget).unwrap(), budget("7"));
}
