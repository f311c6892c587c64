//! The keys Postern issues: one type each, so that an environment key cannot stand where a session
//! token belongs. A key is shown once; stores keep its digest only.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Secret, SecretBytes};

/// Why a text is not a key of the wanted type. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another prefix: some other key, or none of ours.
    #[error("not a key that starts with {0}")]
    Prefix(&'static str),
    /// The prefix fits, but length, alphabet or checksum do not: a typing or copying error.
    #[error("the key that starts with {0} is damaged: its checksum does not fit")]
    Damaged(&'static str),
}

/// What is stored in a key's stead: the SHA-256 of its text, in lower-case hex.
///
/// A key holds 256 random bits, so a plain hash cannot be reversed, and looking a key up by its
/// digest leaks through timing at most bits of a hash that the caller could compute anyway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(String);

impl KeyDigest {
    /// The digest of whatever a caller presented, well-formed or not.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(hex(digest(&SHA256, text.as_bytes()).as_ref()))
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! keys {
    ($($(#[$documentation:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$documentation])*
        pub struct $name(Secret<String>);

        impl $name {
            /// What every key of this type begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Reads a key, checking prefix, length, alphabet and checksum.
            ///
            /// # Errors
            /// The text is another kind of value, or a damaged key.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                check($prefix, text)?;
                Ok(Self(Secret::new(text.to_owned())))
            }

            /// What a store keeps and looks up.
            #[must_use]
            #[expect(clippy::disallowed_methods, reason = "the digest is computed from the text; only the digest leaves")]
            pub fn digest(&self) -> KeyDigest {
                KeyDigest::of(self.0.expose())
            }

            /// The key's text as a secret, for the one place that shows it or sends it.
            #[must_use]
            pub fn secret(&self) -> &Secret<String> {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

macro_rules! issued {
    ($($name:ident)*) => {$(
        impl $name {
            /// A fresh key from the system's random source.
            #[must_use]
            pub fn issue() -> Self {
                Self(Secret::new(fresh(Self::PREFIX)))
            }
        }
    )*};
}

keys! {
    /// Opens the API for a client.
    ApiKey = "pst_api_";
    /// Lets a worker claim sessions of one environment.
    EnvironmentKey = "pst_env_";
    /// Lets a worker post results of one session, until its lease ends.
    SessionToken = "pst_ses_";
    /// Lets a connector and its gateway serve one tunnel. Not random but derived, so that it can be shown again without being stored.
    TunnelToken = "pst_tun_";
    /// Lets a perimeter speak for itself.
    PerimeterKey = "pst_per_";
}

issued! { ApiKey EnvironmentKey SessionToken PerimeterKey }

impl TunnelToken {
    /// The token of a tunnel's `generation` under the server's own key: HMAC-SHA256, in the form of every key. Equal arguments give an equal token.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the token is computed from the key's bytes")]
    pub fn derive(server_key: &SecretBytes, tunnel_id: &str, generation: u64) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, server_key.expose());
        let mut context = hmac::Context::with_key(&key);
        // The generation has a fixed length and comes before the id, so that no two pairs give one message.
        context.update(b"postern tunnel token 1\0");
        context.update(&generation.to_be_bytes());
        context.update(tunnel_id.as_bytes());
        Self(Secret::new(spelled(Self::PREFIX, context.sign().as_ref())))
    }
}

/// What a webhook's payloads are signed with, in the form of the Standard Webhooks: `whsec_` and 32 bytes in base64. Not
/// random but derived, so that it is stored nowhere.
pub struct WebhookSecret(Secret<Vec<u8>>);

impl WebhookSecret {
    /// The secret of a webhook's `generation` under the server's own key: HMAC-SHA256. Equal arguments give an equal secret.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the secret is computed from the key's bytes")]
    pub fn derive(server_key: &SecretBytes, webhook_id: &str, generation: u64) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, server_key.expose());
        let mut context = hmac::Context::with_key(&key);
        context.update(b"postern webhook secret 1\0");
        context.update(&generation.to_be_bytes());
        context.update(webhook_id.as_bytes());
        Self(Secret::new(context.sign().as_ref().to_vec()))
    }

    /// The text that the endpoint's operator is given, once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the text is computed from the secret's bytes")]
    pub fn text(&self) -> Secret<String> {
        Secret::new(format!("whsec_{}", STANDARD.encode(self.0.expose())))
    }

    /// One value of `webhook-signature` for a message: `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the signature is computed with the secret's bytes")]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign().as_ref()))
    }
}

/// What a body is compared by that may hold a secret: HMAC-SHA256 under the server's own key, so that whoever has the result
/// and not the key cannot try a guess at the secret.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the fingerprint is computed with the key's bytes")]
pub fn fingerprint(server_key: &SecretBytes, body: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, server_key.expose());
    let mut context = hmac::Context::with_key(&key);
    context.update(b"postern request 1\0");
    context.update(body);
    context.sign().as_ref().to_vec()
}

fn fresh(prefix: &str) -> String {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    fill_random(random.as_mut_slice());
    spelled(prefix, random.as_slice())
}

/// 32 bytes as a key's text.
fn spelled(prefix: &str, bytes: &[u8]) -> String {
    let body = base62(bytes);
    let sum = checksum(prefix, &body);
    format!("{prefix}{}{sum}", body.as_str())
}

fn check(prefix: &'static str, text: &str) -> Result<(), KeyError> {
    let rest = text.strip_prefix(prefix).ok_or(KeyError::Prefix(prefix))?;
    let well_formed =
        rest.len() == BODY_LENGTH + CHECKSUM_LENGTH && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !well_formed {
        return Err(KeyError::Damaged(prefix));
    }
    let (body, sum) = rest.split_at(BODY_LENGTH);
    // The checksum is public arithmetic over the text; comparing it early tells nothing about a stored key.
    if checksum(prefix, body) == sum { Ok(()) } else { Err(KeyError::Damaged(prefix)) }
}

/// Four base62 digits of SHA-256 over prefix and body: catches typing errors, proves nothing.
fn checksum(prefix: &str, body: &str) -> String {
    let hash = digest(&SHA256, format!("{prefix}{body}").as_bytes());
    let digits = base62(&hash.as_ref()[..4]);
    digits[digits.len() - CHECKSUM_LENGTH..].to_owned()
}

/// Big-endian base62, padded to the width that the byte count needs.
fn base62(bytes: &[u8]) -> Zeroizing<String> {
    let mut number = Zeroizing::new(bytes.to_vec());
    let width = if bytes.len() == RANDOM_BYTES { BODY_LENGTH } else { bytes.len() * 11 / 8 + 1 };
    let mut digits = Zeroizing::new(vec![b'0'; width]);
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[divide_by_62(&mut number)];
    }
    Zeroizing::new(digits.iter().map(|byte| char::from(*byte)).collect())
}

/// Divides a big-endian number in place and returns the remainder.
fn divide_by_62(number: &mut [u8]) -> usize {
    let mut remainder = 0usize;
    for byte in number {
        let value = remainder * 256 + usize::from(*byte);
        *byte = u8::try_from(value / 62).expect("the quotient of a value under 62 * 256 by 62 is under 256");
        remainder = value % 62;
    }
    remainder
}

/// An index below `bound` (at most 256), without bias.
pub(crate) fn random_index(bound: usize) -> usize {
    let fair = 256 - 256 % bound;
    loop {
        let mut byte = [0];
        fill_random(&mut byte);
        if usize::from(byte[0]) < fair {
            return usize::from(byte[0]) % bound;
        }
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes)
        .expect("the library's generator is seeded by the system before its first use, or aborts");
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_BYTES: usize = 32;
const BODY_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 4;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests look at the keys they issue")]
mod tests {
    use super::*;

    #[test]
    fn an_issued_key_parses_and_keeps_its_digest() {
        let key = ApiKey::issue();
        let text = key.secret().expose().clone();
        assert_eq!(text.len(), "pst_api_".len() + BODY_LENGTH + CHECKSUM_LENGTH);
        assert_eq!(ApiKey::parse(&text).unwrap().digest(), key.digest());
        assert_eq!(key.digest().as_str().len(), 64);
        assert_ne!(ApiKey::issue().digest(), key.digest());
    }

    #[test]
    fn a_key_of_one_type_is_not_a_key_of_another() {
        let text = EnvironmentKey::issue().secret().expose().clone();
        assert_eq!(SessionToken::parse(&text).unwrap_err(), KeyError::Prefix("pst_ses_"));
        let moved = text.replace("pst_env_", "pst_ses_");
        assert_eq!(SessionToken::parse(&moved).unwrap_err(), KeyError::Damaged("pst_ses_"));
    }

    #[test]
    fn every_single_changed_character_is_noticed() {
        let text = SessionToken::issue().secret().expose().clone();
        for at in SessionToken::PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(SessionToken::parse(&changed).unwrap_err(), KeyError::Damaged("pst_ses_"), "at {at}");
        }
    }

    #[test]
    fn damaged_texts_are_refused() {
        for text in ["", "pst_api_", "pst_api_short", "pst_api_\u{e9}", &format!("pst_api_{}", "0".repeat(48))] {
            assert!(ApiKey::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_webhooks_secret_signs_as_the_standard_webhooks_say() {
        // The worked example of the specification.
        let secret = WebhookSecret(Secret::new(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()));
        let body = br#"{"test": 2432232314}"#;
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let server_key = Secret::new(vec![7; 32]);
        let text = |id, generation| WebhookSecret::derive(&server_key, id, generation).text().expose().clone();
        assert_eq!(text("wh_1", 1), text("wh_1", 1));
        assert!(text("wh_1", 1).starts_with("whsec_") && text("wh_1", 1).len() == 6 + 44);
        assert!(text("wh_1", 1) != text("wh_1", 2) && text("wh_1", 1) != text("wh_2", 1));
    }

    #[test]
    fn a_derived_token_is_the_same_for_the_same_tunnel_and_generation_and_no_other() {
        let server_key = Secret::new(vec![7; 32]);
        let token = TunnelToken::derive(&server_key, "tnl_1", 1);
        assert_eq!(TunnelToken::parse(token.secret().expose()).unwrap().digest(), token.digest());
        assert_eq!(TunnelToken::derive(&server_key, "tnl_1", 1).digest(), token.digest());
        let others = [
            TunnelToken::derive(&server_key, "tnl_1", 2),
            TunnelToken::derive(&server_key, "tnl_11", 1),
            TunnelToken::derive(&server_key, "tnl_", 1),
            TunnelToken::derive(&Secret::new(vec![8; 32]), "tnl_1", 1),
        ];
        for other in others {
            assert_ne!(other.digest(), token.digest());
        }
    }

    #[test]
    fn base62_of_known_numbers() {
        assert_eq!(base62(&[0, 0, 0, 61]).as_str(), "00000z");
        assert_eq!(base62(&[0, 0, 0, 62]).as_str(), "000010");
        assert_eq!(base62(&[255; 32]).len(), BODY_LENGTH);
    }

    #[test]
    fn debug_of_a_key_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", ApiKey::issue()), "ApiKey(..)");
    }
}
