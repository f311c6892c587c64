//! Which certificates a tunnel takes as an authority (contract 7.2).

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::{Ca, CertificateError, MAX_PEM_BYTES, fingerprint, strength, time};

const BEGIN: &str = "-----BEGIN ";

/// Takes the text of one certificate as a tunnel's authority at the time `now`.
///
/// # Errors
/// The text is more than one PEM certificate, or the certificate is not a valid, strong authority's.
pub fn accept_ca(pem: &str, now: SystemTime) -> Result<Ca, CertificateError> {
    let der = only_certificate(pem)?;
    let certificate = parse(&der)?;
    check_authority(&certificate)?;
    check_validity(&certificate, now)?;
    strength::check(&certificate)?;
    Ok(ca(&der, &certificate))
}

/// An authority that was taken before, whatever the time is now: those who use it ask again whether it is still valid.
///
/// # Errors
/// The text is not one certificate.
pub fn stored_ca(pem: &str) -> Result<Ca, CertificateError> {
    let der = only_certificate(pem)?;
    let certificate = parse(&der)?;
    Ok(ca(&der, &certificate))
}

fn ca(der: &CertificateDer<'static>, certificate: &X509Certificate<'_>) -> Ca {
    Ca {
        der: der.clone(),
        fingerprint_sha256_hex: fingerprint(der),
        not_after: time(certificate.validity().not_after.timestamp()),
    }
}

/// The one certificate of a text. Text around it is let through, other PEM is not.
pub(super) fn only_certificate(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(CertificateError::TooLarge);
    }
    if pem.to_ascii_uppercase().contains("PRIVATE KEY") {
        return Err(CertificateError::PrivateKey);
    }
    let mut labels = pem.split(BEGIN).skip(1);
    match (labels.next(), labels.next()) {
        (None, _) => return Err(CertificateError::NotOneCertificate("there is none")),
        (Some(_), Some(_)) => return Err(CertificateError::NotOneCertificate("there is more than one")),
        (Some(label), None) if !label.starts_with("CERTIFICATE-----") => {
            return Err(CertificateError::NotOneCertificate("it is PEM of something else"));
        }
        (Some(_), None) => {}
    }
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::NotOneCertificate("its PEM is broken"))
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Unreadable),
    }
}

fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.critical && constraints.value.ca => {}
        _ => return Err(CertificateError::NotAnAuthority),
    }
    if subject_key_identifier(certificate).is_none() {
        return Err(CertificateError::NoSubjectKeyIdentifier);
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => Err(CertificateError::NoCertificateSigning),
    }
}

pub(super) fn check_validity(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), CertificateError> {
    let validity = certificate.validity();
    if now < time(validity.not_before.timestamp()) {
        return Err(CertificateError::NotYetValid);
    }
    if now > time(validity.not_after.timestamp()) {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

pub(super) fn subject_key_identifier<'a>(certificate: &X509Certificate<'a>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) if !identifier.0.is_empty() => Some(identifier.0.to_vec()),
        _ => None,
    })
}

pub(super) fn authority_key_identifier(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => {
            identifier.key_identifier.as_ref().map(|identifier| identifier.0.to_vec())
        }
        _ => None,
    })
}
