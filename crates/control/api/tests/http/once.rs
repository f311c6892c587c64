//! `Idempotency-Key`: a creation that comes again creates nothing, whoever is first and however its answer was lost.

use std::sync::Arc;
use std::time::SystemTime;

use postern_api::{Kind, Method, ROUTES, Route};
use postern_model::Timestamp;
use postern_model::ids::{ApiKeyId, WorkspaceId};
use postern_secret::seal;
use postern_store::answers::{self, Asked};
use postern_tunnel::certificate::new_ca;
use serde_json::{Value, json};

use crate::credentials::bearer;
use crate::files::upload;
use crate::support::{Request, Response, Server, hex, issue_api_key, issue_foreign_key};

/// Creations whose answer has what is shown once.
const SHOW_A_SECRET: [&str; 3] = ["/v1/api_keys", "/v1/environments/{environment}/keys", "/v1/webhooks"];

fn keyed(server: &Server, path: &str, key: &str, body: &Value) -> Request {
    server.request("POST", path).header("idempotency-key", key).json(body)
}

async fn count(server: &Server, path: &str) -> usize {
    server.get(path).await.ok()["data"].as_array().unwrap().len()
}

/// What posts and makes no object of its own: it takes no key.
const MAKES_NOTHING: &[(&str, &str)] = &[
    ("/archive", "the second time changes nothing"),
    ("/sessions/{session}", "a change"),
    ("/sessions/{session}/freeze", "a state"),
    ("/sessions/{session}/outputs", "replaces what lies at its path"),
    ("/sessions/{session}/resources/{resource}", "a change"),
    ("/sessions/{session}/resources/{resource}/failure", "says something"),
    ("/sessions/{session}/revoke_grants", "takes away"),
    ("/sessions/{session}/thaw", "a state"),
    ("/agents/{agent}", "a change: its version is compared"),
    ("/deployments/{deployment}", "a change"),
    ("/deployments/{deployment}/pause", "a state"),
    ("/deployments/{deployment}/unpause", "a state"),
    ("/environments/{environment}", "a change"),
    ("/environments/{environment}/work/{work}", "a change"),
    ("/environments/{environment}/work/{work}/ack", "a state"),
    ("/environments/{environment}/work/{work}/heartbeat", "a state"),
    ("/environments/{environment}/work/{work}/stop", "a state"),
    ("/memory_stores/{memory_store}", "a change"),
    ("/memory_stores/{memory_store}/memories/{memory}", "a change"),
    ("/memory_stores/{memory_store}/memory_versions/{memory_version}/redact", "takes away"),
    ("/perimeters/{perimeter}/rewrap", "what is wrapped is not wrapped again"),
    ("/tunnels/{tunnel}/probe", "finds out"),
    ("/tunnels/{tunnel}/reveal_token", "shows"),
    ("/tunnels/{tunnel}/revoke_token", "takes away"),
    ("/tunnels/{tunnel}/rotate_token", "a change: reveal_token shows what came of it"),
    ("/vaults/{vault}", "a change"),
    ("/vaults/{vault}/credentials/{credential}", "a change"),
    ("/vaults/{vault}/credentials/{credential}/mcp_oauth_validate", "finds out"),
    ("/webhooks/{webhook}", "a change"),
    ("/webhooks/{webhook}/deliveries/{event}/replay", "tells again what was told"),
    ("/webhooks/{webhook}/replay_dead", "tells again what was told"),
    ("/webhooks/{webhook}/rotate_secret", "a change"),
    ("/workspaces/{workspace}", "a change"),
];
/// Forms: the SDK's journeys send them.
const FORMS: [&str; 3] = ["/v1/files", "/v1/skills", "/v1/skills/{skill}/versions"];

/// What is said in a session: found again in its log.
const SAYS: [&str; 1] = ["/v1/sessions/{session}/events"];

/// A creation that takes a key.
struct Creation {
    /// As the table of routes has it.
    route: &'static str,
    path: String,
    body: Value,
    /// Where what it makes is listed.
    list: String,
}

impl Creation {
    fn new(route: &'static str, body: Value) -> Self {
        Self::below(route, route.to_owned(), body)
    }

    fn below(route: &'static str, path: String, body: Value) -> Self {
        Self { route, list: path.clone(), path, body }
    }

    fn is_the_operator_s(&self) -> bool {
        ["/v1/api_keys", "/v1/perimeters", "/v1/workspaces"].contains(&self.route)
    }

    async fn send(&self, server: &Server, key: &str) -> Response {
        let request = keyed(server, &self.path, key, &self.body);
        match self.is_the_operator_s() {
            true => server.operator(request.without("authorization")).await,
            false => server.send(request).await,
        }
    }

    async fn count(&self, server: &Server) -> usize {
        let listed = match self.is_the_operator_s() {
            true => server.operator(Request::new("GET", &self.list)).await,
            false => server.get(&self.list).await,
        };
        listed.ok()["data"].as_array().unwrap().len()
    }
}

/// Each creation that takes a key and is no form.
async fn creations(server: &Server) -> Vec<Creation> {
    let text = |object: Value| object["id"].as_str().unwrap().to_owned();
    let agent = server.agent().await;
    let (environment, _) = server.environment("e").await;
    let start = json!([{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]);
    let begun = json!({"agent": agent, "environment_id": environment, "initial_events": start});
    let deployed = json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": start});
    let session = text(server.post("/v1/sessions", begun.clone()).await.ok());
    let deployment = text(server.post("/v1/deployments", deployed.clone()).await.ok());
    let store = text(server.post("/v1/memory_stores", json!({"name": "s"})).await.ok());
    let vault = text(server.post("/v1/vaults", json!({"display_name": "v"})).await.ok());
    let tunnel = server.post("/v1/tunnels", json!({})).await.ok();
    let ca = new_ca(tunnel["domain"].as_str().unwrap(), SystemTime::now()).unwrap().certificate_pem;
    let tunnel = text(tunnel);
    let file = text(server.send(upload(server.request("POST", "/v1/files"), &[("file", Some("a"), b"a")])).await.ok());
    // Others than the one that a credential is sealed to.
    server.perimeter().await;
    let public_key = hex(&seal::suite().generate_key_pair().unwrap().0.0);
    let hook = json!({"url": "https://hooks.example/", "enabled_events": ["agent.created"]});
    vec![
        Creation::new("/v1/agents", json!({"name": "a", "model": "m-1"})),
        Creation::new("/v1/api_keys", json!({"name": "k"})),
        Creation::new("/v1/environments", json!({"name": "once"})),
        Creation::below(
            "/v1/environments/{environment}/keys",
            format!("/v1/environments/{environment}/keys"),
            json!({}),
        ),
        Creation::new("/v1/vaults", json!({"display_name": "v"})),
        Creation::below(
            "/v1/vaults/{vault}/credentials",
            format!("/v1/vaults/{vault}/credentials"),
            bearer("https://mcp.example/mcp"),
        ),
        Creation::new("/v1/memory_stores", json!({"name": "s"})),
        Creation::below(
            "/v1/memory_stores/{memory_store}/memories",
            format!("/v1/memory_stores/{store}/memories"),
            json!({"path": "/a", "content": "text"}),
        ),
        Creation::new("/v1/tunnels", json!({"display_name": "t"})),
        Creation::below(
            "/v1/tunnels/{tunnel}/certificates",
            format!("/v1/tunnels/{tunnel}/certificates"),
            json!({"ca_certificate_pem": ca}),
        ),
        Creation::new("/v1/webhooks", hook),
        Creation::new("/v1/workspaces", json!({"name": "w"})),
        Creation::new("/v1/perimeters", json!({"name": "q", "public_key": public_key, "environment_id": environment})),
        Creation::new("/v1/sessions", begun),
        Creation::below(
            "/v1/sessions/{session}/resources",
            format!("/v1/sessions/{session}/resources"),
            json!({"type": "file", "file_id": file}),
        ),
        Creation::new("/v1/deployments", deployed),
        Creation {
            list: "/v1/deployment_runs".to_owned(),
            ..Creation::below(
                "/v1/deployments/{deployment}/run",
                format!("/v1/deployments/{deployment}/run"),
                Value::Null,
            )
        },
    ]
}

/// Whether a route takes a key: it says so when the key is none.
async fn takes_a_key(server: &Server, environment_key: &str, route: &Route) -> bool {
    let path: Vec<&str> =
        route.path.split('/').map(|segment| if segment.starts_with('{') { "x" } else { segment }).collect();
    let request = keyed(server, &path.join("/"), "", &json!({}));
    let answer = match route.allowed {
        [Kind::Operator] => server.operator(request.without("authorization")).await,
        allowed if allowed.contains(&Kind::ApiKey) => server.send(request).await,
        _ => server.send(request.header("authorization", &format!("Bearer {environment_key}"))).await,
    };
    assert!(!matches!(answer.status, 401 | 403), "{}: {}", route.path, answer.text);
    answer.text.contains("Idempotency-Key:")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_posts_takes_a_key_or_is_known_to_make_nothing() {
    let server = Server::start().await;
    let (_, environment_key) = server.environment("other").await;
    let tried: Vec<&str> =
        creations(&server).await.iter().map(|creation| creation.route).chain(FORMS).chain(SAYS).collect();
    for route in ROUTES.iter().filter(|route| matches!(route.method, Method::Post | Method::Upload)) {
        let known = MAKES_NOTHING.iter().any(|(path, _)| match *path {
            "/archive" => route.path.ends_with(path),
            path => route.path.strip_prefix("/v1") == Some(path),
        });
        let takes = takes_a_key(&server, &environment_key, route).await;
        assert_ne!(takes, known, "{}: let it take a key (once/taken.rs), or say here why it makes nothing", route.path);
        assert_eq!(takes, tried.contains(&route.path), "{}: nobody tries it with a key", route.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_comes_again_is_answered_as_before() {
    let server = Server::start().await;
    for creation in creations(&server).await {
        let path = &creation.path;
        let before = creation.count(&server).await;
        let first = creation.send(&server, "k").await;
        assert_eq!(first.header("idempotency-replayed"), Some("false"), "{path}: {}", first.text);
        let again = creation.send(&server, "k").await;
        assert_eq!(creation.count(&server).await, before + 1, "{path}");
        if SHOW_A_SECRET.contains(&creation.route) {
            again.refused(409, "conflict_error");
            assert_eq!(again.body["error"]["details"]["error_code"], "secret_shown_once", "{path}");
            assert_eq!(again.body["error"]["details"]["id"], first.body["id"], "{path}");
        } else {
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{path}: {}", again.text);
            assert_eq!((again.status, &again.text), (200, &first.text), "{path}");
        }
        let other = Creation { body: json!({"unknown": 1}), ..creation };
        let reused = other.send(&server, "k").await;
        assert_eq!(reused.body["error"]["details"]["error_code"], "idempotency_key_reused", "{}", reused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_for_again_begins_one_session() {
    let server = Server::start().await;
    let all = creations(&server).await;
    let body = &all.iter().find(|creation| creation.route == "/v1/deployments").unwrap().body;
    let begun = count(&server, "/v1/sessions").await;
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(server.post("/v1/deployments", body.clone()).await.ok()["id"].as_str().unwrap().to_owned());
    }
    let run = |deployment: &str| {
        let path = format!("/v1/deployments/{deployment}/run");
        server.send(server.request("POST", &path).header("idempotency-key", "k"))
    };
    let (first, again) = (run(&made[0]).await, run(&made[0]).await);
    assert_eq!((first.status, again.header("idempotency-replayed")), (200, Some("true")), "{}", first.text);
    assert_eq!(first.text, again.text);
    assert_eq!(count(&server, "/v1/sessions").await, begun + 1);
    assert_eq!(run(&made[1]).await.body["error"]["details"]["error_code"], "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request() {
    let server = Server::start().await;
    server.send(keyed(&server, "/v1/vaults", "k", &json!({"display_name": "v"}))).await.ok();
    let other = server.send(keyed(&server, "/v1/vaults", "k", &json!({"display_name": "w"}))).await;
    other.refused(409, "conflict_error");
    assert_eq!(other.body["error"]["details"]["error_code"], "idempotency_key_reused");
    assert_eq!(count(&server, "/v1/vaults").await, 1);
    for key in ["", &"k".repeat(256), "k\u{e9}"] {
        let refused = server.send(keyed(&server, "/v1/vaults", key, &json!({"display_name": "v"}))).await;
        assert!(refused.refused(400, "invalid_request_error").starts_with("Idempotency-Key:"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_caller_s_on_one_route() {
    let server = Server::start().await;
    let body = json!({"display_name": "v"});
    let first = server.send(keyed(&server, "/v1/vaults", "k", &body)).await.ok();
    for credential in [issue_api_key(&server.store).await, issue_foreign_key(&server.store).await] {
        let request = keyed(&server, "/v1/vaults", "k", &body).header("authorization", &format!("Bearer {credential}"));
        assert_ne!(server.send(request).await.ok()["id"], first["id"]);
    }
    let operator = Request::new("POST", "/v1/vaults").header("idempotency-key", "k").json(&body);
    assert_ne!(server.operator(operator).await.ok()["id"], first["id"]);
    let tunnel = server.send(keyed(&server, "/v1/tunnels", "k", &body)).await;
    assert_eq!(tunnel.header("idempotency-replayed"), Some("false"), "{}", tunnel.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_tried_again() {
    let server = Server::start().await;
    let body = json!({"name": "taken"});
    let (environment, _) = server.environment("taken").await;
    server.send(keyed(&server, "/v1/environments", "k", &body)).await.refused(409, "conflict_error");
    server.send(server.request("DELETE", &format!("/v1/environments/{environment}"))).await.ok();
    server.send(keyed(&server, "/v1/environments", "k", &body)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_creates_and_all_are_answered_alike() {
    let server = Arc::new(Server::start().await);
    for (path, body) in [("/v1/vaults", json!({"display_name": "v"})), ("/v1/environments", json!({"name": "e"}))] {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let request = keyed(&server, path, "k", &body);
            let server = Arc::clone(&server);
            clients.spawn(async move { server.send(request).await });
        }
        let answers: Vec<Value> = clients.join_all().await.into_iter().map(|answer| answer.ok()).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(count(&server, path).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_shown_is_neither_kept_for_a_key_nor_shown_again() {
    let server = Server::start().await;
    let showing = creations(&server).await.into_iter().filter(|creation| SHOW_A_SECRET.contains(&creation.route));
    for creation in showing {
        let path = &creation.path;
        let first = creation.send(&server, "k").await.ok();
        let secret = first["key"].as_str().or(first["signing_secret"].as_str()).unwrap();
        let again = creation.send(&server, "k").await;
        let told = again.refused(409, "conflict_error");
        assert!(told.contains(first["id"].as_str().unwrap()) && told.contains("another"), "{path}: {told}");
        assert!(!again.text.contains(secret), "{path}");
        let database = server.database();
        assert!(!database.windows(secret.len()).any(|window| window == secret.as_bytes()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_body_with_a_secret_is_no_test_of_a_guess_at_it() {
    let server = Server::start().await;
    let all = creations(&server).await;
    let keys = server.operator(Request::new("GET", "/v1/api_keys")).await.ok();
    let mine = ApiKeyId::parse(keys["data"][0]["id"].as_str().unwrap()).unwrap();
    for (route, is_kept_so) in
        [("/v1/vaults/{vault}/credentials", false), ("/v1/sessions", false), ("/v1/vaults", true)]
    {
        let creation = all.iter().find(|creation| creation.route == route).unwrap();
        creation.send(&server, "k").await.ok();
        let (workspace, body) = (WorkspaceId::default(), creation.body.to_string());
        let guess = Asked {
            workspace: &workspace,
            caller: mine.as_str(),
            route,
            key: "k",
            target: &creation.path,
            body: body.as_bytes(),
        };
        let mut connection = server.store.read().await.unwrap();
        let found = answers::earlier(&mut connection, &guess.once(), Timestamp::now()).await;
        assert_eq!(found.is_ok(), is_kept_so, "{route}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_memory_outlives_its_redaction_for_a_key() {
    let server = Server::start().await;
    let all = creations(&server).await;
    let path = &all.iter().find(|creation| creation.route.ends_with("/memories")).unwrap().path;
    let body = json!({"path": "/canary-path", "content": "canary-text"});
    let create = || server.send(keyed(&server, &format!("{path}?view=full"), "k", &body));
    let first = create().await;
    assert_eq!(first.body["content"], "canary-text");
    let memory = format!("{path}/{}", first.body["id"].as_str().unwrap());
    server.post(&memory, json!({"path": "/other", "content": "other"})).await.ok();
    let version = first.body["memory_version_id"].as_str().unwrap();
    let redact = format!("{}/memory_versions/{version}/redact", path.strip_suffix("/memories").unwrap());
    server.send(server.request("POST", &redact)).await.ok();
    let mut connection = server.store.read().await.unwrap();
    let kept = sqlx::query_scalar("SELECT answer FROM request_answers").fetch_all(&mut connection).await;
    let kept: Vec<String> = kept.unwrap();
    drop(connection);
    assert!(!kept.is_empty() && kept.iter().all(|answer| !answer.contains("canary")), "{kept:?}");
    let again = create().await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_with_its_key_is_in_the_log_once_and_nowhere_else() {
    let server = Server::start().await;
    let all = creations(&server).await;
    let creation = all.iter().find(|creation| creation.route == "/v1/sessions").unwrap();
    let session = creation.send(&server, "s").await.ok()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{session}/events");
    let message = |text: &str| json!({"type": "user.message", "content": [{"type": "text", "text": text}]});
    let said = json!({"events": [message("canary-one"), message("canary-two")]});
    let say = || server.send(keyed(&server, &path, "k", &said));
    let first = say().await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, Some("false")), "{}", first.text);
    let again = say().await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")), "{}", again.text);
    let told = |answer: &Response| {
        let told = answer.body["data"].as_array().unwrap().iter();
        told.map(|event| (event["id"].clone(), event["content"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(&again), told(&first), "in their order");
    assert_eq!(told(&again).len(), 2);
    let count = async |text: &str| {
        let log = server.get(&format!("{path}?limit=1000")).await.ok().to_string();
        log.matches(text).count()
    };
    assert_eq!((count("canary-one").await, count("canary-two").await), (1, 1));
    let other = server.send(keyed(&server, &path, "k", &json!({"events": [message("another")]}))).await;
    assert_eq!(other.body["error"]["details"]["error_code"], "idempotency_key_reused", "{}", other.text);
    let mut connection = server.store.read().await.unwrap();
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT answer FROM request_answers").fetch_all(&mut connection).await.unwrap();
    drop(connection);
    assert!(kept.iter().all(|answer| !answer.contains("canary")), "{kept:?}");
    server.send(server.request("POST", &format!("/v1/sessions/{session}/archive"))).await.ok();
    server.send(server.request("DELETE", &format!("/v1/sessions/{session}"))).await.ok();
    say().await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_say_the_same_at_once_one_is_heard_and_all_are_answered_alike() {
    let server = Server::start().await;
    let all = creations(&server).await;
    let creation = all.iter().find(|creation| creation.route == "/v1/sessions").unwrap();
    let session = creation.send(&server, "s").await.ok()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{session}/events");
    let said = json!({"events": [{"type": "user.message", "content": [{"type": "text", "text": "canary-once"}]}]});
    let say = || server.send(keyed(&server, &path, "k", &said));
    let answers = tokio::join!(say(), say(), say(), say());
    let ids = [answers.0, answers.1, answers.2, answers.3].map(|answer| answer.ok()["data"][0]["id"].clone());
    assert!(ids[0].is_string() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let log = server.get(&format!("{path}?limit=1000")).await.ok().to_string();
    assert_eq!(log.matches("canary-once").count(), 1);
}
