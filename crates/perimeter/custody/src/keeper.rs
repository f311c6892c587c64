//! One audit log and one custody for each perimeter directory, whoever needs them. The first of worker and gateway to take the directory's lock becomes the
//! keeper: it starts both processes and lets the other join by Unix sockets there. The lock is free only when the keeper and both processes are gone, so
//! no two writers meet. Whoever joined loses custody with its keeper and ends; at its restart it joins again, or becomes the keeper.
//!
//! Who may join: a process of the same user, of the same version, with the same configuration document. It says what it is, and may then ask what that
//! kind of connection may ask.

mod hello;
mod kept;
mod socket;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postern_exec::asynchronous::Channel;
use postern_exec::role::{self, Starter};
use postern_policy::document::DocumentText;
use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

pub use hello::{JoinRefusal, Standing};

use crate::client::Client;
use crate::generation::document_digest;
use crate::message::{CallerKind, Configuration};
use hello::{Joining, Service};
use kept::Kept;

/// What joining or starting needs to know. Whoever starts passes all of it on; whoever joins only shows that the document is the same.
#[derive(Debug)]
pub struct Settings {
    /// What the processes are started by.
    pub starter: Starter,
    /// The perimeter's directory, where lock and sockets lie; made 0700.
    pub perimeter: PathBuf,
    /// Where the audit log lies.
    pub audit: PathBuf,
    /// Custody's configuration.
    pub custody: Configuration,
}

/// A perimeter's audit log and custody, started or joined.
pub struct Keeper {
    standing: Standing,
    way: Way,
}

enum Way {
    Started(Box<Kept>),
    Joined { door: Door, anchor: Client },
}

/// Whether this process is the parent of audit and custody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It started them.
    Started,
    /// Another process did.
    Joined,
}

/// Why there is no custody and no audit log for this process.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The directory cannot be used.
    #[error("use the perimeter's directory {}", directory.display())]
    Directory {
        /// The perimeter's directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could replace what lies in the directory.
    #[error("{} belongs to another user or can be written by others; run `chown` and `chmod go-w` on it", directory.display())]
    Exposed {
        /// The perimeter's directory.
        directory: PathBuf,
    },
    /// The keeper does not let this process join.
    #[error("the process that keeps this perimeter refuses: {0}")]
    Refused(#[from] JoinRefusal),
    /// Whoever answers at the socket belongs to another user.
    #[error("the socket in {} is served by another user; find out who", directory.display())]
    Foreign {
        /// The perimeter's directory.
        directory: PathBuf,
    },
    /// Another process holds the lock and does not answer.
    #[error("another process holds {} and does not let this one join in time; find it, and end it", lock.display())]
    Slow {
        /// The lock file.
        lock: PathBuf,
    },
    /// A process could not be started.
    #[error("start audit and custody")]
    Start(#[from] role::StartError),
    /// The audit log cannot be opened.
    #[error("the audit log cannot be opened: {0}")]
    Audit(String),
    /// Custody cannot work, with every reason.
    #[error("custody does not start: {}", .0.join("; "))]
    Custody(Vec<String>),
    /// A further connection could not be made; audit or custody is gone or about to be.
    #[error("a connection to {0} could not be made; the worker or gateway restarts")]
    Connection(&'static str),
}

impl KeeperError {
    /// In words for the operator, a line for each reason.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Custody(problems) => problems.clone(),
            error => {
                let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
                vec![chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")]
            }
        }
    }
}

/// Joins the perimeter's custody and audit log as `kind`, or starts both. Any number of processes may try at one time: one of them starts.
/// Cancelling it leaves nothing behind.
///
/// # Errors
/// [`KeeperError`]; nothing stands then that this call started.
pub async fn join_or_start(settings: Settings, kind: CallerKind) -> Result<Keeper, KeeperError> {
    let door = Door::open(&settings)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = door.try_lock()? {
            let (kept, standing) = kept::start(settings, &door, lock).await?;
            return Ok(Keeper { standing, way: Way::Started(Box::new(kept)) });
        }
        match door.join(Service::Custody, kind).await? {
            Joining::Joined { socket, standing } => {
                let channel = Channel::new(socket).map_err(|_| KeeperError::Connection("custody"))?;
                return Ok(Keeper { standing, way: Way::Joined { door, anchor: Client::new(channel) } });
            }
            Joining::Refused(refusal) => return Err(refusal.into()),
            // The keeper is about to listen, or about to end.
            Joining::Nobody => {}
        }
        if Instant::now() >= deadline {
            return Err(KeeperError::Slow { lock: door.directory.join(LOCK_FILE) });
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Keeper {
    /// What audit and custody said at their start.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether this process started them.
    #[must_use]
    pub fn part(&self) -> Part {
        match self.way {
            Way::Started(_) => Part::Started,
            Way::Joined { .. } => Part::Joined,
        }
    }

    /// A further connection to the audit log, for this process or a child of it; it may only append.
    ///
    /// # Errors
    /// [`KeeperError::Connection`], or what joining may answer.
    pub async fn audit(&self, kind: CallerKind) -> Result<OwnedFd, KeeperError> {
        self.connection(Service::Audit, kind).await
    }

    /// A further connection to custody of this kind, for this process or a child of it. What is opened or granted over it ends with it.
    ///
    /// # Errors
    /// [`KeeperError::Connection`], or what joining may answer.
    pub async fn custody(&self, kind: CallerKind) -> Result<OwnedFd, KeeperError> {
        self.connection(Service::Custody, kind).await
    }

    /// This process goes by another document now, which custody has taken up: further connections are made as one that does.
    pub fn reads(&self, document: &DocumentText) {
        if let Way::Joined { door, .. } = &self.way {
            *door.document.lock().unwrap_or_else(PoisonError::into_inner) = document_digest(document);
        }
    }

    /// Waits until audit or custody is gone: this process must end then.
    pub async fn gone(&self) {
        match &self.way {
            Way::Started(kept) => kept.gone().await,
            Way::Joined { anchor, .. } => anchor.gone().await,
        }
    }

    /// Ends in good order: a keeper lets nobody join any more, ends custody, then the audit log with its last signature, and frees the lock.
    /// Whoever joined a keeper leaves. Children that speak to custody should have ended before.
    pub async fn end(self) {
        match self.way {
            Way::Started(kept) => kept.end().await,
            Way::Joined { anchor, .. } => drop(anchor),
        }
    }

    async fn connection(&self, service: Service, kind: CallerKind) -> Result<OwnedFd, KeeperError> {
        match &self.way {
            Way::Started(kept) => kept.connect(service, kind).await,
            Way::Joined { door, .. } => match door.join(service, kind).await? {
                Joining::Joined { socket, .. } => Ok(socket),
                Joining::Refused(refusal) => Err(refusal.into()),
                Joining::Nobody => Err(KeeperError::Connection(service.name())),
            },
        }
    }
}

/// The perimeter's directory, held open, so that all that is done there is done in one place.
pub(super) struct Door {
    directory: PathBuf,
    descriptor: File,
    /// Of the document that this process goes by.
    document: Mutex<String>,
}

impl Door {
    fn open(settings: &Settings) -> Result<Self, KeeperError> {
        let directory = settings.perimeter.clone();
        let failed = |source| KeeperError::Directory { directory: directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let descriptor = File::open(&directory).map_err(failed)?;
        let metadata = descriptor.metadata().map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(KeeperError::Exposed { directory });
        }
        Ok(Self { directory, descriptor, document: Mutex::new(document_digest(&settings.custody.document)) })
    }

    /// The lock, if nobody has it.
    fn try_lock(&self) -> Result<Option<File>, KeeperError> {
        let path = self.directory.join(LOCK_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|source| self.failed(source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    async fn join(&self, service: Service, kind: CallerKind) -> Result<Joining, KeeperError> {
        let socket = match socket::connect(&self.descriptor, service.socket_name()) {
            Ok(socket) => socket,
            Err(error) if socket::nobody_there(&error) => return Ok(Joining::Nobody),
            Err(source) => return Err(self.failed(source)),
        };
        if !socket::same_user(&socket).map_err(|source| self.failed(source))? {
            return Err(KeeperError::Foreign { directory: self.directory.clone() });
        }
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(hello::join(socket, kind, &document).await)
    }

    fn failed(&self, source: io::Error) -> KeeperError {
        KeeperError::Directory { directory: self.directory.clone(), source }
    }
}

const LOCK_FILE: &str = "keeper.lock";
/// How long a keeper that starts or ends is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(20);
