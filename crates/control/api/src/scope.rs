//! An API key that is for certain vaults: it sees those, and makes and moves sessions and deployments of those alone.
//! Another vault, and what uses it, is not there.

use postern_model::Problem;
use postern_model::ids::{DeploymentId, SessionId, VaultId, WorkspaceId};
use serde_json::Value;

use crate::app::App;
use crate::caller::{Caller, unknown_session};
use crate::routes::{Method, Route};

/// Refuses a request that reaches beyond the caller's vaults: by its path, by its body, or by making a vault.
///
/// # Errors
/// 404 for what uses another vault, 403 for making one.
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
    if route.path == "/v1/vaults" && route.method == Method::Post {
        return Err(Problem::permission("A key for certain vaults makes no other. It takes a key for every vault."));
    }
    for (name, value) in parameters {
        match name.as_str() {
            "vault" => {
                let unknown = || Problem::not_found(format!("Vault {} was not found.", shown(value)));
                let id = VaultId::parse(value).map_err(|_| unknown())?;
                caller.may_use(std::slice::from_ref(&id)).then_some(()).ok_or_else(unknown)?;
            }
            // What cannot be read is refused where it is looked for.
            "session" => {
                if let Ok(id) = SessionId::parse(value) {
                    let session = app.engine.session(workspace, &id).await?;
                    caller.may_use(&session.vault_ids).then_some(()).ok_or_else(|| unknown_session(&id))?;
                }
            }
            "deployment" => {
                if let Ok(id) = DeploymentId::parse(value) {
                    let deployment = app.engine.deployment(workspace, &id).await?;
                    let unknown = || Problem::not_found(format!("Deployment {id} was not found."));
                    caller.may_use(&deployment.vault_ids).then_some(()).ok_or_else(unknown)?;
                }
            }
            _ => {}
        }
    }
    check_body(caller, body)
}

/// Whatever the route: a body that names vaults names the caller's.
fn check_body(caller: &Caller, body: &[u8]) -> Result<(), Problem> {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else { return Ok(()) };
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

/// Text of a caller's, bounded before it is repeated.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
