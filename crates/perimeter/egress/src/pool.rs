//! A session's idle upstream connections. A connection is used again only for the same scheme, host, port, rule and
//! set of credentials, and only while it leads to an address that may still be dialled; sessions never share one.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use hyper::client::conn::http1::SendRequest;
use postern_policy::{DialPermit, Host, Permit, Port, Scheme};

use crate::{body::Body, identity::Identity, limits};

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
    sender: SendRequest<Body>,
    leads_to: DialPermit,
}

impl Pool {
    /// Takes the youngest connection for `key` that leads where the permit would allow to dial now; drops those that
    /// idled too long or were closed.
    pub(crate) fn take(&self, key: &PoolKey, permit: &Permit, now: Instant) -> Option<(SendRequest<Body>, DialPermit)> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| now.duration_since(one.since) < limits::POOL_IDLE && !one.sender.is_closed());
        let allowed =
            |leads_to: &DialPermit| permit.dial(leads_to.address().ip()).is_ok_and(|again| again == *leads_to);
        let at = idle.iter().rposition(|one| one.key == *key && allowed(&one.leads_to))?;
        let taken = idle.remove(at);
        Some((taken.sender, taken.leads_to))
    }

    /// Keeps a connection; the oldest goes where there are too many.
    pub(crate) fn put(&self, key: PoolKey, sender: SendRequest<Body>, leads_to: DialPermit, now: Instant) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
