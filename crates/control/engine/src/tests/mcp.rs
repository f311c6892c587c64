//! Turns with MCP servers: what the client is asked, what the model and the log get, deadlines, cancelling, credentials.

use std::time::Duration;

use postern_model::content::Block;
use postern_model::event::{Event, EventBody, SessionErrorKind};
use postern_model::ids::{CredentialId, EventId, SessionId, VaultId};
use postern_model::session::SessionStatus;
use postern_model::vault::{CredentialAuth, SecretPart};
use postern_model::{Metadata, Timestamp};
use postern_secret::seal::{Binding, Sealed};
use postern_session::{INTERRUPTED, OUTCOME_UNKNOWN, ResponseBlock, Stop};
use postern_store::credentials::{self, NewCredential, Shown};
use postern_store::vaults;
use postern_upstream::mcp::ToolResult;
use serde_json::json;

use super::fake_mcp::{Fake, failure, impatient};
use super::stage::{Call, Stage, calls, message};

const SEARCH: &str = "mcp__wiki__search";
const WIKI: &str = "https://wiki.example/mcp";

/// Sends a message and has the model make these calls.
pub(super) async fn make(stage: &Stage, id: &SessionId, tools: &[&str]) {
    stage.say(id, "hello").await;
    stage.script.call().await.uses(tools).await;
}

/// The text of a call's answer and whether it is an error.
pub(super) fn answer(log: &[Event], call: &EventId) -> Option<(String, bool)> {
    log.iter().find_map(|event| match &event.body {
        EventBody::AgentMcpToolResult { mcp_tool_use_id, content: Some(content), is_error }
            if mcp_tool_use_id == call =>
        {
            let [Block::Text { text }, ..] = &content[..] else { panic!("text first: {content:?}") };
            Some((text.clone(), *is_error == Some(true)))
        }
        _ => None,
    })
}

/// Waits for the model to be asked again, and returns what became of the calls.
async fn answers(stage: &Stage, id: &SessionId) -> (Call, Vec<(String, bool)>) {
    let call = stage.script.call().await;
    let log = stage.log(id).await;
    let texts = calls(&log).iter().map(|use_| answer(&log, &use_.id).expect("every use is answered")).collect();
    (call, texts)
}

fn errors(log: &[Event]) -> Vec<(SessionErrorKind, String, String)> {
    let error = |event: &Event| match &event.body {
        EventBody::SessionError { error } => {
            Some((error.kind, error.mcp_server_name.clone().unwrap_or_default(), error.message.clone()))
        }
        _ => None,
    };
    log.iter().filter_map(error).collect()
}

#[tokio::test]
async fn the_model_is_told_of_the_servers_tools_and_a_call_goes_there_and_back() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    let tools = call.body["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().skip(6).map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, [SEARCH, "mcp__wiki__edit", "mcp__docs__read"]);
    assert_eq!(tools[6]["description"], "search it");
    let input = json!({"q": "postern"}).as_object().unwrap().clone();
    call.answers(vec![ResponseBlock::ToolUse { name: SEARCH.into(), input: Ok(input.clone()) }], Stop::ToolUse).await;
    let served = fake.call().await;
    let uses = calls(&stage.log(&id).await);
    assert_eq!((served.id.as_str(), served.server.as_str()), (uses[0].id.as_str(), "wiki"));
    assert_eq!((served.tool.as_str(), &served.arguments), ("search", &input), "the server's own name for it");
    assert_eq!(stage.engine.session(&stage.workspace, &id).await.unwrap().status, SessionStatus::Running);
    served.says("found");
    let (next, texts) = answers(&stage, &id).await;
    assert_eq!(texts, [("found".into(), false)]);
    assert_eq!(next.body["messages"][2]["content"][0]["content"][0]["text"], "found");
    assert_eq!(next.body["messages"][1]["content"][0]["name"], SEARCH);

    let (facts, server, credential) = fake.connects.lock().unwrap()[0].clone();
    assert!(["wiki", "docs"].contains(&server.name.as_str()) && credential.is_none());
    assert_eq!((facts.session, facts.environment), (id.to_string(), stage.environment.clone()));
    assert_eq!((facts.agent, facts.agent_version), (stage.agent.clone(), 1));
    let shown = serde_json::to_value(stage.engine.session(&stage.workspace, &id).await.unwrap()).unwrap();
    let digest = postern_policy::canonical::definition_digest(&shown["agent"]);
    assert_eq!(facts.definition_digest, digest, "what a perimeter computes from the session it reads");
}

#[tokio::test]
async fn servers_of_an_agent_that_was_defined_are_called_in_the_name_of_whoever_defined_it() {
    let fake = Fake::new();
    let mut stage = fake.stage().await;
    let server = json!({"type": "url", "name": "wiki", "url": WIKI});
    let tools = json!([{"type": "mcp_toolset", "mcp_server_name": "wiki"}]);
    let parts = json!({"type": "multiagent_20261001", "workflows": {"type": "disabled"}});
    stage
        .use_agent(json!({"model": "m", "name": "chief", "mcp_servers": [server], "tools": tools, "multiagent": parts}))
        .await;
    let id = stage.session().await;
    stage.say(&id, "hello").await;
    let mole = json!({"inline_agent": {"name": "mole", "system": "You dig."}, "message": "dig"});
    let start = ResponseBlock::ToolUse { name: "start_agent".into(), input: Ok(mole.as_object().unwrap().clone()) };
    stage.script.call().await.answers(vec![start], Stop::ToolUse).await;
    let (one, other) = (stage.script.call().await, stage.script.call().await);
    let digs = |call: &Call| call.body["system"].to_string().contains("You dig.");
    assert!(digs(&one) != digs(&other), "both are asked");
    let connects = fake.connects.lock().unwrap().clone();
    let [(own, ..), (defined, ..)] = &connects[..] else { panic!("each connects: {}", connects.len()) };
    assert_eq!((&defined.agent, &defined.definition_digest), (&own.agent, &own.definition_digest));
}

#[tokio::test]
async fn connections_are_kept_from_turn_to_turn_and_failed_ones_tried_again() {
    let fake = Fake::new();
    fake.refused.lock().unwrap().insert("docs".into(), failure("tunnel_offline", false));
    let stage = fake.stage().await;
    let id = stage.session().await;
    for turn in 1..=2 {
        let mut watch = stage.watch(&id, &[]).await;
        stage.say(&id, "hello").await;
        stage.script.call().await.says("hi").await;
        watch.until("session.status_idle").await;
        assert_eq!((fake.connect_count("wiki"), fake.connect_count("docs")), (1, turn));
        let errors = errors(&stage.log(&id).await);
        assert_eq!(errors.len(), turn, "once per turn");
        let (kind, server, text) = &errors[turn - 1];
        assert_eq!((*kind, server.as_str()), (SessionErrorKind::McpConnectionFailedError, "docs"));
        assert_eq!(text, "tunnel_offline: it went wrong. Next step: look at the gateway.");
    }
    fake.refused.lock().unwrap().clear();
    stage.say(&id, "hello").await;
    assert_eq!(stage.script.call().await.body["tools"].as_array().unwrap().len(), 6 + 3, "it is back");
}

#[tokio::test]
async fn without_a_client_every_server_fails_by_name_and_the_turn_goes_on() {
    let mut stage = Stage::new().await;
    stage.use_agent(super::fake_mcp::definition()).await;
    let id = stage.session().await;
    stage.say(&id, "hello").await;
    let call = stage.script.call().await;
    assert_eq!(call.body["tools"].as_array().unwrap().len(), 6);
    let errors = errors(&stage.log(&id).await);
    assert!(errors.len() == 2 && errors.iter().all(|(.., text)| text.starts_with("mcp_unavailable: ")), "{errors:?}");
}

#[tokio::test]
async fn a_server_that_hangs_ends_in_a_named_error() {
    let fake = Fake::new();
    fake.hung.lock().unwrap().insert("docs".into());
    let stage = fake.stage().await.with(impatient()).await;
    let id = stage.session().await;
    make(&stage, &id, &[SEARCH, "mcp__docs__read"]).await;
    let log = stage.log(&id).await;
    assert!(errors(&log)[0].2.starts_with("timeout: the server did not answer within 2 s."));
    let mut served = fake.call().await;
    served.is_dropped().await;
    let (_, texts) = answers(&stage, &id).await;
    assert!(texts.iter().all(|(_, is_error)| *is_error));
    assert!(texts[0].0.contains("timeout") && texts[0].0.contains("outcome is unknown"), "{}", texts[0].0);
    assert!(texts[1].0.contains("was not run") && texts[1].0.contains("`docs` is not connected"), "{}", texts[1].0);
}

#[tokio::test]
async fn failures_of_a_call_are_told_by_name_and_the_next_call_has_a_new_connection() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    make(&stage, &id, &[SEARCH]).await;
    fake.call().await.answers(Err(failure("policy_denied", false)));
    let (next, texts) = answers(&stage, &id).await;
    assert!(texts[0].1 && texts[0].0.contains("It was not run. policy_denied: it went wrong."), "{}", texts[0].0);
    next.uses(&[SEARCH]).await;
    fake.call().await.answers(Err(failure("outcome_unknown", true)));
    let (next, texts) = answers(&stage, &id).await;
    assert!(texts[1].0.contains("It may have run: its outcome is unknown and it was not run again."), "{}", texts[1].0);
    next.uses(&[SEARCH]).await;
    let error = ToolResult { content: vec![Block::text("no such page")], is_error: true };
    fake.call().await.answers(Ok(error));
    let (_, texts) = answers(&stage, &id).await;
    assert_eq!(texts[2], ("no such page".into(), true), "the tool's own error is passed on");
    assert_eq!(fake.connect_count("wiki"), 3, "a connection on which a call failed is not used again");
    assert_eq!(fake.ran.lock().unwrap().len(), 3, "nothing was sent twice");
}

#[tokio::test]
async fn a_client_that_breaks_down_answers_with_an_unknown_outcome() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    stage.say(&id, "hello").await;
    let input = json!({"q": "panic"}).as_object().unwrap().clone();
    let call = ResponseBlock::ToolUse { name: SEARCH.into(), input: Ok(input) };
    stage.script.call().await.answers(vec![call], Stop::ToolUse).await;
    let (_, texts) = answers(&stage, &id).await;
    assert_eq!(texts, [(OUTCOME_UNKNOWN.into(), true)]);
}

#[tokio::test]
async fn sixteen_calls_run_at_once_and_the_rest_follow() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    make(&stage, &id, &[SEARCH; 20]).await;
    let mut running = Vec::new();
    for _ in 0..16 {
        running.push(fake.call().await);
    }
    assert!(!fake.is_called().await, "no more than the bound");
    running.remove(0).says("first");
    running.push(fake.call().await);
    assert!(!fake.is_called().await);
    for call in running {
        call.says("out");
    }
    for _ in 0..3 {
        fake.call().await.says("out");
    }
    let (_, texts) = answers(&stage, &id).await;
    assert_eq!(texts.len(), 20);
}

#[tokio::test]
async fn a_confirmed_call_runs_and_a_denied_one_does_not() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    make(&stage, &id, &["mcp__wiki__edit", "mcp__wiki__edit"]).await;
    watch.until("session.status_idle").await;
    let uses = calls(&stage.log(&id).await);
    let confirm =
        |call: &Event, result| json!({"type": "user.tool_confirmation", "tool_use_id": call.id, "result": result});
    assert!(stage.result(&id, &uses[0]).await.is_err(), "a worker never answers it");
    stage.send(&id, json!([confirm(&uses[0], "allow"), confirm(&uses[1], "deny")])).await.unwrap();
    let served = fake.call().await;
    assert_eq!(served.id, uses[0].id.as_str());
    served.says("edited");
    let (_, texts) = answers(&stage, &id).await;
    assert_eq!(texts[0], ("edited".into(), false));
    assert!(texts[1].1 && texts[1].0.contains("denied"));
}

#[tokio::test]
async fn an_interrupt_drops_the_calls_that_run_and_leaves_a_clean_log() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    make(&stage, &id, &[SEARCH]).await;
    let mut served = fake.call().await;
    stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    watch.until("session.status_idle").await;
    served.is_dropped().await;
    served.says("too late");
    let log = stage.log(&id).await;
    let (text, is_error) = answer(&log, &calls(&log)[0].id).unwrap();
    assert!(is_error && text.starts_with(INTERRUPTED));
    stage.say(&id, "again").await;
    assert_eq!(stage.script.call().await.body["messages"].as_array().unwrap().len(), 3, "the conversation is whole");
    assert_eq!(fake.connect_count("wiki"), 1, "the connection is kept");
}

#[tokio::test]
async fn an_interrupt_while_connecting_ends_the_turn() {
    let fake = Fake::new();
    fake.hung.lock().unwrap().insert("wiki".into());
    let stage = fake.stage().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    watch.until("session.status_running").await;
    stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    watch.until("session.status_idle").await;
    assert!(!stage.script.is_called().await);
}

#[tokio::test]
async fn a_changed_agent_is_another_caller_and_connects_anew() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "hello").await;
    stage.script.call().await.says("hi").await;
    watch.until("session.status_idle").await;
    let change = json!({"agent": {"mcp_servers": [{"type": "url", "name": "docs", "url": "https://docs.example/mcp"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "docs"}]}});
    stage.engine.update_session(&stage.workspace, &id, serde_json::from_value(change).unwrap()).await.unwrap();
    stage.say(&id, "hello").await;
    assert_eq!(stage.script.call().await.body["tools"].as_array().unwrap().len(), 1);
    let connects = fake.connects.lock().unwrap();
    let digests: Vec<_> =
        connects.iter().filter(|(_, to, _)| to.name == "docs").map(|(facts, ..)| &facts.definition_digest).collect();
    assert!(digests.len() == 2 && digests[0] != digests[1], "{digests:?}");
}

#[tokio::test]
async fn the_vaults_credential_is_looked_up_for_each_connection_and_each_call() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let (vault, credential) = vault_with_credential(&stage, "https://wiki.example/mcp").await;
    let session = stage.create(json!({"vault_ids": [vault]})).await.unwrap();
    assert_eq!(session.vault_ids, std::slice::from_ref(&vault));
    let id = session.id;
    make(&stage, &id, &[SEARCH]).await;
    fake.call().await.says("one");
    let (next, _) = answers(&stage, &id).await;
    let sent = |nth: usize| {
        let connects = fake.connects.lock().unwrap();
        connects.iter().filter(|(_, to, _)| to.name == "wiki").nth(nth).unwrap().2.clone()
    };
    let first = sent(0).expect("the URL is compared in its normal form");
    assert_eq!((first.vault_id.as_str(), first.kind.as_str()), (vault.as_str(), "static_bearer"));
    assert_eq!(first.credential_id, credential.as_str());
    assert!(fake.connects.lock().unwrap().iter().any(|(_, to, sent)| to.name == "docs" && sent.is_none()));

    rotate(&stage, &vault, &credential).await;
    next.uses(&[SEARCH]).await;
    fake.call().await.says("two");
    let (next, _) = answers(&stage, &id).await;
    assert_ne!(sent(1).unwrap().sealed, first.sealed, "a rotated value takes effect with the next call");

    let mut tx = stage.engine.shared.store.write().await.unwrap();
    credentials::archive(&mut tx, &stage.workspace, &vault, &credential, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    next.uses(&[SEARCH]).await;
    fake.call().await.says("three");
    answers(&stage, &id).await;
    assert_eq!(sent(2), None, "an archived one is not used any more");
}

#[tokio::test]
async fn an_expired_access_token_is_not_sent_and_the_next_one_is() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let oauth = |expires_at| CredentialAuth::McpOauth { mcp_server_url: WIKI.into(), expires_at, refresh: None };
    let (vault, credential) = vault_with(&stage, &oauth(None), WIKI).await;
    let id = stage.create(json!({"vault_ids": [vault]})).await.unwrap().id;
    let hour = Duration::from_secs(3600);
    for (turn, expires_at, connected) in
        [(1, Some(Timestamp::now() - hour), 0), (2, Some(Timestamp::now() + hour), 1), (3, None, 1)]
    {
        save(&stage, &vault, &credential, &oauth(expires_at), "one").await;
        let mut watch = stage.watch(&id, &[]).await;
        stage.say(&id, "hello").await;
        stage.script.call().await.says("hi").await;
        watch.until("session.status_idle").await;
        assert_eq!(fake.connect_count("wiki"), connected, "in turn {turn}");
    }
    let [(kind, server, text)] = &errors(&stage.log(&id).await)[..] else { panic!("one error") };
    assert_eq!((*kind, server.as_str()), (SessionErrorKind::McpAuthenticationFailedError, "wiki"));
    assert!(text.starts_with("credential_expired") && text.contains(credential.as_str()), "{text}");
    let connects = fake.connects.lock().unwrap();
    let sent = connects.iter().find(|(_, to, _)| to.name == "wiki").unwrap().2.clone().unwrap();
    assert_eq!(sent.kind, "mcp_oauth");
}

fn sealed(ciphertext: &str) -> Sealed {
    serde_json::from_value(json!({"version": 1, "nonce": "n", "ciphertext": ciphertext, "wraps": []})).unwrap()
}

fn bound(stage: &Stage, vault: &VaultId, credential: &CredentialId, url: &str) -> Binding {
    serde_json::from_value(json!({"credential": credential, "hosts": [], "kind": "static_bearer", "mcp_url": url,
        "token_endpoint": null, "vault": vault, "workspace": stage.workspace}))
    .unwrap()
}

async fn vault_with_credential(stage: &Stage, url: &str) -> (VaultId, CredentialId) {
    vault_with(stage, &CredentialAuth::StaticBearer { mcp_server_url: url.into() }, url).await
}

async fn vault_with(stage: &Stage, auth: &CredentialAuth, url: &str) -> (VaultId, CredentialId) {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let body = serde_json::from_value(json!({"display_name": "v"})).unwrap();
    let vault = vaults::create(&mut tx, &stage.workspace, body, Timestamp::now()).await.unwrap().id;
    let id = CredentialId::generate();
    let (metadata, binding) = (Metadata::default(), bound(stage, &vault, &id, url));
    let shown = Shown { auth, display_name: None, metadata: &metadata, binding: &binding };
    let secrets = [(SecretPart::Value, sealed("one"))];
    let new = NewCredential { shown, key: url, secrets: &secrets, now: Timestamp::now() };
    credentials::create(&mut tx, &stage.workspace, &vault, &id, &new).await.unwrap();
    tx.commit().await.unwrap();
    (vault, id)
}

async fn rotate(stage: &Stage, vault: &VaultId, id: &CredentialId) {
    save(stage, vault, id, &CredentialAuth::StaticBearer { mcp_server_url: WIKI.into() }, "two").await;
}

async fn save(stage: &Stage, vault: &VaultId, id: &CredentialId, auth: &CredentialAuth, value: &str) {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let stored = credentials::required(&mut tx, &stage.workspace, vault, id).await.unwrap();
    let (metadata, binding) = (Metadata::default(), bound(stage, vault, id, WIKI));
    let shown = Shown { auth, display_name: None, metadata: &metadata, binding: &binding };
    let secrets = [(SecretPart::Value, sealed(value))];
    credentials::update(&mut tx, &stage.workspace, &stored, &shown, &secrets, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn an_archived_vault_is_not_taken_into_a_new_session() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let (vault, _) = vault_with_credential(&stage, "https://wiki.example/mcp").await;
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    vaults::archive(&mut tx, &stage.workspace, &vault, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    let problem = stage.create(json!({"vault_ids": [vault]})).await.unwrap_err();
    assert_eq!((problem.status(), problem.error_code), (400, Some("vault_archived")));
    let body = message("x");
    assert!(stage.create(json!({"vault_ids": [], "initial_events": body})).await.is_ok());
}
