//! A client certificate with its key, as TLS towards an upstream needs it. Lives as long as the session's grant; its key
//! is never sent, and is zeroed with it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use postern_secret::SecretBytes;
use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroize;

/// What the proxy proves itself with.
pub(crate) struct Identity {
    /// As custody has it: whether it was replaced is seen by it.
    pem: SecretBytes,
    certified: Arc<CertifiedKey>,
    /// No other identity of the process has it: connections are kept apart by it.
    serial: u64,
}

/// The text is no certificate with its key. Says nothing of it.
#[derive(Debug, thiserror::Error)]
#[error("not PEM of a certificate chain and its private key")]
pub(crate) struct BadIdentity;

impl Identity {
    /// Reads the chain, the leaf first, and its key.
    pub(crate) fn read(pem: SecretBytes) -> Result<Self, BadIdentity> {
        let text = exposed(&pem);
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|_| BadIdentity)?;
        let mut der = PrivateKeyDer::from_pem_slice(text).map_err(|_| BadIdentity)?;
        let key = any_supported_type(&der);
        der.zeroize();
        let certified = CertifiedKey::new(chain, key.map_err(|_| BadIdentity)?);
        // No chain, or another's: refused here and not in the middle of a handshake.
        certified.keys_match().map_err(|_| BadIdentity)?;
        Ok(Self { pem, certified: Arc::new(certified), serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Whether it was read from this text.
    pub(crate) fn is_of(&self, pem: &SecretBytes) -> bool {
        exposed(&self.pem) == exposed(pem)
    }

    /// Its number.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// The same settings with it. Nothing is resumed: a session of TLS would carry the identity that it began with.
    pub(crate) fn presented_in(&self, settings: &ClientConfig) -> Arc<ClientConfig> {
        let mut settings = settings.clone();
        settings.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(self.certified.clone()));
        settings.resumption = Resumption::disabled();
        Arc::new(settings)
    }
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

#[expect(clippy::disallowed_methods, reason = "the handshake with the upstream needs the key")]
fn exposed(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}
