//! An API key that is for certain vaults: it sees those, and makes and moves sessions and deployments of those alone.
//! Another vault, and what uses it, is not there. It issues nothing that would reach further than itself.

mod known;

use std::str::FromStr;

use postern_model::Problem;
use postern_model::file::FileScope;
use postern_model::ids::{
    DeploymentId, DeploymentRunId, EnvironmentId, FileId, MemoryStoreId, MemoryVersionId, SessionId, VaultId, WorkId,
    WorkspaceId,
};
use postern_model::memory::View;
use postern_store::deployments::runs;
use postern_store::memories::versions;
use postern_store::{files, memory_stores, work};
use serde_json::Value;

pub(crate) use self::known::Known;
use crate::app::{App, problem};
use crate::caller::{Caller, unknown_session, unknown_work};
use crate::routes::{Method, Route};

/// What reaches every vault of the workspace, whoever asked for it: no key for certain vaults makes, changes or reads these.
const REACHES_FURTHER: &[(&str, &str)] = &[
    ("/v1/environments/{environment}/keys", "An environment key serves every session of its environment"),
    ("/v1/tunnels/{tunnel}/reveal_token", "A tunnel token carries the calls of every session"),
    ("/v1/tunnels/{tunnel}/rotate_token", "A tunnel token carries the calls of every session"),
    ("/v1/tunnels/{tunnel}/certificates", "Whom a tunnel's CA vouches for reads the calls of every session"),
    ("/v1/webhooks", "A webhook is told of every session and vault"),
];

/// Refuses a request that reaches beyond the caller's vaults: by its path, by its body, by making a vault, or by making
/// something that reaches further.
///
/// # Errors
/// 404 for what uses another vault, 403 for making what reaches further.
pub(crate) async fn check(
    app: &App,
    caller: &Caller,
    workspace: &WorkspaceId,
    route: &Route,
    parameters: &[(String, String)],
    body: &[u8],
) -> Result<(), Problem> {
    if !caller.is_for_certain_vaults() {
        return Ok(());
    }
    check_reach(route)?;
    let asked = Asked { app, caller, workspace, parameters };
    for (name, value) in parameters {
        asked.check(name, value).await?;
    }
    asked.check_body(body).await
}

fn check_reach(route: &Route) -> Result<(), Problem> {
    if route.path == "/v1/vaults" && route.method == Method::Post {
        return Err(Problem::permission("A key for certain vaults makes no other. It takes a key for every vault."));
    }
    let further = REACHES_FURTHER.iter().find(|(path, _)| route.path.starts_with(path));
    match further {
        // Who has keys and CAs may be seen; what webhooks were told may not.
        Some((path, _)) if route.method == Method::Get && *path != "/v1/webhooks" => Ok(()),
        // Taking one away reaches nothing.
        Some((path, _)) if route.method == Method::Delete && *path != "/v1/webhooks" => Ok(()),
        Some((_, why)) => Err(Problem::permission(format!("{why}. It takes a key for every vault."))),
        None => Ok(()),
    }
}

/// A request of a key for certain vaults.
struct Asked<'a> {
    app: &'a App,
    caller: &'a Caller,
    workspace: &'a WorkspaceId,
    parameters: &'a [(String, String)],
}

impl Asked<'_> {
    /// What cannot be read is refused where it is looked for.
    async fn check(&self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "vault" => {
                let unknown = || Problem::not_found(format!("Vault {} was not found.", shown(value)));
                let id = VaultId::parse(value).map_err(|_| unknown())?;
                self.caller.may_use(std::slice::from_ref(&id)).then_some(()).ok_or_else(unknown)
            }
            "session" => match SessionId::parse(value) {
                Ok(id) => self.session(&id, || unknown_session(&id)).await,
                Err(_) => Ok(()),
            },
            "deployment" => match DeploymentId::parse(value) {
                Ok(id) => {
                    let deployment = self.app.engine.deployment(self.workspace, &id).await?;
                    let unknown = || Problem::not_found(format!("Deployment {id} was not found."));
                    self.caller.may_use(&deployment.vault_ids).then_some(()).ok_or_else(unknown)
                }
                Err(_) => Ok(()),
            },
            "run" => self.run(value).await,
            "work" => self.work(value).await,
            "file" => self.file(value, None).await,
            "memory_version" => self.memory_version(value).await,
            _ => Ok(()),
        }
    }

    async fn session(&self, id: &SessionId, unknown: impl FnOnce() -> Problem) -> Result<(), Problem> {
        let known = Known::of(self.app, self.caller, self.workspace, [id]).await?;
        if known.has(id) { Ok(()) } else { Err(unknown()) }
    }

    async fn run(&self, sent: &str) -> Result<(), Problem> {
        let Ok(id) = DeploymentRunId::parse(sent) else { return Ok(()) };
        let mut reader = self.app.store.read().await.map_err(problem)?;
        let found = runs::required(&mut reader, self.workspace, &id).await.map_err(problem)?;
        drop(reader);
        let known = Known::of_runs(self.app, self.caller, self.workspace, [&found]).await?;
        if known.has_run(&found) { Ok(()) } else { Err(runs::not_found(&id)) }
    }

    async fn work(&self, sent: &str) -> Result<(), Problem> {
        let (Some(environment), Ok(id)) = (self.beside::<EnvironmentId>("environment"), WorkId::parse(sent)) else {
            return Ok(());
        };
        let mut reader = self.app.store.read().await.map_err(problem)?;
        let found = work::find(&mut reader, &environment, &id).await.map_err(problem)?;
        drop(reader);
        match found {
            Some(found) => self.session(found.data.session(), || unknown_work(&id)).await,
            None => Ok(()),
        }
    }

    /// What a session wrote says which one did.
    async fn memory_version(&self, sent: &str) -> Result<(), Problem> {
        let (Some(store), Ok(id)) = (self.beside::<MemoryStoreId>("memory_store"), MemoryVersionId::parse(sent)) else {
            return Ok(());
        };
        let mut reader = self.app.store.read().await.map_err(problem)?;
        memory_stores::required(&mut reader, self.workspace, &store).await.map_err(problem)?;
        let found = versions::required(&mut reader, &store, &id, View::Basic).await.map_err(problem)?;
        drop(reader);
        match found.session() {
            Some(session) => self.session(session, || versions::not_found(&id)).await,
            None => Ok(()),
        }
    }

    /// Another id of the path.
    fn beside<T: FromStr>(&self, name: &str) -> Option<T> {
        self.parameters.iter().find(|(known, _)| known == name).and_then(|(_, sent)| sent.parse().ok())
    }

    /// A file that a hidden session has or put out, in the path or named in a body under this code.
    async fn file(&self, sent: &str, code: Option<&'static str>) -> Result<(), Problem> {
        let Ok(id) = FileId::parse(sent) else { return Ok(()) };
        let mut reader = self.app.store.read().await.map_err(problem)?;
        let found = files::find(&mut reader, self.workspace, &id).await.map_err(problem)?;
        drop(reader);
        let Some(FileScope::Session { id: session }) = found.and_then(|found| found.metadata.scope) else {
            return Ok(());
        };
        let unknown = || {
            let unknown = Problem::not_found(format!("File {id} was not found."));
            match code {
                Some(code) => unknown.with_code(code),
                None => unknown,
            }
        };
        self.session(&session, unknown).await
    }

    /// Whatever the route: a body that names vaults and files names none that are hidden.
    async fn check_body(&self, body: &[u8]) -> Result<(), Problem> {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
        check_vaults(self.caller, &body)?;
        let mut named = Vec::new();
        collect_files(&body, &mut named);
        for file in named {
            self.file(file, Some("file_not_found")).await?;
        }
        Ok(())
    }
}

fn check_vaults(caller: &Caller, body: &Value) -> Result<(), Problem> {
    let Some(Value::Array(named)) = body.get("vault_ids") else { return Ok(()) };
    for (index, id) in named.iter().filter_map(Value::as_str).enumerate() {
        let own = VaultId::parse(id).is_ok_and(|id| caller.may_use(&[id]));
        if !own {
            let message = format!("vault {} was not found", shown(id));
            return Err(Problem::invalid_at(&format!("vault_ids[{index}]"), message).with_code("vault_not_found"));
        }
    }
    Ok(())
}

/// Every `file_id` of a body: of resources, of rubrics, wherever it stands. The parser bounds how deep that is.
fn collect_files<'a>(body: &'a Value, named: &mut Vec<&'a str>) {
    match body {
        Value::Object(fields) => {
            named.extend(fields.get("file_id").and_then(Value::as_str));
            fields.values().for_each(|field| collect_files(field, named));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_files(item, named)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Text of a caller's, bounded before it is repeated.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
