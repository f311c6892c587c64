//! A session's own certificate authority: one CA, one leaf key, a leaf certificate per name, minted when first needed.
//! The keys never leave this process and are not written anywhere.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::limits;

/// The authority of one session.
pub(crate) struct SessionAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    leaf_key: KeyPair,
    provider: Arc<CryptoProvider>,
    leaves: Mutex<HashMap<(String, Offer), Arc<ServerConfig>>>,
}

/// What is offered to a client by ALPN (RFC 7301), the first that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Offer {
    /// HTTP/2, else HTTP/1.1: for hosts that the zone knows.
    Both,
    /// HTTP/1.1, and HTTP/2 only to a client that speaks nothing else: enough to read a refusal.
    Refusal,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Making or signing a certificate.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Turning it into a TLS configuration.
    #[error("configure TLS")]
    Tls(#[from] rustls::Error),
}

impl SessionAuthority {
    /// A fresh authority for `session`, valid from five minutes before `now`.
    ///
    /// # Errors
    /// When the crypto provider fails to make a key or a signature.
    pub(crate) fn issue(session: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(session, now);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            leaf_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            leaves: Mutex::new(HashMap::new()),
        })
    }

    /// The certificate that the sandbox is to trust.
    #[must_use]
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// TLS for `name` (a host name or an address), with a leaf signed for it.
    ///
    /// # Errors
    /// When `name` cannot stand in a certificate.
    pub(crate) fn tls_for(
        &self,
        name: &str,
        offer: Offer,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = (name.to_owned(), offer);
        if let Some(found) = self.leaves.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(found.clone());
        }
        let made = Arc::new(self.mint(name, offer, now)?);
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() >= limits::LEAVES_KEPT {
            leaves.clear();
        }
        leaves.insert(key, made.clone());
        Ok(made)
    }

    /// How many leaves are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn mint(&self, name: &str, offer: Offer, now: SystemTime) -> Result<ServerConfig, AuthorityError> {
        let leaf = leaf_params(name, now)?.signed_by(&self.leaf_key, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let mut tls = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let offered: [&[u8]; 2] = match offer {
            Offer::Both => [b"h2", b"http/1.1"],
            Offer::Refusal => [b"http/1.1", b"h2"],
        };
        tls.alpn_protocols = offered.map(<[u8]>::to_vec).to_vec();
        Ok(tls)
    }
}

fn authority_params(session: &str, now: SystemTime) -> CertificateParams {
    let mut params = validity(CertificateParams::default(), now);
    params.distinguished_name = common_name(&format!("postern {session}"));
    // Length 0: nothing that this CA signs can sign further.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str, now: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = validity(CertificateParams::default(), now);
    // Of its own for each leaf: they share a key, from which the library would make one serial for all.
    params.serial_number = Some(serial()?);
    // A common name holds 64 bytes at most; clients read the alternative name.
    params.distinguished_name = common_name("postern egress");
    params.subject_alt_names = vec![match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    }];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn validity(mut params: CertificateParams, now: SystemTime) -> CertificateParams {
    let (from, until) = validity_of(now);
    params.not_before = from.into();
    params.not_after = until.into();
    params
}

/// From when until when a certificate made at `now` is valid.
pub(crate) fn validity_of(now: SystemTime) -> (SystemTime, SystemTime) {
    let from = now - limits::CA_BACKDATED;
    (from, from + limits::CA_LIFETIME)
}

/// Random and positive, as long as RFC 5280 (section 4.1.2.2) allows.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 20];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(rustls::Error::from)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished
}
