//! The one list of forms in which a value may reappear; scrubber, canary search and tests share it.

use serde::{Deserialize, Serialize};

/// In which form a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As it is.
    Plain,
    /// Some or all characters percent-encoded, in any casing.
    Percent,
    /// Some or all characters as JSON escapes, in any casing.
    Json,
    /// Some or all characters as HTML entities, decimal, hexadecimal or named.
    Html,
    /// Escapes of more than one family.
    Mixed,
    /// Base64 or base64url, at any alignment, wrapped or not.
    Base64,
    /// Hexadecimal, in any casing.
    Hex,
    /// UTF-16, least significant byte first.
    Utf16Le,
    /// UTF-16, most significant byte first.
    Utf16Be,
}

/// One rendering of one value.
pub struct Rendering {
    /// Its form.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Canonical renderings of `value`; the matcher accepts these and every mixture of them.
#[must_use]
pub fn of(value: &[u8]) -> Vec<Rendering> {
    vec![Rendering { kind: Kind::Plain, bytes: value.to_vec() }]
}
