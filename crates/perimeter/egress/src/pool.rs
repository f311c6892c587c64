//! A session's idle upstream connections. A connection is used again only for the same scheme, host, port, rule and
//! set of credentials, and only while it leads to an address that may still be dialled; sessions never share one.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use postern_policy::{DialPermit, Host, Permit, Port, Scheme};

use crate::{identity::Identity, limits, sender::Sender};

/// What must be equal for a connection to be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolKey {
    scheme: Scheme,
    host: Host,
    port: Port,
    rule: String,
    credentials: Vec<String>,
    /// The client certificate that the connection began with.
    presented: Option<u64>,
}

impl PoolKey {
    /// The same for connections that begin with this client certificate.
    pub(crate) fn presenting(self, identity: Option<&Identity>) -> Self {
        Self { presented: identity.map(Identity::serial), ..self }
    }
}

impl From<&Permit> for PoolKey {
    fn from(permit: &Permit) -> Self {
        let mut credentials: Vec<_> =
            permit.injections().iter().map(|injection| injection.credential().as_str().to_owned()).collect();
        credentials.sort();
        Self {
            scheme: permit.scheme(),
            host: permit.host().clone(),
            port: permit.port(),
            rule: permit.rule().to_owned(),
            credentials,
            presented: None,
        }
    }
}

/// The idle connections, oldest first.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Idle>>);

struct Idle {
    key: PoolKey,
    since: Instant,
    sender: Sender,
    leads_to: DialPermit,
}

impl Pool {
    /// The youngest connection for `key` that leads where the permit would allow to dial now; drops those that idled too
    /// long or were closed. One that carries several requests at a time stays.
    pub(crate) fn take(&self, key: &PoolKey, permit: &Permit, now: Instant) -> Option<(Sender, DialPermit)> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| now.duration_since(one.since) < limits::POOL_IDLE && !one.sender.is_closed());
        let allowed =
            |leads_to: &DialPermit| permit.dial(leads_to.address().ip()).is_ok_and(|again| again == *leads_to);
        let at = idle.iter().rposition(|one| one.key == *key && allowed(&one.leads_to))?;
        if let Some(shared) = idle[at].sender.shared() {
            idle[at].since = now;
            return Some((shared, idle[at].leads_to.clone()));
        }
        let taken = idle.remove(at);
        Some((taken.sender, taken.leads_to))
    }

    /// Keeps a connection, unless it is here already; the oldest goes where there are too many.
    pub(crate) fn put(&self, key: PoolKey, sender: Sender, leads_to: DialPermit, now: Instant) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = idle.iter_mut().find(|one| one.sender.is_same(&sender)) {
            here.since = now;
            return;
        }
        if idle.len() >= limits::POOL_PER_SESSION {
            idle.remove(0);
        }
        idle.push(Idle { key, since: now, sender, leads_to });
    }

    /// Closes them all.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
