//! Webhooks as their operator sees them.

use postern_model::webhook::{Happening, NEVER_TOLD};
use serde_json::{Value, json};

use crate::support::Server;

async fn webhook(server: &Server, events: &[&str]) -> Value {
    server.post("/v1/webhooks", json!({"url": "https://hooks.example/in", "enabled_events": events})).await.ok()
}

fn path(webhook: &Value) -> String {
    format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_secret_is_shown_when_it_is_made_and_never_again() {
    let server = Server::start().await;
    let made = webhook(&server, &["*"]).await;
    let secret = made["signing_secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let path = path(&made);
    let rotated = server.send(server.request("POST", &format!("{path}/rotate_secret"))).await.ok();
    assert_ne!(rotated["signing_secret"].as_str().unwrap(), secret);
    for read in [server.get(&path).await.ok(), server.get("/v1/webhooks").await.ok()["data"][0].clone()] {
        assert_eq!((read["state"].as_str(), read.get("signing_secret")), (Some("enabled"), None));
    }
}

#[tokio::test]
async fn a_webhook_is_made_changed_read_and_deleted() {
    let server = Server::start().await;
    for (body, field) in [
        (json!({"url": "http://hooks.example/", "enabled_events": ["*"]}), "url"),
        (json!({"url": "https://hooks.example/", "enabled_events": []}), "enabled_events"),
        (json!({"url": "https://hooks.example/", "enabled_events": ["session.status_running"]}), "enabled_events"),
        (json!({"url": "https://hooks.example/", "enabled_events": ["*"], "secret": "mine"}), "secret"),
    ] {
        let refusal = server.post("/v1/webhooks", body).await.refused(400, "invalid_request_error");
        assert!(refusal.contains(field), "{refusal}");
    }
    // What clients know and never happens here is taken with the rest.
    let every = [&Happening::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>()[..], NEVER_TOLD].concat();
    assert_eq!(every.len(), 49, "as many as clients know");
    assert_eq!(webhook(&server, &every).await["enabled_events"].as_array().unwrap().len(), 49);
    let made = webhook(&server, &["agent.created", "vault.created"]).await;
    let path = path(&made);
    let change = json!({"enabled_events": ["agent.updated"], "description": "d", "state": "disabled"});
    let changed = server.post(&path, change).await.ok();
    assert_eq!((&changed["enabled_events"], &changed["state"]), (&json!(["agent.updated"]), &json!("disabled")));
    assert_eq!(server.get(&path).await.ok(), changed);
    server.send(server.request("DELETE", &path)).await.ok();
    server.get(&path).await.refused(404, "not_found_error");
}

#[tokio::test]
async fn deliveries_are_listed_page_by_page_by_state_and_replayed() {
    let server = Server::start().await;
    let made = webhook(&server, &["vault.created"]).await;
    let deliveries = format!("{}/deliveries", path(&made));
    for _ in 0..3 {
        server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    }
    let first = server.get(&format!("{deliveries}?limit=2&state=pending")).await.ok();
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let next = first["next_page"].as_str().unwrap();
    let last = server.get(&format!("{deliveries}?limit=2&state=pending&page={next}")).await.ok();
    assert_eq!((last["data"].as_array().unwrap().len(), &last["next_page"]), (1, &Value::Null));
    server.get(&format!("{deliveries}?page={next}")).await.refused(400, "invalid_request_error");
    server.get(&format!("{deliveries}?state=lost")).await.refused(400, "invalid_request_error");
    assert_eq!(server.get(&format!("{deliveries}?state=dead")).await.ok()["data"], json!([]));
    let event = &last["data"][0]["event"];
    assert_eq!(event["data"]["type"], "vault.created");
    let one = format!("{deliveries}/{}", event["id"].as_str().unwrap());
    assert_eq!(server.get(&one).await.ok(), last["data"][0]);
    let replayed = server.send(server.request("POST", &format!("{one}/replay"))).await.ok();
    assert_eq!((&replayed["state"], &replayed["attempts"]), (&json!("pending"), &json!(0)));
    server.get(&format!("{deliveries}/whe_none")).await.refused(404, "not_found_error");
    let all = server.send(server.request("POST", &format!("{}/replay_dead", path(&made)))).await.ok();
    assert_eq!(all["replayed"], 0);
    assert_eq!(server.get(&path(&made)).await.ok()["pending"], 3);
}

#[tokio::test]
async fn what_changes_resources_is_told_and_what_changes_nothing_is_not() {
    let server = Server::start().await;
    let made = webhook(&server, &["*"]).await;
    let agent = server.agent().await;
    let agents = format!("/v1/agents/{agent}");
    server.post(&agents, json!({"version": 1, "description": "d"})).await.ok();
    server.post(&agents, json!({"version": 2})).await.ok();
    for _ in 0..2 {
        server.send(server.request("POST", &format!("{agents}/archive"))).await.ok();
    }
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let vault = format!("/v1/vaults/{}", vault["id"].as_str().unwrap());
    server.send(server.request("POST", &format!("{vault}/archive"))).await.ok();
    server.send(server.request("DELETE", &vault)).await.ok();
    let store = server.post("/v1/memory_stores", json!({"name": "s"})).await.ok();
    let store = format!("/v1/memory_stores/{}", store["id"].as_str().unwrap());
    server.send(server.request("POST", &format!("{store}/archive"))).await.ok();
    server.send(server.request("DELETE", &store)).await.ok();
    let told = server.get(&format!("{}/deliveries?limit=100", path(&made))).await.ok();
    let mut kinds: Vec<_> =
        told["data"].as_array().unwrap().iter().map(|one| one["event"]["data"]["type"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    let expected = [
        "agent.archived",
        "agent.created",
        "agent.updated",
        "memory_store.archived",
        "memory_store.created",
        "memory_store.deleted",
        "vault.archived",
        "vault.created",
        "vault.deleted",
    ];
    assert_eq!(kinds, expected);
}
