//! How soon a worker is told again what the vaults of its sessions have.

use std::time::Duration;

use postern_model::control::{CommandBody, Reply};
use postern_model::ids::{CredentialId, VaultId};
use postern_model::vault::SecretPart;
use postern_model::{Metadata, Timestamp};
use postern_store::credentials::{self, NewCredential, Shown};
use postern_store::vaults;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::fake_mcp::Fake;
use super::oauth::{Asked, patient_hub, perimeter, sealed};
use super::stage::{PATIENCE, Stage};
use crate::control::Owner;

async fn vault(stage: &Stage) -> VaultId {
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let body = serde_json::from_value(json!({"display_name": "v"})).unwrap();
    let vault = vaults::create(&mut tx, &stage.workspace, body, Timestamp::now()).await.unwrap().id;
    tx.commit().await.unwrap();
    vault
}

/// As another server would: nobody here is told.
async fn add_a_variable(stage: &Stage, vault: &VaultId) {
    let credential = CredentialId::generate();
    let auth = json!({"type": "environment_variable", "secret_name": "TOKEN", "networking": {"type": "unrestricted"},
        "injection_location": {"header": true, "body": false}});
    let binding = json!({"credential": credential, "hosts": [], "kind": "environment_variable", "mcp_url": null,
        "token_endpoint": null, "vault": vault, "workspace": stage.workspace, "secret_name": "TOKEN"});
    let (auth, binding) = (serde_json::from_value(auth).unwrap(), serde_json::from_value(binding).unwrap());
    let shown = Shown { auth: &auth, display_name: None, metadata: &Metadata::default(), binding: &binding };
    let secrets = [(SecretPart::Value, sealed("v"))];
    let new = NewCredential { shown, key: "variable:TOKEN", secrets: &secrets, now: Timestamp::now() };
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    credentials::create(&mut tx, &stage.workspace, vault, &credential, &new).await.unwrap();
    tx.commit().await.unwrap();
}

/// How many variables the worker is told.
async fn told(worker: &mut mpsc::Receiver<Asked>) -> (usize, Asked) {
    let asked = timeout(PATIENCE, worker.recv()).await.expect("the worker is told").unwrap();
    let CommandBody::Variables { sealed, .. } = &asked.body else { panic!("{:?}", asked.body) };
    (sealed.len(), asked)
}

async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_told_again_and_vaults_are_looked_at_without_a_cause() {
    let hub = patient_hub();
    let stage = Fake::new().stage_with(Some(hub.clone())).await;
    hub.keep_holds(stage.engine.shared.store.clone());
    let vault = vault(&stage).await;
    let session = stage.create(json!({"vault_ids": [vault]})).await.unwrap().id;
    let owner = Owner::Environment(stage.environment.parse().unwrap());
    let mut worker = perimeter(&hub, &stage.workspace, &owner, vec![session]).await;
    // It says nothing for its ten seconds, and is told again two seconds later.
    drop(told(&mut worker).await);
    pass(10).await;
    let (variables, asked) = told(&mut worker).await;
    asked.answers(Reply::Variables { withheld: Vec::new() });
    assert_eq!(variables, 0);

    add_a_variable(&stage, &vault).await;
    for _ in 0..3 {
        // Once is enough, but for an answer that is still on its way to whoever looks.
        pass(30).await;
        if let Ok((variables, _)) = timeout(Duration::from_secs(1), told(&mut worker)).await {
            return assert_eq!(variables, 1);
        }
    }
    panic!("nobody looks");
}
