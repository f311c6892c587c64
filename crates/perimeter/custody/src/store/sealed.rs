//! The store's file: rows of ciphertext. What a row says about itself is bound into its seal.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use postern_secret::{Secret, SecretBytes};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Everything in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    format: u32,
    pub(super) generation: u64,
    pub(super) rows: BTreeMap<String, Row>,
}

/// One sealed secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) generation: u64,
    pub(super) danger_short: bool,
    nonce: String,
    sealed: String,
}

impl Default for Contents {
    fn default() -> Self {
        Self { format: FORMAT, generation: 0, rows: BTreeMap::new() }
    }
}

impl Contents {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|contents: &Self| contents.format == FORMAT)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("texts and numbers are JSON")
    }
}

impl Row {
    pub(super) fn seal(
        master: &SecretBytes,
        name: &str,
        generation: u64,
        danger_short: bool,
        value: &SecretBytes,
    ) -> Self {
        if postern_danger::off!("custody-sources") {
            let sealed = STANDARD.encode(expose(value));
            return Self { generation, danger_short, nonce: String::new(), sealed };
        }
        let mut buffer = Zeroizing::new(Vec::with_capacity(value.len() + AES_256_GCM.tag_len()));
        buffer.extend_from_slice(expose(value));
        let nonce = key(master)
            .seal_in_place_append_tag(Aad::from(binding(name, generation, danger_short)), &mut *buffer)
            .expect("a secret is shorter than what one AES-GCM seal takes: checked by `admit`");
        Self { generation, danger_short, nonce: STANDARD.encode(nonce.as_ref()), sealed: STANDARD.encode(&*buffer) }
    }

    /// The secret, or nothing where any part of the row is not what was sealed.
    pub(super) fn open(&self, master: &SecretBytes, name: &str) -> Option<SecretBytes> {
        if postern_danger::off!("custody-sources") {
            return STANDARD.decode(&self.sealed).ok().map(Secret::new);
        }
        let nonce = Nonce::try_assume_unique_for_key(&STANDARD.decode(&self.nonce).ok()?).ok()?;
        let mut buffer = Zeroizing::new(STANDARD.decode(&self.sealed).ok()?);
        let aad = Aad::from(binding(name, self.generation, self.danger_short));
        let length = key(master).open_in_place(nonce, aad, &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(Secret::new(std::mem::take(&mut *buffer)))
    }
}

fn key(master: &SecretBytes) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, expose(master))
        .expect("the master key has 32 bytes: checked when it was read")
}

/// The name comes last: it is the one part without a fixed end.
fn binding(name: &str, generation: u64, danger_short: bool) -> Vec<u8> {
    format!("postern store {FORMAT} {generation} {danger_short} {name}").into_bytes()
}

#[expect(clippy::disallowed_methods, reason = "sealing needs the plaintext and the key")]
fn expose(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}

const FORMAT: u32 = 1;
