//! Who makes a call: a short-lived EdDSA token that the control plane signs for one request and the gateway verifies
//! before it looks at anything else. Decides nothing about what the caller may do, reads no clock, keeps no secret but
//! the signer's key.

mod replay;
mod token;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use postern_secret::{Secret, SecretBytes};
use serde::{Deserialize, Serialize};

use replay::{Replay, Seen};

/// The header of a request that carries its token.
pub const HEADER: &str = "postern-identity";
/// Who signs: the `iss` of every token.
pub const ISSUER: &str = "postern";
/// How long a token may live, in seconds.
pub const MAX_LIFETIME_SECONDS: u64 = 60;
/// How far a signer's clock may be ahead of a verifier's, in seconds.
pub const MAX_AHEAD_SECONDS: u64 = 5;
/// How long a token may be, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// How many unexpired token ids a verifier remembers; a full memory refuses. At 60 s a token that is 17,000 calls/s.
pub const REMEMBERED_IDS: usize = 1 << 20;

/// What a call is for. A probe may ask for `initialize` and lists only; policy decides that, not this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A session's own MCP exchange.
    Call,
    /// An operator's question whether the path works.
    Probe,
}

/// What a token says. Every field but `tool_use` is required, none may stand twice, unknown ones are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// The tunnel that the call goes through: a token for one tunnel is worth nothing in another.
    pub aud: String,
    /// The session, or for a probe whoever asked.
    pub sub: String,
    /// The agent's id.
    pub agent: String,
    /// The agent's version.
    pub agent_version: u64,
    /// The digest of the agent's effective definition, `sha256:...`.
    pub definition_digest: String,
    /// The session's environment.
    pub environment: String,
    /// The session's workspace.
    pub workspace: String,
    /// The event id of the tool use that this request carries out, where it carries out one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_use: Option<String>,
    /// What the call is for.
    pub purpose: Purpose,
    /// When it was signed, in seconds since 1970.
    pub iat: u64,
    /// Until when it counts, in seconds since 1970, at most [`MAX_LIFETIME_SECONDS`] after `iat`.
    pub exp: u64,
    /// Counts once: [`new_jti`].
    pub jti: String,
    /// The lowercase hex SHA-256 of the request's body: [`body_digest`].
    pub body: String,
}

/// A fresh random token id.
#[must_use]
pub fn new_jti() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the library's generator does not fail once seeded");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The lowercase hex SHA-256 of a body: what [`Claims::body`] says about it.
#[must_use]
pub fn body_digest(body: &[u8]) -> String {
    crate::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref())
}

/// A key that verifies tokens, as it travels and as it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityKey {
    /// Its id: the first 16 hex digits of the SHA-256 of its bytes.
    pub kid: String,
    /// The Ed25519 public key: 32 bytes, base64url without padding.
    pub public_key: String,
}

impl IdentityKey {
    fn of(public_key: &[u8]) -> Self {
        let mut kid = body_digest(public_key);
        kid.truncate(16);
        Self { kid, public_key: URL_SAFE_NO_PAD.encode(public_key) }
    }

    /// The key to verify with; none where the text is not a key or its id is another key's.
    fn decoding(&self) -> Option<DecodingKey> {
        let bytes = URL_SAFE_NO_PAD.decode(&self.public_key).ok()?;
        (bytes.len() == 32 && Self::of(&bytes) == *self).then(|| DecodingKey::from_ed_der(&bytes))
    }
}

/// No key came about.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The library made none.
    #[error("make an identity key")]
    Make,
    /// These bytes hold none.
    #[error("read the identity key: not an Ed25519 key in PKCS #8")]
    Read,
}

/// The control plane's key. `Clone` shares it.
#[derive(Clone)]
pub struct Signer {
    shared: Arc<SignerKey>,
}

struct SignerKey {
    pkcs8: SecretBytes,
    encoding: EncodingKey,
    key: IdentityKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("kid", &self.shared.key.kid).finish_non_exhaustive()
    }
}

impl Signer {
    /// A fresh key.
    ///
    /// # Errors
    /// The library makes none.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Make)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Make)?;
        Self::from_pkcs8(Secret::new(pkcs8.as_ref().to_vec()))
    }

    /// The key that these bytes hold.
    ///
    /// # Errors
    /// They hold no Ed25519 key.
    #[expect(clippy::disallowed_methods, reason = "the library signs with the bytes of the key")]
    pub fn from_pkcs8(pkcs8: SecretBytes) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.expose()).map_err(|_| KeyError::Read)?;
        let key = IdentityKey::of(pair.public_key().as_ref());
        let encoding = EncodingKey::from_ed_der(pkcs8.expose());
        Ok(Self { shared: Arc::new(SignerKey { pkcs8, encoding, key }) })
    }

    /// The key's bytes, to be kept by the server.
    #[must_use]
    pub fn to_pkcs8(&self) -> SecretBytes {
        self.shared.pkcs8.duplicate()
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn key(&self) -> IdentityKey {
        self.shared.key.clone()
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    /// The key signs nothing; it was checked when it was read.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        token::encode(claims, &self.shared.key.kid, &self.shared.encoding)
    }
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error("the request carries no identity")]
    Missing,
    /// It is longer than a token is.
    #[error("the identity is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It does not read as a token of ours: three parts, one header, each claim once and none unknown.
    #[error("the identity is not a token of this form")]
    Malformed,
    /// It is signed otherwise than by EdDSA.
    #[error("the identity is not signed by EdDSA")]
    Algorithm,
    /// It names a key that is not one of the verifier's.
    #[error("the identity names an unknown key")]
    UnknownKey,
    /// The signature is not that key's.
    #[error("the identity's signature is wrong")]
    Signature,
    /// It was signed by somebody else or for another tunnel.
    #[error("the identity is for another audience")]
    Audience,
    /// It is signed for longer than a token may live.
    #[error("the identity claims a longer life than {MAX_LIFETIME_SECONDS} s")]
    Lifetime,
    /// Its time has passed.
    #[error("the identity has expired")]
    Expired,
    /// Its time has not come: one of the two clocks is wrong.
    #[error("the identity was signed in the future")]
    Future,
    /// It was signed for another request.
    #[error("the identity is for another request body")]
    Body,
    /// It was seen before.
    #[error("the identity was used before")]
    Replayed,
    /// So many are remembered that this one could not be: refused, since it could be used twice.
    #[error("more identities than can be remembered")]
    Full,
}

impl IdentityError {
    /// The stable name of the refusal, one of policy's reasons.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "identity_missing",
            Self::Expired | Self::Future => "identity_expired",
            Self::Replayed => "identity_replayed",
            Self::Full => "gateway_busy",
            Self::TooLong
            | Self::Malformed
            | Self::Algorithm
            | Self::UnknownKey
            | Self::Signature
            | Self::Audience
            | Self::Lifetime
            | Self::Body => "identity_invalid",
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Expired | Self::Future => "Compare the clocks of the server and of the gateway's host.",
            Self::UnknownKey => "Check that `[gateway] identity_key_file` holds the server's present key, or pin none.",
            Self::Full => "Try again within a minute; the gateway takes fewer calls per second than were made.",
            Self::Replayed => "Make the call anew; if nobody repeated it, somebody else did: see the audit log.",
            _ => "Call through the server; nobody else can sign for it.",
        }
    }
}

/// What the gateway verifies with: some keys, one tunnel, and the ids it has seen. Share one among all connections.
pub struct Verifier {
    tunnel: String,
    state: Mutex<State>,
}

struct State {
    keys: Vec<(String, Arc<DecodingKey>)>,
    replay: Replay,
}

impl Verifier {
    /// A verifier for one tunnel. Keys that are not Ed25519 keys under their own id are left out.
    #[must_use]
    pub fn new(keys: Vec<IdentityKey>, tunnel_id: impl Into<String>) -> Self {
        Self::remembering(keys, tunnel_id, REMEMBERED_IDS)
    }

    /// A verifier that remembers fewer ids.
    #[must_use]
    pub fn remembering(keys: Vec<IdentityKey>, tunnel_id: impl Into<String>, ids: usize) -> Self {
        let state = State { keys: decoding(keys), replay: Replay::new(ids) };
        Self { tunnel: tunnel_id.into(), state: Mutex::new(state) }
    }

    /// Takes these keys in place of the former; what was seen stays seen.
    pub fn replace_keys(&self, keys: Vec<IdentityKey>) {
        self.locked().keys = decoding(keys);
    }

    /// Whether there is a key to verify with.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.locked().keys.is_empty()
    }

    /// Reads a token that came with a request whose body has this digest ([`body_digest`]). A token that is found
    /// good counts as used.
    ///
    /// # Errors
    /// It does not count; the first check that fails says why, and it is not remembered.
    pub fn verify(&self, token: &str, body_digest: &str, now: SystemTime) -> Result<Claims, IdentityError> {
        let kid = token::key_id(token)?;
        let key = self.key(&kid).ok_or(IdentityError::UnknownKey)?;
        let claims = token::decode(token, &key, &self.tunnel)?;
        let now = seconds(now);
        check_times(&claims, now)?;
        if claims.body != body_digest {
            return Err(IdentityError::Body);
        }
        match self.locked().replay.see(&claims.jti, claims.exp, now) {
            Seen::First => Ok(claims),
            Seen::Before => Err(IdentityError::Replayed),
            Seen::TooLate => Err(IdentityError::Expired),
            Seen::Full => Err(IdentityError::Full),
        }
    }

    fn key(&self, kid: &str) -> Option<Arc<DecodingKey>> {
        self.locked().keys.iter().find(|(known, _)| known == kid).map(|(_, key)| Arc::clone(key))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decoding(keys: Vec<IdentityKey>) -> Vec<(String, Arc<DecodingKey>)> {
    keys.into_iter().filter_map(|key| Some((key.kid.clone(), Arc::new(key.decoding()?)))).collect()
}

fn check_times(claims: &Claims, now: u64) -> Result<(), IdentityError> {
    let lifetime = claims.exp.checked_sub(claims.iat).ok_or(IdentityError::Lifetime)?;
    if lifetime == 0 || lifetime > MAX_LIFETIME_SECONDS {
        return Err(IdentityError::Lifetime);
    }
    if claims.iat > now + MAX_AHEAD_SECONDS {
        return Err(IdentityError::Future);
    }
    if claims.exp <= now {
        return Err(IdentityError::Expired);
    }
    Ok(())
}

/// Whole seconds since 1970; a clock before that reads as 1970, at which every token is of the future.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
