//! The value of a header around a secret: `Bearer {secret}`.

use std::fmt;
use std::str::FromStr;

const HOLE: &str = "{secret}";

/// A header's value with exactly one place for a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFormat {
    before: String,
    after: String,
}

/// The text is no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// None, or more than one.
    #[error("must hold {{secret}} exactly once, as in \"Bearer {{secret}}\"")]
    Holes,
    /// Control characters, other alphabets, or blanks at an end, which servers cut off.
    #[error("must have printable ASCII characters only, and no blank at its ends")]
    Character,
}

impl HeaderFormat {
    /// `Bearer {secret}`.
    #[must_use]
    pub fn bearer() -> Self {
        Self { before: "Bearer ".to_owned(), after: String::new() }
    }

    /// The secret alone.
    #[must_use]
    pub fn bare() -> Self {
        Self { before: String::new(), after: String::new() }
    }

    /// What stands before the secret.
    #[must_use]
    pub fn before(&self) -> &str {
        &self.before
    }

    /// What stands after the secret.
    #[must_use]
    pub fn after(&self) -> &str {
        &self.after
    }
}

impl FromStr for HeaderFormat {
    type Err = BadFormat;
    fn from_str(text: &str) -> Result<Self, BadFormat> {
        let (before, after) = text.split_once(HOLE).ok_or(BadFormat::Holes)?;
        if after.contains(HOLE) {
            return Err(BadFormat::Holes);
        }
        let printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !printable || text.trim() != text {
            return Err(BadFormat::Character);
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl fmt::Display for HeaderFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{HOLE}{}", self.before, self.after)
    }
}
