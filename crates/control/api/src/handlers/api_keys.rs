//! API keys: ours. Only the operator manages them, so that a stolen key cannot make itself a successor.

use postern_model::Problem;
use postern_model::ids::{ApiKeyId, VaultId};
use postern_model::key::{ApiKeyRecord, CreateApiKey};
use postern_secret::key::ApiKey;
use postern_store::list::page;
use postern_store::{keys, workspaces};
use serde::Serialize;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "api_keys";
/// The prefix and four characters: 24 of 256 random bits.
pub(super) const HINT_LENGTH: usize = 12;
const MAX_NAME: usize = 256;
const MAX_VAULTS: usize = 50;

#[derive(Serialize)]
struct Issued<'a> {
    #[serde(flatten)]
    record: ApiKeyRecord,
    key: &'a str,
}

#[expect(clippy::disallowed_methods, reason = "a key is shown once, in the answer that issues it")]
pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let CreateApiKey { name, role, vault_ids, workspace_id } = call.optional_body()?;
    let name = checked_name(name)?;
    let reach = keys::KeyReach { role, vault_ids: checked_vaults(vault_ids)? };
    call.finish_query()?;
    let key = ApiKey::issue();
    let digest = key.digest();
    let hint = &key.secret().expose()[..HINT_LENGTH];
    let new = keys::NewKey { name: &name, hint, digest: digest.as_str(), now: call.app.now() };
    let workspace = workspace_id.unwrap_or_else(|| call.workspace.clone());
    let mut tx = call.app.store.write().await.map_err(problem)?;
    workspaces::required(&mut tx, &workspace).await.map_err(problem)?;
    let record = keys::create_api_key(&mut tx, &workspace, &new, &reach).await.map_err(problem)?;
    call.remember(&mut tx, &record).await?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Issued { record, key: key.secret().expose() })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let query = list_query(&mut call.query, LIST, 100)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let records = keys::list_api_keys(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(records, query.limit, LIST, |key| (key.created_at.as_microsecond(), key.id.to_string())))
}

pub(crate) async fn revoke(call: Call) -> Result<Reply, Problem> {
    let id: ApiKeyId = call.id("key", "API key")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    keys::revoke_api_key(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Deleted { id: id.as_str(), kind: "api_key_deleted" })
}

fn checked_vaults(sent: Option<Vec<VaultId>>) -> Result<Option<Vec<VaultId>>, Problem> {
    match sent {
        Some(ids) if ids.len() > MAX_VAULTS => Err(Problem::invalid_at(
            "vault_ids",
            format!("must have at most {MAX_VAULTS} ids; leave it out for every vault"),
        )),
        sent => Ok(sent),
    }
}

pub(super) fn checked_name(name: Option<String>) -> Result<String, Problem> {
    let name = name.unwrap_or_default();
    if name.chars().count() > MAX_NAME {
        return Err(Problem::invalid_at("name", format!("must have at most {MAX_NAME} characters")));
    }
    Ok(name)
}
