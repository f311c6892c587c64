//! TLS settings towards upstreams: the platform's roots, or the one CA that a route names. Made once and kept; nothing
//! here can skip verification.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use postern_net::{TlsError, TlsRoots, tls::client_config};
use rustls::ClientConfig;

/// The settings made so far, by CA text; the platform's under `None`. As many as the routes name.
#[derive(Default)]
pub(crate) struct Trust(Mutex<HashMap<Option<String>, Arc<ClientConfig>>>);

impl Trust {
    /// The settings for a route's CA, or the platform's.
    pub(crate) fn settings(&self, ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, TlsError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_pem.map(str::to_owned);
        if let Some(found) = made.get(&key) {
            return Ok(found.clone());
        }
        let roots = ca_pem.map_or(Ok(TlsRoots::Platform), |pem| TlsRoots::only_pem(pem.as_bytes()))?;
        let settings = client_config(&roots, &[b"http/1.1"])?;
        made.insert(key, settings.clone());
        Ok(settings)
    }
}
