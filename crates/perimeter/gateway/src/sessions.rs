//! The sessions whose calls pass through: their secrets, connections and running requests, and which of them are held.
//! What is held is ended at once; what is idle is forgotten, and its secrets zeroed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postern_policy::{Denial, Reason};
use postern_secret::SecretBytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{keyring::Keyring, limits, pool::Pool, questions::Questions};

/// All sessions.
pub(crate) struct Sessions {
    table: Mutex<Table>,
    names: watch::Sender<Vec<String>>,
}

#[derive(Default)]
struct Table {
    present: HashMap<String, Arc<Session>>,
    held: HashMap<String, Held>,
}

/// How a session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    /// Until it is thawed.
    Frozen,
    /// For good.
    Revoked,
}

/// One session that called lately.
pub(crate) struct Session {
    /// Its id, as identities say it.
    pub(crate) id: String,
    /// Idle upstream connections.
    pub(crate) pool: Pool,
    /// What servers asked it.
    pub(crate) questions: Questions,
    /// Cancelled when it is held or forgotten: whatever runs for it ends.
    pub(crate) ended: CancellationToken,
    keyring: Mutex<Arc<Keyring>>,
    room: Arc<Semaphore>,
    last: Mutex<Instant>,
}

/// A request's place in its session, for as long as the request and its answer last.
pub(crate) struct Place {
    /// Whose.
    pub(crate) session: Arc<Session>,
    _room: OwnedSemaphorePermit,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { table: Mutex::default(), names: watch::channel(Vec::new()).0 }
    }
}

impl Sessions {
    /// A place for one request.
    pub(crate) fn enter(&self, id: &str, now: Instant) -> Result<Place, Denial> {
        let mut table = self.table();
        if let Some(held) = table.held.get(id) {
            return Err(held.refusal());
        }
        if !table.present.contains_key(id) {
            if table.present.len() >= limits::SESSIONS {
                return Err(Denial::new(Reason::GatewayBusy));
            }
            table.present.insert(id.to_owned(), Arc::new(Session::new(id, now)));
            self.tell(&table);
        }
        let session = Arc::clone(&table.present[id]);
        *lock(&session.last) = now;
        let room = Arc::clone(&session.room).try_acquire_owned().map_err(|_| Denial::new(Reason::GatewayBusy))?;
        Ok(Place { session, _room: room })
    }

    /// Holds a session: its requests end, its secrets go. A revocation stays one.
    pub(crate) fn hold(&self, id: &str, held: Held) -> Result<(), Denial> {
        let mut table = self.table();
        if table.held.len() >= limits::HELD_SESSIONS && !table.held.contains_key(id) {
            return Err(Denial::new(Reason::GatewayBusy));
        }
        let now = table.held.entry(id.to_owned()).or_insert(held);
        if held == Held::Revoked {
            *now = Held::Revoked;
        }
        if let Some(session) = table.present.remove(id) {
            session.end();
        }
        self.tell(&table);
        Ok(())
    }

    /// Why a session's request was cut off.
    pub(crate) fn held(&self, id: &str) -> Denial {
        self.table().held.get(id).map_or_else(|| Denial::new(Reason::SessionUnknown), |held| held.refusal())
    }

    /// Ends a freeze; a revocation stays.
    pub(crate) fn thaw(&self, id: &str) {
        let mut table = self.table();
        if table.held.get(id) == Some(&Held::Frozen) {
            table.held.remove(id);
        }
    }

    /// Forgets sessions that have had nothing running for this long, and says which.
    pub(crate) fn forget_idle(&self, idle: Duration, now: Instant) -> Vec<String> {
        let mut table = self.table();
        let forgotten: Vec<_> = table
            .present
            .extract_if(|_, session| session.is_idle() && now.duration_since(*lock(&session.last)) >= idle)
            .map(|(id, session)| {
                session.end();
                id
            })
            .collect();
        if !forgotten.is_empty() {
            self.tell(&table);
        }
        forgotten
    }

    /// Every session that is present or held, in order.
    pub(crate) fn list(&self) -> Vec<(String, Option<Held>)> {
        let table = self.table();
        let mut list: Vec<_> = table.present.keys().map(|id| (id.clone(), None)).collect();
        list.extend(table.held.iter().map(|(id, held)| (id.clone(), Some(*held))));
        list.sort();
        list
    }

    /// The ids of present sessions, whenever they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<String>> {
        self.names.subscribe()
    }

    fn tell(&self, table: &Table) {
        let mut names: Vec<_> = table.present.keys().cloned().collect();
        names.sort();
        self.names.send_replace(names);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Held {
    fn refusal(self) -> Denial {
        Denial::new(match self {
            Self::Frozen => Reason::SessionFrozen,
            Self::Revoked => Reason::GrantsRevoked,
        })
    }
}

impl Session {
    fn new(id: &str, now: Instant) -> Self {
        Self {
            id: id.to_owned(),
            pool: Pool::default(),
            questions: Questions::default(),
            ended: CancellationToken::new(),
            keyring: Mutex::default(),
            room: Arc::new(Semaphore::new(limits::STREAMS_PER_SESSION)),
            last: Mutex::new(now),
        }
    }

    /// Its secrets.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        lock(&self.keyring).clone()
    }

    /// Keeps secrets for scrubbing; refused once the session was held.
    pub(crate) fn remember(&self, secrets: Vec<SecretBytes>) -> Result<(), Denial> {
        let mut keyring = lock(&self.keyring);
        if self.ended.is_cancelled() {
            return Err(Denial::new(Reason::SessionFrozen));
        }
        if secrets.iter().all(|secret| keyring.has(secret)) {
            return Ok(());
        }
        let more = keyring.with(secrets).ok_or_else(|| {
            Denial::advising(
                Reason::CustodyDenied,
                "the credentials have changed too often in this session; start a new one",
            )
        })?;
        *keyring = Arc::new(more);
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.room.available_permits() == limits::STREAMS_PER_SESSION
    }

    /// Under the keyring's lock, so that nothing is remembered after.
    fn end(&self) {
        let mut keyring = lock(&self.keyring);
        self.ended.cancel();
        *keyring = Arc::default();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> SecretBytes {
        SecretBytes::new(b"a-secret-of-the-wiki-01".to_vec())
    }

    #[test]
    fn a_frozen_session_ends_and_forgets_and_enters_again_after_a_thaw() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let place = sessions.enter("sesn_a", now).unwrap();
        place.session.remember(vec![secret()]).unwrap();
        sessions.hold("sesn_a", Held::Frozen).unwrap();
        assert!(place.session.ended.is_cancelled());
        assert!(place.session.keyring().is_empty());
        assert_eq!(place.session.remember(vec![secret()]).unwrap_err().reason, Reason::SessionFrozen);
        assert_eq!(sessions.enter("sesn_a", now).err().unwrap().reason, Reason::SessionFrozen);
        assert!(sessions.enter("sesn_b", now).is_ok());
        sessions.thaw("sesn_a");
        assert!(sessions.enter("sesn_a", now).unwrap().session.keyring().is_empty());
    }

    #[test]
    fn a_revocation_outlasts_a_freeze_and_its_thaw() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.hold("sesn_a", Held::Revoked).unwrap();
        sessions.hold("sesn_a", Held::Frozen).unwrap();
        sessions.thaw("sesn_a");
        assert_eq!(sessions.enter("sesn_a", now).err().unwrap().reason, Reason::GrantsRevoked);
    }

    #[test]
    fn one_session_has_its_places_and_no_more() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let places: Vec<_> = (0..limits::STREAMS_PER_SESSION).map(|_| sessions.enter("sesn_a", now).unwrap()).collect();
        assert_eq!(sessions.enter("sesn_a", now).err().unwrap().reason, Reason::GatewayBusy);
        assert!(sessions.enter("sesn_b", now).is_ok());
        drop(places);
        assert!(sessions.enter("sesn_a", now).is_ok());
    }

    #[test]
    fn so_many_sessions_are_kept_and_a_further_one_waits_until_one_is_forgotten() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let ids = (0..limits::SESSIONS).map(|number| format!("sesn_{number}"));
        sessions.table().present.extend(ids.map(|id| (id.clone(), Arc::new(Session::new(&id, now)))));
        assert_eq!(sessions.enter("sesn_a", now).err().unwrap().reason, Reason::GatewayBusy);
        assert!(sessions.enter("sesn_7", now).is_ok());
        sessions.forget_idle(Duration::ZERO, now);
        assert!(sessions.enter("sesn_a", now).is_ok());
    }

    #[test]
    fn so_many_sessions_are_held_and_those_may_be_held_again() {
        let sessions = Sessions::default();
        for number in 0..limits::HELD_SESSIONS {
            sessions.hold(&format!("sesn_{number}"), Held::Frozen).unwrap();
        }
        assert_eq!(sessions.hold("sesn_a", Held::Frozen).unwrap_err().reason, Reason::GatewayBusy);
        sessions.hold("sesn_7", Held::Revoked).unwrap();
        sessions.thaw("sesn_8");
        sessions.hold("sesn_a", Held::Frozen).unwrap();
    }

    #[test]
    fn so_many_secrets_of_a_session_are_known_and_no_further_one_is_used() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let session = Arc::clone(&sessions.enter("sesn_a", now).unwrap().session);
        let numbered = |number| vec![SecretBytes::new(format!("a-secret-of-the-wiki-{number:02}").into_bytes())];
        for number in 0..limits::FORMER_SECRETS {
            session.remember(numbered(number)).unwrap();
        }
        assert_eq!(session.remember(numbered(99)).unwrap_err().reason, Reason::CustodyDenied);
        assert!((0..limits::FORMER_SECRETS).all(|number| session.remember(numbered(number)).is_ok()));
    }

    #[test]
    fn idle_sessions_are_forgotten_with_their_secrets_and_busy_ones_are_not() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let idle = Arc::clone(&sessions.enter("sesn_idle", now).unwrap().session);
        idle.remember(vec![secret()]).unwrap();
        let busy = sessions.enter("sesn_busy", now).unwrap();
        let later = now + Duration::from_secs(600);
        assert_eq!(sessions.forget_idle(Duration::from_secs(600), later), ["sesn_idle"]);
        assert!(idle.keyring().is_empty());
        assert!(!busy.session.ended.is_cancelled());
    }
}
