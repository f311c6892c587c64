//! The hub of control streams: who of the perimeters is connected, and sending one a command. Streams come from the
//! API, already authenticated; what arrives on them is hostile input all the same. Obeying is the perimeter's choice.

mod failure;
mod holds;
mod peer;
#[cfg(test)]
mod tests;
pub mod variables;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::control::{Base64, CommandBody, CommandRefusal, PUT_FILE_BYTES, PerimeterStatus, Reply, Role};
use postern_model::ids::{EnvironmentId, SessionId, TunnelId, WorkspaceId};
use postern_store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Engine;
pub use failure::CommandFailure;
pub use holds::Told;
use peer::Line;

/// Whose credential dialled a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A worker with an environment's key.
    Environment(EnvironmentId),
    /// A gateway with a tunnel's token.
    Tunnel(TunnelId),
}

/// Its id, which says by itself of what it is.
impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(id) => fmt::Display::fmt(id, out),
            Self::Tunnel(id) => fmt::Display::fmt(id, out),
        }
    }
}

impl Owner {
    /// What a process with this credential may call itself.
    fn role(&self) -> Role {
        match self {
            Self::Environment(_) => Role::Worker,
            Self::Tunnel(_) => Role::Gateway,
        }
    }
}

/// Whom a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any worker of an environment: the one that connected last.
    Environment(EnvironmentId),
    /// Any gateway of a tunnel: the one that connected last.
    Tunnel(TunnelId),
    /// The worker that holds a session of this environment.
    Session(EnvironmentId, SessionId),
}

/// A connected process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// In which workspace.
    pub workspace: WorkspaceId,
    /// Whose.
    pub owner: Owner,
    /// Which process.
    pub role: Role,
    /// What the operator calls it; its own words, bounded.
    pub name: String,
    /// Its build; its own words, bounded.
    pub version: String,
    /// Since when.
    pub since: Timestamp,
    /// The sessions that it says it holds.
    pub sessions: Vec<SessionId>,
    /// The key to which its perimeter's secrets are sealed.
    pub perimeter_public_key: Option<String>,
}

/// How one process took a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who.
    pub peer: Peer,
    /// How.
    pub result: Result<Reply, CommandFailure>,
}

/// Times of the hub; the defaults are the documented ones, tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct ControlSettings {
    /// How often each stream is sent something at least.
    pub ping: Duration,
    /// How long a stream may say nothing.
    pub silence: Duration,
    /// How long a new stream has for its first word.
    pub hello: Duration,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self { ping: postern_net::control::PING, silence: postern_net::control::SILENCE, hello: HELLO }
    }
}

/// The hub; cheap to clone.
#[derive(Clone)]
pub struct ControlHub {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ControlSettings,
    lines: Mutex<Vec<Arc<Line>>>,
    seats: Arc<Semaphore>,
    taken: Mutex<Vec<Owner>>,
    next: AtomicU64,
    drain: CancellationToken,
    /// Where it is written which sessions are held; without it nobody is told later.
    store: OnceLock<Store>,
    /// Something was said about a session.
    said: Notify,
    /// Whoever tells a session what it does not get; without it nobody does.
    engine: OnceLock<Engine>,
    /// A vault has something else.
    vaults_changed: Notify,
}

/// Room for one stream, kept from before the upgrade until its end.
pub struct Seat {
    hub: ControlHub,
    workspace: WorkspaceId,
    owner: Owner,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.hub.shared.taken);
        if let Some(at) = taken.iter().position(|owner| *owner == self.owner) {
            taken.swap_remove(at);
        }
    }
}

impl Default for ControlHub {
    fn default() -> Self {
        Self::new(ControlSettings::default())
    }
}

impl ControlHub {
    /// A hub without streams.
    pub fn new(settings: ControlSettings) -> Self {
        let shared = Shared {
            settings,
            lines: Mutex::default(),
            seats: Arc::new(Semaphore::new(STREAMS)),
            taken: Mutex::default(),
            next: AtomicU64::new(0),
            drain: CancellationToken::new(),
            store: OnceLock::new(),
            said: Notify::new(),
            engine: OnceLock::new(),
            vaults_changed: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Room for a stream of this owner; `None` when it has as many as it may, all have, or the hub drains.
    pub fn seat(&self, workspace: &WorkspaceId, owner: &Owner) -> Option<Seat> {
        if self.shared.drain.is_cancelled() {
            return None;
        }
        let permit = Arc::clone(&self.shared.seats).try_acquire_owned().ok()?;
        let mut taken = lock(&self.shared.taken);
        if taken.iter().filter(|other| *other == owner).count() >= STREAMS_PER_OWNER {
            return None;
        }
        taken.push(owner.clone());
        drop(taken);
        Some(Seat { hub: self.clone(), workspace: workspace.clone(), owner: owner.clone(), _permit: permit })
    }

    /// Serves a stream until it ends, `ends` completes, or the hub drains.
    pub async fn attach<S>(&self, seat: Seat, stream: S, ends: impl Future<Output = ()> + Send)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let ends = async {
            tokio::select! {
                () = ends => {}
                () = self.shared.drain.cancelled() => {}
            }
        };
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let ended = peer::serve(self, id, &seat, stream, ends).await;
        let had = lock(&self.shared.lines).extract_if(.., |line| line.id() == id).count();
        let (owner, name) = (&seat.owner, seat.owner.role().as_str());
        match ended {
            Ok(()) => tracing::info!(%owner, role = name, had, "a control stream ended"),
            Err(error) => tracing::warn!(%owner, role = name, had, error = error.chain(), "a control stream broke"),
        }
    }

    /// Everyone connected in a workspace.
    pub fn peers(&self, workspace: &WorkspaceId) -> Vec<Peer> {
        self.lines(|line| line.workspace() == workspace).iter().map(|line| line.peer()).collect()
    }

    /// Sends a command to one process and waits for its answer, at most `patience`. Cancelled, the command may have been
    /// obeyed.
    ///
    /// # Errors
    /// [`CommandFailure`]; after [`CommandFailure::Late`] and [`CommandFailure::Gone`] it may have been obeyed.
    pub async fn command(
        &self,
        target: &Target,
        body: CommandBody,
        patience: Duration,
    ) -> Result<Reply, CommandFailure> {
        match target {
            Target::Environment(environment) => {
                self.newest(&Owner::Environment(environment.clone()))?.ask(body, patience).await
            }
            Target::Tunnel(tunnel) => self.newest(&Owner::Tunnel(tunnel.clone()))?.ask(body, patience).await,
            Target::Session(environment, session) => {
                let verdicts = self.ask_workers(environment, session, &body, patience).await;
                one(verdicts, &Owner::Environment(environment.clone()), session)
            }
        }
    }

    /// Writes a file to a session's workspace, where a worker of ours holds it.
    ///
    /// # Errors
    /// As [`ControlHub::command`], and for a file of more than [`PUT_FILE_BYTES`].
    pub async fn put_file(
        &self,
        environment: &EnvironmentId,
        session: &SessionId,
        path: String,
        bytes: Vec<u8>,
    ) -> Result<(), CommandFailure> {
        if bytes.len() > PUT_FILE_BYTES {
            return Err(CommandFailure::TooLarge);
        }
        let body = CommandBody::PutFile { session: session.clone(), path, bytes: Base64(bytes), mode: 0o644 };
        let target = Target::Session(environment.clone(), session.clone());
        self.command(&target, body, FILE_PATIENCE).await.map(drop)
    }

    /// Sends a command about a session to whichever workers hold it and to every gateway of the workspace: how each of
    /// them took it. The worker's verdicts come first.
    pub async fn command_all(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        session: &SessionId,
        body: CommandBody,
        patience: Duration,
    ) -> Vec<Verdict> {
        let gateways = self.lines(|line| line.workspace() == workspace && matches!(line.owner(), Owner::Tunnel(_)));
        let (mut verdicts, others) =
            tokio::join!(self.ask_workers(environment, session, &body, patience), ask_each(gateways, &body, patience));
        verdicts.extend(others);
        verdicts
    }

    /// Has workers of the workspace, one after the other, wrap the keys of sealed values for another perimeter: as many as they can open. The last refusal
    /// where nobody did anything.
    ///
    /// # Errors
    /// [`CommandFailure`], where no worker answered with a wrap and one refused or none is there.
    pub async fn rewrap(
        &self,
        workspace: &WorkspaceId,
        body: &CommandBody,
        count: usize,
    ) -> Result<Vec<Option<String>>, CommandFailure> {
        let workers = self.lines(|line| line.workspace() == workspace && matches!(line.owner(), Owner::Environment(_)));
        let mut failure = CommandFailure::NoWorker;
        let (mut wraps, mut answered) = (vec![None; count], false);
        for Verdict { result, .. } in ask_each(workers, body, REWRAP_PATIENCE).await {
            match result {
                Ok(Reply::Rewrapped { wraps: some }) if some.len() == count => {
                    answered = true;
                    for (have, got) in wraps.iter_mut().zip(some) {
                        *have = have.take().or(got);
                    }
                }
                Ok(_) => failure = CommandFailure::Misanswered,
                Err(refused) => failure = refused,
            }
        }
        if answered { Ok(wraps) } else { Err(failure) }
    }

    /// How everyone in the workspace stands.
    pub async fn statuses(
        &self,
        workspace: &WorkspaceId,
        patience: Duration,
    ) -> Vec<(Peer, Result<PerimeterStatus, CommandFailure>)> {
        let lines = self.lines(|line| line.workspace() == workspace);
        let verdicts = ask_each(lines, &CommandBody::Status, patience).await;
        verdicts
            .into_iter()
            .map(|Verdict { peer, result }| {
                let status = match result {
                    Ok(Reply::Status(status)) => Ok(*status),
                    Ok(
                        Reply::Done
                        | Reply::Variables { .. }
                        | Reply::Rewrapped { .. }
                        | Reply::OauthRefreshed(_)
                        | Reply::OauthValidated(_),
                    ) => Err(CommandFailure::Misanswered),
                    Err(failure) => Err(failure),
                };
                (peer, status)
            })
            .collect()
    }

    /// Ends every stream in good order and takes no more; returns when all have ended, or after `limit`. Answers whether
    /// all had.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared.drain.cancel();
        let all = u32::try_from(STREAMS).unwrap_or(u32::MAX);
        tokio::time::timeout(limit, self.shared.seats.acquire_many(all)).await.is_ok()
    }

    /// First whoever says that it holds the session; where nobody does, or wrongly, the environment's other workers.
    async fn ask_workers(
        &self,
        environment: &EnvironmentId,
        session: &SessionId,
        body: &CommandBody,
        patience: Duration,
    ) -> Vec<Verdict> {
        let workers = self.lines(|line| matches!(line.owner(), Owner::Environment(own) if own == environment));
        let (holders, others): (Vec<_>, Vec<_>) = workers.into_iter().partition(|line| line.holds(session));
        let mut verdicts = ask_each(holders, body, patience).await;
        if verdicts.iter().all(|verdict| matches!(&verdict.result, Err(failure) if failure.is_not_held())) {
            verdicts.extend(ask_each(others, body, patience).await);
        }
        verdicts
    }

    fn newest(&self, owner: &Owner) -> Result<Arc<Line>, CommandFailure> {
        let mut lines = self.lines(|line| line.owner() == owner);
        lines.pop().ok_or_else(|| CommandFailure::NobodyConnected(owner.clone()))
    }

    fn lines(&self, wanted: impl Fn(&Line) -> bool) -> Vec<Arc<Line>> {
        lock(&self.shared.lines).iter().filter(|line| wanted(line)).cloned().collect()
    }

    fn settings(&self) -> &ControlSettings {
        &self.shared.settings
    }

    fn enter(&self, line: Arc<Line>) {
        lock(&self.shared.lines).push(line);
    }
}

async fn ask_each(lines: Vec<Arc<Line>>, body: &CommandBody, patience: Duration) -> Vec<Verdict> {
    let mut asking = JoinSet::new();
    for line in lines {
        let body = body.clone();
        asking.spawn(async move {
            let result = line.ask(body, patience).await;
            Verdict { peer: line.peer(), result }
        });
    }
    asking.join_all().await
}

/// The verdict of the one that has the session.
fn one(verdicts: Vec<Verdict>, owner: &Owner, session: &SessionId) -> Result<Reply, CommandFailure> {
    let mut failure = None;
    for Verdict { result, .. } in verdicts {
        match result {
            Ok(reply) => return Ok(reply),
            Err(other) if other.is_not_held() => {
                failure.get_or_insert(CommandFailure::Refused(CommandRefusal::not_held(session)));
            }
            // Whoever has it says why not; whoever has not only says that.
            Err(other) => failure = Some(other),
        }
    }
    Err(failure.unwrap_or_else(|| CommandFailure::NobodyConnected(owner.clone())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Streams of all owners together.
const STREAMS: usize = 512;
/// Streams of one environment or tunnel.
const STREAMS_PER_OWNER: usize = 32;
const HELLO: Duration = Duration::from_secs(5);
/// How long a file may take to be on the worker's disk.
const FILE_PATIENCE: Duration = Duration::from_secs(15);
/// How long custody may take over a batch of keys.
const REWRAP_PATIENCE: Duration = Duration::from_secs(15);
