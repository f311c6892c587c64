//! How strong keys and signatures must be: RSA of 2048 bits, ECDSA on P-256, SHA-256, or stronger.

use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::CertificateError;

const MIN_RSA_BITS: usize = 2048;

/// Checks a certificate's own key and the signature on it.
pub(super) fn check(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    if !is_strong_key(certificate.public_key()) {
        return Err(CertificateError::WeakKey);
    }
    if !is_strong_signature(certificate) {
        return Err(CertificateError::WeakSignature);
    }
    Ok(())
}

fn is_strong_key(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => bits(rsa.modulus) >= MIN_RSA_BITS,
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            curve.is_some_and(|curve| [oid::OID_EC_P256, oid::OID_NIST_EC_P384, oid::OID_NIST_EC_P521].contains(&curve))
        }
        _ => false,
    }
}

fn bits(number: &[u8]) -> usize {
    let significant = number.iter().skip_while(|byte| **byte == 0);
    let mut significant = significant.copied();
    let Some(first) = significant.next() else { return 0 };
    (8 - first.leading_zeros() as usize) + 8 * significant.count()
}

fn is_strong_signature(certificate: &X509Certificate<'_>) -> bool {
    // RFC 5280, 4.1.1.2: the two must be the same; only one of them is signed.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return false;
    }
    let algorithm = &certificate.signature_algorithm;
    if let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) {
        let strong = [oid::OID_NIST_HASH_SHA256, oid::OID_NIST_HASH_SHA384, oid::OID_NIST_HASH_SHA512];
        return strong.contains(parameters.hash_algorithm_oid());
    }
    [
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_PKCS1_SHA384WITHRSA,
        oid::OID_PKCS1_SHA512WITHRSA,
        oid::OID_SIG_ECDSA_WITH_SHA256,
        oid::OID_SIG_ECDSA_WITH_SHA384,
        oid::OID_SIG_ECDSA_WITH_SHA512,
    ]
    .contains(&algorithm.algorithm)
}
