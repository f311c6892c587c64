//! Sealing a value to perimeters, so that only a custody that holds one of their private keys can open it: one data key per value (AES-256-GCM), wrapped
//! for each perimeter by HPKE (RFC 9180, base mode, X25519-HKDF-SHA256, AES-256-GCM). What the value may be used for, the [`Binding`], is authenticated
//! data of both layers. It never opens: that is custody's, and there is no function for it here.

mod run;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::SecretBytes;
pub use run::{Run, session_of_run};

/// What a sealed value belongs to and where it may be used. Changing any of it makes the value unopenable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    // In the order of their names, which is that of canonical JSON.
    /// Id of the OAuth client that its tokens were issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Id of the credential.
    pub credential: String,
    /// Hosts it may go to, as they were written; empty where the kind has none.
    pub hosts: Vec<String>,
    /// Where in a request it may stand, where its kind says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<Places>,
    /// `static_bearer`, `mcp_oauth`, `environment_variable`, [`Self::REPOSITORY`], [`Self::DEPLOYMENT_REPOSITORY`].
    pub kind: String,
    /// Normalised URL of the MCP server it is for, or of the repository.
    pub mcp_url: Option<String>,
    /// How its tokens are refreshed, besides where and by which client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshTerms>,
    /// The variable that stands for it in a sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Where its tokens are refreshed.
    pub token_endpoint: Option<String>,
    /// Id of the vault; of the session or the deployment, for a repository's token.
    pub vault: String,
    /// Id of the workspace.
    pub workspace: String,
}

/// Where in a request a value may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    // In the order of their names.
    /// In its body.
    pub body: bool,
    /// In its headers.
    pub header: bool,
}

/// What a token endpoint is asked for a credential. Not its scope: the endpoint gives none beyond its grant, and an owner may change it without the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshTerms {
    // In the order of their names.
    /// How the client says who it is: `none`, `client_secret_basic`, `client_secret_post`.
    pub auth: String,
    /// The resource indicator (RFC 8707): for whom the tokens are.
    pub resource: Option<String>,
}

impl Places {
    /// Whether these are all among `others`.
    #[must_use]
    pub fn within(self, others: Self) -> bool {
        (others.body || !self.body) && (others.header || !self.header)
    }
}

impl Binding {
    /// The kind of a token that a session was given for a repository.
    pub const REPOSITORY: &'static str = "github_repository";

    /// The kind of a token that a deployment keeps for a repository of its runs. Another one: what is sealed for a session is for no run, and the other way round.
    pub const DEPLOYMENT_REPOSITORY: &'static str = "github_repository.deployment";

    /// Of a repository's token that a deployment keeps: to the deployment, to the one URL it is for, and so to the sessions of its runs ([`session_of_run`]).
    #[must_use]
    pub fn of_deployment(workspace: &str, deployment: &str, token: &str, host: &str, url: &str) -> Self {
        let kind = Self::DEPLOYMENT_REPOSITORY.to_owned();
        Self { kind, ..Self::of_repository(workspace, deployment, token, host, url) }
    }

    /// Of a repository's token: to its session and resource, and to the one URL it is for.
    #[must_use]
    pub fn of_repository(workspace: &str, session: &str, resource: &str, host: &str, url: &str) -> Self {
        Self {
            client_id: None,
            credential: resource.to_owned(),
            hosts: vec![host.to_owned()],
            injection: Some(Places { body: false, header: true }),
            kind: Self::REPOSITORY.to_owned(),
            mcp_url: Some(url.to_owned()),
            refresh: None,
            secret_name: None,
            token_endpoint: None,
            vault: session.to_owned(),
            workspace: workspace.to_owned(),
        }
    }

    /// The authenticated data of a value that was sealed in this version: RFC 8785 JSON of every field that the version has, absent ones as `null`. `None`
    /// for a version that is not known, and where it would leave a field unauthenticated.
    #[must_use]
    pub fn canonical(&self, version: u32) -> Option<Vec<u8>> {
        let Self {
            client_id,
            credential,
            hosts,
            injection,
            kind,
            mcp_url,
            refresh,
            secret_name,
            token_endpoint,
            vault,
            workspace,
        } = self;
        // Names in order, no numbers, no white space: what is written here is the canonical form.
        let json = match version {
            FIRST_VERSION if *self == self.in_version(FIRST_VERSION) => serde_json::json!({
                "credential": credential, "hosts": hosts, "kind": kind, "mcp_url": mcp_url,
                "token_endpoint": token_endpoint, "vault": vault, "workspace": workspace,
            }),
            SECOND_VERSION if *self == self.in_version(SECOND_VERSION) => serde_json::json!({
                "client_id": client_id, "credential": credential, "hosts": hosts, "injection": injection, "kind": kind,
                "mcp_url": mcp_url, "secret_name": secret_name, "token_endpoint": token_endpoint, "vault": vault,
                "workspace": workspace,
            }),
            VERSION => serde_json::json!({
                "client_id": client_id, "credential": credential, "hosts": hosts, "injection": injection, "kind": kind,
                "mcp_url": mcp_url, "refresh": refresh, "secret_name": secret_name, "token_endpoint": token_endpoint,
                "vault": vault, "workspace": workspace,
            }),
            _ => return None,
        };
        Some(json.to_string().into_bytes())
    }

    /// What of it a value is bound to that was sealed in this version.
    #[must_use]
    pub fn in_version(&self, version: u32) -> Self {
        match version {
            FIRST_VERSION => {
                Self { client_id: None, injection: None, refresh: None, secret_name: None, ..self.clone() }
            }
            SECOND_VERSION => Self { refresh: None, ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// A perimeter's public key (X25519), written as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PerimeterPublicKey([u8; KEY_BYTES]);

/// Why a text is not a perimeter's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a perimeter's public key is 64 hexadecimal digits, as its worker or gateway prints it at start")]
pub struct BadPublicKey;

impl PerimeterPublicKey {
    /// Takes a key's bytes.
    ///
    /// # Errors
    /// [`BadPublicKey`] for another length, and for the few points to which nothing can be sealed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPublicKey> {
        let key = Self(bytes.try_into().map_err(|_| BadPublicKey)?);
        // A point of small order gives the same shared secret to everybody; the library refuses it, and so does registration.
        suite().setup_sealer(b"", &key.hpke()).map_err(|_| BadPublicKey)?;
        Ok(key)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn hpke(&self) -> HpkePublicKey {
        HpkePublicKey(self.0.to_vec())
    }
}

impl FromStr for PerimeterPublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let digits = text.as_bytes();
        if digits.len() != KEY_BYTES * 2 {
            return Err(BadPublicKey);
        }
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> =
            digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect();
        Self::from_bytes(&bytes.ok_or(BadPublicKey)?)
    }
}

impl fmt::Display for PerimeterPublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Serialize for PerimeterPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PerimeterPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A perimeter to seal to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The id under which it was registered.
    pub perimeter_id: String,
    /// Its public key.
    pub public_key: PerimeterPublicKey,
}

/// A sealed value: ciphertext, and the data key wrapped for each perimeter. Safe to store and to show; useless without a perimeter's private key and the
/// very [`Binding`] it was sealed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// [`VERSION`], [`SECOND_VERSION`] or [`FIRST_VERSION`]; any other is not opened.
    pub version: u32,
    /// Nonce of the value's encryption, base64.
    pub nonce: String,
    /// The encrypted, padded value with its tag, base64.
    pub ciphertext: String,
    /// The data key for each recipient.
    pub wraps: Vec<Wrap>,
}

/// The data key for one perimeter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrap {
    /// The id under which the perimeter was registered; authenticated.
    pub perimeter_id: String,
    /// The public key it was wrapped for, hexadecimal: how a perimeter finds its own.
    pub public_key: String,
    /// HPKE's encapsulated key, base64.
    pub enc: String,
    /// The wrapped data key with its tag, base64.
    pub key: String,
}

/// A sealed value together with its binding, as it travels to the perimeter that is to open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedCredential {
    /// What it may be used for; only the right one opens it.
    pub binding: Binding,
    /// The ciphertext.
    pub sealed: Sealed,
}

/// A variable of a session's vaults, or the token of one of its repositories, sealed, as it travels to the perimeter that is to open it. How far it may go can have been narrowed since it was sealed;
/// what it says beyond its binding counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedVariable {
    /// Value and binding.
    pub credential: SealedCredential,
    /// The hosts it may go to now.
    pub hosts: Vec<String>,
    /// The places it may stand in now.
    pub places: Places,
    /// Whose session it is sent to, where it is a deployment's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

impl SealedVariable {
    /// As text: base64url of its JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("texts and numbers are JSON"))
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BadSealed`], also for a text longer than [`LONGEST_ENCODED`].
    pub fn decode(text: &str) -> Result<Self, BadSealed> {
        decode(text)
    }
}

fn decode<T: DeserializeOwned>(text: &str) -> Result<T, BadSealed> {
    if text.len() > LONGEST_ENCODED {
        return Err(BadSealed);
    }
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadSealed)?;
    serde_json::from_slice(&json).map_err(|_| BadSealed)
}

/// Why a text is not a sealed credential. What it says is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sealed credential of this version")]
pub struct BadSealed;

impl SealedCredential {
    /// As text that fits a header: base64url of its JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("texts and numbers are JSON"))
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BadSealed`], also for a text longer than [`LONGEST_ENCODED`].
    pub fn decode(text: &str) -> Result<Self, BadSealed> {
        decode(text)
    }
}

/// Why nothing was sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is nobody who could open it.
    #[error("no perimeter is registered that could open it; run `postern perimeter register`")]
    NoRecipient,
    /// More perimeters than a value is wrapped for.
    #[error("a value is sealed to at most {MOST_RECIPIENTS} perimeters; delete those that are gone")]
    TooManyRecipients,
    /// A longer value than any credential has.
    #[error("a value of more than {LONGEST_VALUE} bytes is not sealed")]
    TooLong,
    /// The library refused a recipient's key.
    #[error("the public key of perimeter {perimeter_id} cannot be sealed to; register the perimeter again")]
    Recipient {
        /// The perimeter's id.
        perimeter_id: String,
    },
}

/// Seals `value` for each of `recipients`, for use as `binding` says and in no other way. The ciphertext tells the value's length only as a power of two.
///
/// # Errors
/// [`SealError`]; nothing was sealed then.
pub fn seal(value: &SecretBytes, binding: &Binding, recipients: &[Recipient]) -> Result<Sealed, SealError> {
    let rules = [
        (recipients.is_empty(), SealError::NoRecipient),
        (recipients.len() > MOST_RECIPIENTS, SealError::TooManyRecipients),
        (value.len() > LONGEST_VALUE, SealError::TooLong),
    ];
    if let Some((_, error)) = rules.into_iter().find(|(broken, _)| *broken) {
        return Err(error);
    }
    let binding = binding.canonical(VERSION).expect("this version has every field");
    let data_key = data_key();
    let wraps = recipients.iter().map(|to| wrap(&data_key, VERSION, &binding, to)).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = padded(value);
    let nonce = RandomizedNonceKey::new(&AES_256_GCM, &*data_key)
        .expect("the data key has the length of an AES-256 key")
        .seal_in_place_append_tag(Aad::from(value_aad(VERSION, &binding)), &mut *buffer)
        .expect("a padded value is far shorter than what one AES-GCM seal takes");
    Ok(Sealed {
        version: VERSION,
        nonce: STANDARD.encode(nonce.as_ref()),
        ciphertext: STANDARD.encode(&*buffer),
        wraps,
    })
}

fn data_key() -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    crate::key::fill_random(key.as_mut_slice());
    key
}

/// Wraps a data key for one perimeter more; `binding` in the canonical form of the value's version.
///
/// # Errors
/// [`SealError::Recipient`].
pub fn wrap(
    data_key: &[u8; KEY_BYTES],
    version: u32,
    binding: &[u8],
    recipient: &Recipient,
) -> Result<Wrap, SealError> {
    let Recipient { perimeter_id, public_key } = recipient;
    let aad = wrap_aad(binding, perimeter_id);
    let (enc, key) = suite()
        .seal(&wrap_info(version), &aad, data_key, &public_key.hpke())
        .map_err(|_| SealError::Recipient { perimeter_id: perimeter_id.clone() })?;
    Ok(Wrap {
        perimeter_id: perimeter_id.clone(),
        public_key: public_key.to_string(),
        enc: STANDARD.encode(enc.0),
        key: STANDARD.encode(key),
    })
}

/// Authenticated data of the value's encryption.
#[must_use]
pub fn value_aad(version: u32, binding: &[u8]) -> Vec<u8> {
    [format!("postern seal {version} value\0").as_bytes(), binding].concat()
}

/// HPKE's `info` of a wrap: another use of the same key pair, or another version, can never be taken for this one.
#[must_use]
pub fn wrap_info(version: u32) -> Vec<u8> {
    format!("postern seal {version} data key").into_bytes()
}

/// Authenticated data of one wrap. The id comes last, after JSON, which says where it ends.
#[must_use]
pub fn wrap_aad(binding: &[u8], perimeter_id: &str) -> Vec<u8> {
    [binding, perimeter_id.as_bytes()].concat()
}

/// Its length, the value, zeros up to a power of two.
#[expect(clippy::disallowed_methods, reason = "sealing needs the plaintext")]
fn padded(value: &SecretBytes) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(value.len()).expect("checked against LONGEST_VALUE by the caller").to_be_bytes();
    let padded_length = (length.len() + value.len()).next_power_of_two().max(SHORTEST_PADDED);
    let mut buffer = Zeroizing::new(Vec::with_capacity(padded_length + AES_256_GCM.tag_len()));
    buffer.extend_from_slice(&length);
    buffer.extend_from_slice(value.expose());
    buffer.resize(padded_length, 0);
    buffer
}

/// The HPKE suite, for custody's opening too.
#[must_use]
pub fn suite() -> &'static dyn Hpke {
    DH_KEM_X25519_HKDF_SHA256_AES_256
}

/// The form of [`Sealed`] that is made here.
pub const VERSION: u32 = 3;
/// A form that is still opened: it does not bind how tokens are refreshed.
pub const SECOND_VERSION: u32 = 2;
/// A form that is still opened: it binds neither a variable's name, nor places, nor an OAuth client.
pub const FIRST_VERSION: u32 = 1;
/// Bytes of a public key and of a data key.
pub const KEY_BYTES: usize = 32;
/// The longest value that is sealed.
pub const LONGEST_VALUE: usize = 64 << 10;
/// The most perimeters one value is wrapped for.
pub const MOST_RECIPIENTS: usize = 32;
/// Variables that come with one session at most; the rest of its vaults' stays where it is.
pub const MOST_VARIABLES: usize = 64;
/// What they may be long in all, as texts.
pub const LONGEST_VARIABLES: usize = 256 << 10;
/// The longest text that [`SealedCredential::decode`] reads.
pub const LONGEST_ENCODED: usize = 256 << 10;
const SHORTEST_PADDED: usize = 64;

#[cfg(test)]
mod tests;
