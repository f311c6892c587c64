//! The keeper's own part: starts audit and custody under the lock, then lets others join. Every connection is handed to the process it is for; the keeper
//! itself reads nothing but the hello.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_audit::{Decision, Kind, Record};
use postern_exec::role::{self, Child};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hello::{self, JoinRefusal, Service, Standing};
use super::{Door, KeeperError, Settings, socket};
use crate::client::Client;
use crate::message::{CallerKind, Ready};

/// Audit and custody as this process started them.
pub(super) struct Kept {
    directory: File,
    processes: Processes,
    audit_child: Child,
    custody_child: Child,
    /// The tasks that accept; they end with this.
    accepting: JoinSet<()>,
    /// Freed when this process and both children are gone.
    _lock: File,
}

/// The connections that attach others.
#[derive(Clone)]
struct Processes {
    audit: postern_audit::Client,
    custody: Client,
}

/// Starts both processes, which keep the lock with this one, and then listens.
pub(super) async fn start(settings: Settings, door: &Door, lock: File) -> Result<(Kept, Standing), KeeperError> {
    let started = postern_audit::start_keeping(&settings.starter, &settings.audit, &[lock.as_fd()]).await?;
    let (audit_child, audit, audit_key) = match started {
        (child, client, postern_audit::Started::Ready { key, .. }) => (child, client, key),
        (_, _, postern_audit::Started::Refused { reason }) => return Err(KeeperError::Audit(reason)),
    };
    let (ours, theirs) = pair("audit")?;
    audit.attach("custody", theirs).await.map_err(|error| KeeperError::Audit(error.to_string()))?;
    let descriptors = [lock.as_fd(), ours.as_fd()];
    let (custody_child, channel, ready) =
        role::start_and_wait::<_, Ready>(crate::ROLE, &settings.custody, &settings.starter, &descriptors).await?;
    if !ready.problems.is_empty() {
        return Err(KeeperError::Custody(ready.problems));
    }
    let standing = Standing { audit_key, perimeter_public_key: ready.perimeter_public_key, degraded: ready.degraded };
    let processes = Processes { audit, custody: Client::new(channel) };
    let failed = |source| KeeperError::Directory { directory: door.directory.clone(), source };
    let mut accepting = JoinSet::new();
    for service in [Service::Audit, Service::Custody] {
        let listener = socket::listen(&door.descriptor, service.socket_name()).map_err(failed)?;
        let porter = Porter { service, processes: processes.clone(), standing: standing.clone(), told: Arc::default() };
        accepting.spawn(porter.accept_all(listener));
    }
    let directory = door.descriptor.try_clone().map_err(failed)?;
    Ok((Kept { directory, processes, audit_child, custody_child, accepting, _lock: lock }, standing))
}

impl Kept {
    /// A further connection for this process itself.
    pub(super) async fn connect(&self, service: Service, kind: CallerKind) -> Result<OwnedFd, KeeperError> {
        let (ours, theirs) = pair(service.name())?;
        self.processes.attach(service, kind, theirs).await?;
        Ok(ours)
    }

    pub(super) async fn gone(&self) {
        tokio::select! {
            () = self.processes.audit.gone() => {}
            () = self.processes.custody.gone() => {}
        }
    }

    pub(super) async fn end(self) {
        let Self { directory, processes, mut audit_child, mut custody_child, mut accepting, _lock } = self;
        accepting.shutdown().await;
        for service in [Service::Audit, Service::Custody] {
            if let Err(error) = socket::remove(&directory, service.socket_name()) {
                tracing::warn!(%error, service = service.name(), "a socket of the perimeter is left behind");
            }
        }
        let Processes { audit, custody } = processes;
        // Custody still speaks to audit.
        drop(custody);
        await_end(&mut custody_child).await;
        drop(audit);
        await_end(&mut audit_child).await;
    }
}

impl Processes {
    async fn attach(&self, service: Service, kind: CallerKind, socket: OwnedFd) -> Result<(), KeeperError> {
        let gone = KeeperError::Connection(service.name());
        match service {
            Service::Audit => self.audit.attach(kind.name(), socket).await.map_err(|_| gone),
            Service::Custody => self.custody.attach(kind, socket).await.map_err(|_| gone),
        }
    }
}

/// Lets in at one socket.
#[derive(Clone)]
struct Porter {
    service: Service,
    processes: Processes,
    standing: Standing,
    /// When an alarm about a foreign user was last recorded.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Porter {
    async fn accept_all(self, listener: UnixListener) {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "nobody can join this perimeter"),
        };
        let room = Arc::new(Semaphore::new(AT_THE_DOOR));
        let mut greeting = JoinSet::new();
        loop {
            // Who says nothing keeps its place for two seconds; behind so many of them the others wait in the kernel's queue.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let porter = self.clone();
                    greeting.spawn(async move {
                        porter.greet(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a joining process could not be accepted");
                    tokio::time::sleep(AFTER_ACCEPT_FAILED).await;
                }
            }
            while greeting.try_join_next().is_some() {}
        }
    }

    async fn greet(&self, stream: tokio::net::UnixStream) {
        let Ok(same_user) = socket::same_user(&stream) else { return };
        let Ok(stream) = stream.into_std() else { return };
        match hello::receive(stream.into(), same_user, &self.processes.custody, &self.standing).await {
            Ok((socket, kind)) => {
                tracing::debug!(kind = kind.name(), service = self.service.name(), "joined the perimeter");
                if let Err(error) = self.processes.attach(self.service, kind, socket).await {
                    tracing::error!(%error, "a process that joined could not be served");
                }
            }
            Err(Some(refusal)) => self.note(refusal).await,
            Err(None) => tracing::debug!(service = self.service.name(), "a connection ended before its hello"),
        }
    }

    /// Another user at the socket is an alarm; once a minute is enough to say so.
    async fn note(&self, refusal: JoinRefusal) {
        tracing::warn!(code = refusal.code(), service = self.service.name(), "a process may not join the perimeter");
        if refusal == JoinRefusal::OtherDocument || refusal == JoinRefusal::OtherVersion || !self.is_news() {
            return;
        }
        let mut record = Record::new(Kind::Alarm, Decision::Deny);
        record.reason = Some(refusal.code().to_owned());
        record.next_step = Some("find out what connected to the perimeter's sockets".to_owned());
        if let Err(error) = self.processes.audit.append(&record).await {
            tracing::error!(%error, "an alarm is not on record");
        }
    }

    fn is_news(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.is_none_or(|last| last.elapsed() >= BETWEEN_ALARMS);
        if news {
            *told = Some(Instant::now());
        }
        news
    }
}

fn pair(service: &'static str) -> Result<(OwnedFd, OwnedFd), KeeperError> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|_| KeeperError::Connection(service))?;
    Ok((ours.into(), theirs.into()))
}

async fn await_end(child: &mut Child) {
    let role = child.role();
    if let Err(error) = child.end(PATIENCE).await {
        tracing::warn!(role, %error, "a process could not be awaited");
    }
}

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that have not said their hello yet, at one socket.
const AT_THE_DOOR: usize = 16;
const AFTER_ACCEPT_FAILED: Duration = Duration::from_millis(100);
const BETWEEN_ALARMS: Duration = Duration::from_secs(60);
