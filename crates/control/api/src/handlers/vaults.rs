//! Vaults (contract 1.8).

use postern_model::Problem;
use postern_model::ids::VaultId;
use postern_model::vault::{CreateVault, UpdateVault};
use postern_store::list::page;
use postern_store::vaults;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

const LIST: &str = "vaults";

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let body = call.body::<CreateVault>()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let vault = vaults::create(&mut tx, &call.workspace, body, call.app.now()).await.map_err(problem)?;
    call.created(tx, &vault).await
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id: VaultId = call.id("vault", "Vault")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&vaults::required(&mut connection, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn update(call: Call) -> Result<Reply, Problem> {
    let id: VaultId = call.id("vault", "Vault")?;
    let body = call.body::<UpdateVault>()?;
    call.query.finish()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let updated = vaults::update(&mut tx, &call.workspace, &id, body, call.app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&updated)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id: VaultId = call.id("vault", "Vault")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let archived = vaults::archive(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.control.vaults_changed();
    tracing::info!(vault = %id, who, "vault archived");
    Reply::json(&archived)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id: VaultId = call.id("vault", "Vault")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    vaults::delete(&mut tx, &workspace, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.control.vaults_changed();
    tracing::info!(vault = %id, who, "vault deleted");
    Reply::json(&Deleted { id: id.as_str(), kind: "vault_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, 100)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = vaults::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    let mut page = page(found, query.limit, LIST, |vault| (vault.created_at.as_microsecond(), vault.id.to_string()));
    page.data.retain(|vault| call.caller.may_use(std::slice::from_ref(&vault.id)));
    Reply::json(&page)
}
