//! Who calls: decided from the credential's value, never from the header that carried it.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use postern_model::Problem;
use postern_model::ids::{EnvironmentId, SessionId, VaultId, WorkId, WorkspaceId};
use postern_model::key::KeyRole;
use postern_secret::key::{ApiKey, EnvironmentKey, SessionToken, TunnelToken};
use postern_store::keys::{self, ApiKeyGrant, EnvironmentGrant, Lease, SessionGrant};
use postern_store::tunnels::{self, TunnelGrant};
use postern_store::workspaces;

use crate::app::{App, problem};

/// The kinds of credential, as the route table allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The owner of the data directory, over the operator's socket.
    Operator,
    /// An API key.
    ApiKey,
    /// An environment key.
    EnvironmentKey,
    /// A session token whose lease lives.
    SessionToken,
    /// A session token whose lease is over: good only for learning that.
    EndedSessionToken,
    /// A tunnel's token: good for the gateway's control stream.
    TunnelToken,
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// In the workspace that it named, or its own.
    Operator(WorkspaceId),
    ApiKey(ApiKeyGrant),
    Environment(EnvironmentGrant),
    Session(SessionGrant),
    Tunnel(TunnelGrant),
}

/// Marks a request that came over the operator's socket from its owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverOperatorSocket;

impl Caller {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Operator(_) => Kind::Operator,
            Self::ApiKey(_) => Kind::ApiKey,
            Self::Environment(_) => Kind::EnvironmentKey,
            Self::Session(SessionGrant { lease: Lease::Alive, .. }) => Kind::SessionToken,
            Self::Session(SessionGrant { lease: Lease::Ended | Lease::Superseded | Lease::Revoked, .. }) => {
                Kind::EndedSessionToken
            }
            Self::Tunnel(_) => Kind::TunnelToken,
        }
    }

    pub(crate) fn workspace(&self) -> WorkspaceId {
        match self {
            Self::Operator(workspace) => workspace.clone(),
            Self::ApiKey(grant) => grant.workspace.clone(),
            Self::Environment(grant) => grant.workspace.clone(),
            Self::Session(grant) => grant.workspace.clone(),
            Self::Tunnel(grant) => grant.workspace.clone(),
        }
    }

    /// Refuses what lies in another environment as if it were not there.
    pub(crate) fn check_environment(&self, environment: &EnvironmentId) -> Result<(), Problem> {
        let own = match self {
            Self::Operator(_) | Self::ApiKey(_) => return Ok(()),
            Self::Environment(grant) => &grant.environment,
            Self::Session(grant) => &grant.environment,
            Self::Tunnel(_) => return Err(unknown_environment(environment)),
        };
        if own == environment { Ok(()) } else { Err(unknown_environment(environment)) }
    }

    /// Refuses another item than the one a session token was handed out with as if it were not there.
    pub(crate) fn check_work(&self, work: &WorkId) -> Result<(), Problem> {
        match self {
            Self::Session(grant) if grant.work != *work => Err(unknown_work(work)),
            Self::Tunnel(_) => Err(unknown_work(work)),
            _ => Ok(()),
        }
    }

    /// Refuses another session than a session token's as if it were not there.
    pub(crate) fn check_session(&self, session: &SessionId) -> Result<(), Problem> {
        match self {
            Self::Session(grant) if grant.session != *session => Err(unknown_session(session)),
            Self::Tunnel(_) => Err(unknown_session(session)),
            _ => Ok(()),
        }
    }

    /// What an API key's role is. Whoever is no API key has none: the table of routes says what it may do.
    pub(crate) fn role(&self) -> Option<KeyRole> {
        match self {
            Self::ApiKey(grant) => Some(grant.reach.role),
            Self::Operator(_) | Self::Environment(_) | Self::Session(_) | Self::Tunnel(_) => None,
        }
    }

    /// Whether this is an API key that is not for every vault.
    pub(crate) fn is_for_certain_vaults(&self) -> bool {
        matches!(self, Self::ApiKey(grant) if grant.reach.vault_ids.is_some())
    }

    /// Whether the caller may use all of these vaults.
    pub(crate) fn may_use(&self, vaults: &[VaultId]) -> bool {
        match self {
            Self::ApiKey(grant) => match &grant.reach.vault_ids {
                Some(own) => vaults.iter().all(|vault| own.contains(vault)),
                None => true,
            },
            Self::Operator(_) | Self::Environment(_) | Self::Session(_) | Self::Tunnel(_) => true,
        }
    }

    /// A word for the log: which key, never its text.
    pub(crate) fn log_name(&self) -> String {
        match self {
            Self::Operator(_) => "operator".to_owned(),
            Self::ApiKey(grant) => grant.key.to_string(),
            Self::Environment(grant) => grant.key.to_string(),
            Self::Session(grant) => format!("token of {}", grant.work),
            Self::Tunnel(grant) => grant.token.to_string(),
        }
    }
}

pub(crate) fn unknown_environment(environment: &EnvironmentId) -> Problem {
    Problem::not_found(format!("Environment {environment} was not found.")).with_code("environment_not_found")
}

pub(crate) fn unknown_work(work: &WorkId) -> Problem {
    Problem::not_found(format!("Work item {work} was not found in this environment."))
}

pub(crate) fn unknown_session(session: &SessionId) -> Problem {
    Problem::not_found(format!("Session {session} was not found."))
}

/// The operator, in the workspace that the request names; there is no other header to believe.
///
/// # Errors
/// 404 when no such workspace is there.
pub(crate) async fn operator(app: &App, headers: &HeaderMap) -> Result<Caller, Problem> {
    let Some(named) = one(headers, WORKSPACE)? else { return Ok(Caller::Operator(WorkspaceId::default_workspace())) };
    let shown: String = named.chars().take(100).collect();
    let workspace = WorkspaceId::parse(named)
        .map_err(|_| Problem::not_found(format!("Workspace `{shown}` was not found: `postern workspace list`")))?;
    let mut reader = app.store.read().await.map_err(problem)?;
    workspaces::required(&mut reader, &workspace).await.map_err(problem)?;
    Ok(Caller::Operator(workspace))
}

/// The header in which a request names its workspace, and an answer too.
pub(crate) const WORKSPACE: &str = "anthropic-workspace-id";

/// Finds out who calls.
///
/// # Errors
/// 401 when there is no credential, or none that this server knows.
pub(crate) async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Caller, Problem> {
    let text = credential(headers)?;
    let caller = match () {
        () if text.starts_with(ApiKey::PREFIX) => api_key(app, text).await?,
        () if text.starts_with(EnvironmentKey::PREFIX) => environment_key(app, text).await?,
        () if text.starts_with(SessionToken::PREFIX) => session_token(app, text).await?,
        () if text.starts_with(TunnelToken::PREFIX) => tunnel_token(app, text).await?,
        () => None,
    };
    caller.ok_or_else(|| {
        Problem::authentication(
            "The credential is not known to this server: it is mistyped, revoked, or another server's. \
             `postern up --new-keys` issues new ones, `postern server --new-keys` where a server runs alone.",
        )
    })
}

async fn api_key(app: &App, text: &str) -> Result<Option<Caller>, Problem> {
    let Ok(key) = ApiKey::parse(text) else { return Ok(None) };
    let mut connection = app.store.read().await.map_err(problem)?;
    let found = keys::find_api_key(&mut connection, key.digest().as_str()).await.map_err(problem)?;
    Ok(found.map(Caller::ApiKey))
}

async fn environment_key(app: &App, text: &str) -> Result<Option<Caller>, Problem> {
    let Ok(key) = EnvironmentKey::parse(text) else { return Ok(None) };
    let mut connection = app.store.read().await.map_err(problem)?;
    let found = keys::find_environment_key(&mut connection, key.digest().as_str()).await.map_err(problem)?;
    Ok(found.map(Caller::Environment))
}

async fn session_token(app: &App, text: &str) -> Result<Option<Caller>, Problem> {
    let Ok(token) = SessionToken::parse(text) else { return Ok(None) };
    let mut connection = app.store.read().await.map_err(problem)?;
    let found = keys::find_session_token(&mut connection, token.digest().as_str()).await.map_err(problem)?;
    Ok(found.map(Caller::Session))
}

async fn tunnel_token(app: &App, text: &str) -> Result<Option<Caller>, Problem> {
    let Ok(token) = TunnelToken::parse(text) else { return Ok(None) };
    let mut connection = app.store.read().await.map_err(problem)?;
    let found = tunnels::find_token(&mut connection, token.digest().as_str()).await.map_err(problem)?;
    Ok(found.map(Caller::Tunnel))
}

fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let bearer = one(headers, AUTHORIZATION.as_str())?.map(|value| {
        let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::authentication("The `authorization` header must read `Bearer <key>`."))
    });
    match (bearer.transpose()?, one(headers, "x-api-key")?) {
        (None, None) => Err(Problem::authentication(
            "No credential was sent. Send `authorization: Bearer <key>` or `x-api-key: <key>`.",
        )),
        (Some(bearer), Some(key)) if bearer != key => {
            Err(Problem::authentication("Two different credentials were sent; send one."))
        }
        (Some(text), _) | (None, Some(text)) => Ok(text),
    }
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::authentication(format!("The `{name}` header was sent twice.")));
    }
    let text =
        value.to_str().map_err(|_| Problem::authentication(format!("The `{name}` header is not plain text.")))?;
    Ok(Some(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_credential_is_found_in_either_header() {
        for pairs in [
            &[("authorization", "Bearer pst_x")][..],
            &[("authorization", "bearer  pst_x")],
            &[("x-api-key", "pst_x")],
            &[("authorization", "Bearer pst_x"), ("x-api-key", "pst_x")],
        ] {
            assert_eq!(credential(&headers(pairs)), Ok("pst_x"), "{pairs:?}");
        }
    }

    #[test]
    fn missing_malformed_and_contradicting_credentials_are_401() {
        for pairs in [
            &[][..],
            &[("authorization", "pst_x")],
            &[("authorization", "Basic pst_x")],
            &[("authorization", "Bearer pst_x"), ("x-api-key", "pst_y")],
        ] {
            assert_eq!(credential(&headers(pairs)).unwrap_err().status(), 401, "{pairs:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append("x-api-key", "a".parse().unwrap());
        twice.append("x-api-key", "a".parse().unwrap());
        assert_eq!(credential(&twice).unwrap_err().status(), 401);
    }
}
