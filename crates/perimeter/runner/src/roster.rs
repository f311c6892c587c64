//! Which sessions this worker holds, and what the control plane commanded about them: frozen, without grants. Read before every tool use; outlives
//! the worker by marks beside the journals. Acts on nothing itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_model::control::{SessionStanding, SessionState};
use postern_model::ids::SessionId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::place::{Mark, Places};

/// What a session may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Nothing of it runs or leaves.
    pub(crate) frozen: bool,
    /// It has no grants any more.
    pub(crate) revoked: bool,
}

/// All sessions of this worker that are open, or that a command is about.
pub(crate) struct Roster {
    entries: Mutex<BTreeMap<String, Entry>>,
    open: watch::Sender<Vec<SessionId>>,
    /// Told whenever a standing changes.
    commanded: watch::Sender<()>,
}

#[derive(Default)]
struct Entry {
    /// The zone of a session that is open.
    zone: Option<String>,
    standing: Standing,
}

/// An open session; it is closed when this is dropped.
pub(crate) struct Held {
    roster: Arc<Roster>,
    session: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.roster.change(&self.session, |entry| entry.zone = None);
    }
}

impl Roster {
    /// As the marks have it.
    pub(crate) fn new(places: &Places) -> Self {
        let marked = places.marked().into_iter().map(|(session, place)| {
            let standing = Standing { frozen: place.has(Mark::Frozen), revoked: place.has(Mark::Revoked) };
            (session, Entry { zone: None, standing })
        });
        Self {
            entries: Mutex::new(marked.collect()),
            open: watch::Sender::new(Vec::new()),
            commanded: watch::Sender::new(()),
        }
    }

    /// The session is open from now on.
    pub(crate) fn enter(self: &Arc<Self>, session: &str, zone: &str) -> Held {
        self.change(session, |entry| entry.zone = Some(zone.to_owned()));
        Held { roster: Arc::clone(self), session: session.to_owned() }
    }

    /// What the session may do.
    pub(crate) fn standing(&self, session: &str) -> Standing {
        self.lock().get(session).map(|entry| entry.standing).unwrap_or_default()
    }

    /// Commands something from now on.
    pub(crate) fn set(&self, session: &str, set: impl FnOnce(&mut Standing)) {
        self.change(session, |entry| set(&mut entry.standing));
        self.commanded.send_replace(());
    }

    /// Completes when the session had so long to work: while it is frozen its time stands still, for [`FROZEN_AT_MOST`] in all.
    pub(crate) async fn worked(&self, session: &str, limit: Duration) {
        let mut commanded = self.commanded.subscribe();
        let mut watch = Stopwatch { left: limit, left_frozen: FROZEN_AT_MOST };
        loop {
            let frozen = self.standing(session).frozen;
            let Some(wait) = watch.wait(frozen) else { return };
            let began = Instant::now();
            // The sender is this roster's own; it outlives this wait.
            let _changed = tokio::time::timeout(wait, commanded.changed()).await;
            watch.pass(frozen, began.elapsed());
        }
    }

    /// The open sessions, whenever they change.
    pub(crate) fn open(&self) -> watch::Receiver<Vec<SessionId>> {
        self.open.subscribe()
    }

    /// Every session, for a status.
    pub(crate) fn standings(&self) -> Vec<SessionStanding> {
        let entries = self.lock();
        let standings = entries.iter().filter_map(|(session, entry)| {
            Some(SessionStanding {
                session: session.parse().ok()?,
                zone: entry.zone.clone(),
                state: if entry.standing.frozen { SessionState::Frozen } else { SessionState::Serving },
                grants_revoked: entry.standing.revoked,
            })
        });
        standings.take(postern_model::control::SESSIONS).collect()
    }

    fn change(&self, session: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.lock();
        let entry = entries.entry(session.to_owned()).or_default();
        change(entry);
        if entry.zone.is_none() && entry.standing == Standing::default() {
            entries.remove(session);
        }
        // Ids of another platform's form have no control stream to be told on.
        let open = entries.iter().filter(|(_, entry)| entry.zone.is_some());
        let open: Vec<SessionId> = open.filter_map(|(session, _)| session.parse().ok()).collect();
        self.open.send_if_modified(|told| {
            let changed = *told != open;
            *told = open;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time that stands still while a session is frozen, and what there is of standing still.
struct Stopwatch {
    left: Duration,
    left_frozen: Duration,
}

impl Stopwatch {
    /// How long to wait before the next look; `None`: the time is over.
    fn wait(&self, frozen: bool) -> Option<Duration> {
        let wait = if frozen && !self.left_frozen.is_zero() { self.left_frozen } else { self.left };
        (!self.left.is_zero()).then_some(wait)
    }

    fn pass(&mut self, frozen: bool, spent: Duration) {
        let running = if frozen && !self.left_frozen.is_zero() { &mut self.left_frozen } else { &mut self.left };
        *running = running.saturating_sub(spent);
    }
}

/// How long a tool use may be frozen without its time running: whoever waits for its result learns of an end some day.
const FROZEN_AT_MOST: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "sesn_1";

    #[test]
    fn a_session_is_told_of_while_it_is_open_and_remembered_while_a_command_holds() {
        let directory = tempfile::tempdir().expect("a directory");
        let roster = Arc::new(Roster::new(&Places::new(directory.path())));
        let open = roster.open();
        let held = roster.enter(SESSION, "ledger");
        assert_eq!(open.borrow().len(), 1);
        roster.set(SESSION, |standing| standing.frozen = true);
        drop(held);
        assert_eq!(open.borrow().len(), 0);
        assert!(roster.standing(SESSION).frozen);
        assert_eq!(roster.standings().len(), 1);
        roster.set(SESSION, |standing| standing.frozen = false);
        assert_eq!(roster.standings(), []);
    }

    #[test]
    fn a_frozen_sessions_time_stands_still_for_a_day_at_most() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let mut watch = Stopwatch { left: minutes(3), left_frozen: FROZEN_AT_MOST };
        watch.pass(false, minutes(1));
        watch.pass(true, minutes(200));
        assert_eq!(watch.wait(true), Some(FROZEN_AT_MOST - minutes(200)));
        assert_eq!(watch.wait(false), Some(minutes(2)));
        watch.pass(true, FROZEN_AT_MOST);
        assert_eq!(watch.wait(true), Some(minutes(2)), "its time runs again");
        watch.pass(true, minutes(2));
        assert_eq!(watch.wait(true), None);
    }

    #[tokio::test]
    async fn a_thaw_wakes_whoever_waits_for_a_sessions_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let roster = Arc::new(Roster::new(&Places::new(directory.path())));
        roster.set(SESSION, |standing| standing.frozen = true);
        let working = tokio::spawn({
            let roster = Arc::clone(&roster);
            async move { roster.worked(SESSION, Duration::from_millis(30)).await }
        });
        tokio::time::sleep(Duration::from_millis(90)).await;
        assert!(!working.is_finished(), "three times its time passed while it was frozen");
        roster.set(SESSION, |standing| standing.frozen = false);
        tokio::time::timeout(Duration::from_secs(10), working).await.expect("its time is over").expect("no panic");
    }

    #[test]
    fn a_frozen_session_is_frozen_for_the_next_worker_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let places = Places::new(directory.path());
        let place = places.of(SESSION).expect("made");
        place.mark(Mark::Frozen).expect("written");
        assert_eq!(Roster::new(&places).standing(SESSION), Standing { frozen: true, revoked: false });
        place.unmark(Mark::Frozen).expect("removed");
        place.unmark(Mark::Frozen).expect("a second time is no error");
        place.mark(Mark::Revoked).expect("written");
        assert_eq!(Roster::new(&places).standing(SESSION), Standing { frozen: false, revoked: true });
    }

    #[test]
    fn asking_for_a_session_that_is_not_here_makes_no_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let places = Places::new(directory.path());
        for absent in ["sesn_2", "..", "a/b", ""] {
            assert!(places.existing(absent).is_none(), "{absent:?}");
        }
        assert!(!directory.path().join("perimeter").exists());
    }
}
