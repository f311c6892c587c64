//! What the readers of the tunnel's words make of any bytes, as plain functions: the fuzz targets and the tests over
//! their corpora call them. They panic where a promise is broken.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use crate::certificate::{accept_ca, days_left, stored_ca};
use crate::identity::{Signer, Verifier};
use crate::wire::{Lane, Welcome, authority_of, connect_authority, host_name, is_connector_id, is_host, is_reason};

/// A host has one spelling and both its parts are hosts; a welcome reads as it was written.
///
/// # Panics
/// When one of these does not hold.
pub fn words(bytes: &[u8]) {
    if let Ok(welcome) = Welcome::from_json(bytes) {
        assert!(is_host(&welcome.domain));
        assert_eq!(Welcome::from_header(&welcome.to_header()).ok().as_ref(), Some(&welcome));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(lane) = text.parse::<Lane>() {
        assert_eq!(lane.as_str(), text);
    }
    if let Some(host) = host_name(text) {
        assert_eq!(format!("{}.{}", host.route, host.domain), text);
        assert!(is_host(text) && is_host(host.domain) && !host.route.contains('.'));
        assert_eq!(connect_authority(&authority_of(text)), Some(host));
        assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)));
    }
    if let Some(host) = connect_authority(text) {
        assert_eq!(authority_of(&format!("{}.{}", host.route, host.domain)), text);
    }
    if is_reason(text) || is_connector_id(text) {
        assert!(text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }
    let _refused = Welcome::from_header(text);
}

/// No text that this verifier's signer did not sign is an identity.
///
/// # Panics
/// When one is.
pub fn identity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let verified = VERIFIER.verify(text, &"0".repeat(64), now);
    assert!(verified.is_err(), "nobody signed {text}");
}

/// A certificate that is taken once is taken again, and knows until when it is valid.
///
/// # Panics
/// When it is not or does not.
pub fn certificate(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Ok(ca) = accept_ca(text, now) {
        assert_eq!(stored_ca(text).ok().map(|stored| stored.fingerprint_sha256_hex), Some(ca.fingerprint_sha256_hex));
        assert!(ca.not_after > now && days_left(text, now).is_ok_and(|days| days >= 0));
    }
    let _refused = stored_ca(text);
}

/// The key is made at the start of each process: no corpus holds a token of it.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let signer = Signer::generate().expect("the library makes keys");
    Verifier::new(vec![signer.key()], "tnl_1")
});
