//! Perimeters: registering the keys that credentials are sealed to.

use std::sync::Arc;

use postern_model::control::{Answer, CommandBody, CommandRefusal, FromPerimeter, Reply, Role};
use postern_secret::seal;
use serde_json::{Value, json};

use crate::control::Peer;
use crate::credentials::variable;
use crate::repositories::poll;
use crate::support::{Request, Response, Server, hex, issue_foreign_key};

fn public_key() -> String {
    hex(&seal::suite().generate_key_pair().unwrap().0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_perimeter_is_registered_once_listed_and_deleted() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let key = public_key();
    let body = json!({"name": "p", "public_key": key.to_uppercase(), "environment_id": environment});
    let made = server.operator_post("/v1/perimeters", body.clone()).await.ok();
    assert_eq!(
        (&made["type"], &made["public_key"], &made["environment_id"], &made["tunnel_id"]),
        (&json!("perimeter"), &json!(key), &json!(environment), &Value::Null)
    );
    assert_eq!(server.operator_post("/v1/perimeters", body).await.ok(), made, "the same key for the same is the same");
    assert_eq!(server.get("/v1/perimeters").await.ok(), json!({"data": [made], "next_page": null}));

    let (other, _) = server.environment("other").await;
    let body = json!({"name": "p", "public_key": key, "environment_id": other});
    server.operator_post("/v1/perimeters", body.clone()).await.refused(409, "conflict_error");
    let path = format!("/v1/perimeters/{}", made["id"].as_str().unwrap());
    let foreign = issue_foreign_key(&server.store).await;
    server.send(server.request_as(&foreign, "DELETE", &path)).await.refused(403, "permission_error");
    server.send(server.request("DELETE", &path)).await.refused(403, "permission_error");
    let deleted = server.operator(Request::new("DELETE", &path)).await.ok();
    assert_eq!(deleted, json!({"id": made["id"], "type": "perimeter_deleted"}));
    server.operator(Request::new("DELETE", &path)).await.refused(404, "not_found_error");
    server.operator_post("/v1/perimeters", body).await.ok();
}

/// Whoever registers a perimeter can open what is sealed from then on: no key of the API may.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_registers_no_perimeter() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let body = json!({"name": "p", "public_key": public_key(), "environment_id": environment});
    server.post("/v1/perimeters", body).await.refused(403, "permission_error");
    assert_eq!(server.get("/v1/perimeters").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_perimeter_serves_a_tunnel_an_environment_or_both() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let tunnel = server.post("/v1/tunnels", json!({})).await.ok()["id"].clone();
    for body in [
        json!({"name": "t", "public_key": public_key(), "tunnel_id": tunnel}),
        json!({"name": "b", "public_key": public_key(), "tunnel_id": tunnel, "environment_id": environment}),
    ] {
        assert_eq!(server.operator_post("/v1/perimeters", body).await.ok()["tunnel_id"], tunnel);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sealed_to_is_not_registered() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let small_order = format!("01{}", "0".repeat(62));
    for (body, status, place) in [
        (json!({"name": "p", "public_key": public_key()}), 400, "environment_id or tunnel_id"),
        (json!({"name": "", "public_key": public_key(), "environment_id": environment}), 400, "name"),
        (json!({"name": "p", "public_key": "00", "environment_id": environment}), 400, "public_key"),
        (json!({"name": "p", "public_key": "0".repeat(64), "environment_id": environment}), 400, "public_key"),
        (json!({"name": "p", "public_key": small_order, "environment_id": environment}), 400, "public_key"),
        (json!({"name": "p", "public_key": public_key(), "environment_id": "env_x"}), 404, "env_x"),
        (json!({"name": "p", "public_key": public_key(), "tunnel_id": "tnl_x"}), 404, "tnl_x"),
        (json!({"name": "p", "public_key": public_key(), "tunnel_id": "env_x"}), 400, "tunnel_id"),
        (json!({"name": "p", "public_key": public_key(), "environment_id": environment, "x": 1}), 400, "x"),
    ] {
        let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
        let message = server.operator_post("/v1/perimeters", body.clone()).await.refused(status, kind);
        assert!(message.contains(place), "{body}: {message}");
    }
    server.send(server.request("POST", &format!("/v1/environments/{environment}/archive"))).await.ok();
    let body = json!({"name": "p", "public_key": public_key(), "environment_id": environment});
    server.operator_post("/v1/perimeters", body).await.refused(400, "invalid_request_error");
    assert_eq!(server.get("/v1/perimeters").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_has_a_bounded_number_of_perimeters() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let body = || json!({"name": "p", "public_key": public_key(), "environment_id": environment});
    for _ in 0..seal::MOST_RECIPIENTS {
        server.operator_post("/v1/perimeters", body()).await.ok();
    }
    let refused = server.operator_post("/v1/perimeters", body()).await;
    refused.refused(400, "invalid_request_error");
    assert_eq!(refused.body["error"]["details"]["error_code"], "perimeter_limit_reached");
}

/// A value of a vault that is sealed to the first perimeter alone, and a second perimeter.
async fn second_perimeter() -> (Server, String, String, Value) {
    let server = Server::start().await;
    server.perimeter().await;
    let (environment, key) = server.environment("workers").await;
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let path = format!("/v1/vaults/{}/credentials", vault["id"].as_str().unwrap());
    server.post(&path, variable("KEY", json!({"type": "unrestricted"}))).await.ok();
    let (second, _) = server.perimeter().await;
    (server, environment, key, second)
}

/// The answer once the worker that was connected is known to the server.
async fn rewrapped_by_a_worker(server: &Server, perimeter: &Value) -> Response {
    loop {
        match rewrap(server, perimeter).await {
            early if early.status == 503 => tokio::task::yield_now().await,
            answered => return answered,
        }
    }
}

async fn rewrap(server: &Server, perimeter: &Value) -> Response {
    let path = format!("/v1/perimeters/{}/rewrap", perimeter["id"].as_str().unwrap());
    server.operator(Request::new("POST", &path)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_perimeter_that_came_later_gets_a_wrap_of_its_own_for_what_another_one_opens() {
    let (server, _, key, second) = second_perimeter().await;
    let server = Arc::new(server);
    let path = format!("/v1/perimeters/{}/rewrap", second["id"].as_str().unwrap());
    server.send(server.request("POST", &path)).await.refused(403, "permission_error");
    rewrap(&server, &second).await.refused(503, "api_error");
    for (wrapped_for, expected) in [(json!("pmtr_other"), 0), (second["id"].clone(), 1), (second["id"].clone(), 0)] {
        let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
        let asking = tokio::spawn({
            let (server, second) = (Arc::clone(&server), second.clone());
            async move { rewrapped_by_a_worker(&server, &second).await.ok() }
        });
        let answered = tokio::task::spawn_blocking({
            let public_key = second["public_key"].clone();
            move || {
                // Nothing is left to ask for once it is wrapped.
                let Some((id, CommandBody::Rewrap { sealed, .. })) = worker.command_if_any() else { return };
                let wrap = json!({"perimeter_id": wrapped_for, "public_key": public_key, "enc": "AA==", "key": "AA=="});
                let wraps = sealed.iter().map(|_| Some(wrap.to_string())).collect();
                worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Rewrapped { wraps }) }));
            }
        });
        let done = asking.await.unwrap();
        answered.await.unwrap();
        assert_eq!(done["rewrapped"], json!(expected), "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_perimeter_whose_operator_approved_nobody_passes_nothing_on_and_says_what_to_run() {
    let (server, _, key, second) = second_perimeter().await;
    let server = Arc::new(server);
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
    let asking = tokio::spawn({
        let (server, second) = (Arc::clone(&server), second.clone());
        async move { rewrapped_by_a_worker(&server, &second).await }
    });
    tokio::task::spawn_blocking(move || {
        let (id, _) = worker.command();
        let refusal = CommandRefusal::new("perimeter_not_approved", "no", "run `postern perimeter approve`");
        worker.say(&FromPerimeter::Answer(Answer { id, result: Err(refusal) }));
    })
    .await
    .unwrap();
    let message = asking.await.unwrap().refused(409, "conflict_error");
    assert!(message.contains("postern perimeter approve"), "{message}");
}

/// A session's own values are no others to a perimeter that comes later.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_repository_that_a_session_was_given_is_passed_on_by_the_same_command() {
    let server = Server::start().await;
    server.perimeter().await;
    let (environment, key) = server.environment("workers").await;
    let repository = json!({"type": "github_repository", "url": "https://git.example/team/ledger",
        "authorization_token": "a-token-0123456789abcdef"});
    let (session, _) = server.session_and_open_call(&environment, json!({"resources": [repository]})).await;
    let (second, _) = server.perimeter().await;
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
    let server = Arc::new(server);
    let asking = tokio::spawn({
        let (server, second) = (Arc::clone(&server), second.clone());
        async move { rewrapped_by_a_worker(&server, &second).await.ok() }
    });
    let (id, public_key) = (second["id"].clone(), second["public_key"].clone());
    let sent = tokio::task::spawn_blocking(move || {
        let (command, CommandBody::Rewrap { sealed, .. }) = worker.command() else { panic!("another command") };
        let wrap = json!({"perimeter_id": id, "public_key": public_key, "enc": "AA==", "key": "AA=="});
        let wraps = vec![Some(wrap.to_string())];
        worker.say(&FromPerimeter::Answer(Answer { id: command, result: Ok(Reply::Rewrapped { wraps }) }));
        sealed
    });
    let sent = sent.await.unwrap();
    assert_eq!(asking.await.unwrap()["rewrapped"], json!(1));
    let [sent] = &sent[..] else { panic!("{sent:?}") };
    let binding = seal::SealedCredential::decode(sent).unwrap().binding;
    assert_eq!((binding.kind.as_str(), binding.vault.as_str()), (seal::Binding::REPOSITORY, session.as_str()));
    let (brought, _) = poll(&server, &environment, &key, "postern/0.1.0").await;
    let keys: Vec<&str> = brought[0].credential.sealed.wraps.iter().map(|wrap| wrap.public_key.as_str()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1], second["public_key"], "its worker is brought a key that it opens");
}
