//! Repositories as resources of sessions: their URL and place checked, their token sealed at once and never shown, rotated, taken away, and brought to
//! whoever serves the session.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_model::control::{Answer, CommandBody, FromPerimeter, Reply, Role};
use postern_secret::canary;
use postern_secret::seal::{Binding, SealedVariable, session_of_run};
use serde_json::{Value, json};

use crate::control::Peer;
use crate::support::Server;

const TOKEN: &str = "ghp-canary-3b1f9d7c5a2e64";
const ROTATED: &str = "ghp-rotated-90ac4e17d6b8f2";
const URL: &str = "https://github.com/acme/ledger";

fn repository(token: Option<&str>) -> Value {
    let mut repository = json!({"type": "github_repository", "url": URL});
    if let Some(token) = token {
        repository["authorization_token"] = json!(token);
    }
    repository
}

async fn stage() -> (Server, String, String) {
    let server = Server::start().await;
    server.perimeter().await;
    let (environment, key) = server.environment("e").await;
    (server, environment, key)
}

async fn create(server: &Server, environment: &str, resources: Value) -> crate::support::Response {
    let agent = server.agent().await;
    server.post("/v1/sessions", json!({"agent": agent, "environment_id": environment, "resources": resources})).await
}

fn resource(session: &Value) -> (String, String) {
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    (id(session), id(&session["resources"][0]))
}

/// What came in the secret of the next item.
pub(crate) async fn poll(server: &Server, environment: &str, key: &str, agent: &str) -> (Vec<SealedVariable>, Value) {
    let path = format!("/v1/environments/{environment}/work/poll?block_ms=999");
    let request = server.request_as(key, "GET", &path).header("user-agent", agent);
    let item = server.send(request).await.ok();
    let secret = URL_SAFE_NO_PAD.decode(item["secret"].as_str().unwrap()).unwrap();
    let secret: Value = serde_json::from_slice(&secret).unwrap();
    let sealed = secret["variables"].as_array().cloned().unwrap_or_default();
    (sealed.iter().map(|text| SealedVariable::decode(text.as_str().unwrap()).unwrap()).collect(), secret)
}

pub(crate) async fn errors(server: &Server, session: &str) -> Vec<Value> {
    let events = server.get(&format!("/v1/sessions/{session}/events")).await.ok();
    let events = events["data"].as_array().unwrap().clone();
    events.into_iter().filter(|event| event["type"] == "session.error").map(|event| event["error"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_shown_without_its_token_and_its_token_is_stored_sealed() {
    let (server, environment, key) = stage().await;
    let mut asked = repository(Some(TOKEN));
    asked["checkout"] = json!({"type": "branch", "name": "release/1"});
    let made = create(&server, &environment, json!([asked])).await.ok();
    let (session, id) = resource(&made);
    let shown = server.get(&format!("/v1/sessions/{session}/resources/{id}")).await.ok();
    assert_eq!(shown, made["resources"][0]);
    assert_eq!((&shown["type"], &shown["url"]), (&json!("github_repository"), &json!(URL)));
    assert_eq!(shown["mount_path"], "/workspace/ledger");
    assert_eq!(shown["checkout"], json!({"type": "branch", "name": "release/1"}));
    let fields: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["type", "id", "url", "mount_path", "checkout", "created_at", "updated_at"]);
    let listed = server.get(&format!("/v1/sessions/{session}/resources")).await.ok();
    assert_eq!(listed["data"], json!([shown]));
    let (session, _) =
        server.session_and_open_call(&environment, json!({"resources": [repository(Some(TOKEN))]})).await;
    let (sealed, secret) = poll(&server, &environment, &key, "postern/0.1.0").await;
    let [token] = &sealed[..] else { panic!("{sealed:?}") };
    let binding = &token.credential.binding;
    assert_eq!((binding.kind.as_str(), binding.mcp_url.as_deref()), (Binding::REPOSITORY, Some(URL)));
    assert_eq!((binding.vault.as_str(), &binding.hosts[..]), (session.as_str(), &["github.com".to_owned()][..]));
    assert!(binding.credential.starts_with("sesrsc_"));
    let database = server.database();
    let canaries = &[TOKEN.as_bytes()];
    for text in [secret.to_string(), made.to_string(), shown.to_string()] {
        assert_eq!(canary::search(text.as_bytes(), canaries), []);
    }
    assert_eq!(canary::search(&database, canaries), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_repository_is_said_with_its_place_and_never_with_its_token() {
    let (server, environment, _) = stage().await;
    let with = |key: &str, value: Value| {
        let mut asked = repository(Some(TOKEN));
        asked[key] = value;
        asked
    };
    for (asked, expected) in [
        (with("url", json!("/srv/git/ledger")), "url: must name a repository on a host"),
        (with("url", json!("ssh://git@github.com:2222/a/b")), "write the https:// URL"),
        (with("url", json!("https://user:word@github.com/a/b")), "user name or password"),
        (with("url", json!("https://github.com/a/b?x=1")), "query"),
        (with("url", json!("https://github.com/a/../b")), "dot segment"),
        (with("url", json!("https://github.com")), "must name a repository"),
        (with("url", json!("https://github.com/a/.github")), "mount_path"),
        (with("mount_path", json!("/etc/x")), "must lie below /workspace/"),
        (with("mount_path", json!("/workspace/.home/x")), "begins with a dot"),
        (with("checkout", json!({"type": "branch", "name": "--upload-pack=x"})), "checkout.name"),
        (with("checkout", json!({"type": "commit", "sha": "main"})), "checkout.sha"),
        (with("checkout", json!({"type": "tag", "name": "x"})), "expected `branch` or `commit`"),
        (with("authorization_token", json!("short")), "at least 16 bytes"),
        (with("authorization_token", json!("with a blank in the middle")), "printable ASCII"),
        (with("authorization_token", json!("0123456789abcdef".repeat(129))), "at most 2048 characters"),
        (with("authorization_token", json!({"x": TOKEN})), "expected a string"),
        (with("token", json!(TOKEN)), "unknown field"),
    ] {
        let answer = create(&server, &environment, json!([asked])).await;
        assert_eq!(answer.status, 400, "{asked}");
        let text = answer.body.to_string();
        assert!(text.contains(expected), "{asked}: {text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
    let at = |path: &str| with("mount_path", json!(format!("/workspace/{path}")));
    for twice in [json!([at("a"), at("a/b")]), json!([repository(None), repository(None)])] {
        let answer = create(&server, &environment, twice).await;
        assert!(answer.body.to_string().contains("resources[1]: mount_path"), "{}", answer.body);
    }
    let many: Vec<Value> = (0..17).map(|number| at(&format!("r{number}"))).collect();
    let answer = create(&server, &environment, json!(many)).await;
    assert!(answer.body.to_string().contains("at most 16 repositories"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_perimeter_a_token_is_refused_and_a_public_repository_is_not() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let refused = create(&server, &environment, json!([repository(Some(TOKEN))])).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["error"]["details"]["error_code"], "perimeter_none", "{}", refused.body);
    assert!(server.get("/v1/sessions").await.ok()["data"].as_array().unwrap().is_empty(), "all or nothing");
    create(&server, &environment, json!([repository(None)])).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_reaches_whoever_holds_the_session_and_a_removed_one_is_taken_away() {
    let (server, environment, key) = stage().await;
    let given = json!({"resources": [repository(Some(TOKEN))]});
    let (session, _) = server.session_and_open_call(&environment, given).await;
    let id = resource(&server.get(&format!("/v1/sessions/{session}")).await.ok()).1;
    poll(&server, &environment, &key, "postern/0.1.0").await;
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
    worker.report(&[&session]);
    let mut told = || loop {
        match worker.command() {
            (id, CommandBody::Variables { sealed, .. }) => {
                worker
                    .say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Variables { withheld: Vec::new() }) }));
                return sealed;
            }
            (id, _) => worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) })),
        }
    };
    let first = told();
    assert_eq!(first.len(), 1);
    let path = format!("/v1/sessions/{session}/resources/{id}");
    let before = server.get(&path).await.ok();
    let rotated = server.post(&path, json!({"authorization_token": ROTATED})).await.ok();
    assert_ne!(rotated["updated_at"], before["updated_at"]);
    assert!(!rotated.to_string().contains(ROTATED));
    let second = told();
    let open = |sealed: &[String]| SealedVariable::decode(&sealed[0]).unwrap().credential;
    assert_eq!(open(&first).binding, open(&second).binding);
    assert_ne!(open(&first).sealed.ciphertext, open(&second).sealed.ciphertext);
    server.send(server.request("DELETE", &path)).await.ok();
    assert_eq!(told(), Vec::<String>::new());
    assert_eq!(server.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_repository_has_a_token_and_only_a_new_session_is_given_one() {
    let (server, environment, _) = stage().await;
    let made = create(&server, &environment, json!([repository(None)])).await.ok();
    let (session, id) = resource(&made);
    let path = format!("/v1/sessions/{session}/resources");
    let added = server.post(&path, repository(None)).await;
    assert!(added.body.to_string().contains("only a file can be added"), "{}", added.body);
    for body in [json!({}), json!({"authorization_token": null}), json!({"authorization_token": ROTATED, "url": URL})] {
        assert_eq!(server.post(&format!("{path}/{id}"), body).await.status, 400);
    }
    server.post(&format!("{path}/{id}"), json!({"authorization_token": ROTATED})).await.ok();
    let unknown = server.post(&format!("{path}/sesrsc_none"), json!({"authorization_token": ROTATED})).await;
    assert_eq!(unknown.status, 404);
    server.send(server.request("POST", &format!("/v1/sessions/{session}/archive"))).await.ok();
    let archived = server.post(&format!("{path}/{id}"), json!({"authorization_token": ROTATED})).await;
    assert!(archived.body.to_string().contains("archived"), "{}", archived.body);
}

/// A deployment whose runs use a tool at once.
async fn deploy(server: &Server, environment: &str, resources: Value) -> crate::support::Response {
    let text = json!({"type": "text", "text": "please use bash"});
    let body = json!({"agent": server.agent().await, "environment_id": environment, "name": "d", "resources": resources,
        "initial_events": [{"type": "user.message", "content": [text]}]});
    server.post("/v1/deployments", body).await
}

/// The session of a new run, and what a worker is brought for it.
async fn run(server: &Server, environment: &str, key: &str, deployment: &str) -> (String, Vec<SealedVariable>) {
    let path = format!("/v1/deployments/{deployment}/run");
    let run = server.send(server.request("POST", &path)).await.ok();
    let session = run["session_id"].as_str().unwrap().to_owned();
    assert_eq!(
        session,
        session_of_run(deployment, run["id"].as_str().unwrap()),
        "the session's id says whose run it is"
    );
    loop {
        let path = format!("/v1/environments/{environment}/work/poll?block_ms=999");
        let item = server.send(server.request_as(key, "GET", &path).header("user-agent", "postern/0.1.0")).await.ok();
        if item["data"]["id"] == json!(session) {
            let secret = URL_SAFE_NO_PAD.decode(item["secret"].as_str().unwrap()).unwrap();
            let secret: Value = serde_json::from_slice(&secret).unwrap();
            let sealed = secret["variables"].as_array().cloned().unwrap_or_default();
            return (
                session,
                sealed.iter().map(|text| SealedVariable::decode(text.as_str().unwrap()).unwrap()).collect(),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_s_token_is_sealed_for_it_shown_nowhere_and_brought_to_each_of_its_runs() {
    let (server, environment, key) = stage().await;
    let made = deploy(&server, &environment, json!([repository(Some(TOKEN))])).await.ok();
    assert_eq!(made["resources"], json!([repository(None)]));
    let id = made["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/deployments/{id}")).await.ok(), made);
    let (first, one) = run(&server, &environment, &key, id).await;
    let (second, other) = run(&server, &environment, &key, id).await;
    assert_ne!(first, second);
    for (session, sealed) in [(&first, &one), (&second, &other)] {
        let [token] = &sealed[..] else { panic!("{sealed:?}") };
        let binding = &token.credential.binding;
        assert_eq!((binding.kind.as_str(), binding.mcp_url.as_deref()), (Binding::DEPLOYMENT_REPOSITORY, Some(URL)));
        assert_eq!((binding.vault.as_str(), &binding.hosts[..]), (id, &["github.com".to_owned()][..]));
        let shown = server.get(&format!("/v1/sessions/{session}")).await.ok();
        let run = token.run.as_ref().unwrap();
        assert_eq!((&json!(run.resource), &session_of_run(id, &run.id)), (&shown["resources"][0]["id"], session));
    }
    assert_eq!(one[0].credential, other[0].credential, "one ciphertext, kept once");
    assert_eq!(canary::search(&server.database(), &[TOKEN.as_bytes()]), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_token_of_a_deployment_counts_in_its_runs_and_one_that_is_gone_is_taken_from_them() {
    let (server, environment, key) = stage().await;
    let made = deploy(&server, &environment, json!([repository(Some(TOKEN))])).await.ok();
    let path = format!("/v1/deployments/{}", made["id"].as_str().unwrap());
    let (session, first) = run(&server, &environment, &key, made["id"].as_str().unwrap()).await;
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
    worker.report(&[&session]);
    let mut told = || {
        loop {
            match worker.command() {
                (id, CommandBody::Variables { sealed, .. }) => {
                    let result = Ok(Reply::Variables { withheld: Vec::new() });
                    worker.say(&FromPerimeter::Answer(Answer { id, result }));
                    return sealed.iter().map(|text| SealedVariable::decode(text).unwrap()).collect::<Vec<_>>();
                }
                (id, _) => worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) })),
            }
        }
    };
    assert_eq!(told(), first);
    let changed = server.post(&path, json!({"resources": [repository(Some(ROTATED))]})).await.ok();
    assert_ne!(changed["updated_at"], made["updated_at"], "though nothing that is shown is another");
    let second = told();
    assert_eq!(second[0].credential.binding, first[0].credential.binding);
    assert_ne!(second[0].credential.sealed.ciphertext, first[0].credential.sealed.ciphertext);
    // As it is read: without tokens. Those that are there stay, and whoever changes something else loses none.
    server.post(&path, json!({"resources": changed["resources"], "name": "other"})).await.ok();
    let (_, third) = run(&server, &environment, &key, made["id"].as_str().unwrap()).await;
    assert_eq!(third[0].credential, second[0].credential);
    server.post(&path, json!({"resources": []})).await.ok();
    assert_eq!(told(), []);
    server.post(&path, json!({"resources": [repository(None)]})).await.ok();
    let (_, without) = run(&server, &environment, &key, made["id"].as_str().unwrap()).await;
    assert_eq!(without, [], "one that was taken away does not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_deployment_keeps_no_token_and_its_sessions_use_none_of_it() {
    let (server, environment, key) = stage().await;
    for archive in ["deployment", "agent"] {
        let made = deploy(&server, &environment, json!([repository(Some(TOKEN))])).await.ok();
        let (session, first) = run(&server, &environment, &key, made["id"].as_str().unwrap()).await;
        let sealed = first[0].credential.sealed.ciphertext.clone();
        let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
        worker.report(&[&session]);
        let (id, CommandBody::Variables { sealed: before, .. }) = worker.command() else { panic!("another command") };
        assert_eq!(before.len(), 1);
        worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Variables { withheld: Vec::new() }) }));
        let path = match archive {
            "agent" => format!("/v1/agents/{}/archive", made["agent"]["id"].as_str().unwrap()),
            _ => format!("/v1/deployments/{}/archive", made["id"].as_str().unwrap()),
        };
        server.send(server.request("POST", &path)).await.ok();
        let (_, CommandBody::Variables { sealed: after, .. }) = worker.command() else { panic!("another command") };
        assert_eq!(after, Vec::<String>::new(), "{archive}");
        let mut reader = server.store.read().await.unwrap();
        let left =
            postern_store::wraps::not_wrapped_for(&mut reader, &Default::default(), "none", None, 9).await.unwrap();
        assert!(left.iter().all(|part| part.credential.sealed.ciphertext != sealed), "{archive}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_s_session_takes_a_token_of_its_own_in_place_of_the_deployment_s() {
    let (server, environment, key) = stage().await;
    let made = deploy(&server, &environment, json!([repository(Some(TOKEN))])).await.ok();
    let (session, _) = run(&server, &environment, &key, made["id"].as_str().unwrap()).await;
    let id = resource(&server.get(&format!("/v1/sessions/{session}")).await.ok()).1;
    let path = format!("/v1/sessions/{session}/resources/{id}");
    server.post(&path, json!({"authorization_token": ROTATED})).await.ok();
    let tokens = async || {
        let session = session.parse().unwrap();
        let mut reader = server.store.read().await.unwrap();
        let tokens = postern_store::repositories::of_session(&mut reader, &session).await.unwrap().unwrap();
        tokens.iter().map(|token| SealedVariable::decode(&token.sealed).unwrap()).collect::<Vec<_>>()
    };
    let own = tokens().await;
    let binding = &own[0].credential.binding;
    assert_eq!((binding.kind.as_str(), binding.vault.as_str()), (Binding::REPOSITORY, session.as_str()));
    assert_eq!(own[0].run, None);
    server.send(server.request("DELETE", &path)).await.ok();
    assert_eq!(tokens().await, [], "what is taken away from a session does not come back from its deployment");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_deployment_s_token_is_said_with_its_place_and_never_with_the_token() {
    let (server, environment, _) = stage().await;
    let at = |path: &str, token: &str| {
        let mut asked = repository(Some(token));
        asked["mount_path"] = json!(format!("/workspace/{path}"));
        asked
    };
    for (resources, expected) in [
        (json!([repository(Some("short"))]), "resources[0]: authorization_token"),
        (json!([at("a", TOKEN), at("b", ROTATED)]), "resources[1].authorization_token: is another"),
        (
            json!([{"type": "github_repository", "url": "file:///srv/x", "authorization_token": TOKEN}]),
            "resources[0]: url",
        ),
        (json!([{"type": "github_repository", "url": URL, "authorization_token": {"x": TOKEN}}]), "expected a string"),
    ] {
        let refused = deploy(&server, &environment, resources).await;
        assert_eq!(refused.status, 400);
        let text = refused.body.to_string();
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!text.contains(TOKEN) && !text.contains(ROTATED), "{text}");
    }
    deploy(&server, &environment, json!([at("a", TOKEN), at("b", TOKEN)])).await.ok();
    let bare = Server::start().await;
    let (environment, _) = bare.environment("e").await;
    let refused = deploy(&bare, &environment, json!([repository(Some(TOKEN))])).await;
    assert_eq!(refused.body["error"]["details"]["error_code"], "perimeter_none", "{}", refused.body);
    assert_eq!(bare.get("/v1/deployments").await.ok()["data"], json!([]), "all or nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_clones_nothing_gets_no_token_and_the_session_is_told_of_each_repository() {
    let (server, environment, key) = stage().await;
    let given = json!({"resources": [repository(Some(TOKEN))]});
    let (session, _) = server.session_and_open_call(&environment, given).await;
    let (sealed, secret) = poll(&server, &environment, &key, "anthropic/1.0").await;
    assert_eq!(sealed, []);
    assert_eq!(secret.as_object().unwrap().len(), 1, "exactly what official workers know");
    let errors = errors(&server, &session).await;
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((&error["type"], &error["repository_url"]), (&json!("repository_clone_error"), &json!(URL)));
    assert_eq!(error["retry_status"], json!({"type": "retrying"}));
    assert!(error["message"].as_str().unwrap().contains("Next step"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_of_a_repository_that_it_is_not_there_and_the_session_is_told_once() {
    let (server, environment, key) = stage().await;
    let (session, _) = server.session_and_open_call(&environment, json!({"resources": [repository(None)]})).await;
    let id = resource(&server.get(&format!("/v1/sessions/{session}")).await.ok()).1;
    let path = format!("/v1/sessions/{session}/resources/{id}/failure");
    let body = json!({"type": "repository_authentication_error", "message": "the host\nrefused the token"});
    let say = |key: &str, body: &Value| server.send(server.request_as(key, "POST", &path).json(body));
    for _ in 0..2 {
        say(&key, &body).await.ok();
    }
    let errors = errors(&server, &session).await;
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((&error["type"], &error["repository_url"]), (&json!("repository_authentication_error"), &json!(URL)));
    assert!(error["message"].as_str().unwrap().ends_with("the hostrefused the token"), "{error}");
    let (_, stranger) = server.environment("another").await;
    assert_eq!(say(&stranger, &body).await.status, 404);
    for wrong in [json!({"type": "unknown_error", "message": "m"}), json!({"type": "repository_clone_error"})] {
        assert_eq!(say(&key, &wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_worker_s_word_of_a_repository_so_many_characters_are_told() {
    let (server, environment, key) = stage().await;
    let (session, _) = server.session_and_open_call(&environment, json!({"resources": [repository(None)]})).await;
    let id = resource(&server.get(&format!("/v1/sessions/{session}")).await.ok()).1;
    let path = format!("/v1/sessions/{session}/resources/{id}/failure");
    let body = json!({"type": "repository_clone_error", "message": format!("as it began {}", "#".repeat(5_000))});
    server.send(server.request_as(&key, "POST", &path).json(&body)).await.ok();
    let errors = errors(&server, &session).await;
    let told = errors[0]["message"].as_str().unwrap();
    assert!(told.contains("as it began #"), "{told}");
    assert_eq!(told.matches('#').count() + "as it began ".len(), 2_000);
}
