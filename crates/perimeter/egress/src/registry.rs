//! The process' sessions: opens, attaches and closes them as the worker asks. The zone is read here from the
//! configuration; the worker's word chooses among zones by name and digest and can widen none.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::SystemTime,
};

use postern_custody::Purpose;
use postern_policy::{CredentialName, Denial, Reason, Zone, ZoneInForce, Zones};
use postern_secret::Placeholder;

use tokio_util::sync::CancellationToken;

use crate::{
    authority::SessionAuthority,
    limits,
    message::{Answer, Configuration, OpenSession, Opened, Question, Selected, Socket},
    phases::{accept, counted, inject, reports},
    recognise::Catalogue,
    session::{Perimeter, Session},
};

/// All sessions and what they share.
pub(crate) struct Registry {
    zones: RwLock<Zones>,
    perimeter: Arc<Perimeter>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// One opening at a time: of two lists of placeholders the later one must stay.
    opening: tokio::sync::Mutex<()>,
}

/// Why a question is not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The worker and this process read different zones.
    #[error("zone {0} is not the zone that this process read; restart the worker")]
    Zone(String),
    /// The session is open already.
    #[error("session {0} is open already")]
    Open(String),
    /// The session is not open.
    #[error("session {0} is not open")]
    Unknown(String),
    /// More sessions than this process serves.
    #[error("no room for a further session ({} at most)", limits::SESSIONS)]
    Full,
    /// Custody does not answer.
    #[error("custody does not name its placeholders: {0}")]
    Custody(String),
    /// The CA could not be made.
    #[error("make the session's CA")]
    Authority(#[from] crate::authority::AuthorityError),
    /// A descriptor is not what it should be.
    #[error("serve a socket of the sandbox")]
    Socket(#[from] std::io::Error),
    /// As many descriptors as sockets are needed.
    #[error("{sockets} sockets were announced and {descriptors} descriptors came")]
    Descriptors {
        /// Announced.
        sockets: usize,
        /// Received.
        descriptors: usize,
    },
}

impl Failure {
    fn code(&self) -> &'static str {
        match self {
            Self::Zone(_) => "zone_mismatch",
            Self::Open(_) => "session_open",
            Self::Unknown(_) => "session_unknown",
            Self::Full => "limit_sessions",
            Self::Custody(_) => "custody_unavailable",
            Self::Authority(_) => "authority_failed",
            Self::Socket(_) | Self::Descriptors { .. } => "socket_refused",
        }
    }
}

impl Registry {
    /// No sessions yet.
    pub(crate) fn new(zones: Zones, perimeter: Arc<Perimeter>) -> Self {
        Self {
            zones: RwLock::new(zones),
            perimeter,
            sessions: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Answers one question of the worker.
    pub(crate) async fn answer(&self, question: Question, descriptors: Vec<OwnedFd>) -> Answer {
        match self.act(question, descriptors).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::warn!(error = &failure as &dyn std::error::Error, "a question of the worker is refused");
                Answer::Failed { code: failure.code().to_owned(), message: chain(&failure) }
            }
        }
    }

    /// The digest of a zone that is there.
    #[cfg(test)]
    pub(crate) fn zone_digest(&self, name: &str) -> String {
        self.zones().named(name).expect("the test's zone is there").digest().to_owned()
    }

    /// Ends every session.
    pub(crate) async fn end(&self) {
        let sessions: Vec<_> = self.lock().drain().map(|(_, session)| session).collect();
        for session in sessions {
            session.end().await;
        }
    }

    async fn act(&self, question: Question, descriptors: Vec<OwnedFd>) -> Result<Answer, Failure> {
        match question {
            Question::Open(open) => self.open(open).await.map(Answer::Opened),
            Question::Attach { session, sockets } => {
                self.attach(&session, &sockets, descriptors).await?;
                Ok(Answer::Done)
            }
            Question::Refusals { session } => {
                let session = self.session(&session)?;
                let mut refusals = Vec::new();
                reports::by_now(&session, || refusals = session.drain_refusals()).await;
                Ok(Answer::Refusals { refusals })
            }
            Question::CurrentToolUse { session, tool_use } => {
                let session = self.session(&session)?;
                reports::by_now(&session, || session.at_tool_use(tool_use)).await;
                Ok(Answer::Done)
            }
            Question::Freeze { session } => {
                self.session(&session)?.freeze().await;
                Ok(Answer::Done)
            }
            Question::Thaw { session } => {
                self.session(&session)?.halt.thaw();
                Ok(Answer::Done)
            }
            Question::Revoke { session } => {
                self.session(&session)?.revoke().await;
                Ok(Answer::Done)
            }
            Question::Reload { document, environments, selected } => Ok(Answer::Reloaded {
                problems: self.reload(Configuration { document, environments, names: None }, &selected),
            }),
            Question::Close { session } => {
                let closed = self.lock().remove(&session);
                if let Some(closed) = closed {
                    closed.end().await;
                }
                Ok(Answer::Done)
            }
        }
    }

    async fn open(&self, open: OpenSession) -> Result<Opened, Failure> {
        let zone = self.zone(&open)?;
        let session = {
            let _one_at_a_time = self.opening.lock().await;
            self.room_for(&open.session)?;
            self.read_placeholders().await?;
            let session = Arc::new(self.build(&open, zone)?);
            session.drain.spawn_until_drain(counted::write_in_time(session.clone()));
            self.lock().insert(open.session, session.clone());
            session
        };
        // Before the answer, so before anything is attached to it.
        self.grant_all(&session).await;
        Ok(Opened { ca_certificate_pem: session.authority.certificate_pem().to_owned() })
    }

    /// Takes up another configuration and what it selects for each session; nothing changes where it does not load.
    fn reload(&self, configuration: Configuration, selected: &BTreeMap<String, Selected>) -> Vec<String> {
        let next = match configuration.zones() {
            Ok(next) => next,
            Err(problems) => return problems,
        };
        // The worker opens no session meanwhile, so none is opened by the former zones and missed here.
        let mut zones = self.zones.write().unwrap_or_else(PoisonError::into_inner);
        for (id, session) in self.lock().iter() {
            session.succeeded(zone_of(&next, selected.get(id)));
        }
        *zones = next;
        Vec::new()
    }

    fn zones(&self) -> RwLockReadGuard<'_, Zones> {
        self.zones.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn room_for(&self, session: &str) -> Result<(), Failure> {
        let sessions = self.lock();
        if sessions.contains_key(session) {
            return Err(Failure::Open(session.to_owned()));
        }
        if sessions.len() >= limits::SESSIONS { Err(Failure::Full) } else { Ok(()) }
    }

    fn zone(&self, open: &OpenSession) -> Result<Arc<Zone>, Failure> {
        let zone = self.zones().named(&open.zone_name);
        zone.filter(|zone| zone.digest() == open.digest).ok_or_else(|| Failure::Zone(open.zone_name.clone()))
    }

    /// Read anew whenever a session opens: its placeholders are tripwires for all others from then on.
    async fn read_placeholders(&self) -> Result<(), Failure> {
        let issued =
            self.perimeter.custody.placeholders().await.map_err(|error| Failure::Custody(error.to_string()))?;
        let catalogue = Arc::new(Catalogue::new(issued));
        *self.perimeter.catalogue.write().unwrap_or_else(PoisonError::into_inner) = catalogue;
        Ok(())
    }

    fn build(&self, open: &OpenSession, zone: Arc<Zone>) -> Result<Session, Failure> {
        let placeholders = open.placeholders.iter().map(|one| {
            (CredentialName::new(one.credential.clone()), Placeholder::from_issued(one.placeholder.clone()))
        });
        let authority = SessionAuthority::issue(&open.session, SystemTime::now())?;
        let agent = open.agent.clone();
        let in_force = ZoneInForce::new(zone).with_repositories(open.repositories.clone());
        Ok(Session::new(&open.session, agent, in_force, authority, placeholders.collect(), self.perimeter.clone()))
    }

    /// What a session may use is scrubbed from its first answer on. A credential that is not granted now is asked for
    /// again when it is needed, and refused then if need be.
    async fn grant_all(&self, session: &Session) {
        for (credential, _) in &session.placeholders {
            if let Ok(grant) = inject::granted(session, credential, session.zone.digest(), Purpose::Recognise).await
                && let Err(denial) = inject::remember(session, credential, grant.secret, grant.vault)
            {
                tracing::warn!(session = %session.id, %credential, %denial, "a granted credential cannot be used");
            }
        }
    }

    async fn attach(&self, id: &str, sockets: &[Socket], descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        let session = self.session(id)?;
        if sockets.len() != descriptors.len() {
            return Err(Failure::Descriptors { sockets: sockets.len(), descriptors: descriptors.len() });
        }
        // A sandbox that is gone holds nothing of this process: neither its sockets nor, by them, its network.
        let mut attached = CancellationToken::new();
        reports::by_now(&session, || attached = session.attach()).await;
        for (socket, descriptor) in sockets.iter().zip(descriptors) {
            accept::serve(&session, *socket, descriptor, &attached)?;
        }
        Ok(())
    }

    pub(crate) fn session(&self, id: &str) -> Result<Arc<Session>, Failure> {
        self.lock().get(id).cloned().ok_or_else(|| Failure::Unknown(id.to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The selected zone as this process read it.
fn zone_of(zones: &Zones, selected: Option<&Selected>) -> Result<Arc<Zone>, Denial> {
    match selected {
        Some(Selected::Zone { name, digest }) => {
            zones.named(name).filter(|zone| zone.digest() == digest).ok_or_else(|| Denial::new(Reason::ZoneNone))
        }
        Some(Selected::Nothing { next_step }) => Err(Denial::advising(Reason::ZoneNone, next_step)),
        None => Err(Denial::new(Reason::ZoneNone)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
