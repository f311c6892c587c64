//! The same over HTTP: the engine, the client and a server that speaks the Messages API.

use std::sync::Arc;

use postern_model::event::EventBody;
use postern_model::ids::SessionId;
use postern_net::{HttpClient, TlsRoots};
use postern_policy::{Endpoint, configured};
use postern_testkit::rehearsal::Rehearsal;
use postern_upstream::{Client, Model};
use serde_json::{Value, json};

use super::stage::{Stage, calls, kinds, message, settings};
use crate::Engine;

async fn over_http(script: Value) -> (Stage, SessionId, Rehearsal) {
    let mut stage = Stage::new().await;
    let rehearsal = Rehearsal::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let endpoint: Endpoint = rehearsal.url.parse().unwrap();
    let http = HttpClient::new(configured(&endpoint), &TlsRoots::default()).unwrap();
    let model: Arc<dyn Model> = Arc::new(Client::new(http, None, Default::default()));
    let store = stage.engine.shared.store.clone();
    stage.engine = Engine::start(store, model, settings()).await.unwrap();
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.send(&id, message(&format!("rehearse:{script}"))).await.unwrap();
    watch.until("session.status_idle").await;
    (stage, id, rehearsal)
}

#[tokio::test]
async fn thinking_comes_back_to_the_endpoint_with_its_signature() {
    let turns = json!([{"thinking": "let me see", "text": "look", "tool_uses": [{"name": "bash", "input": {"command": "true"}}]}]);
    let (stage, id, rehearsal) = over_http(turns).await;
    let log = stage.log(&id).await;
    assert_eq!(kinds(&log)[4..8], ["agent.thinking", "agent.message", "agent.tool_use", "span.model_request_end"]);
    let use_ = calls(&log).remove(0);
    let EventBody::AgentToolUse { input, .. } = &use_.body else { panic!() };
    assert_eq!(input["command"], "true");
    let mut watch = stage.watch(&id, &[]).await;
    stage.result(&id, &use_).await.unwrap();
    watch.until("session.status_idle").await;
    let requests = rehearsal.requests();
    let last = String::from_utf8(requests.last().unwrap().clone()).unwrap();
    let body: Value = serde_json::from_str(&last[last.find("{\"").unwrap()..]).unwrap();
    let thinking = &body["messages"][1]["content"][0];
    assert_eq!(thinking["thinking"], "let me see");
    assert!(thinking["signature"].as_str().is_some_and(|signature| !signature.is_empty()));
}

#[tokio::test]
async fn a_limited_and_a_broken_answer_are_tried_again() {
    for fault in [
        json!({"status": 429, "type": "rate_limit_error", "retry_after": 0, "times": 1}),
        json!({"status": 529, "type": "overloaded_error", "times": 2}),
        json!({"status": 500, "type": "api_error", "times": 1}),
    ] {
        let (stage, id, _) = over_http(json!([{"text": "at last", "error": fault}])).await;
        let log = stage.log(&id).await;
        assert!(kinds(&log).contains(&"session.status_rescheduled"), "{fault}");
        assert_eq!(log.iter().filter(|event| event.body.kind() == "agent.message").count(), 1, "{fault}");
    }
}

#[tokio::test]
async fn what_the_endpoint_rejects_ends_the_turn_with_its_words() {
    let (stage, id, _) = over_http(json!([{"error": {"status": 401, "type": "authentication_error"}}])).await;
    let log = serde_json::to_string(&stage.log(&id).await).unwrap();
    assert!(log.contains("model_request_failed_error") && log.contains("ANTHROPIC_API_KEY"), "{log}");
    assert!(log.contains("retries_exhausted"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_for_ever_ends_the_turn() {
    let (stage, id, _) = over_http(json!([{"text": "a long text of many words", "disconnect_after": 0}])).await;
    let log = stage.log(&id).await;
    assert!(!kinds(&log).contains(&"agent.message"), "no half message is stored");
    assert!(serde_json::to_string(&log).unwrap().contains("retries_exhausted"));
}

#[tokio::test]
async fn the_models_of_the_endpoint_are_listed() {
    let (stage, _, _) = over_http(json!([])).await;
    let models = stage.engine.models().await;
    assert_eq!(models[0].id, postern_testkit::rehearsal::MODEL);
}
