//! TLS settings towards upstreams: the platform's roots, or the one CA that a rule names. Made once and kept; nothing
//! here can skip verification.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use postern_net::{TlsError, TlsRoots, tls::client_config};
use rustls::ClientConfig;

/// What an upstream is asked to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Speaks {
    /// HTTP/2, else HTTP/1.1.
    Either,
    /// HTTP/1.1, for what is to become another protocol.
    Http1,
}

/// The CA text of a rule, or the platform's list, and what is asked for.
type Terms = (Option<String>, Speaks);

/// The settings made so far; as many as the zones name, for each of both.
#[derive(Default)]
pub(crate) struct Trust(Mutex<HashMap<Terms, Arc<ClientConfig>>>);

impl Trust {
    /// The settings for a rule's CA, or the platform's.
    pub(crate) fn settings(&self, ca_pem: Option<&str>, speaks: Speaks) -> Result<Arc<ClientConfig>, TlsError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (ca_pem.map(str::to_owned), speaks);
        if let Some(found) = made.get(&key) {
            return Ok(found.clone());
        }
        let roots = ca_pem.map_or(Ok(TlsRoots::Platform), |pem| TlsRoots::only_pem(pem.as_bytes()))?;
        let offered: &[&[u8]] = match speaks {
            Speaks::Either => &[b"h2", b"http/1.1"],
            Speaks::Http1 => &[b"http/1.1"],
        };
        let settings = client_config(&roots, offered)?;
        made.insert(key, settings.clone());
        Ok(settings)
    }
}
