//! What sessions were told that they do not get: each thing once, and only so many. Who says it is a worker, whose words a
//! hijacked one makes up.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use postern_model::ids::SessionId;
use postern_session::Lacking;

use crate::Missing;

#[derive(Default)]
pub(crate) struct Told {
    /// Digests under a key of this process: the words themselves can be long.
    sessions: Mutex<HashMap<SessionId, HashSet<u64>>>,
    key: RandomState,
}

impl Told {
    /// Of what is missing, what the session was not told yet; it counts as told from here on. In place of the first thing too
    /// many stands that there are more.
    pub(crate) fn not_yet(&self, id: &SessionId, missing: Vec<Missing>) -> Vec<Missing> {
        let mut sessions = self.sessions();
        if sessions.len() >= MOST_SESSIONS && !sessions.contains_key(id) {
            // Told once more, rather than remembered without end.
            sessions.clear();
        }
        let told = sessions.entry(id.clone()).or_default();
        let mut fresh = Vec::new();
        for one in missing {
            let digest = self.key.hash_one(&one);
            if told.len() > MOST_THINGS || told.contains(&digest) {
                continue;
            }
            let (one, digest) = if told.len() < MOST_THINGS { (one, digest) } else { self.more(id) };
            told.insert(digest);
            fresh.push(one);
        }
        fresh
    }

    /// These were not told after all.
    pub(crate) fn take_back(&self, id: &SessionId, untold: &[Missing]) {
        let mut sessions = self.sessions();
        let Some(told) = sessions.get_mut(id) else { return };
        for one in untold {
            told.remove(&self.key.hash_one(one));
        }
        if told.is_empty() {
            sessions.remove(id);
        }
    }

    /// The session is gone.
    pub(crate) fn forget(&self, id: &SessionId) {
        self.sessions().remove(id);
    }

    fn more(&self, id: &SessionId) -> (Missing, u64) {
        tracing::warn!(session = %id, "a session was told of {MOST_THINGS} things that it goes without, and of no more");
        let message = format!(
            "the session was told of {MOST_THINGS} things that it goes without, and goes without more that it is not told of. \
             Next step: look at the worker's log"
        );
        let more = Missing { code: "limit_session_notices", message, lacking: Lacking::Something };
        let digest = self.key.hash_one(&more);
        (more, digest)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, HashSet<u64>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions of which it is remembered what they were told.
const MOST_SESSIONS: usize = 4096;
/// Things that one session is told of.
const MOST_THINGS: usize = 64;
