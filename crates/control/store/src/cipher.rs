//! What sessions say, encrypted where it is stored: AES-256-GCM under a key of the operator's, bound to the row and column it
//! stands in. Text in, text out, so that a column holds either form and rows from before the option stay readable.
//!
//! Decides nothing about who may read; whoever holds the key file and the database reads everything.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use postern_secret::SecretBytes;
use zeroize::Zeroizing;

use crate::StoreError;

/// What encrypted text begins with; JSON begins otherwise.
const PREFIX: &str = "enc1:";
const KEY_BYTES: usize = 32;
/// How many keys a file may hold: each is tried by name, and one per rotation is enough for long.
const MOST_KEYS: usize = 64;

/// The keys of a key file: what is stored is encrypted under the first, what was stored opens under any.
pub struct EventKeys(Vec<Key>);

struct Key {
    id: String,
    key: RandomizedNonceKey,
}

/// Why a text holds no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEventKeys {
    /// A line is something else.
    #[error("line {0} is no key: 64 hexadecimal digits are, as `openssl rand -hex 32` prints them")]
    Line(usize),
    /// It has none, or more than anybody needs.
    #[error("it must hold 1 to {MOST_KEYS} keys, one a line")]
    Count,
}

impl EventKeys {
    /// Reads a key file: one key a line, the one in use first; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// It holds something else. Never says what.
    #[expect(clippy::disallowed_methods, reason = "the keys are parsed from the file's text")]
    pub fn parse(file: &SecretBytes) -> Result<Self, BadEventKeys> {
        let mut keys = Vec::new();
        for (at, line) in file.expose().split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                keys.push(Key::parse(line).ok_or(BadEventKeys::Line(at + 1))?);
            }
        }
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return Err(BadEventKeys::Count);
        }
        Ok(Self(keys))
    }

    /// The names of the keys, the one in use first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }
}

impl Key {
    fn parse(digits: &[u8]) -> Option<Self> {
        if digits.len() != KEY_BYTES * 2 {
            return None;
        }
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> =
            digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect();
        let bytes = Zeroizing::new(bytes?);
        let mut context = Context::new(&SHA256);
        context.update(b"postern event key\0");
        context.update(&bytes);
        let id = context.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { id, key: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()? })
    }
}

impl fmt::Debug for EventKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.ids()).finish()
    }
}

/// Where a text stands: the column, and what names its row for ever. A text that is moved to another place does not open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    /// Table and column.
    pub(crate) column: &'static str,
    /// What names the row.
    pub(crate) row: &'a [&'a str],
}

impl Cell<'_> {
    fn associated(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.column].iter().chain(self.row) {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes
    }
}

/// Encrypts what is written where the operator gave keys, and opens what was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cipher(Option<Arc<EventKeys>>);

impl Cipher {
    pub(crate) fn new(keys: Option<EventKeys>) -> Self {
        Self(keys.map(Arc::new))
    }

    pub(crate) fn keys(&self) -> Option<&EventKeys> {
        self.0.as_deref()
    }

    /// What is to be stored for this text.
    pub(crate) fn seal(&self, text: String, cell: Cell<'_>) -> Result<String, StoreError> {
        let Some(key) = self.0.as_ref().and_then(|keys| keys.0.first()) else { return Ok(text) };
        let mut bytes = text.into_bytes();
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(cell.associated()), &mut bytes)
            .map_err(|_| StoreError::Unsealed { what: cell.column })?;
        let mut stored = format!("{PREFIX}{}:", key.id);
        STANDARD_NO_PAD.encode_string([nonce.as_ref(), bytes.as_slice()].concat(), &mut stored);
        Ok(stored)
    }

    /// The text that was stored.
    pub(crate) fn open(&self, stored: String, cell: Cell<'_>) -> Result<String, StoreError> {
        let Some(sealed) = stored.strip_prefix(PREFIX) else { return Ok(stored) };
        self.opened(sealed, cell).ok_or(StoreError::Corrupt { what: cell.column })
    }

    fn opened(&self, sealed: &str, cell: Cell<'_>) -> Option<String> {
        let (id, body) = sealed.split_once(':')?;
        let key = self.0.as_ref()?.0.iter().find(|key| key.id == id)?;
        let bytes = STANDARD_NO_PAD.decode(body).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let length = key.key.open_in_place(nonce, Aad::from(cell.associated()), &mut sealed).ok()?.len();
        sealed.truncate(length);
        String::from_utf8(sealed).ok()
    }
}

/// What every text begins with that was encrypted under this key.
pub(crate) fn prefix_of(id: &str) -> String {
    format!("{PREFIX}{id}:")
}

#[cfg(test)]
mod tests;
