//! Making our own: an authority per tunnel, and the gateway's wildcard certificate under it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::accept::{only_certificate, parse, subject_key_identifier};
use super::{CA_LIFETIME, CertificateError, LEAF_LIFETIME, time};

/// How far back a certificate of ours begins: the peer's clock may be behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// An authority of ours, with its key.
#[derive(Debug)]
pub struct OwnCa {
    /// The certificate: this is what is registered.
    pub certificate_pem: String,
    /// Its key, PKCS #8 in PEM: this stays in the perimeter.
    pub key_pem: Secret<String>,
}

/// A server certificate of ours, with its key.
#[derive(Debug)]
pub struct OwnLeaf {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS #8 in PEM.
    pub key_pem: Secret<String>,
}

/// A fresh authority for a tunnel's domain: P-256, [`CA_LIFETIME`].
///
/// # Errors
/// The library refuses, which it has no reason to.
pub fn new_ca(domain: &str, now: SystemTime) -> Result<OwnCa, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(&format!("postern tunnel CA {domain}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lives(&mut parameters, now, CA_LIFETIME);
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    Ok(OwnCa { certificate_pem: certificate.pem(), key_pem: Secret::new(key.serialize_pem()) })
}

/// A fresh server certificate for every route of a tunnel's domain: P-256, [`LEAF_LIFETIME`] or the authority's end.
///
/// # Errors
/// The authority's certificate or key cannot be read, or the domain is not a name.
#[expect(clippy::disallowed_methods, reason = "the authority's key signs here and nowhere else")]
pub fn new_leaf(ca: &OwnCa, domain: &str, now: SystemTime) -> Result<OwnLeaf, CertificateError> {
    let authority = only_certificate(&ca.certificate_pem)?;
    let authority = parse(&authority)?;
    let identifier = subject_key_identifier(&authority).ok_or(CertificateError::NoSubjectKeyIdentifier)?;
    let end = time(authority.validity().not_after.timestamp());
    let lifetime = end.duration_since(now).map_err(|_| CertificateError::Expired)?.min(LEAF_LIFETIME);

    let mut issuing = CertificateParams::default();
    let name = authority.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    issuing.distinguished_name = common_name(name.ok_or(CertificateError::Unreadable)?);
    issuing.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    issuing.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = Issuer::new(issuing, KeyPair::from_pem(ca.key_pem.expose()).map_err(failed)?);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut parameters = CertificateParams::new([format!("*.{domain}")]).map_err(failed)?;
    parameters.distinguished_name = common_name(&format!("*.{domain}"));
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    lives(&mut parameters, now, lifetime);
    let certificate = parameters.signed_by(&key, &issuer).map_err(failed)?;
    Ok(OwnLeaf { certificate_pem: certificate.pem(), key_pem: Secret::new(key.serialize_pem()) })
}

/// How many whole days the first certificate of a PEM text has left; negative once it has expired.
///
/// # Errors
/// The text holds no readable certificate.
pub fn days_left(pem: &str, now: SystemTime) -> Result<i64, CertificateError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| CertificateError::NotOneCertificate("there is none"))?;
    let end = parse(&der)?.validity().not_after.timestamp();
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    Ok(end.saturating_sub(now).div_euclid(86_400))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn lives(parameters: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    parameters.not_before = epoch + now.saturating_sub(BEFORE);
    parameters.not_after = epoch + now + lifetime;
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn failed(error: rcgen::Error) -> CertificateError {
    CertificateError::Make(error.to_string())
}
