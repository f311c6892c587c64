//! The one list of forms in which a value may reappear. The scrubber, the detector and the canary search accept these
//! and every mixture of their escapes; tests draw from this list. It finds nothing itself.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::key::hex;

/// In which form a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As it is.
    Plain,
    /// Some or all characters percent-encoded, in any casing; `+` for a space.
    Percent,
    /// Some or all characters as JSON escapes, in any casing.
    Json,
    /// Some or all characters as HTML entities: decimal, hexadecimal or named.
    Html,
    /// Escapes of more than one family.
    Mixed,
    /// Base64 or base64url, at any alignment, wrapped or not, its characters escaped or not.
    Base64,
    /// Hexadecimal, in any casing.
    Hex,
    /// UTF-16, least significant byte first.
    Utf16Le,
    /// UTF-16, most significant byte first.
    Utf16Be,
}

impl Kind {
    /// The name as in records and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Percent => "percent",
            Self::Json => "json",
            Self::Html => "html",
            Self::Mixed => "mixed",
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Utf16Le => "utf16_le",
            Self::Utf16Be => "utf16_be",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rendering of one value. It is as secret as the value.
pub struct Rendering {
    /// Its form.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The pure renderings of `value`, each as other programs write it. Base64 comes with what precedes the value in its
/// group of three bytes, as `user:` does in Basic credentials.
#[must_use]
pub fn of(value: &[u8]) -> Vec<Rendering> {
    let mut list = vec![Rendering { kind: Kind::Plain, bytes: value.to_vec() }];
    let mut add = |kind, bytes: Vec<u8>| list.push(Rendering { kind, bytes });
    let characters = characters(value);
    add(Kind::Percent, percent(value, |byte| format!("%{byte:02X}"), is_unreserved));
    for encode in [|byte| format!("%{byte:02X}"), |byte| format!("%{byte:02x}")] {
        add(Kind::Percent, percent(value, encode, |_| false));
    }
    add(Kind::Json, json_short(value));
    for encode in [|unit| format!("\\u{unit:04x}"), |unit| format!("\\u{unit:04X}")] {
        add(Kind::Json, utf16(&characters).map(encode).collect::<String>().into_bytes());
    }
    for encode in [|code| format!("&#{code};"), |code| format!("&#x{code:x};"), |code| format!("&#x{code:X};")] {
        let codes = characters.iter().map(|character| u32::from(*character));
        add(Kind::Html, codes.map(encode).collect::<String>().into_bytes());
    }
    for filler in ["", "u", "u:"] {
        let whole = [filler.as_bytes(), value].concat();
        add(Kind::Base64, STANDARD.encode(&whole).into_bytes());
        add(Kind::Base64, URL_SAFE.encode(&whole).into_bytes());
    }
    add(Kind::Hex, hex(value).into_bytes());
    add(Kind::Hex, hex(value).to_ascii_uppercase().into_bytes());
    add(Kind::Utf16Le, utf16(&characters).flat_map(u16::to_le_bytes).collect());
    add(Kind::Utf16Be, utf16(&characters).flat_map(u16::to_be_bytes).collect());
    list
}

/// The characters of a value; one that is no UTF-8 counts as Latin-1.
fn characters(value: &[u8]) -> Vec<char> {
    match std::str::from_utf8(value) {
        Ok(text) => text.chars().collect(),
        Err(_) => value.iter().copied().map(char::from).collect(),
    }
}

fn utf16(characters: &[char]) -> impl Iterator<Item = u16> {
    characters.iter().flat_map(|character| character.encode_utf16(&mut [0; 2]).to_vec())
}

fn percent(value: &[u8], encode: fn(u8) -> String, plain: fn(u8) -> bool) -> Vec<u8> {
    let encoded = value.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { encode(*byte) });
    encoded.collect::<String>().into_bytes()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn json_short(value: &[u8]) -> Vec<u8> {
    let short = |byte| crate::symbols::JSON_SHORT.iter().find(|(_, meaning)| *meaning == byte);
    value.iter().flat_map(|byte| short(*byte).map_or(vec![*byte], |(letter, _)| vec![b'\\', *letter])).collect()
}
