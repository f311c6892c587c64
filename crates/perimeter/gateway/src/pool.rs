//! A session's idle upstream connections. One is used again only for the same route, and only while it leads to an
//! address that may still be dialled; sessions never share one.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use hyper::client::conn::http1::SendRequest;
use postern_policy::{DialPermit, Port, RoutePermit, Scheme};

use crate::{body::Body, limits};

/// What must be equal for a connection to be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolKey {
    route: String,
    scheme: Scheme,
    host: String,
    port: Port,
    ca: Option<String>,
}

impl From<&RoutePermit> for PoolKey {
    fn from(permit: &RoutePermit) -> Self {
        Self {
            route: permit.route().to_owned(),
            scheme: permit.scheme(),
            host: permit.host().to_string(),
            port: permit.port(),
            ca: permit.ca_pem().map(str::to_owned),
        }
    }
}

/// A connection to an upstream.
pub(crate) struct Connection {
    /// Takes one request at a time.
    pub(crate) sender: SendRequest<Body>,
    /// Where it leads.
    pub(crate) leads_to: DialPermit,
}

/// The idle connections, oldest first.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Idle>>);

struct Idle {
    key: PoolKey,
    since: Instant,
    connection: Connection,
}

impl Pool {
    /// Takes the youngest connection for `permit` that leads where it would allow to dial now; drops those that idled
    /// too long or were closed.
    pub(crate) fn take(&self, permit: &RoutePermit, now: Instant) -> Option<Connection> {
        let key = PoolKey::from(permit);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| now.duration_since(one.since) < limits::POOL_IDLE && !one.connection.sender.is_closed());
        let allowed =
            |leads_to: &DialPermit| permit.dial(leads_to.address().ip()).is_ok_and(|again| again == *leads_to);
        let at = idle.iter().rposition(|one| one.key == key && allowed(&one.connection.leads_to))?;
        Some(idle.remove(at).connection)
    }

    /// Keeps a connection; the oldest goes where there are too many.
    pub(crate) fn put(&self, key: PoolKey, connection: Connection, now: Instant) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= limits::POOL_PER_SESSION {
            idle.remove(0);
        }
        idle.push(Idle { key, since: now, connection });
    }
}
