//! Certificates of the inner TLS: which authorities a tunnel takes (contract 7.2), which server certificate counts under
//! them, and making ours. Knows no clock but the one it is handed; opens no file.

mod accept;
mod leaf;
mod make;
mod strength;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;

pub use accept::{accept_ca, stored_ca};
pub use leaf::{LeafError, LeafVerifier, client_config};
pub use make::{OwnCa, OwnLeaf, days_left, new_ca, new_leaf};

/// How large the text of an authority's certificate may be, in bytes.
pub const MAX_PEM_BYTES: usize = 8 * 1024;
/// How many active authorities a tunnel may have.
pub const MAX_ACTIVE: usize = 2;
/// How long an authority of ours lives.
pub const CA_LIFETIME: Duration = Duration::from_secs(5 * 365 * 86_400);
/// How long a server certificate of ours lives.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// How many days before its end a server certificate of ours is renewed.
pub const RENEW_DAYS: i64 = 30;

/// An authority that a tunnel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The lowercase hex SHA-256 of the certificate.
    pub fingerprint_sha256_hex: String,
    /// Until when it counts.
    pub not_after: SystemTime,
}

/// Why a certificate is not taken, or not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text is too large to be one certificate.
    #[error("the certificate is larger than {MAX_PEM_BYTES} bytes")]
    TooLarge,
    /// A private key must never leave where it was made.
    #[error("the text contains a private key: send the certificate alone and replace the key, it has been sent")]
    PrivateKey,
    /// It is not PEM, or PEM of something else.
    #[error("the text is not one PEM certificate: {0}")]
    NotOneCertificate(&'static str),
    /// It is PEM, and what is in it is no certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// BasicConstraints is absent, not critical, or says that this is no authority.
    #[error("the certificate is not an authority's: BasicConstraints must be critical and say CA:TRUE")]
    NotAnAuthority,
    /// There is nothing for a server certificate to name its issuer by.
    #[error("the certificate has no SubjectKeyIdentifier")]
    NoSubjectKeyIdentifier,
    /// It may not sign certificates.
    #[error("the certificate's KeyUsage lacks keyCertSign")]
    NoCertificateSigning,
    /// Its time has not come.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Its time has passed.
    #[error("the certificate has expired")]
    Expired,
    /// Its key is too small or of another kind.
    #[error("the certificate's key is too weak: RSA of at least 2048 bits or ECDSA on P-256, P-384 or P-521")]
    WeakKey,
    /// Its signature is made with less than SHA-256.
    #[error("the certificate's signature is too weak: SHA-256 or stronger, by RSA or ECDSA")]
    WeakSignature,
    /// Making one failed.
    #[error("make a certificate: {0}")]
    Make(String),
}

impl CertificateError {
    /// The stable name of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "certificate_too_large",
            Self::PrivateKey => "certificate_has_private_key",
            Self::NotOneCertificate(_) => "certificate_not_one_pem",
            Self::Unreadable => "certificate_unreadable",
            Self::NotAnAuthority => "certificate_not_ca",
            Self::NoSubjectKeyIdentifier => "certificate_no_ski",
            Self::NoCertificateSigning => "certificate_no_key_cert_sign",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Expired => "certificate_expired",
            Self::WeakKey => "certificate_weak_key",
            Self::WeakSignature => "certificate_weak_signature",
            Self::Make(_) => "certificate_not_made",
        }
    }
}

/// A time of a certificate, in seconds since 1970.
fn time(seconds: i64) -> SystemTime {
    u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))
}

fn fingerprint(der: &[u8]) -> String {
    crate::identity::body_digest(der)
}

#[cfg(test)]
mod tests;
