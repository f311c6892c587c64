//! One session as the egress proxy knows it, and what all sessions share. Everything here ends with the session: its
//! tasks are stopped and its secrets zeroed when it is dropped.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use postern_audit::{Ration, Recorder};
use postern_net::{Dialer, Drain};
use postern_policy::{AuditMode, CredentialName, Denial, Host, Permit, Reason, Zone, ZoneInForce};
use postern_secret::{Placeholder, SecretBytes};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    authority::SessionAuthority,
    cookies::Cookies,
    custodian::Custodian,
    halt::{Cut, Halt},
    identity::{BadIdentity, Identity},
    kept::KeptGrants,
    limits,
    message::Refusal,
    names::NameTable,
    phases::{
        accept::OriginSource,
        counted,
        reports::{self, Reports},
    },
    pool::Pool,
    recognise::{Catalogue, Key, Keyring, Recogniser},
    refusals::Refusals,
    trust::Trust,
};

/// What all sessions of the process share.
pub(crate) struct Perimeter {
    /// The audit log.
    pub(crate) audit: Arc<dyn Recorder>,
    /// Whoever grants secrets.
    pub(crate) custody: Arc<dyn Custodian>,
    /// Opens upstream connections.
    pub(crate) dialer: Dialer,
    /// Tells where a redirected connection was going.
    pub(crate) origins: Arc<dyn OriginSource>,
    /// TLS settings towards upstreams.
    pub(crate) trust: Trust,
    /// What takes long to reach.
    pub(crate) bounds: limits::Bounds,
    /// Connections of all sessions.
    pub(crate) connections: Arc<Semaphore>,
    /// Placeholders of all sessions.
    pub(crate) catalogue: RwLock<Arc<Catalogue>>,
}

/// One session.
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// Its agent, for the records.
    pub(crate) agent: Option<String>,
    /// The zone that it was opened with.
    pub(crate) zone: Arc<Zone>,
    /// Its CA.
    pub(crate) authority: SessionAuthority,
    /// Its names.
    pub(crate) names: Mutex<NameTable>,
    /// Its placeholders, by credential.
    pub(crate) placeholders: Vec<(CredentialName, Placeholder)>,
    /// Its tasks.
    pub(crate) drain: Drain,
    /// Whether it is frozen, and what cuts its traffic.
    pub(crate) halt: Halt,
    /// Its connections.
    pub(crate) connections: Arc<Semaphore>,
    /// Room for its HTTP/2 streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Its upstream connections.
    pub(crate) pool: Pool,
    /// Its secrets that may be used again.
    pub(crate) kept: KeptGrants,
    /// Which of its refusals are written one by one.
    pub(crate) ration: Ration<Reason>,
    /// What it shares with others.
    pub(crate) perimeter: Arc<Perimeter>,
    in_force: RwLock<ZoneInForce>,
    /// How often that changed.
    changes: AtomicU64,
    keyring: RwLock<Arc<Keyring>>,
    /// Client certificates granted so far.
    identities: Mutex<HashMap<CredentialName, Arc<Identity>>>,
    /// Where the kernel reports its datagrams.
    pub(crate) reports: Reports,
    /// Cancelled when its next sandbox is there.
    attached: Mutex<CancellationToken>,
    refusals: Mutex<Refusals>,
    tool_use: Mutex<Option<String>>,
    cookies: Mutex<Cookies>,
    /// Hosts that were sent a secret in this session, and may say it again.
    injected: Mutex<BTreeSet<String>>,
}

impl Session {
    /// A session without connections yet.
    pub(crate) fn new(
        id: &str,
        agent: Option<String>,
        in_force: ZoneInForce,
        authority: SessionAuthority,
        placeholders: Vec<(CredentialName, Placeholder)>,
        perimeter: Arc<Perimeter>,
    ) -> Self {
        Self {
            id: Arc::from(id),
            agent,
            zone: Arc::clone(in_force.opened()),
            in_force: RwLock::new(in_force),
            changes: AtomicU64::new(0),
            authority,
            names: Mutex::default(),
            placeholders,
            drain: Drain::new(),
            halt: Halt::default(),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_PER_SESSION)),
            streams: Arc::new(Semaphore::new(limits::STREAMS_PER_SESSION)),
            pool: Pool::default(),
            kept: KeptGrants::default(),
            ration: Ration::new(limits::REFUSALS_RECORDED),
            perimeter,
            keyring: RwLock::new(Keyring::empty()),
            identities: Mutex::default(),
            reports: Reports::default(),
            attached: Mutex::default(),
            refusals: Mutex::default(),
            tool_use: Mutex::default(),
            cookies: Mutex::default(),
            injected: Mutex::default(),
        }
    }

    /// From when on what is done may follow its record.
    pub(crate) fn audit(&self) -> AuditMode {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).audit()
    }

    /// The zone that decides: as it was opened, narrowed by what would cover the session now.
    pub(crate) fn in_force(&self) -> ZoneInForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration changed, and selects this zone for the session now. Counts for every request that is decided
    /// from now on; one that was permitted and recorded goes on to its end.
    pub(crate) fn succeeded(&self, selected: Result<Arc<Zone>, Denial>) {
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        *in_force = in_force.succeeded(selected);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How often the zone that decides has changed: what was decided before a change is decided again.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Both lists of what is to be recognised, as of now.
    pub(crate) fn recogniser(&self) -> Recogniser {
        let catalogue = self.perimeter.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone();
        Recogniser { session: self.id.clone(), catalogue, keyring: self.keyring() }
    }

    /// The secrets granted so far.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers a granted secret, for scrubbing and recognition until the session ends.
    pub(crate) fn remember(&self, key: Key) {
        let mut keyring = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        *keyring = Arc::new(keyring.with(key));
    }

    /// Keeps a granted client certificate, unless it is the one already kept.
    pub(crate) fn present(&self, credential: &CredentialName, pem: SecretBytes) -> Result<(), BadIdentity> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if !identities.get(credential).is_some_and(|kept| kept.is_of(&pem)) {
            identities.insert(credential.clone(), Arc::new(Identity::read(pem)?));
        }
        Ok(())
    }

    /// What a permit presents to its upstream.
    ///
    /// # Errors
    /// The permit names one that is granted no more.
    pub(crate) fn identity(&self, permit: &Permit) -> Result<Option<Arc<Identity>>, Denial> {
        let identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(credential) = permit.client_certificate() else {
            return Ok(identities.values().next().filter(|_| postern_danger::off!("egress-certificates")).cloned());
        };
        identities.get(credential).cloned().map(Some).ok_or_else(|| Denial::new(Reason::CustodyDenied))
    }

    /// The placeholder of a credential in this session.
    pub(crate) fn placeholder(&self, credential: &CredentialName) -> Option<&Placeholder> {
        self.placeholders.iter().find(|(name, _)| name == credential).map(|(_, placeholder)| placeholder)
    }

    /// Adds a refusal for the worker to collect.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).add(refusal);
    }

    /// Takes the refusals collected so far.
    pub(crate) fn drain_refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).drain()
    }

    /// It has a sandbox, in place of the one before: what served that ends.
    pub(crate) fn attach(&self) -> CancellationToken {
        let fresh = CancellationToken::new();
        let former =
            std::mem::replace(&mut *self.attached.lock().unwrap_or_else(PoisonError::into_inner), fresh.clone());
        former.cancel();
        fresh
    }

    /// The tool use that the session is at.
    pub(crate) fn tool_use(&self) -> Option<String> {
        self.tool_use.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names the tool use that the session is at.
    pub(crate) fn at_tool_use(&self, id: Option<String>) {
        *self.tool_use.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Notes a `name=value` that an upstream set.
    pub(crate) fn note_cookie(&self, host: &Host, cookie: &str) {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).note(host, cookie);
    }

    /// The cookies that an upstream set in this session.
    pub(crate) fn cookies(&self, host: &Host) -> BTreeSet<String> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).of(host)
    }

    /// Notes that a host is about to be sent a secret.
    pub(crate) fn note_injected(&self, host: &Host) {
        let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        if injected.len() < limits::INJECTED_HOSTS {
            injected.insert(host.to_string());
        }
    }

    /// Whether a host was sent a secret, or so many were that nobody knows.
    pub(crate) fn was_injected(&self, host: &Host) -> bool {
        let injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        injected.len() >= limits::INJECTED_HOSTS || injected.contains(&host.to_string())
    }

    /// Where a library runs its own tasks of this session's traffic: they end like any other.
    pub(crate) fn tasks(&self) -> Tasks {
        Tasks { drain: self.drain.clone(), cut: self.halt.cut() }
    }

    /// Runs a task of the session's traffic: it ends with the session, and when traffic is cut.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.drain.spawn_until_drain(self.halt.cut().over(task));
    }

    /// Cuts what is open and refuses what would begin, until [`Halt::thaw`].
    pub(crate) async fn freeze(&self) {
        self.halt.freeze().await;
        self.pool.clear();
    }

    /// Cuts what is open and forgets the session's secrets: none is used or known here any more.
    pub(crate) async fn revoke(&self) {
        self.halt.revoke().await;
        self.forget_secrets().await;
    }

    /// Stops the session's tasks, writes what they left to be told and forgets its secrets.
    pub(crate) async fn end(self: &Arc<Self>) {
        reports::by_now(self, || {}).await;
        self.drain.finish(DRAIN).await;
        counted::write(self).await;
        self.forget_secrets().await;
    }

    async fn forget_secrets(&self) {
        self.pool.clear();
        self.kept.clear();
        let gone = {
            let mut keyring = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *keyring, Keyring::empty())
        };
        let mut credentials = gone.credentials();
        drop(gone);
        let presented = std::mem::take(&mut *self.identities.lock().unwrap_or_else(PoisonError::into_inner));
        credentials.extend(presented.into_keys());
        for credential in credentials {
            if let Err(error) = self.perimeter.custody.revoked(&self.id, &credential).await {
                tracing::warn!(session = %self.id, %credential, %error, "custody does not hear that a grant ended");
            }
        }
    }
}

/// Runs tasks under the cut that was valid when this was asked for.
#[derive(Clone)]
pub(crate) struct Tasks {
    drain: Drain,
    cut: Cut,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let task = self.cut.over(task);
        self.drain.spawn_until_drain(async move {
            let _ended = task.await;
        });
    }
}

/// Tasks end at their next await; this bounds the wait for one that computes.
const DRAIN: Duration = Duration::from_secs(2);
