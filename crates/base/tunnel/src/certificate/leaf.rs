//! Which server certificate the control plane takes from a gateway (contract 7.2): signed directly by one of the
//! tunnel's authorities, for this very name. What the peer sends beside its own certificate is not looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;

use super::accept::{authority_key_identifier, check_validity, parse, subject_key_identifier};
use super::{Ca, CertificateError, strength};

/// Why a server's certificate does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// There is no authority to verify it with.
    #[error("the tunnel has no active certificate")]
    NoAuthority,
    /// It cannot be read.
    #[error("the server's certificate cannot be read")]
    Unreadable,
    /// Its issuer is none of the tunnel's authorities: another's, or an intermediate.
    #[error("the server's certificate is not signed directly by one of the tunnel's authorities")]
    UnknownAuthority,
    /// The authority that signed it has expired, or is not valid yet.
    #[error("the authority that signed the server's certificate is not valid now")]
    AuthorityExpired,
    /// It has expired.
    #[error("the server's certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the server's certificate is not valid yet")]
    NotYetValid,
    /// It is for another name.
    #[error("the server's certificate is for another name")]
    Name,
    /// It is not for servers.
    #[error("the server's certificate is not for servers")]
    Purpose,
    /// Its key or its signature is too weak.
    #[error("the server's certificate is too weak")]
    Weak,
    /// The signature on it is wrong, or something in it is not allowed.
    #[error("the server's certificate is not a valid one")]
    Invalid,
}

impl LeafError {
    /// The stable name of the failure.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoAuthority => "certificate_none",
            Self::UnknownAuthority => "certificate_unknown_authority",
            Self::AuthorityExpired => "certificate_authority_expired",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Name => "certificate_wrong_name",
            Self::Purpose => "certificate_wrong_purpose",
            Self::Weak => "certificate_weak",
            Self::Unreadable | Self::Invalid => "certificate_invalid",
        }
    }

    /// The failure in an error of the TLS library, where [`LeafVerifier`] put one there.
    #[must_use]
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(TlsCertificateError::Other(OtherError(cause))) => {
                cause.downcast_ref::<Self>().copied()
            }
            _ => None,
        }
    }
}

impl From<LeafError> for rustls::Error {
    fn from(error: LeafError) -> Self {
        Self::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Verifies a gateway's certificate against a tunnel's authorities.
#[derive(Debug)]
pub struct LeafVerifier {
    authorities: Vec<Authority>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Authority {
    der: CertificateDer<'static>,
    key_identifier: Vec<u8>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl LeafVerifier {
    /// A verifier with these authorities; one that cannot be read verifies nothing.
    #[must_use]
    pub fn new(authorities: &[Ca]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = authorities.iter().filter_map(|ca| Authority::new(ca, &provider)).collect();
        Self { authorities, provider }
    }

    /// Whether this certificate proves this name at this time.
    ///
    /// # Errors
    /// It does not.
    pub fn verify(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: SystemTime) -> Result<(), LeafError> {
        if self.authorities.is_empty() {
            return Err(LeafError::NoAuthority);
        }
        let certificate = parse(leaf).map_err(|_| LeafError::Unreadable)?;
        let issuer = authority_key_identifier(&certificate).ok_or(LeafError::UnknownAuthority)?;
        let mut refusal = LeafError::UnknownAuthority;
        for authority in self.authorities.iter().filter(|authority| authority.key_identifier == issuer) {
            match authority.verify(leaf, &certificate, name, now) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}

impl Authority {
    fn new(ca: &Ca, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let key_identifier = subject_key_identifier(&parse(&ca.der).ok()?)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.der.clone()).ok()?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().ok()?;
        Some(Self { der: ca.der.clone(), key_identifier, verifier })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        name: &ServerName<'_>,
        now: SystemTime,
    ) -> Result<(), LeafError> {
        let authority = parse(&self.der).map_err(|_| LeafError::Invalid)?;
        check_validity(&authority, now).map_err(|_| LeafError::AuthorityExpired)?;
        check_validity(certificate, now).map_err(|error| match error {
            CertificateError::NotYetValid => LeafError::NotYetValid,
            _ => LeafError::Expired,
        })?;
        strength::check(certificate).map_err(|_| LeafError::Weak)?;
        // No intermediates: whatever else the peer sent is not part of the question.
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
        match self.verifier.verify_server_cert(leaf, &[], name, &[], time) {
            Ok(_) => Ok(()),
            Err(error) => Err(translated(&error)),
        }
    }
}

fn translated(error: &rustls::Error) -> LeafError {
    use TlsCertificateError as E;
    match error {
        rustls::Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. }) => LeafError::Expired,
        rustls::Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => LeafError::NotYetValid,
        rustls::Error::InvalidCertificate(E::UnknownIssuer) => LeafError::UnknownAuthority,
        rustls::Error::InvalidCertificate(E::NotValidForName | E::NotValidForNameContext { .. }) => LeafError::Name,
        rustls::Error::InvalidCertificate(E::InvalidPurpose | E::InvalidPurposeContext { .. }) => LeafError::Purpose,
        _ => LeafError::Invalid,
    }
}

impl ServerCertVerifier for LeafVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.verify(end_entity, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("the inner TLS is TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Settings of the inner TLS's client: TLS 1.3, HTTP/1.1 inside, nobody trusted but these authorities, and no session
/// is resumed, so that each connection is verified against the authorities of its time.
///
/// # Errors
/// There is no authority, or the library refuses the settings.
pub fn client_config(authorities: &[Ca]) -> Result<Arc<ClientConfig>, rustls::Error> {
    if authorities.is_empty() {
        return Err(LeafError::NoAuthority.into());
    }
    let verifier = LeafVerifier::new(authorities);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
