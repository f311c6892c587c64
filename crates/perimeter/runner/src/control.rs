//! What this worker does about the control plane's commands: it freezes and thaws its sessions, drops their grants, takes files for their workspaces, and
//! says how it stands. Whoever commands may be hostile: a command can only hold a session back or write a bounded file to one directory.

use std::sync::Arc;

use postern_audit::{Decision, Kind, Record};
use postern_custody::WithheldCode;
use postern_model::control::{
    CommandBody, CommandRefusal, ControlLine, Hello, OUTSTANDING, PerimeterStatus, RESULTS_DIRECTORY, Reply, Role,
    Withheld,
};
use postern_model::ids::{PerimeterId, SessionId};
use postern_net::control::{ControlHandler, Obeying};
use postern_secret::seal::{BadSealed, Recipient, SealedCredential};
use tokio::sync::{Semaphore, watch};

use crate::boundary::Commands;
use crate::config::Report;
use crate::place::{Mark, Place};
use crate::remote;
use crate::results::Put;
use crate::session::chain;

/// What a worker says about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    name: String,
    perimeter_public_key: Option<String>,
    audit_key: Option<String>,
    controls: Vec<ControlLine>,
    degraded: Vec<String>,
}

impl Facts {
    /// As the worker reported at its start.
    pub(crate) fn new(name: String, report: &Report) -> Self {
        let Report::Ready { controls, degraded, audit_key, perimeter_public_key } = report else {
            return Self { name, ..Self::default() };
        };
        let line = |status: &postern_sandbox::ControlStatus| ControlLine {
            name: status.control.name().to_owned(),
            state: format!("{:?}", status.state).to_lowercase(),
            cause: status.cause.clone(),
            fix: status.fix.clone(),
        };
        Self {
            name,
            perimeter_public_key: Some(perimeter_public_key.clone()),
            audit_key: Some(audit_key.clone()),
            controls: controls.iter().map(line).collect(),
            degraded: degraded.clone(),
        }
    }
}

/// The handler of a worker's control stream.
pub(crate) struct WorkerControl {
    facts: Facts,
    commands: Commands,
    /// How many commands are obeyed at a time, streams that ended meanwhile included.
    room: Arc<Semaphore>,
}

impl WorkerControl {
    pub(crate) fn new(facts: Facts, commands: Commands) -> Self {
        Self { facts, commands, room: Arc::new(Semaphore::new(OUTSTANDING)) }
    }

    fn status(&self) -> PerimeterStatus {
        let Facts { name, perimeter_public_key, audit_key, controls, degraded } = self.facts.clone();
        PerimeterStatus {
            role: Role::Worker,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name,
            perimeter_public_key,
            sessions: self.commands.roster().standings(),
            controls,
            degraded,
            audit_head: self.commands.audit_head(),
            audit_key,
            gateway: None,
        }
    }
}

impl ControlHandler for WorkerControl {
    fn hello(&self) -> Hello {
        Hello {
            role: Role::Worker,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.facts.name.clone(),
            sessions: self.commands.roster().open().borrow().clone(),
            perimeter_public_key: self.facts.perimeter_public_key.clone(),
        }
    }

    fn sessions(&self) -> watch::Receiver<Vec<SessionId>> {
        self.commands.roster().open()
    }

    fn obey(&self, command: CommandBody) -> Obeying<'_> {
        if matches!(command, CommandBody::Status) {
            return Box::pin(async { Ok(Reply::Status(Box::new(self.status()))) });
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            return Box::pin(async { Err(busy()) });
        };
        let commands = self.commands.clone();
        // In a task of its own: a stream that ends in the middle leaves no session half frozen.
        let obeying = tokio::spawn(async move {
            let _room = room;
            act(&commands, command).await
        });
        Box::pin(async move {
            obeying.await.unwrap_or_else(|panic| {
                tracing::error!(%panic, "a command ended without an answer");
                Err(CommandRefusal::new("worker_failed", "the worker failed", "read the worker's log"))
            })
        })
    }
}

fn busy() -> CommandRefusal {
    let message = format!("{OUTSTANDING} commands are being obeyed already");
    CommandRefusal::new("limit_commands", message, "wait for one of them to end, then send it again")
}

async fn act(commands: &Commands, command: CommandBody) -> Result<Reply, CommandRefusal> {
    let done = match command {
        CommandBody::Freeze { session } => freeze(commands, &session).await,
        CommandBody::Thaw { session } => thaw(commands, &session).await,
        CommandBody::RevokeGrants { session } => revoke(commands, &session).await,
        CommandBody::PutFile { session, path, bytes, mode } => put_file(commands, &session, &path, bytes.0, mode).await,
        CommandBody::Variables { session, sealed } => return variables(commands, &session, sealed).await,
        CommandBody::Rewrap { sealed, perimeter_id, public_key } => {
            return rewrap(commands, &sealed, &perimeter_id, &public_key).await;
        }
        CommandBody::Status | CommandBody::OauthRefresh { .. } | CommandBody::OauthValidate { .. } => {
            Err(CommandRefusal::unsupported(&command))
        }
    };
    done.map(|()| Reply::Done)
}

/// Keys for another perimeter. Custody alone knows whom the operator of this machine approved.
async fn rewrap(
    commands: &Commands,
    sealed: &[String],
    perimeter_id: &PerimeterId,
    public_key: &str,
) -> Result<Reply, CommandRefusal> {
    let unreadable = |_| {
        let message = "the values or the key are not what this build reads";
        CommandRefusal::new("rewrap_unreadable", message, "run the same build of postern on both sides")
    };
    let public_key = public_key.parse().map_err(|_| unreadable(BadSealed))?;
    let read = |text: &String| SealedCredential::decode(text);
    let values: Vec<_> = sealed.iter().take(MOST_REWRAPPED).map(read).collect::<Result<_, _>>().map_err(unreadable)?;
    let to = Recipient { perimeter_id: perimeter_id.to_string(), public_key };
    let wraps = commands.rewrap(values, to).await?;
    Ok(Reply::Rewrapped {
        wraps: wraps.iter().map(|wrap| wrap.as_ref().and_then(|one| serde_json::to_string(one).ok())).collect(),
    })
}

/// Values of one command at most.
const MOST_REWRAPPED: usize = 64;

/// What a session's vaults have now. Custody judges each by the zone and writes the record; nothing that comes this way can widen what a zone grants.
async fn variables(commands: &Commands, session: &SessionId, sealed: Vec<String>) -> Result<Reply, CommandRefusal> {
    let place = held(commands, session)?;
    let withheld = commands.refresh(session, place, remote::sealed(sealed)).await?;
    // An id of another form than ours came from nobody who could be told of it.
    let told = withheld.into_iter().filter_map(|one| {
        Some(Withheld {
            credential_id: one.credential.parse().ok()?,
            vault_id: one.vault.parse().ok()?,
            host_unreachable: one.code == WithheldCode::HostUnreachable,
            message: one.message,
        })
    });
    Ok(Reply::Variables { withheld: told.collect() })
}

/// Held back first and recorded then: a log that fails must not leave a session running that should stand. Custody writes the record, one for all who
/// hold the session back on this host.
pub(crate) async fn freeze(commands: &Commands, session: &SessionId) -> Result<(), CommandRefusal> {
    if postern_danger::off!("freezing") {
        return Ok(());
    }
    let place = held(commands, session)?;
    let _alone = commands.order(session.as_str()).await;
    commands.roster().set(session.as_str(), |standing| standing.frozen = true);
    let marked = blocking(move || place.mark(Mark::Frozen)).await;
    commands.apply(session.as_str()).await?;
    marked.map_err(|error| storage("the session is frozen, but would not be after a restart of the worker", &error))
}

pub(crate) async fn thaw(commands: &Commands, session: &SessionId) -> Result<(), CommandRefusal> {
    let place = held(commands, session)?;
    let _alone = commands.order(session.as_str()).await;
    commands.thaw_grants(session.as_str()).await?;
    let unmarked = blocking(move || place.unmark(Mark::Frozen)).await;
    unmarked.map_err(|error| storage("the session stays frozen", &error))?;
    commands.roster().set(session.as_str(), |standing| standing.frozen = false);
    commands.apply(session.as_str()).await
}

/// For good: a session that lost its grants gets none again on this host.
pub(crate) async fn revoke(commands: &Commands, session: &SessionId) -> Result<(), CommandRefusal> {
    if postern_danger::off!("revocation") {
        return Ok(());
    }
    let place = held(commands, session)?;
    let _alone = commands.order(session.as_str()).await;
    commands.roster().set(session.as_str(), |standing| standing.revoked = true);
    let marked = blocking(move || place.mark(Mark::Revoked)).await;
    commands.apply(session.as_str()).await?;
    marked.map_err(|error| storage("the grants are revoked, but would not be after a restart of the worker", &error))
}

async fn put_file(
    commands: &Commands,
    session: &SessionId,
    path: &str,
    bytes: Vec<u8>,
    mode: u32,
) -> Result<(), CommandRefusal> {
    let place = held(commands, session)?;
    if !place.has_workspace() {
        return Err(CommandRefusal::not_held(session));
    }
    let put = match Put::check(path, bytes, mode) {
        Ok(put) => put,
        Err(refusal) => return refuse(commands, session, refusal).await,
    };
    let mut record = about(Kind::FilePut, Decision::Allow, session);
    record.digests.insert("file".to_owned(), format!("sha256:{}", put.digest()));
    record.counts.insert("file_bytes".to_owned(), put.size());
    record.outcome = Some(format!("to {RESULTS_DIRECTORY}"));
    commands.append(&record).await.map_err(|error| unrecorded(&error))?;
    let owner = commands.owner(&place).map_err(|error| {
        tracing::error!(error = chain(&error), "a workspace has no owner");
        CommandRefusal::new("worker_storage", error.to_string(), "an operator reads the worker's log")
    })?;
    let written = tokio::task::spawn_blocking(move || put.write(&place, owner)).await;
    written.unwrap_or_else(|_| Err(CommandRefusal::new("worker_failed", "the worker failed", "read its log")))
}

/// What a perimeter does not do at all is on record: a control plane that asks for it is worth a look.
async fn refuse(commands: &Commands, session: &SessionId, refusal: CommandRefusal) -> Result<(), CommandRefusal> {
    let mut record = about(Kind::FilePut, Decision::Deny, session);
    record.reason = Some(refusal.code.clone());
    record.next_step = Some(refusal.next_step.clone());
    commands.append(&record).await.map_err(|error| unrecorded(&error))?;
    Err(refusal)
}

/// The session's place, where this worker has it.
fn held(commands: &Commands, session: &SessionId) -> Result<Place, CommandRefusal> {
    commands.place(session.as_str()).ok_or_else(|| CommandRefusal::not_held(session))
}

fn about(kind: Kind, decision: Decision, session: &SessionId) -> Record {
    let mut record = Record::new(kind, decision);
    record.session = Some(session.to_string());
    record.rule = Some("control-stream".to_owned());
    record
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> std::io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}

fn unrecorded(error: &postern_audit::AuditError) -> CommandRefusal {
    tracing::error!(error = chain(error), "a command is not on record");
    CommandRefusal::new(
        "audit_unavailable",
        "the perimeter's audit log takes no records",
        "an operator repairs the audit log or its disk",
    )
}

fn storage(what: &str, error: &std::io::Error) -> CommandRefusal {
    tracing::error!(%error, what, "a command could not be marked");
    CommandRefusal::new("worker_storage", what, "an operator frees space on the worker's disk, then sends it again")
}
