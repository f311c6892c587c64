//! The SHA-256 of a content, as the wire writes it.

use std::fmt;

use crate::Problem;

/// SHA-256 of the exact UTF-8 bytes of a content, in lowercase hex.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ContentDigest(Box<str>);

impl ContentDigest {
    /// The digest of these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    /// Reads 64 lowercase hexadecimal digits that stand at `place`.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn parse(text: &str, place: &str) -> Result<Self, Problem> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Ok(Self(text.into()));
        }
        Err(Problem::invalid_at(place, "must be a SHA-256 of 64 lowercase hexadecimal digits"))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_64_lowercase_digits() {
        let digest = ContentDigest::from_bytes([0xa5; 32]);
        assert_eq!(ContentDigest::parse(digest.as_str(), "x"), Ok(digest));
        for text in ["", &"a".repeat(63), &"A".repeat(64), &"g".repeat(64), &"\u{e9}".repeat(32)] {
            assert_eq!(ContentDigest::parse(text, "x").unwrap_err().status(), 400, "{text}");
        }
    }
}
