//! Whatever is kept sealed is passed on, each value once, and never a key to another value than it was made for.

use postern_model::Timestamp;
use postern_model::ids::{SessionId, VaultId};
use postern_model::vault::CredentialAuth;
use postern_secret::Secret;
use postern_secret::seal::{Binding, PerimeterPublicKey, Recipient, Sealed, seal, suite};
use serde_json::json;

use super::*;
use crate::credentials::{NewCredential, Shown, part_binding};
use crate::deployments::tokens;
use crate::{Store, environments, repositories, vaults};

struct Stage {
    store: Store,
    workspace: WorkspaceId,
    first: Recipient,
    _directory: tempfile::TempDir,
}

fn recipient(id: &str) -> Recipient {
    let (public, _) = suite().generate_key_pair().unwrap();
    Recipient { perimeter_id: id.to_owned(), public_key: PerimeterPublicKey::from_bytes(&public.0).unwrap() }
}

fn wrap(of: &Recipient) -> Wrap {
    let public_key = of.public_key.to_string();
    Wrap { perimeter_id: of.perimeter_id.clone(), public_key, enc: "AA==".into(), key: "AA==".into() }
}

impl Stage {
    /// A credential of two parts, the tokens of two repositories of one session, and that of a deployment.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).await.unwrap();
        let stage =
            Self { store, workspace: WorkspaceId::default(), first: recipient("perim_1"), _directory: directory };
        let mut tx = stage.store.write().await.unwrap();
        let here = serde_json::from_value(json!({"name": "here"})).unwrap();
        environments::create(&mut tx, &stage.workspace, here, Timestamp::UNIX_EPOCH).await.unwrap();
        sqlx::query(
            "INSERT INTO sessions (workspace_id, id, environment_id, thread_id, agent_id, agent_version, agent, metadata, \
               status, usage, has_run, has_been_idle, created_at, updated_at) \
             SELECT workspace_id, 'sesn_1', id, 'sthr_1', 'agent_1', 1, '{}', '{}', 'idle', '{}', TRUE, TRUE, 0, 0 \
             FROM environments",
        )
        .execute(&mut **tx)
        .await
        .unwrap();
        let vault = json!({"display_name": "v"});
        let vault = serde_json::from_value(vault).unwrap();
        let vault = vaults::create(&mut tx, &stage.workspace, vault, Timestamp::UNIX_EPOCH).await.unwrap().id;
        stage.credential(&mut tx, &vault).await;
        tx.commit().await.unwrap();
        stage.deployment().await;
        for resource in ["sesrsc_1", "sesrsc_2"] {
            stage.token(resource, "a-token-0123456789abcdef").await;
        }
        stage
    }

    async fn credential(&self, tx: &mut Tx, vault: &VaultId) {
        let url = "https://wiki.example/mcp";
        let auth: CredentialAuth = serde_json::from_value(json!({"type": "mcp_oauth", "mcp_server_url": url})).unwrap();
        let binding = Binding {
            kind: "mcp_oauth".to_owned(),
            mcp_url: Some(url.to_owned()),
            hosts: Vec::new(),
            injection: None,
            ..Binding::of_repository(self.workspace.as_str(), vault.as_str(), "vcrd_1", "", "")
        };
        let secrets = [SecretPart::Value, SecretPart::RefreshToken]
            .map(|part| (part, self.sealed(&part_binding(&binding, part), "an-oauth-token-0123456789")));
        let shown = Shown { auth: &auth, display_name: None, metadata: &Default::default(), binding: &binding };
        let new = NewCredential { shown, key: url, secrets: &secrets, now: Timestamp::UNIX_EPOCH };
        let id = CredentialId::parse("vcrd_1").unwrap();
        credentials::create(tx, &self.workspace, vault, &id, &new).await.unwrap();
    }

    async fn deployment(&self) {
        let (workspace, url) = (self.workspace.as_str(), "https://git.example/team/ledger");
        let mut tx = self.store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO deployments (workspace_id, id, name, agent_id, agent_version, environment_id, initial_events, resources, \
               vault_ids, metadata, status, created_at, updated_at) \
             VALUES (?1, 'depl_1', 'd', 'agent_1', 1, 'env_1', '[]', '[]', '[]', '{}', 'active', 0, 0)",
        )
        .bind(workspace)
        .execute(&mut **tx)
        .await
        .unwrap();
        let binding = Binding::of_deployment(workspace, "depl_1", "deplrsc_1", "git.example", url);
        let sealed = self.sealed(&binding, "a-token-0123456789abcdef");
        tokens::put(&mut tx, &binding, &sealed, Timestamp::UNIX_EPOCH).await.unwrap();
        tx.commit().await.unwrap();
    }

    fn sealed(&self, binding: &Binding, value: &str) -> Sealed {
        seal(&Secret::new(value.as_bytes().to_vec()), binding, std::slice::from_ref(&self.first)).unwrap()
    }

    async fn token(&self, resource: &str, value: &str) {
        let binding = Binding::of_repository(
            self.workspace.as_str(),
            "sesn_1",
            resource,
            "git.example",
            "https://git.example/team/ledger",
        );
        let sealed = self.sealed(&binding, value);
        let token = repositories::Token { binding: &binding, sealed: &sealed, now: Timestamp::UNIX_EPOCH };
        let mut tx = self.store.write().await.unwrap();
        repositories::put(&mut tx, &token).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn missing(&self, key: &str, after: Option<&Place>, most: usize) -> Vec<SealedPart> {
        let mut reader = self.store.read().await.unwrap();
        not_wrapped_for(&mut reader, &self.workspace, key, after, most).await.unwrap()
    }

    /// All of it, in pages of this size.
    async fn walk(&self, key: &str, page: usize) -> Vec<SealedPart> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let parts = self.missing(key, after.as_ref(), page).await;
            let Some(last) = parts.last() else { return all };
            after = Some(last.place.clone());
            all.extend(parts);
        }
    }

    async fn add(&self, part: &SealedPart, wrap: Wrap) -> bool {
        let mut tx = self.store.write().await.unwrap();
        let added = add_wrap(&mut tx, part, wrap).await.unwrap();
        tx.commit().await.unwrap();
        added
    }
}

#[tokio::test]
async fn whatever_is_kept_sealed_is_walked_through_once_in_pages_of_any_size() {
    let stage = Stage::new().await;
    let second = recipient("perim_2");
    let key = second.public_key.to_string();
    for page in 1..=6 {
        let walked = stage.walk(&key, page).await;
        let places: Vec<String> = walked.iter().map(|part| format!("{:?}", part.place)).collect();
        assert_eq!(
            places,
            [
                "Credential(vcrd_1, RefreshToken)",
                "Credential(vcrd_1, Value)",
                "Repository(sesrsc_1)",
                "Repository(sesrsc_2)",
                "Deployment(deplrsc_1)"
            ],
            "pages of {page}"
        );
    }
    assert_eq!(stage.walk(&stage.first.public_key.to_string(), 9).await, [], "it opens all of it already");
    let mut reader = stage.store.read().await.unwrap();
    let other = WorkspaceId::parse("wrkspc_other").unwrap();
    assert_eq!(
        not_wrapped_for(&mut reader, &other, &key, None, 9).await.unwrap(),
        [],
        "another workspace's is its own"
    );
}

#[tokio::test]
async fn a_key_is_added_to_the_value_that_it_was_made_for_and_to_no_other() {
    let stage = Stage::new().await;
    let second = recipient("perim_2");
    let key = second.public_key.to_string();
    let before = stage.walk(&key, 9).await;
    stage.token("sesrsc_2", "a-rotated-token-0123456789").await;
    let mut tx = stage.store.write().await.unwrap();
    repositories::remove(&mut tx, "sesrsc_1", Timestamp::UNIX_EPOCH).await.unwrap();
    tx.commit().await.unwrap();
    for (part, expected) in before.iter().zip([true, true, false, false, true]) {
        assert_eq!(stage.add(part, wrap(&second)).await, expected, "{:?}", part.place);
        assert!(!stage.add(part, wrap(&second)).await, "what it was made for is no longer there");
    }
    let left = stage.walk(&key, 9).await;
    let [rotated] = &left[..] else { panic!("{left:?}") };
    assert!(stage.add(rotated, wrap(&second)).await);
    assert_eq!(stage.walk(&key, 9).await, []);
    let mut reader = stage.store.read().await.unwrap();
    let session = SessionId::parse("sesn_1").unwrap();
    let tokens = repositories::of_session(&mut reader, &session).await.unwrap().unwrap();
    let [token] = &tokens[..] else { panic!("{tokens:?}") };
    let token = postern_secret::seal::SealedVariable::decode(&token.sealed).unwrap().credential;
    assert_eq!(token.binding, rotated.credential.binding);
    assert_eq!(token.sealed.wraps, [rotated.credential.sealed.wraps[0].clone(), wrap(&second)]);
}

#[tokio::test]
async fn a_value_with_as_many_keys_as_it_may_have_takes_no_more() {
    let stage = Stage::new().await;
    let key = |number: usize| recipient(&format!("perim_{number}"));
    for number in 1..MOST_RECIPIENTS {
        let part = stage.missing("none", None, 1).await.remove(0);
        assert!(stage.add(&part, wrap(&key(number))).await);
    }
    let part = stage.missing("none", None, 1).await.remove(0);
    assert!(!stage.add(&part, wrap(&key(99))).await, "one more and it would open nowhere");
}
