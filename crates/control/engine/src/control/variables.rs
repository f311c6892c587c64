//! Bringing the variables of vaults to the sessions that run: what a session's vaults have is told to the worker that holds it, whenever it takes the session and
//! whenever a vault changes, so that rotation and archival take effect while the session runs. What the worker withholds is told to the session.
//!
//! Everything here is sealed: this side can carry it and open none of it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use postern_model::control::{CommandBody, Reply, Withheld};
use postern_model::ids::{EnvironmentId, SessionId};
use postern_model::resource::{FileResource, RepositoryFault, RepositoryResource, Resource};
use postern_secret::seal::{LONGEST_VARIABLES, MOST_VARIABLES};
use postern_session::Lacking;
use postern_store::credentials::{self, StoredVariable};
use postern_store::repositories::{self, StoredToken};
use postern_store::{Connection, Store, StoreError, sessions};

use super::peer::Line;
use super::{ControlHub, Owner};
use crate::{Engine, Missing};

impl ControlHub {
    /// Tells sessions from now on what of their vaults they do not get. The first engine stays.
    pub fn tell_by(&self, engine: Engine) {
        let _first = self.shared.engine.set(engine);
    }

    /// A vault has something else: whoever holds a session of it is told.
    pub fn vaults_changed(&self) {
        self.shared.vaults_changed.notify_waiters();
    }
}

/// What goes to a session's perimeter sealed: the tokens of its repositories, then the variables of its vaults. Those that fit, in their order, and
/// what is left behind.
///
/// # Errors
/// The database failed.
pub async fn of_session(
    connection: &mut Connection,
    environment: &EnvironmentId,
    session: &SessionId,
) -> Result<Option<(Vec<String>, Vec<Missing>)>, StoreError> {
    let Some((workspace, vaults)) = sessions::vaults(connection, environment, session).await? else { return Ok(None) };
    let tokens = repositories::of_session(connection, session).await?;
    if vaults.is_empty() && tokens.is_none() {
        return Ok(None);
    }
    let variables = credentials::variables(connection, &workspace, &vaults).await?;
    Ok(Some(fitting(tokens.unwrap_or_default(), variables)))
}

/// What a worker that brings neither variables nor repositories nor files leaves out of what a session has.
///
/// # Errors
/// The database failed.
pub async fn not_brought(
    connection: &mut Connection,
    environment: &EnvironmentId,
    session: &SessionId,
) -> Result<Vec<Missing>, StoreError> {
    let given = sessions::resources(connection, environment, session).await?;
    let resources = given.into_iter().filter_map(|resource| match resource {
        Resource::GithubRepository(RepositoryResource { url, .. }) => Some(not_cloned(url)),
        Resource::File(FileResource { mount_path, .. }) => Some(without_file(&String::from(mount_path))),
        // Official workers bring these in their own way.
        Resource::MemoryStore(_) => None,
    });
    let variables = match sessions::vaults(connection, environment, session).await? {
        Some((workspace, vaults)) => credentials::variables(connection, &workspace, &vaults).await?.len(),
        None => 0,
    };
    Ok(resources.chain((variables > 0).then(|| without_variables(variables))).collect())
}

fn not_cloned(url: String) -> Missing {
    let message = format!(
        "the worker that took the session clones no repositories, and {url} is not there. \
         Next step: serve the environment with a Postern worker"
    );
    let lacking = Lacking::Repository(RepositoryFault::RepositoryCloneError, url);
    Missing { code: "resource_unsupported", message, lacking }
}

fn without_file(mount_path: &str) -> Missing {
    let message = format!(
        "the worker that took the session brings no files, and {mount_path} is not there. \
         Next step: serve the environment with a Postern worker"
    );
    Missing { code: "resource_unsupported", message, lacking: Lacking::Something }
}

fn without_variables(count: usize) -> Missing {
    let message = format!(
        "the session's vaults have {count} variables, which this worker gives to no sandbox. \
         Next step: serve the environment with a Postern worker, or name the secrets in the perimeter's zone"
    );
    Missing { code: "credential_kind_unsupported", message, lacking: Lacking::Something }
}

/// What a worker leaves out that shows the skills of the session's agent alone.
#[must_use]
pub fn roster_skills_not_brought(count: usize) -> Missing {
    let message = format!(
        "{count} skills of agents in the roster are not in the sandbox: this worker shows those of the session's agent alone. \
         Next step: serve the environment with a Postern worker, or give the skills to the agent that has the roster"
    );
    Missing { code: "roster_skills_unsupported", message, lacking: Lacking::Something }
}

fn fitting(tokens: Vec<StoredToken>, variables: Vec<StoredVariable>) -> (Vec<String>, Vec<Missing>) {
    let (mut room, mut fitting, mut left) = (LONGEST_VARIABLES, Vec::new(), Vec::new());
    for StoredToken { url, sealed } in tokens {
        match room.checked_sub(sealed.len() + 1) {
            Some(rest) => {
                room = rest;
                fitting.push(sealed);
            }
            None => {
                let message = format!(
                    "the token of {url} is left out: what goes sealed with a session is at most {} KiB. \
                     Next step: register fewer perimeters, or give the session fewer repositories",
                    LONGEST_VARIABLES >> 10
                );
                let lacking = Lacking::Repository(RepositoryFault::RepositoryCloneError, url);
                left.push(Missing { code: "limit_session_variables", message, lacking });
            }
        }
    }
    for StoredVariable { vault_id, id, name, sealed } in variables {
        match room.checked_sub(sealed.len() + 1).filter(|_| fitting.len() < MOST_VARIABLES) {
            Some(rest) => {
                room = rest;
                fitting.push(sealed);
            }
            None => {
                let message = format!(
                    "credential {id} of vault {vault_id} for the variable {name} is left out: the variables of a session are at most \
                     {MOST_VARIABLES}, of {} KiB sealed. Next step: start the session with fewer vaults",
                    LONGEST_VARIABLES >> 10
                );
                left.push(Missing { code: "limit_session_variables", message, lacking: Lacking::Something });
            }
        }
    }
    (fitting, left)
}

/// Sees that one worker has what the vaults of its sessions have, as long as its stream stands.
pub(super) async fn keep_bringing(hub: &ControlHub, line: &Line) -> Infallible {
    let (Some(store), Owner::Environment(environment)) = (hub.shared.store.get(), line.owner()) else {
        return std::future::pending().await;
    };
    let (mut brought, mut seen) = (Brought::default(), None);
    loop {
        // Enabled before looking, so that nothing is missed in between.
        let mut changed = std::pin::pin!(hub.shared.vaults_changed.notified());
        changed.as_mut().enable();
        let round = bring(hub, store, line, environment, &mut brought, &mut seen).await;
        if let Err(error) = &round {
            tracing::error!(error = error as &dyn std::error::Error, "the variables of vaults could not be read");
        }
        let pause = if matches!(round, Ok(Round::Whole)) { LOOK } else { AGAIN };
        tokio::select! {
            () = line.reported_too().notified() => {}
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What a worker was told of each session that it holds: a digest, so that nothing is told twice.
type Brought = HashMap<SessionId, u64>;

/// Of a workspace's vaults, and of the tokens of its sessions.
type Fingerprint = ((i64, i64, i64), (i64, i64, i64));

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Whole,
    /// Somebody has to be told again.
    Partly,
}

async fn bring(
    hub: &ControlHub,
    store: &Store,
    line: &Line,
    environment: &EnvironmentId,
    brought: &mut Brought,
    seen: &mut Option<Fingerprint>,
) -> Result<Round, StoreError> {
    let held: HashSet<SessionId> = line.reported_sessions().unwrap_or_default();
    // A worker that gave a session up and takes it again is told again.
    brought.retain(|session, _| held.contains(session));
    let mut reader = store.read().await?;
    let credentials = credentials::fingerprint(&mut reader, line.workspace()).await?;
    let now = (credentials, repositories::fingerprint(&mut reader, line.workspace()).await?);
    let changed = seen.as_ref() != Some(&now);
    let mut round = Round::Whole;
    for session in &held {
        if !changed && brought.contains_key(session) {
            continue;
        }
        let Some((sealed, left)) = of_session(&mut reader, environment, session).await? else {
            brought.insert(session.clone(), 0);
            continue;
        };
        let mut hasher = DefaultHasher::new();
        sealed.hash(&mut hasher);
        let digest = hasher.finish();
        if brought.get(session) == Some(&digest) {
            continue;
        }
        tell(hub, session, left).await;
        match line.ask(CommandBody::Variables { session: session.clone(), sealed }, PATIENCE).await {
            Ok(Reply::Variables { withheld }) => {
                brought.insert(session.clone(), digest);
                tell(hub, session, withheld.into_iter().map(missing).collect()).await;
            }
            Ok(
                Reply::Done
                | Reply::Status(_)
                | Reply::Rewrapped { .. }
                | Reply::OauthRefreshed(_)
                | Reply::OauthValidated(_),
            ) => {
                tracing::warn!(%session, "a worker takes no variables of vaults: it is of another build");
                brought.insert(session.clone(), digest);
                tell(hub, session, vec![of_another_build()]).await;
            }
            Err(failure) => {
                if !failure.is_not_held() {
                    tracing::warn!(%session, code = failure.code(), "a worker does not take a session's variables; it is told again");
                }
                round = Round::Partly;
            }
        }
    }
    if round == Round::Whole {
        *seen = Some(now);
    }
    Ok(round)
}

fn of_another_build() -> Missing {
    let message =
        "the worker is of a build that gives no variables of vaults to a sandbox. Next step: update it".to_owned();
    Missing { code: "credential_kind_unsupported", message, lacking: Lacking::Something }
}

fn missing(withheld: Withheld) -> Missing {
    let Withheld { credential_id, vault_id, host_unreachable, message } = withheld;
    // A stranger's words, as long as those of our own workers are.
    let message: String =
        message.chars().filter(|character| !character.is_control()).take(MESSAGE_CHARACTERS).collect();
    let message = format!("credential {credential_id} of vault {vault_id}: {message}");
    let lacking = if host_unreachable { Lacking::Host(credential_id, vault_id) } else { Lacking::Something };
    let code = if host_unreachable { "credential_host_unreachable" } else { "credential_withheld" };
    Missing { code, message, lacking }
}

async fn tell(hub: &ControlHub, session: &SessionId, mut missing: Vec<Missing>) {
    missing.truncate(MOST_VARIABLES);
    let Some(engine) = hub.shared.engine.get().filter(|_| !missing.is_empty()) else { return };
    if let Err(problem) = engine.missing(session, missing).await {
        tracing::warn!(%session, %problem, "a session could not be told what of its vaults it does not get");
    }
}

/// How long a worker has to take them.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a worker that did not take them is told again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often vaults are looked at without a cause: another server may have changed them.
const LOOK: Duration = Duration::from_secs(30);
/// A message is longer than its 32 hosts only when somebody made it so.
const MESSAGE_CHARACTERS: usize = 6000;

#[cfg(test)]
mod tests {
    use postern_model::ids::{CredentialId, VaultId};

    use super::*;

    #[test]
    fn what_goes_sealed_with_a_session_is_bounded_and_tokens_come_first() {
        let token = |name: &str, kibibytes: usize| StoredToken {
            url: format!("https://git.example/{name}"),
            sealed: "t".repeat(kibibytes << 10),
        };
        let variable = |name: &str, kibibytes: usize| StoredVariable {
            vault_id: VaultId::generate(),
            id: CredentialId::generate(),
            name: name.to_owned(),
            sealed: "v".repeat(kibibytes << 10),
        };
        let tokens = vec![token("one", 100), token("two", 100), token("three", 100)];
        let variables = vec![variable("LARGE", 56), variable("SMALL", 55)];
        let (fitting, left) = fitting(tokens, variables);
        let kinds: Vec<_> = fitting.iter().map(|sealed| (&sealed[..1], sealed.len() >> 10)).collect();
        assert_eq!(kinds, [("t", 100), ("t", 100), ("v", 55)]);
        assert!(fitting.iter().map(String::len).sum::<usize>() <= 256 << 10);
        for (Missing { code, message, .. }, named) in left.iter().zip(["https://git.example/three", "LARGE"]) {
            assert_eq!(*code, "limit_session_variables");
            assert!(message.contains(named) && message.contains("Next step"), "{message}");
        }
        assert_eq!(left.len(), 2);
    }
}
