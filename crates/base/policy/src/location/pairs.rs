//! Values in `key=value&key=value`, of a query and of a form alike. A key that servers could find twice has no value
//! here: they would not agree which one counts.

use crate::foreign::keys;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, str::FromStr};

/// The name of a key that has one spelling: letters, digits, `-`, `_`, `.` and `~`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(String);

/// The text is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has letters, digits, `-`, `_`, `.` and `~` only, at most 128")]
pub struct BadKey;

impl KeyName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(plain) { Ok(Self(text.to_owned())) } else { Err(BadKey) }
    }
}

impl TryFrom<String> for KeyName {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<KeyName> for String {
    fn from(key: KeyName) -> String {
        key.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the raw value of a key stands, if the key stands there once, spelled as it is.
#[must_use]
pub fn value_of(pairs: &[u8], key: &KeyName) -> Option<Range<usize>> {
    let named = keys(pairs).filter(|name| name.eq_ignore_ascii_case(key.as_str())).take(2).count();
    if named != 1 {
        return None;
    }
    ranges(pairs).find_map(|pair| {
        let equals = pairs[pair.clone()].iter().position(|byte| *byte == b'=')?;
        let value = pair.start + equals + 1..pair.end;
        (&pairs[pair.start..pair.start + equals] == key.as_str().as_bytes()).then_some(value)
    })
}

/// The key whose whole value stands at `range`.
#[must_use]
pub fn key_of(pairs: &[u8], range: &Range<usize>) -> Option<KeyName> {
    let pair = ranges(pairs).find(|pair| pair.start <= range.start && range.end <= pair.end)?;
    let equals = pairs[pair.clone()].iter().position(|byte| *byte == b'=')?;
    let key: KeyName = std::str::from_utf8(&pairs[pair.start..pair.start + equals]).ok()?.parse().ok()?;
    (value_of(pairs, &key)? == *range).then_some(key)
}

fn ranges(pairs: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    pairs.split(|byte| *byte == b'&').map(move |pair| {
        let range = start..start + pair.len();
        start = range.end + 1;
        range
    })
}
