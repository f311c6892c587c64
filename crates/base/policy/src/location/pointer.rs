//! JSON pointers (RFC 6901), as zones name a string within a body by them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Leads to one value below the root: `/auth/token`, `/items/0/key`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JsonPointer(String);

/// The text is no pointer below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a JSON pointer such as /auth/token, with ~0 for ~ and ~1 for /, at most 512 characters")]
pub struct BadPointer;

/// One step of a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl JsonPointer {
    /// The pointer of a way from the root.
    pub(super) fn of(way: &[Step]) -> Self {
        let step = |step: &Step| match step {
            Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => format!("/{index}"),
        };
        Self(way.iter().map(step).collect())
    }
}

impl FromStr for JsonPointer {
    type Err = BadPointer;
    fn from_str(text: &str) -> Result<Self, BadPointer> {
        let escaped = |step: &str| {
            step.split('~').skip(1).all(|after| after.starts_with(['0', '1'])) && !step.chars().any(char::is_control)
        };
        let shaped = text.starts_with('/') && text.len() <= 512 && text.split('/').all(escaped);
        if shaped { Ok(Self(text.to_owned())) } else { Err(BadPointer) }
    }
}

impl TryFrom<String> for JsonPointer {
    type Error = BadPointer;
    fn try_from(text: String) -> Result<Self, BadPointer> {
        text.parse()
    }
}

impl From<JsonPointer> for String {
    fn from(pointer: JsonPointer) -> String {
        pointer.0
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
