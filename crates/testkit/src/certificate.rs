//! A throw-away certificate authority and a server certificate under it.

use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority in memory, and one server certificate that it signed.
pub struct Certificates {
    /// PEM of the authority, to be named as `ca_file`.
    pub ca_pem: String,
    /// A TLS server configuration that presents the leaf.
    pub server: Arc<rustls::ServerConfig>,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Key generation or signing failed.
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    /// rustls refused the key or chain.
    #[error("use the certificate")]
    Use(#[from] rustls::Error),
    /// rustls refused the authority of client certificates.
    #[error("take client certificates")]
    Take(#[from] VerifierBuilderError),
}

/// A client certificate, and the authority that vouches for it and for nothing else.
pub struct Client {
    /// The authority.
    pub authority: CertificateDer<'static>,
    /// PEM of the certificate and its private key.
    pub pem: String,
}

impl Client {
    /// The middle of its private key as the PEM has it: nobody else has this line.
    #[must_use]
    pub fn key_line(&self) -> &str {
        self.pem.rsplit("-----BEGIN").next().and_then(|key| key.lines().nth(2)).unwrap_or_default()
    }
}

/// Makes a client certificate for `name`.
///
/// # Errors
/// As [`make`].
pub fn make_client(name: &str) -> Result<Client, CertificateError> {
    let (authority, issuer) = authority()?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
    Ok(Client { authority: authority.der().clone(), pem: format!("{}{}", certificate.pem(), key.serialize_pem()) })
}

/// What a server says of client certificates.
#[derive(Clone, Copy)]
pub enum Asks<'a> {
    /// It does not ask for one.
    Nobody,
    /// It takes one of this authority's, and goes on without.
    Whoever(&'a CertificateDer<'static>),
    /// It goes on with one of this authority's alone.
    Everybody(&'a CertificateDer<'static>),
}

impl Asks<'_> {
    fn verifier(self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
        let of = |authority: &CertificateDer<'static>| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.clone())?;
            Ok::<_, CertificateError>(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()))
        };
        Ok(match self {
            Self::Nobody => WebPkiClientVerifier::no_client_auth(),
            Self::Whoever(authority) => of(authority)?.allow_unauthenticated().build()?,
            Self::Everybody(authority) => of(authority)?.build()?,
        })
    }
}

fn authority() -> Result<(Certificate, Issuer<'static, KeyPair>), CertificateError> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Rehearsal CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&key)?;
    Ok((certificate, Issuer::new(authority, key)))
}

/// Makes an authority and a leaf for `names` (DNS names or IP addresses).
///
/// # Errors
/// When a key cannot be generated or a name is not a valid subject alternative name.
pub fn make(names: &[&str], asks: Asks<'_>) -> Result<Certificates, CertificateError> {
    let (authority, issuer) = authority()?;
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&leaf_key, &issuer)?;
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(asks.verifier(&provider)?)
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Certificates { ca_pem: authority.pem(), server: Arc::new(server) })
}
