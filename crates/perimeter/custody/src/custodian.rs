//! What custody does with each question: check, record, answer. In that order, and nothing in between can be skipped: a secret leaves only through
//! [`Custodian::grant`] and [`Custodian::grant_route`], with the zone's permit, after the record of its use was written.

mod holding;
mod issuing;
mod leases;
mod refresh;
mod reload;
mod repositories;
mod rewrap;
mod routes;
mod variables;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use postern_audit::{Counted, Decision, Durability, Kind, Rations, Record, Recorder, Told};
use postern_policy::{AuditMode, CredentialName, GrantPermit, RepositoryToken, Source, Zone};
use postern_secret::SecretBytes;

use crate::approved::Approved;
use crate::generation::{Generation, Generations};
use crate::holds::Holds;
use crate::kept::{Kept, KeptBy, Watched};
use crate::ledger::Ledger;
use crate::message::{CallerKind, Issued, KnownPlaceholder, OpenSession, Opened, Purpose, VaultGrant, Withheld};
use crate::open::Opener;
use crate::refusal::{Refusal, RefusalReason};
use crate::renewals::Renewals;
use crate::source::{Sources, in_no_vault};
use crate::store::Store;
use issuing::{issue, resolve_all};
use leases::Leases;
pub(crate) use refresh::RefreshGranted;
use routes::RouteGrants;
use variables::{Variable, Variables};

/// Everything custody holds.
pub(crate) struct Custodian {
    generations: Mutex<Generations>,
    /// One document after the other.
    reloading: tokio::sync::Mutex<()>,
    store: Store,
    opener: Arc<Opener>,
    approved: Approved,
    recorder: Arc<dyn Recorder>,
    /// Which refusals of a session are written one by one.
    rations: Rations<RefusalReason>,
    sessions: Mutex<HashMap<String, Session>>,
    /// What the egress proxy may use again without asking.
    leases: Arc<Leases>,
    /// Connections that ended: nothing is kept on their behalf any more, however late an answer to them is ready.
    departed: Mutex<HashSet<u64>>,
    route_grants: Mutex<RouteGrants>,
    ledger: Arc<Mutex<Ledger>>,
    holds: Arc<Mutex<Holds>>,
    /// Tokens that were renewed and may not have reached the control plane.
    renewals: Arc<Mutex<Renewals>>,
    /// Holds in force whose record was not written yet; one at a time is.
    recording_holds: tokio::sync::Mutex<HashSet<(String, Kind)>>,
}

/// What a custodian is made of.
pub(crate) struct Parts {
    pub(crate) generation: Generation,
    pub(crate) store: Store,
    pub(crate) opener: Opener,
    pub(crate) approved: Approved,
    pub(crate) ledger: Ledger,
    pub(crate) holds: Holds,
    pub(crate) renewals: Renewals,
    pub(crate) recorder: Arc<dyn Recorder>,
}

/// Who asks: of which kind, and over which connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) kind: CallerKind,
    pub(crate) connection: u64,
}

impl From<CallerKind> for Asker {
    /// The one connection of its kind.
    fn from(kind: CallerKind) -> Self {
        Self { kind, connection: 0 }
    }
}

/// An open session; dropping it zeroes its secrets.
struct Session {
    /// The worker's connection; the session ends with it.
    owner: u64,
    zone: Arc<Zone>,
    agent: Option<String>,
    /// Where its secrets are read anew at each use.
    sources: Arc<Sources>,
    /// What its vaults have, unopened.
    variables: Variables,
    /// `None` while the session is being opened: the name is taken, nothing can be granted.
    secrets: Option<HashMap<CredentialName, SecretBytes>>,
}

impl Custodian {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { generation, store, opener, approved, ledger, holds, renewals, recorder } = parts;
        Self {
            generations: Mutex::new(Generations::new(generation)),
            reloading: tokio::sync::Mutex::default(),
            store,
            opener: Arc::new(opener),
            approved,
            recorder,
            rations: Rations::new(REFUSALS_RECORDED, RATIONED_SESSIONS),
            sessions: Mutex::default(),
            leases: Arc::default(),
            departed: Mutex::default(),
            route_grants: Mutex::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            holds: Arc::new(Mutex::new(holds)),
            renewals: Arc::new(Mutex::new(renewals)),
            recording_holds: tokio::sync::Mutex::default(),
        }
    }

    /// Opens a session and issues its placeholders. Nothing of it stays when this fails or is dropped.
    pub(crate) async fn open(&self, asker: impl Into<Asker>, open: OpenSession) -> Result<Opened, Refusal> {
        let asker = asker.into();
        require(asker.kind, CallerKind::Worker)?;
        self.not_revoked(&open.session)?;
        let (zone, generation) = self.zone(&open)?;
        let reservation = self.reserve(asker, &open, &zone, &generation.sources)?;
        let opened = self.prepare(&open, &zone, &generation.sources).await;
        if let Err(refusal) = &opened {
            self.note_refusal(refusal, &open.session, Some(&zone), open.agent.as_deref()).await;
        }
        let Prepared { secrets, variables, issued, withheld } = opened?;
        if reservation.fill(secrets, variables) {
            return Ok(Opened { issued, withheld });
        }
        // Closed while it was being opened: what was remembered as alive is dead.
        self.end_placeholders(&open.session).await;
        Err(not_open(&open.session))
    }

    /// Ends a session: its secrets are zeroed at once, its placeholders dead.
    pub(crate) async fn close(&self, caller: CallerKind, session: &str) -> Result<(), Refusal> {
        if caller == CallerKind::Gateway {
            return self.close_route_grants(session).await;
        }
        require(caller, CallerKind::Worker)?;
        self.end_session(session).await
    }

    /// A connection ended, and with it whatever was opened or granted over it.
    pub(crate) async fn left(&self, connection: u64) {
        lock(&self.departed).insert(connection);
        let orphans: Vec<String> = {
            let sessions = self.sessions();
            sessions.iter().filter(|(_, session)| session.owner == connection).map(|(name, _)| name.clone()).collect()
        };
        for session in orphans {
            if let Err(error) = self.end_session(&session).await {
                tracing::error!(%session, %error, "the end of a session whose worker is gone is not on record");
            }
        }
        self.route_grants().left(connection);
    }

    fn has_left(&self, connection: u64) -> bool {
        lock(&self.departed).contains(&connection)
    }

    async fn end_session(&self, session: &str) -> Result<(), Refusal> {
        let Some(ended) = self.sessions().remove(session) else { return Ok(()) };
        self.leases.end(session);
        let mut record = about(Kind::SessionClosed, Decision::Info, session, Some(&ended.zone), ended.agent.as_deref());
        drop(ended);
        self.end_placeholders(session).await;
        record.outcome = Some("secrets zeroed".to_owned());
        self.record(record).await.map(drop)
    }

    /// The secret of one credential of an open session, for the egress proxy.
    pub(crate) async fn grant(
        &self,
        caller: CallerKind,
        session: &str,
        credential: &str,
        policy_digest: &str,
        purpose: Purpose,
    ) -> Result<Grant, Refusal> {
        let name = CredentialName::new(credential);
        let granted = match self.may_grant(caller, session, &name, policy_digest, purpose) {
            Ok(granted) => self.present(session, &name, &granted, purpose).await.map(|present| (granted, present)),
            Err(refusal) => Err(refusal),
        };
        let (granted, present) = match granted {
            Ok(granted) => granted,
            Err(refusal) => {
                self.note_refusal(&refusal, session, None, None).await;
                return Err(refusal);
            }
        };
        let kind = match purpose {
            Purpose::Recognise => Kind::CredentialGranted,
            Purpose::Inject => Kind::CredentialUse,
        };
        let mut record = about(kind, Decision::Allow, session, Some(&granted.zone), granted.agent.as_deref());
        record.credential = Some(granted.permit.credential().to_string());
        record.outcome = granted.vault.as_ref().map(VaultGrant::named);
        self.record(record).await?;
        let grant = self.secret(session, &granted, present).ok_or_else(|| not_open(session).about(credential));
        // The session may have been frozen while the record was written. After the lease was given: one that a freeze did not
        // end is not given at all.
        self.not_held(session, purpose).map_err(|refusal| refusal.about(credential))?;
        grant
    }

    /// The secret as its source has it now: one that was replaced counts from the next use on, one that was removed is
    /// used no more. Nothing for mere recognition, which goes by what the session has.
    async fn present(
        &self,
        session: &str,
        name: &CredentialName,
        granted: &Granted,
        purpose: Purpose,
    ) -> Result<Option<Present>, Refusal> {
        if purpose == Purpose::Recognise {
            return Ok(None);
        }
        let Some(credential) = granted.zone.credential(name) else {
            let (secret, used) = self.variable(session, name, repositories::gone)?;
            return Ok(Some(Present { secret, until: Until::Lease, variable: Some(used) }));
        };
        if let Source::Api(variable) = &credential.source {
            let (secret, used) = self.variable(session, name, || in_no_vault(variable))?;
            return Ok(Some(Present { secret, until: Until::Lease, variable: Some(used) }));
        }
        if let Source::Env(_) = credential.source {
            let secret = granted.sources.resolve(credential)?;
            let present = Present { secret, until: Until::Lease, variable: None };
            return Ok(Some(present));
        }
        let (sources, credential) = (Arc::clone(&granted.sources), credential.clone());
        blocking(move || {
            let until = Until::of(&sources, &credential.source);
            Ok(Present { secret: sources.resolve(&credential)?, until, variable: None })
        })
        .await
        .map(Some)
    }

    /// The egress proxy dropped its copy.
    pub(crate) async fn revoke(&self, caller: CallerKind, session: &str, credential: &str) -> Result<(), Refusal> {
        require(caller, CallerKind::Egress)?;
        let mut record = about(Kind::CredentialRevoked, Decision::Info, session, None, None);
        record.credential = Some(credential.to_owned());
        self.record(record).await.map(drop)
    }

    /// The placeholders to recognise.
    pub(crate) fn placeholders(&self, caller: CallerKind) -> Result<Vec<KnownPlaceholder>, Refusal> {
        if caller != CallerKind::Gateway {
            require(caller, CallerKind::Egress)?;
        }
        Ok(lock(&self.ledger).known(Timestamp::now()))
    }

    /// The zone as the worker read it: of the document in force, or of a former one that the worker still goes by.
    fn zone(&self, open: &OpenSession) -> Result<(Arc<Zone>, Arc<Generation>), Refusal> {
        let generations = lock(&self.generations);
        if let Some(found) = generations.zone(&open.zone, &open.digest) {
            return Ok(found);
        }
        let zone = generations.now().zones.named(&open.zone).ok_or_else(|| {
            Refusal::new(
                RefusalReason::ZoneUnknown,
                "custody was started with another configuration: restart the worker",
            )
        })?;
        Err(other_digest(&zone))
    }

    fn reserve(
        &self,
        asker: Asker,
        open: &OpenSession,
        zone: &Arc<Zone>,
        sources: &Arc<Sources>,
    ) -> Result<Reservation<'_>, Refusal> {
        let mut sessions = self.sessions();
        if sessions.contains_key(&open.session) {
            return Err(Refusal::new(RefusalReason::SessionOpen, "close the session before it is opened again"));
        }
        let session = Session {
            owner: asker.connection,
            zone: Arc::clone(zone),
            agent: open.agent.clone(),
            sources: Arc::clone(sources),
            variables: Variables::default(),
            secrets: None,
        };
        sessions.insert(open.session.clone(), session);
        Ok(Reservation { custodian: self, session: open.session.clone() })
    }

    async fn prepare(&self, open: &OpenSession, zone: &Arc<Zone>, sources: &Arc<Sources>) -> Result<Prepared, Refusal> {
        let (sources, zone_here) = (Arc::clone(sources), Arc::clone(zone));
        let mut secrets = blocking(move || resolve_all(&sources, &zone_here)).await?;
        let (variables, withheld) = self.open_variables(open, zone, &mut secrets).await;
        let issued = issue(zone, &secrets, &variables);
        let mut record = about(Kind::SessionOpened, Decision::Allow, &open.session, Some(zone), open.agent.as_deref());
        record.counts.insert("credentials".to_owned(), issued.len() as u64);
        self.record(record).await?;
        self.remember(&open.session, &issued).await?;
        Ok(Prepared { secrets, variables, issued, withheld })
    }

    async fn remember(&self, session: &str, issued: &[Issued]) -> Result<(), Refusal> {
        let entries: Vec<_> =
            issued.iter().map(|issued| (issued.credential.clone(), issued.placeholder.clone())).collect();
        let (ledger, session) = (Arc::clone(&self.ledger), session.to_owned());
        blocking(move || lock(&ledger).issue(&session, &entries, Timestamp::now())).await.map_err(|error| {
            let next =
                format!("custody cannot write to its directory ({}): free space or repair the disk", error.kind());
            Refusal::new(RefusalReason::LedgerUnwritable, next)
        })
    }

    async fn end_placeholders(&self, session: &str) {
        let (ledger, session) = (Arc::clone(&self.ledger), session.to_owned());
        let ended = blocking(move || lock(&ledger).end(&session, Timestamp::now())).await;
        if let Err(error) = ended {
            tracing::warn!(%error, "the placeholder ledger could not be written; dead placeholders are remembered in memory");
        }
    }

    fn may_grant(
        &self,
        caller: CallerKind,
        session: &str,
        credential: &CredentialName,
        policy_digest: &str,
        purpose: Purpose,
    ) -> Result<Granted, Refusal> {
        require(caller, CallerKind::Egress).map_err(|refusal| refusal.about(credential.as_str()))?;
        self.not_held(session, purpose).map_err(|refusal| refusal.about(credential.as_str()))?;
        let sessions = self.sessions();
        let open = sessions.get(session).filter(|session| session.secrets.is_some());
        let open = open.ok_or_else(|| not_open(session).about(credential.as_str()))?;
        same_digest(&open.zone, policy_digest).map_err(|refusal| refusal.about(credential.as_str()))?;
        let granted = match open.variables.repository(credential) {
            Some(token) => open.zone.grant_repository(token),
            None if is_token(credential) => return Err(repositories::gone().about(credential.as_str())),
            None => open.zone.grant(credential),
        };
        let permit = granted.map_err(|_| {
            let next = format!("zone {} does not inject this credential anywhere: name it in a rule", open.zone.name());
            Refusal::new(RefusalReason::NotGranted, next).about(credential.as_str())
        })?;
        let (zone, sources) = (Arc::clone(&open.zone), Arc::clone(&open.sources));
        let vault = open.variables.grant(credential);
        Ok(Granted { permit, zone, sources, agent: open.agent.clone(), vault })
    }

    /// What an open session has of a credential, after what its source has now took the place of a former one.
    fn secret(&self, session: &str, granted: &Granted, present: Option<Present>) -> Option<Grant> {
        let (mut sessions, permit) = (self.sessions(), &granted.permit);
        let open = sessions.get_mut(session)?;
        let used = present.as_ref().and_then(|present| present.variable.as_ref());
        let vault = open.variables.goes_with(permit.credential(), used);
        if (used.is_some() || vault.is_none()) && vault != granted.vault {
            return None;
        }
        let secrets = open.secrets.as_mut()?;
        let mut kept = None;
        if let Some(Present { secret, until, variable }) = present {
            secrets.insert(permit.credential().clone(), secret);
            // While the session is seen to be open: whatever ends it from here on ends the lease. What its vaults replaced meanwhile is used this once.
            if variable.is_none_or(|used| open.variables.has(permit.credential(), &used)) {
                kept = until.kept(|| self.leases.give(session));
            }
        }
        let secret = secrets.get(permit.credential()).map(SecretBytes::duplicate)?;
        Some(Grant { secret, kept, vault })
    }

    async fn record(&self, record: Record) -> Result<u64, Refusal> {
        postern_danger::when_off!("audit-before-act", { return Ok(0) });
        self.recorder
            .record(self.as_promised(record))
            .await
            .map_err(|error| Refusal::new(RefusalReason::AuditUnavailable, error.to_string()))
    }

    async fn note_refusal(&self, refusal: &Refusal, session: &str, zone: Option<&Zone>, agent: Option<&str>) {
        let record = about(refusal.reason.kind(), Decision::Deny, session, zone, agent);
        self.note(refusal, record).await;
    }

    /// A refusal stands whether or not it can be recorded. Of a session that is refused the same again and again some are told by their number.
    async fn note(&self, refusal: &Refusal, mut record: Record) {
        postern_danger::when_off!("refusals-recorded", { return });
        let one = Counted { kind: record.kind, reason: refusal.reason, shadow: None, refusals: 1, alarms: 0 };
        let session = record.session.as_deref().unwrap_or_default();
        if record.kind == Kind::CredentialDenied && self.rations.take(session, &one, Instant::now()) == Told::Counted {
            return;
        }
        record.credential.clone_from(&refusal.credential);
        record.reason = Some(refusal.reason.code().to_owned());
        record.next_step = Some(refusal.next_step.clone());
        if let Err(error) = self.recorder.record(self.as_promised(record)).await {
            tracing::error!(%error, reason = refusal.reason.code(), "a refusal could not be recorded");
        }
    }

    /// Writes the refusals that were counted until now. What the log does not take stays counted.
    pub(crate) async fn record_counted(&self) {
        for (session, counted) in self.rations.drain(Instant::now()) {
            let base = |kind, decision| {
                let mut record = Record::new(kind, decision);
                record.session = Some(session.clone()).filter(|session| !session.is_empty());
                record.reason = Some(counted.reason.code().to_owned());
                record.next_step = Some(COUNTED_NEXT.to_owned());
                record
            };
            for record in counted.records(base) {
                if self.record(record).await.is_err() {
                    self.rations.count(&session, &counted);
                    break;
                }
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        lock(&self.sessions)
    }
}

/// Refusals of one session and reason that are written one by one, at once; one more each second. The rest is told by its number.
const REFUSALS_RECORDED: u32 = 200;
/// Sessions with a ration of their own; those beyond share one.
const RATIONED_SESSIONS: usize = 4096;
/// What an operator reads of those that are told by their number.
const COUNTED_NEXT: &str = "look at the refusals of this session and reason that were written one by one";

/// A decision in favour of a grant, and what is needed to carry it out.
struct Granted {
    permit: GrantPermit,
    zone: Arc<Zone>,
    sources: Arc<Sources>,
    agent: Option<String>,
    /// Of a vault's.
    vault: Option<VaultGrant>,
}

/// A session that is about to be open.
struct Prepared {
    secrets: HashMap<CredentialName, SecretBytes>,
    variables: Variables,
    issued: Vec<Issued>,
    withheld: Vec<Withheld>,
}

/// A granted secret, and what else the egress proxy gets to use it again.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) secret: SecretBytes,
    pub(crate) kept: Option<(KeptBy, Vec<OwnedFd>)>,
    pub(crate) vault: Option<VaultGrant>,
}

/// A secret as its source has it now, and how long it is known to be that.
struct Present {
    secret: SecretBytes,
    until: Until,
    /// What was opened for it, where its source is a vault.
    variable: Option<Variable>,
}

/// How long a secret is known to be what its source has.
enum Until {
    /// As long as the session goes on: its source does not change in between.
    Lease,
    /// As long as this file is the same, too.
    FileChanges(Watched),
    /// Nobody would notice: it is asked for at each use.
    NextUse,
}

impl Until {
    /// To be found out before the source is read. Blocks on the file system.
    fn of(sources: &Sources, source: &Source) -> Self {
        match source {
            Source::Env(_) | Source::Api(_) => Self::Lease,
            Source::Store(_) => sources.store.watched().map_or(Self::NextUse, Self::FileChanges),
            // A directory on the way to it may lead to another file.
            Source::File(_) => Self::NextUse,
        }
    }

    fn kept(self, lease: impl FnOnce() -> Option<OwnedFd>) -> Option<(KeptBy, Vec<OwnedFd>)> {
        match self {
            Self::Lease => Some(Kept::sent(lease()?, None)),
            Self::FileChanges(file) => Some(Kept::sent(lease()?, Some(file))),
            Self::NextUse => None,
        }
    }
}

/// Holds a session's name while it is being opened; gives it back unless the secrets came.
struct Reservation<'a> {
    custodian: &'a Custodian,
    session: String,
}

impl Reservation<'_> {
    /// Whether the session is open now; not if it was closed meanwhile.
    fn fill(self, secrets: HashMap<CredentialName, SecretBytes>, variables: Variables) -> bool {
        match self.custodian.sessions().get_mut(&self.session) {
            Some(session) if !self.custodian.has_left(session.owner) => {
                session.secrets = Some(secrets);
                session.variables = variables;
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut sessions = self.custodian.sessions();
        if sessions.get(&self.session).is_some_and(|session| session.secrets.is_none()) {
            sessions.remove(&self.session);
        }
    }
}

/// Whether a name is that of a repository's token: of no credential of a zone.
fn is_token(credential: &CredentialName) -> bool {
    credential.as_str().starts_with(RepositoryToken::NAMES)
}

fn require(caller: CallerKind, needed: CallerKind) -> Result<(), Refusal> {
    if caller == needed {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalReason::WrongConnection,
        "this connection may not ask that: look for a process that is not what it says",
    ))
}

fn same_digest(zone: &Zone, digest: &str) -> Result<(), Refusal> {
    if zone.digest() == digest {
        return Ok(());
    }
    Err(other_digest(zone))
}

fn other_digest(zone: &Zone) -> Refusal {
    let next = format!("zone {} was loaded in different versions: restart the worker", zone.name());
    Refusal::new(RefusalReason::DigestMismatch, next)
}

fn not_open(session: &str) -> Refusal {
    Refusal::new(RefusalReason::SessionNotOpen, format!("session {session} has ended here or was never opened"))
}

fn about(kind: Kind, decision: Decision, session: &str, zone: Option<&Zone>, agent: Option<&str>) -> Record {
    let mut record = Record::new(kind, decision);
    record.session = Some(session.to_owned());
    record.agent = agent.map(ToOwned::to_owned);
    if let Some(zone) = zone {
        record.zone = Some(zone.name().to_owned());
        record.digests.insert("policy".to_owned(), zone.digest().to_owned());
        record.durability = match zone.audit() {
            AuditMode::Written => Durability::Written,
            AuditMode::Disk => Durability::Disk,
        };
    }
    record
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic, and the runtime outlives its tasks")
}

#[cfg(test)]
mod tests;
