//! Renewing the tokens of OAuth credentials: once for all who want them, in the place of those they were asked with, and said aloud where it fails.

mod bounds;

use std::sync::Arc;
use std::time::Duration;

use postern_model::control::{
    Answer, CommandBody, CommandRefusal, FRAME_BYTES, FromPerimeter, FromServer, Hello, OauthRefreshed, OauthValidated,
    RenewedTokens, Reply, Role,
};
use postern_model::event::{EventBody, SessionErrorKind};
use postern_model::ids::{CredentialId, SessionId, VaultId, WebhookId, WorkspaceId};
use postern_model::vault::{
    CredentialAuth, McpProbe, OauthRefresh, RefreshAttempt, RefreshStatus, SecretPart, TokenEndpointAuth, Verdict,
};
use postern_model::{Metadata, Timestamp};
use postern_net::frames::{FrameReader, FrameWriter};
use postern_secret::seal::{Binding, Sealed};
use postern_store::credentials::{self, NewCredential, Shown};
use postern_store::list::ListQuery;
use postern_store::{vaults, webhooks};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::fake_mcp::{Fake, failure};
use super::mcp::{answer, make};
use super::stage::{PATIENCE, Stage, calls};
use crate::control::{ControlHub, ControlSettings, Owner};

const WIKI: &str = "https://wiki.example/mcp";
const SEARCH: &str = "mcp__wiki__search";
const HOUR: Duration = Duration::from_secs(3600);

/// A server whose gateway answers as a test says.
struct Login {
    fake: Arc<Fake>,
    stage: Stage,
    asked: mpsc::Receiver<Asked>,
    vault: VaultId,
    credential: CredentialId,
}

/// A command at a process of a perimeter.
pub(super) struct Asked {
    pub(super) body: CommandBody,
    reply: oneshot::Sender<Result<Reply, CommandRefusal>>,
}

impl Asked {
    pub(super) fn answers(self, reply: Reply) {
        self.reply.send(Ok(reply)).expect("somebody waits");
    }
}

pub(super) fn sealed(ciphertext: &str) -> Sealed {
    let wrap = json!({"perimeter_id": "pmtr_1", "public_key": "ours", "enc": "", "key": ""});
    serde_json::from_value(json!({"version": 2, "nonce": "n", "ciphertext": ciphertext, "wraps": [wrap]})).unwrap()
}

fn renewed(access: &str, refresh: Option<&str>, expires_at: Option<Timestamp>) -> Reply {
    let text = |value: &str| serde_json::to_string(&sealed(value)).unwrap();
    Reply::OauthRefreshed(Box::new(OauthRefreshed {
        attempt: RefreshAttempt { status: RefreshStatus::Succeeded, http_response: None },
        reason: None,
        renewed: Some(RenewedTokens { access: text(access), refresh_token: refresh.map(text), expires_at }),
    }))
}

fn refused(code: &str) -> Reply {
    Reply::OauthRefreshed(Box::new(OauthRefreshed {
        attempt: RefreshAttempt { status: RefreshStatus::Failed, http_response: None },
        reason: Some(CommandRefusal::new(code, "it says no", "ask its owner")),
        renewed: None,
    }))
}

fn auth(expires_at: Option<Timestamp>) -> CredentialAuth {
    CredentialAuth::McpOauth {
        mcp_server_url: WIKI.into(),
        expires_at,
        refresh: Some(OauthRefresh {
            client_id: "client".into(),
            token_endpoint: "https://login.example/token".into(),
            token_endpoint_auth: TokenEndpointAuth::None {},
            resource: None,
            scope: Some("read".into()),
        }),
    }
}

fn expired() -> Option<Timestamp> {
    Some(Timestamp::now() - HOUR)
}

impl Login {
    async fn new(expires_at: Option<Timestamp>) -> Self {
        let (fake, hub) = (Fake::new(), patient_hub());
        let stage = fake.stage_with(Some(hub.clone())).await;
        let asked = perimeter(&hub, &stage.workspace, &Owner::Tunnel(fake.tunnel.clone()), Vec::new()).await;
        let mut tx = stage.engine.shared.store.write().await.unwrap();
        let body = serde_json::from_value(json!({"display_name": "v"})).unwrap();
        let vault = vaults::create(&mut tx, &stage.workspace, body, Timestamp::now()).await.unwrap().id;
        let credential = CredentialId::generate();
        let (metadata, auth) = (Metadata::default(), auth(expires_at));
        let binding = binding(&stage, &vault, &credential);
        let shown = Shown { auth: &auth, display_name: None, metadata: &metadata, binding: &binding };
        let secrets = [(SecretPart::Value, sealed("old")), (SecretPart::RefreshToken, sealed("refresh one"))];
        let new = NewCredential { shown, key: WIKI, secrets: &secrets, now: Timestamp::now() };
        credentials::create(&mut tx, &stage.workspace, &vault, &credential, &new).await.unwrap();
        tx.commit().await.unwrap();
        Self { fake, stage, asked, vault, credential }
    }

    async fn session(&self) -> SessionId {
        self.stage.create(json!({"vault_ids": [self.vault]})).await.unwrap().id
    }

    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.expect("the gateway is asked").unwrap()
    }

    /// Its owner sends other tokens.
    async fn patch(&self, expires_at: Option<Timestamp>, secrets: &[(SecretPart, Sealed)]) {
        let (stage, auth) = (&self.stage, auth(expires_at));
        let mut tx = stage.engine.shared.store.write().await.unwrap();
        let stored = credentials::required(&mut tx, &stage.workspace, &self.vault, &self.credential).await.unwrap();
        let (metadata, binding) = (Metadata::default(), binding(stage, &self.vault, &self.credential));
        let shown = Shown { auth: &auth, display_name: None, metadata: &metadata, binding: &binding };
        credentials::update(&mut tx, &stage.workspace, &stored, &shown, secrets, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The ciphertexts of access and refresh token, and when the former expires.
    async fn stored(&self) -> (String, String, Option<Timestamp>) {
        let mut reader = self.stage.engine.shared.store.read().await.unwrap();
        let stored = credentials::oauth(&mut reader, &self.stage.workspace, &self.credential).await.unwrap().unwrap();
        let refresh = stored.refresh.unwrap().token.sealed.ciphertext;
        (stored.access.sealed.ciphertext, refresh, stored.access.expires_at)
    }

    async fn webhook(&self) -> WebhookId {
        let events = ["vault_credential.refresh_failed"];
        let body = serde_json::from_value(json!({"url": "https://a.b/", "enabled_events": events})).unwrap();
        let id = WebhookId::generate();
        let mut tx = self.stage.engine.shared.store.write().await.unwrap();
        webhooks::create(&mut tx, &self.stage.workspace, &id, body, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn told(&self, webhook: &WebhookId) -> usize {
        let mut reader = self.stage.engine.shared.store.read().await.unwrap();
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        webhooks::deliveries(&mut reader, webhook, &query, webhooks::DeliveryFilter::default()).await.unwrap().len()
    }

    async fn errors(&self, id: &SessionId) -> Vec<(SessionErrorKind, String)> {
        let log = self.stage.log(id).await;
        let error = |event: &postern_model::event::Event| match &event.body {
            EventBody::SessionError { error } => Some((error.kind, error.message.clone())),
            _ => None,
        };
        log.iter().filter_map(error).collect()
    }

    /// The sealed access tokens with which the server was connected to.
    fn sent(&self) -> Vec<String> {
        let connects = self.fake.connects.lock().unwrap();
        let wiki = connects.iter().filter(|(_, to, _)| to.name == "wiki");
        let opened = wiki.map(|(.., credential)| {
            let sealed = credential.as_ref().expect("a credential").sealed.clone();
            postern_secret::seal::SealedCredential::decode(&sealed).unwrap().sealed.ciphertext
        });
        opened.collect()
    }
}

fn binding(stage: &Stage, vault: &VaultId, credential: &CredentialId) -> Binding {
    serde_json::from_value(json!({"client_id": "client", "credential": credential, "hosts": [], "kind": "mcp_oauth",
        "mcp_url": WIKI, "token_endpoint": "https://login.example/token", "vault": vault,
        "workspace": stage.workspace}))
    .unwrap()
}

/// A hub whose streams stand however long nothing is said.
pub(super) fn patient_hub() -> ControlHub {
    ControlHub::new(ControlSettings { ping: HOUR, silence: HOUR, hello: HOUR })
}

/// A process of this owner on the hub, which says once what sessions it holds: each command that it gets.
pub(super) async fn perimeter(
    hub: &ControlHub,
    workspace: &WorkspaceId,
    owner: &Owner,
    sessions: Vec<SessionId>,
) -> mpsc::Receiver<Asked> {
    let seat = hub.seat(workspace, owner).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let attached = hub.clone();
    tokio::spawn(async move { attached.attach(seat, theirs, std::future::pending()).await });
    let (reader, writer) = tokio::io::split(ours);
    let mut reader = FrameReader::new(reader, FRAME_BYTES, HOUR);
    let mut writer = FrameWriter::new(writer, FRAME_BYTES, HOUR);
    let role = match owner {
        Owner::Environment(_) => Role::Worker,
        Owner::Tunnel(_) => Role::Gateway,
    };
    let (version, name) = ("1".into(), "g".into());
    let hello = Hello { role, version, name, sessions, perimeter_public_key: None };
    writer.send(&FromPerimeter::Hello(hello)).await.unwrap();
    let (asked, commands) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok(Some(said)) = reader.next::<FromServer>().await {
            let FromServer::Command(command) = said else { continue };
            let (reply, answered) = oneshot::channel();
            asked.send(Asked { body: command.body, reply }).await.unwrap();
            let Ok(result) = answered.await else { continue };
            writer.send(&FromPerimeter::Answer(Answer { id: command.id, result })).await.unwrap();
        }
    });
    while hub.peers(workspace).is_empty() {
        tokio::task::yield_now().await;
    }
    commands
}

#[tokio::test]
async fn an_expired_token_is_renewed_before_it_is_used_once_for_all_sessions() {
    let mut login = Login::new(expired()).await;
    let (one, other) = (login.session().await, login.session().await);
    login.stage.say(&one, "hello").await;
    login.stage.say(&other, "hello").await;
    let asked = login.asked().await;
    let CommandBody::OauthRefresh { parts } = &asked.body else { panic!("{:?}", asked.body) };
    assert_eq!(parts.refresh.as_ref().unwrap().scope.as_deref(), Some("read"));
    let later = Timestamp::now() + HOUR;
    asked.answers(renewed("new", Some("refresh two"), Some(later)));
    for _ in 0..2 {
        login.stage.script.call().await.says("hi").await;
    }
    assert_eq!(login.sent(), ["new", "new"]);
    let (access, refresh, expires_at) = login.stored().await;
    assert_eq!((access.as_str(), refresh.as_str()), ("new", "refresh two"));
    assert_eq!(expires_at.unwrap().as_second(), later.as_second(), "clients see when it expires");
    assert!(login.asked.try_recv().is_err(), "one exchange for both");
}

#[tokio::test]
async fn what_its_owner_sends_meanwhile_stays_and_a_rotated_refresh_token_is_not_lost() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    let mut watch = login.stage.watch(&id, &[]).await;
    login.stage.say(&id, "hello").await;
    let asked = login.asked().await;
    login.patch(None, &[(SecretPart::Value, sealed("the owner's"))]).await;
    asked.answers(renewed("new", Some("refresh two"), Some(Timestamp::now() + HOUR)));
    login.stage.script.call().await.says("hi").await;
    watch.until("session.status_idle").await;
    assert_eq!(login.stored().await, ("the owner's".into(), "refresh two".into(), None));
    assert_eq!(login.sent(), ["the owner's"]);
    login.patch(expired(), &[(SecretPart::RefreshToken, sealed("the owner's refresh"))]).await;
    login.stage.say(&id, "again").await;
    let asked = login.asked().await;
    login.patch(expired(), &[(SecretPart::RefreshToken, sealed("the owner's next"))]).await;
    asked.answers(renewed("newer", Some("refresh three"), Some(Timestamp::now() + HOUR)));
    login.stage.script.call().await.says("hi").await;
    let (access, refresh, _) = login.stored().await;
    assert_eq!((access.as_str(), refresh.as_str()), ("newer", "the owner's next"));
}

#[tokio::test]
async fn a_grant_that_is_gone_is_announced_once_and_not_asked_about_until_its_owner_changes_it() {
    let mut login = Login::new(expired()).await;
    let webhook = login.webhook().await;
    let id = login.session().await;
    for turn in 1..=2 {
        let mut watch = login.stage.watch(&id, &[]).await;
        login.stage.say(&id, "hello").await;
        if turn == 1 {
            login.asked().await.answers(refused("refresh_refused"));
        }
        login.stage.script.call().await.says("hi").await;
        watch.until("session.status_idle").await;
        let errors = login.errors(&id).await;
        let (kind, text) = errors.last().unwrap();
        assert_eq!((*kind, errors.len()), (SessionErrorKind::McpAuthenticationFailedError, turn));
        assert!(text.starts_with("refresh_refused: ") && text.contains("ask its owner"), "{text}");
        assert!(login.sent().is_empty() && login.asked.try_recv().is_err(), "nothing expired is sent");
        assert_eq!(login.told(&webhook).await, 1);
    }
    login.patch(expired(), &[(SecretPart::RefreshToken, sealed("refresh two"))]).await;
    // The engine does not ask at once again; a restart stands for the time that passes.
    login.stage.engine.shared.renewing.forget();
    login.stage.say(&id, "hello").await;
    login.asked().await.answers(renewed("new", None, None));
    login.stage.script.call().await.says("hi").await;
    assert_eq!((login.sent(), login.told(&webhook).await), (vec!["new".to_owned()], 1));
}

#[tokio::test]
async fn a_server_that_refuses_the_token_gets_the_renewed_one_and_no_call_goes_out_twice() {
    let mut login = Login::new(None).await;
    let stale = {
        let mut reader = login.stage.engine.shared.store.read().await.unwrap();
        let vaults = std::slice::from_ref(&login.vault);
        credentials::for_url(&mut reader, &login.stage.workspace, vaults, WIKI).await.unwrap().unwrap().encode()
    };
    *login.fake.stale.lock().unwrap() = Some(stale);
    let id = login.session().await;
    login.stage.say(&id, "hello").await;
    login.asked().await.answers(renewed("new", None, None));
    login.stage.script.call().await.uses(&[SEARCH]).await;
    assert_eq!(login.sent(), ["old", "new"], "a greeting may be said again");

    login.stage.engine.shared.renewing.forget();
    login.fake.call().await.answers(Err(failure("upstream_unauthorized", false)));
    login.asked().await.answers(renewed("newer", None, None));
    let next = login.stage.script.call().await;
    let log = login.stage.log(&id).await;
    let (text, is_error) = answer(&log, &calls(&log)[0].id).unwrap();
    assert!(is_error && text.contains("It was not run.") && text.contains("make the call again"), "{text}");
    assert_eq!(login.fake.ran.lock().unwrap().len(), 1, "it went out once");
    next.uses(&[SEARCH]).await;
    login.fake.call().await.says("found");
    login.stage.script.call().await.says("bye").await;
    assert_eq!(login.sent().last().unwrap(), "newer");

    // A server that refuses fresh tokens too is not a reason to use up the grant.
    make(&login.stage, &id, &[SEARCH]).await;
    login.fake.call().await.answers(Err(failure("upstream_unauthorized", false)));
    login.stage.script.call().await.says("bye").await;
    assert!(login.asked.try_recv().is_err());
}

#[tokio::test]
async fn tokens_that_a_perimeter_sealed_for_strangers_are_not_taken() {
    let mut login = Login::new(expired()).await;
    let id = login.session().await;
    login.stage.say(&id, "hello").await;
    let mut strange = sealed("new");
    strange.wraps[0].public_key = "a stranger's".into();
    let Reply::OauthRefreshed(mut reply) = renewed("new", None, None) else { unreachable!() };
    reply.renewed.as_mut().unwrap().access = serde_json::to_string(&strange).unwrap();
    login.asked().await.answers(Reply::OauthRefreshed(reply));
    login.stage.script.call().await.says("hi").await;
    assert!(login.sent().is_empty());
    assert_eq!(login.stored().await.0, "old");
    assert!(login.errors(&id).await[0].1.starts_with("perimeter_misanswered"));
}

#[tokio::test]
async fn a_validation_says_what_the_perimeter_found_and_keeps_what_it_renewed() {
    let mut login = Login::new(None).await;
    let (engine, workspace) = (login.stage.engine.clone(), login.stage.workspace.clone());
    let (vault, credential) = (login.vault.clone(), login.credential.clone());
    let validating = tokio::spawn(async move { engine.validate_credential(&workspace, &vault, &credential).await });
    let asked = login.asked().await;
    assert!(matches!(asked.body, CommandBody::OauthValidate { .. }));
    let Reply::OauthRefreshed(refresh) = renewed("new", Some("refresh two"), None) else { unreachable!() };
    asked.answers(Reply::OauthValidated(Box::new(OauthValidated {
        status: Verdict::Valid,
        mcp_probe: None,
        refresh: Some(*refresh),
        reason: None,
    })));
    let (validation, reason) = validating.await.unwrap().unwrap();
    assert_eq!((validation.status, validation.has_refresh_token, reason), (Verdict::Valid, true, None));
    assert_eq!(validation.refresh.unwrap().status, RefreshStatus::Succeeded);
    assert_eq!(login.stored().await, ("new".into(), "refresh two".into(), None));
}

#[tokio::test]
async fn without_a_gateway_nobody_knows_whether_a_credential_works() {
    let login = Login::new(None).await;
    drop(login.asked);
    let engine = &login.stage.engine;
    let validated = engine.validate_credential(&login.stage.workspace, &login.vault, &login.credential);
    let (validation, reason) = validated.await.unwrap();
    let probe = McpProbe { method: "initialize".into(), http_response: None };
    assert_eq!((validation.status, validation.mcp_probe, validation.refresh), (Verdict::Unknown, Some(probe), None));
    assert!(["gateway_none", "perimeter_gone"].contains(&reason.unwrap().as_str()));
}
