//! Credentials of vaults (contract 1.8, 8.1). A secret is sealed in the request that brings it; nothing here can show it
//! again.

use http::HeaderValue;
use postern_model::Problem;
use postern_model::ids::{CredentialId, VaultId};
use postern_model::vault::{credential_name, merged, renamed};
use postern_secret::seal::Binding;
use postern_store::credentials::{self, NewCredential, Shown};
use postern_store::list::page;
use postern_store::{perimeters, vaults};

use super::{Deleted, list_query};
use crate::app::problem;
use crate::credential::{ChangedAuth, CreateCredential, Sealed, UpdateCredential, seal_parts};
use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let vault: VaultId = call.id("vault", "Vault")?;
    let mut body = call.confidential_body::<CreateCredential>()?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_query()?;
    let (id, now) = (body.id.take().unwrap_or_else(CredentialId::generate), app.now());
    let display_name = credential_name(body.display_name.take())?;
    let metadata = body.metadata.take().unwrap_or_default().checked()?;
    let new = body.auth(now)?;
    let bound = credentials::Bound::new(&new.auth);
    let binding = Binding {
        client_id: bound.client_id,
        credential: id.to_string(),
        hosts: new.hosts,
        injection: bound.injection,
        kind: new.auth.kind().as_str().to_owned(),
        mcp_url: new.mcp_url,
        refresh: bound.refresh,
        secret_name: bound.secret_name,
        token_endpoint: new.token_endpoint,
        vault: vault.to_string(),
        workspace: workspace.to_string(),
    };
    let mut tx = app.store.write().await.map_err(problem)?;
    vaults::active(&mut tx, &workspace, &vault).await.map_err(problem)?;
    let perimeters = perimeters::active(&mut tx, &workspace).await.map_err(problem)?;
    let secrets = seal_parts(new.secrets, &binding, &perimeters)?;
    let shown =
        Shown { auth: &new.auth, display_name: display_name.as_deref(), metadata: &metadata, binding: &binding };
    let new = NewCredential { shown, key: &new.key, secrets: &secrets, now };
    let credential = credentials::create(&mut tx, &workspace, &vault, &id, &new).await.map_err(problem)?;
    let answer = call.created(tx, &credential).await?;
    app.control.vaults_changed();
    let kind = credential.auth.kind().as_str();
    tracing::info!(%vault, credential = %id, kind, perimeters = perimeters.len(), who, "credential sealed");
    Ok(answer)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let (vault, id) = ids(&call)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&credentials::required(&mut connection, &call.workspace, &vault, &id).await.map_err(problem)?)
}

pub(crate) async fn update(mut call: Call) -> Result<Reply, Problem> {
    let (vault, id) = ids(&call)?;
    let body = call.confidential_body::<UpdateCredential>()?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.query.finish()?;
    let now = app.now();
    let mut tx = app.store.write().await.map_err(problem)?;
    let (stored, binding) = credentials::active(&mut tx, &workspace, &vault, &id).await.map_err(problem)?;
    let display_name = renamed(stored.display_name.as_deref(), body.display_name)?;
    let metadata = merged(&stored.metadata, &body.metadata)?;
    let sealed = Sealed { hosts: &binding.hosts, injection: binding.injection };
    let changed = ChangedAuth::new(&stored.auth, sealed, body.auth, now)?;
    let unchanged = (&changed.auth, &display_name, &metadata) == (&stored.auth, &stored.display_name, &stored.metadata);
    if unchanged && changed.secrets.is_empty() {
        return Reply::json(&stored);
    }
    let binding = Binding { hosts: changed.hosts, injection: changed.injection, ..binding };
    let resealed = changed.secrets.len();
    let perimeters = perimeters::active(&mut tx, &workspace).await.map_err(problem)?;
    let secrets = seal_parts(changed.secrets, &binding, &perimeters)?;
    let shown =
        Shown { auth: &changed.auth, display_name: display_name.as_deref(), metadata: &metadata, binding: &binding };
    let updated = credentials::update(&mut tx, &workspace, &stored, &shown, &secrets, now).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.control.vaults_changed();
    tracing::info!(%vault, credential = %id, resealed, who, "credential changed");
    Reply::json(&updated)
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let (vault, id) = ids(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let archived = credentials::archive(&mut tx, &workspace, &vault, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.control.vaults_changed();
    tracing::info!(%vault, credential = %id, who, "credential archived");
    Reply::json(&archived)
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let (vault, id) = ids(&call)?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    credentials::delete(&mut tx, &workspace, &vault, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.control.vaults_changed();
    tracing::info!(%vault, credential = %id, who, "credential deleted");
    Reply::json(&Deleted { id: id.as_str(), kind: "vault_credential_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let vault: VaultId = call.id("vault", "Vault")?;
    let list = format!("vault_credentials:{vault}");
    let mut query = list_query(&mut call.query, &list, 100)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = credentials::list(&mut connection, &call.workspace, &vault, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, &list, |credential| {
        (credential.created_at.as_microsecond(), credential.id.to_string())
    }))
}

/// Has the perimeter find out. Where none does, nobody knows, and a header says why.
pub(crate) async fn validate(call: Call) -> Result<Reply, Problem> {
    let (vault, id) = ids(&call)?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let (validation, reason) = app.engine.validate_credential(&workspace, &vault, &id).await?;
    match reason.and_then(|reason| HeaderValue::try_from(reason).ok()) {
        Some(reason) => Reply::json_with(&validation, ("postern-reason", reason)),
        None => Reply::json(&validation),
    }
}

fn ids(call: &Call) -> Result<(VaultId, CredentialId), Problem> {
    Ok((call.id("vault", "Vault")?, call.id("credential", "Credential")?))
}
