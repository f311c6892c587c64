//! What the role of an API key allows, route by route. Whatever is not named here takes an administrator.

use postern_model::Problem;
use postern_model::key::KeyRole;

use crate::routes::{Method, Route};

/// What developers change: agents and what sessions are made of and do. Everything below these paths.
const DEVELOPED: &[&str] =
    &["/v1/agents", "/v1/deployments", "/v1/files", "/v1/memory_stores", "/v1/sessions", "/v1/skills"];
/// What loosens a hold, or takes a trace away, is none of it.
const ADMINISTERED: &[&str] =
    &["/v1/sessions/{session}/thaw", "/v1/memory_stores/{memory_store}/memory_versions/{memory_version}/redact"];
/// What a fleet of workers is run with: environments, their work and their keys.
const OPERATED: &[&str] =
    &["/v1/environments/{environment}/work", "/v1/environments/{environment}/keys", "/v1/perimeter/status"];
/// What a fleet reads besides.
const READ_BY_WORKERS: &[&str] = &["/v1/environments", "/openapi.json"];

/// Refuses a route that the role does not allow.
///
/// # Errors
/// 403 naming the role that does.
pub(crate) fn check(role: KeyRole, route: &Route) -> Result<(), Problem> {
    if may(role, route.method, route.path) {
        return Ok(());
    }
    let needed = [KeyRole::Viewer, KeyRole::Worker, KeyRole::Developer]
        .into_iter()
        .find(|role| may(*role, route.method, route.path))
        .unwrap_or(KeyRole::Admin);
    Err(Problem::permission(format!(
        "A key with the role `{}` may not do this; it takes the role `{}`.",
        role.as_str(),
        needed.as_str()
    )))
}

fn may(role: KeyRole, method: Method, path: &str) -> bool {
    let reads = method == Method::Get;
    match role {
        KeyRole::Admin => true,
        KeyRole::Viewer => reads,
        KeyRole::Developer => reads || (is_below(path, DEVELOPED) && !ADMINISTERED.contains(&path)),
        KeyRole::Worker => is_below(path, OPERATED) || (reads && is_below(path, READ_BY_WORKERS)),
    }
}

fn is_below(path: &str, parents: &[&str]) -> bool {
    parents.iter().any(|parent| path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;

    #[test]
    fn every_path_that_a_role_is_given_is_one_of_a_route() {
        for named in [DEVELOPED, ADMINISTERED, OPERATED, READ_BY_WORKERS].concat() {
            assert!(ROUTES.iter().any(|route| is_below(route.path, &[named])), "{named}");
        }
    }

    #[test]
    fn a_path_is_below_another_by_whole_segments() {
        assert!(is_below("/v1/agents", &["/v1/agents"]) && is_below("/v1/agents/{agent}", &["/v1/agents"]));
        assert!(!is_below("/v1/agents_of_others", &["/v1/agents"]) && !is_below("/v1", &["/v1/agents"]));
    }

    #[test]
    fn a_refusal_names_the_role_that_may() {
        let route = |method, path| ROUTES.iter().find(|route| (route.method, route.path) == (method, path)).unwrap();
        for (role, method, path, needed) in [
            (KeyRole::Viewer, Method::Post, "/v1/agents", "developer"),
            (KeyRole::Developer, Method::Post, "/v1/vaults", "admin"),
            (KeyRole::Developer, Method::Post, "/v1/sessions/{session}/thaw", "admin"),
            (KeyRole::Developer, Method::Post, "/v1/environments/{environment}/keys", "worker"),
            (KeyRole::Worker, Method::Get, "/v1/sessions", "viewer"),
        ] {
            let refusal = check(role, route(method, path)).unwrap_err();
            assert_eq!(refusal.status(), 403);
            assert!(refusal.message.ends_with(&format!("`{needed}`.")), "{path}: {}", refusal.message);
        }
    }
}
