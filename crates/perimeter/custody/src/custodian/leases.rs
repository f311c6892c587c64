//! What the egress proxy may use again without asking: one lease for each session. It ends with whatever would have its next question refused.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use postern_exec::lease::Lease;

use super::lock;

/// The leases in force, by session.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<String, Lease>>);

impl Leases {
    /// An end of the session's lease to give away. None where the system has none to give: then each use is asked for.
    pub(super) fn give(&self, session: &str) -> Option<OwnedFd> {
        let mut leases = lock(&self.0);
        if !leases.contains_key(session) {
            leases.insert(session.to_owned(), Lease::new().ok()?);
        }
        leases.get(session)?.give().ok()
    }

    /// From now on the session's secrets are asked for again.
    pub(super) fn end(&self, session: &str) {
        lock(&self.0).remove(session);
    }

    /// The same for every session.
    pub(super) fn end_all(&self) {
        lock(&self.0).clear();
    }
}
