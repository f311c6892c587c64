//! Holding sessions durably: what an operator says is written down first, told to everyone who is connected, and told to
//! whoever connects or takes the session later, for as long as their stream stands.
//!
//! A worker is told about the sessions that it reports, a gateway about every held one of its workspace. What one process
//! obeys is remembered beside its stream; whoever comes back is told again, which changes nothing for it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::control::CommandBody;
use postern_model::ids::{EnvironmentId, SessionId, WorkspaceId};
use postern_store::holds::{self, Hold, Saying};
use postern_store::work::{self, HandedOut};
use postern_store::{Store, StoreError};

use super::peer::Line;
use super::{ControlHub, Owner, Verdict, lock};

/// What became of a saying.
#[derive(Clone, Debug)]
pub struct Told {
    /// How the session is held now, in the database.
    pub hold: Hold,
    /// Whether a worker may have the session, be it connected or not.
    pub handed_out: HandedOut,
    /// How everyone who is connected took it.
    pub verdicts: Vec<Verdict>,
}

/// The holds that one process obeys.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<SessionId, Hold>);

impl Known {
    pub(super) fn obeyed(&mut self, session: SessionId, saying: Saying) {
        let hold = self.0.entry(session).or_default();
        match saying {
            Saying::Freeze => hold.frozen = true,
            Saying::Thaw => hold.frozen = false,
            Saying::RevokeGrants => hold.grants_revoked = true,
        }
    }

    fn of(&self, session: &SessionId) -> Hold {
        self.0.get(session).copied().unwrap_or_default()
    }

    /// The next thing to say to a process so that it obeys these holds, but for what it cannot be told now.
    fn next(&self, held: &HashMap<SessionId, Hold>, vain: &HashSet<SessionId>) -> Option<(SessionId, Saying)> {
        let missing = held.iter().find_map(|(session, hold)| {
            let known = self.of(session);
            match () {
                () if vain.contains(session) => None,
                () if hold.frozen && !known.frozen => Some((session.clone(), Saying::Freeze)),
                () if hold.grants_revoked && !known.grants_revoked => Some((session.clone(), Saying::RevokeGrants)),
                () => None,
            }
        });
        // A freeze of ours that came after its thaw, or whose thaw did not arrive.
        missing.or_else(|| {
            let is_over = |session: &SessionId| !held.get(session).is_some_and(|hold| hold.frozen);
            let mut frozen = self.0.iter().filter(|(_, known)| known.frozen).map(|(session, _)| session);
            let over = frozen.find(|session| is_over(session) && !vain.contains(*session))?;
            Some((over.clone(), Saying::Thaw))
        })
    }
}

impl ControlHub {
    /// Writes down from now on which sessions are held, in this store. The first store stays.
    pub fn keep_holds(&self, store: Store) {
        let _first = self.shared.store.set(store);
    }

    /// Notes a saying about a session and tells everyone who is connected.
    ///
    /// # Errors
    /// The database failed: then nobody was told.
    pub async fn say(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        session: &SessionId,
        saying: Saying,
        patience: Duration,
    ) -> Result<Told, StoreError> {
        if let Some(store) = self.shared.store.get() {
            let mut tx = store.write().await?;
            holds::say(&mut tx, workspace, session, saying, Timestamp::now()).await?;
            tx.commit().await?;
        }
        let verdicts = self.command_all(workspace, environment, session, body(session, saying), patience).await;
        // Whoever was late, or was told another thing at the same time, is told again by its own stream's task.
        self.shared.said.notify_waiters();
        let (hold, handed_out) = match self.shared.store.get() {
            Some(store) => {
                let mut reader = store.read().await?;
                let hold = holds::of(&mut reader, session).await?;
                (hold, work::handed_out(&mut reader, session).await?)
            }
            None => (Hold::default(), HandedOut { now: true, ever: true }),
        };
        Ok(Told { hold, handed_out, verdicts })
    }
}

/// Sees that one process obeys what is written down, as long as its stream stands.
pub(super) async fn keep_telling(hub: &ControlHub, line: &Arc<Line>) -> Infallible {
    let Some(store) = hub.shared.store.get() else { return std::future::pending().await };
    // What it cannot be told: it does not have the session, or did not obey. Tried again when it reports, or later.
    let mut vain = HashSet::new();
    loop {
        // Enabled before looking, so that nothing is missed in between.
        let mut said = std::pin::pin!(hub.shared.said.notified());
        said.as_mut().enable();
        let round = tell(store, line, &mut vain).await;
        if let Err(error) = &round {
            tracing::error!(error = error as &dyn std::error::Error, "the held sessions could not be read");
        }
        let pause = if round.is_err() || !vain.is_empty() { AGAIN } else { LOOK };
        tokio::select! {
            () = line.reported().notified() => {}
            () = said => {}
            () = tokio::time::sleep(pause) => {}
        }
        vain.clear();
    }
}

/// Tells a process one thing after the other until it obeys all that is written down, which is read anew each time: what
/// was lifted while it was told is taken back.
async fn tell(store: &Store, line: &Line, vain: &mut HashSet<SessionId>) -> Result<(), StoreError> {
    loop {
        let mut reader = store.read().await?;
        let environment = match line.owner() {
            Owner::Environment(environment) => Some(environment),
            Owner::Tunnel(_) => None,
        };
        let held = holds::held(&mut reader, line.workspace(), environment, MOST).await?;
        drop(reader);
        let reported = line.reported_sessions();
        let concerns = |session: &SessionId| reported.as_ref().is_none_or(|reported| reported.contains(session));
        let held: HashMap<_, _> = held.into_iter().filter(|(session, _)| concerns(session)).collect();
        let next = {
            let mut known = lock(line.known());
            // A worker that gave a session up and takes it again is told again.
            known.0.retain(|session, hold| *hold != Hold::default() && concerns(session));
            known.next(&held, vain)
        };
        let Some((session, saying)) = next else { return Ok(()) };
        // Not in the list is not thawed: it may be archived, or one of very many.
        if saying == Saying::Thaw && holds::of(&mut store.read().await?, &session).await?.frozen {
            vain.insert(session);
            continue;
        }
        if let Err(failure) = line.ask(body(&session, saying), PATIENCE).await {
            if !failure.is_not_held() {
                tracing::warn!(%session, ?saying, code = failure.code(), "a process does not obey; it is told again");
            }
            vain.insert(session);
        }
    }
}

fn body(session: &SessionId, saying: Saying) -> CommandBody {
    let session = session.clone();
    match saying {
        Saying::Freeze => CommandBody::Freeze { session },
        Saying::Thaw => CommandBody::Thaw { session },
        Saying::RevokeGrants => CommandBody::RevokeGrants { session },
    }
}

/// The saying that a command is, if it is one.
pub(super) fn said(body: &CommandBody) -> Option<(SessionId, Saying)> {
    match body {
        CommandBody::Freeze { session } => Some((session.clone(), Saying::Freeze)),
        CommandBody::Thaw { session } => Some((session.clone(), Saying::Thaw)),
        CommandBody::RevokeGrants { session } => Some((session.clone(), Saying::RevokeGrants)),
        CommandBody::Status
        | CommandBody::PutFile { .. }
        | CommandBody::Variables { .. }
        | CommandBody::Rewrap { .. }
        | CommandBody::OauthRefresh { .. }
        | CommandBody::OauthValidate { .. } => None,
    }
}

/// How long a process has to obey before the next thing is said to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// When a process that did not obey is told again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often what is written down is looked at without a cause: another server may have written it.
const LOOK: Duration = Duration::from_secs(30);
/// The most held sessions of one workspace that are told; the newest where there are more.
const MOST: usize = 4096;
