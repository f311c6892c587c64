//! Environment keys: ours, where the hosted platform has a web page. A key is shown once and stored as a digest.

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, EnvironmentKeyId};
use postern_model::key::{CreateKey, EnvironmentKeyRecord};
use postern_secret::key::EnvironmentKey;
use postern_store::list::page;
use postern_store::{environments, keys};
use serde::Serialize;

use super::{Deleted, list_query};
use crate::app::problem;
use crate::caller::unknown_environment;
use crate::dispatch::Call;
use crate::handlers::api_keys::{HINT_LENGTH, checked_name};
use crate::reply::Reply;

#[derive(Serialize)]
struct Issued<'a> {
    #[serde(flatten)]
    record: EnvironmentKeyRecord,
    key: &'a str,
}

#[expect(clippy::disallowed_methods, reason = "a key is shown once, in the answer that issues it")]
pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let environment: EnvironmentId = call.id("environment", "Environment")?;
    let name = checked_name(call.optional_body::<CreateKey>()?.name)?;
    call.finish_query()?;
    let key = EnvironmentKey::issue();
    let digest = key.digest();
    let hint = &key.secret().expose()[..HINT_LENGTH];
    let new = keys::NewKey { name: &name, hint, digest: digest.as_str(), now: call.app.now() };
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let found = environments::find(&mut tx, &call.workspace, &environment).await.map_err(problem)?;
    let found = found.ok_or_else(|| unknown_environment(&environment))?;
    if found.archived_at.is_some() {
        return Err(
            Problem::invalid("The environment is archived and takes no keys.").with_code("environment_archived")
        );
    }
    let record = keys::create_environment_key(&mut tx, &call.workspace, &environment, &new).await.map_err(problem)?;
    call.remember(&mut tx, &record).await?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Issued { record, key: key.secret().expose() })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let environment: EnvironmentId = call.id("environment", "Environment")?;
    let list = format!("environment_keys:{environment}");
    let query = list_query(&mut call.query, &list, 100)?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = environments::find(&mut connection, &call.workspace, &environment).await.map_err(problem)?;
    found.ok_or_else(|| unknown_environment(&environment))?;
    let records = keys::list_environment_keys(&mut connection, &environment, &query).await.map_err(problem)?;
    Reply::json(&page(records, query.limit, &list, |key| (key.created_at.as_microsecond(), key.id.to_string())))
}

pub(crate) async fn revoke(call: Call) -> Result<Reply, Problem> {
    let environment: EnvironmentId = call.id("environment", "Environment")?;
    let id: EnvironmentKeyId = call.id("key", "Environment key")?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    let found = environments::find(&mut tx, &workspace, &environment).await.map_err(problem)?;
    found.ok_or_else(|| unknown_environment(&environment))?;
    keys::revoke_environment_key(&mut tx, &environment, &id, app.now()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Deleted { id: id.as_str(), kind: "environment_key_deleted" })
}
