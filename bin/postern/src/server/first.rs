//! What a server makes at its first start: the default environment, an API key, an environment key; all of it or nothing.

use postern_model::Timestamp;
use postern_model::environment::{CreateEnvironment, Environment};
use postern_model::ids::WorkspaceId;
use postern_secret::key::{ApiKey, EnvironmentKey};
use postern_store::{Store, StoreError, Tx, environments, keys};

use crate::config::DEFAULT_ENVIRONMENT;
use crate::server::ServerConfiguration;

/// Keys that this start issued.
#[derive(Default)]
pub(super) struct IssuedKeys {
    pub(super) api_key: Option<String>,
    pub(super) environment_key: Option<String>,
}

/// The default environment and, at the first start or on request, keys; all of it or nothing.
pub(super) async fn first_things(
    store: &Store,
    configuration: &ServerConfiguration,
) -> Result<(Environment, IssuedKeys), StoreError> {
    let workspace = WorkspaceId::default();
    let mut tx = store.write().await?;
    let existing = environments::find_by_name(&mut tx, &workspace, DEFAULT_ENVIRONMENT).await?;
    let first_start = existing.is_none();
    let environment = match existing {
        Some(environment) => environment,
        None => environments::create(&mut tx, &workspace, default_environment(), Timestamp::now()).await?,
    };
    let mut issued = IssuedKeys::default();
    if first_start || configuration.new_keys {
        issued.api_key = Some(issue_api_key(&mut tx, &workspace).await?);
    }
    if first_start || configuration.new_keys || configuration.new_environment_key {
        issued.environment_key = Some(issue_environment_key(&mut tx, &workspace, &environment).await?);
    }
    tx.commit().await?;
    Ok((environment, issued))
}

fn default_environment() -> CreateEnvironment {
    CreateEnvironment {
        name: DEFAULT_ENVIRONMENT.to_owned(),
        config: postern_model::Field::Absent,
        description: Some("Made by the first start.".to_owned()),
        metadata: None,
        scope: None,
    }
}

const HINT_LENGTH: usize = 12;

#[expect(clippy::disallowed_methods, reason = "a key is shown once, to the operator at the start that issued it")]
async fn issue_api_key(tx: &mut Tx, workspace: &WorkspaceId) -> Result<String, StoreError> {
    let key = ApiKey::issue();
    let text = key.secret().expose().clone();
    keys::create_api_key(tx, workspace, &new_key("up", &text, key.digest().as_str()), &keys::KeyReach::default())
        .await?;
    Ok(text)
}

#[expect(clippy::disallowed_methods, reason = "a key is shown once, to the operator at the start that issued it")]
async fn issue_environment_key(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    environment: &Environment,
) -> Result<String, StoreError> {
    let key = EnvironmentKey::issue();
    let text = key.secret().expose().clone();
    keys::create_environment_key(tx, workspace, &environment.id, &new_key("up", &text, key.digest().as_str())).await?;
    Ok(text)
}

fn new_key<'a>(name: &'a str, key: &'a str, digest: &'a str) -> keys::NewKey<'a> {
    keys::NewKey { name, hint: &key[..HINT_LENGTH], digest, now: Timestamp::now() }
}
