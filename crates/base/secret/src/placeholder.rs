//! Placeholders: what a sandbox holds in a secret's stead. Random, as long as the secret, and
//! worthless outside the session it was issued for. Never derived from the secret's value.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::random_index;

/// A value that stands for a secret inside a sandbox.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Placeholder(String);

/// What unshaped placeholders of eight bytes or more begin with, so that they are known across hosts.
pub const MARKER: &str = "pstn";

/// How a shaped placeholder looks: fixed characters, and `*` where a random letter or digit stands.
///
/// `ghp_*` grows its last `*` until the length is reached, so that clients that check a format locally accept it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shape(String);

/// Why a text is not a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misshapen {
    /// Without a random part a placeholder would be a constant.
    #[error("a shape needs a `*`: the place where random characters go")]
    Constant,
    /// A placeholder must survive headers, URLs, JSON and shells as it is.
    #[error("a shape may hold letters, digits, `-`, `_`, `.` and `*` only")]
    Character,
}

impl Placeholder {
    /// A fresh placeholder of exactly `length` bytes. A shape that leaves fewer than twelve random
    /// characters at this length is not used: a guessable placeholder would be no tripwire.
    #[must_use]
    pub fn issue(length: usize, shape: Option<&Shape>) -> Self {
        let shaped = shape.and_then(|shape| shape.fill(length));
        Self(shaped.unwrap_or_else(|| unshaped(length)))
    }

    /// Takes up a placeholder that was issued before, from its record or from a message.
    #[must_use]
    pub fn from_issued(text: String) -> Self {
        Self(text)
    }

    /// The placeholder as the sandbox sees it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The placeholder's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placeholder({})", self.0)
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Shape {
    type Error = Misshapen;

    fn try_from(text: String) -> Result<Self, Misshapen> {
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte)) {
            return Err(Misshapen::Character);
        }
        if !text.contains('*') {
            return Err(Misshapen::Constant);
        }
        Ok(Self(text))
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.0
    }
}

impl Shape {
    /// The shape at `length` bytes, or nothing where it leaves too little to chance.
    fn fill(&self, length: usize) -> Option<String> {
        let growth = length.checked_sub(self.0.len())?;
        let last = self.0.rfind('*')?;
        let stars = self.0.bytes().filter(|byte| *byte == b'*').count() + growth;
        if stars < ENOUGH_RANDOM {
            return None;
        }
        let mut pattern = self.0.clone();
        pattern.insert_str(last, &"*".repeat(growth));
        Some(pattern.chars().map(|c| if c == '*' { random_character() } else { c }).collect())
    }
}

fn unshaped(length: usize) -> String {
    let marker = if length >= 2 * MARKER.len() { MARKER } else { "" };
    marker.chars().chain(std::iter::repeat_with(random_character)).take(length).collect()
}

fn random_character() -> char {
    char::from(ALPHABET[random_index(ALPHABET.len())])
}

const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ENOUGH_RANDOM: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        Shape::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_placeholder_is_as_long_as_its_secret_and_marked() {
        for length in [4, 7, 8, 16, 40, 3000] {
            let placeholder = Placeholder::issue(length, None);
            assert_eq!(placeholder.as_bytes().len(), length);
            assert_eq!(placeholder.as_str().starts_with(MARKER), length >= 8);
        }
    }

    #[test]
    fn two_placeholders_are_never_the_same() {
        assert_ne!(Placeholder::issue(16, None), Placeholder::issue(16, None));
    }

    #[test]
    fn a_shape_keeps_its_fixed_characters_and_grows_its_last_star() {
        let placeholder = Placeholder::issue(40, Some(&shape("ghp_*")));
        assert!(placeholder.as_str().starts_with("ghp_"));
        assert_eq!(placeholder.as_bytes().len(), 40);
        let placeholder = Placeholder::issue(24, Some(&shape("a*-*.z")));
        assert!(placeholder.as_str().starts_with('a') && placeholder.as_str().ends_with(".z"));
        assert_eq!(placeholder.as_str().as_bytes()[2], b'-');
    }

    #[test]
    fn a_shape_that_leaves_too_little_to_chance_is_not_used() {
        assert!(Placeholder::issue(16, Some(&shape("sk-ant-api03-*"))).as_str().starts_with(MARKER));
    }

    #[test]
    fn a_constant_or_a_character_that_would_not_survive_is_no_shape() {
        assert_eq!(Shape::try_from("ghp_".to_owned()), Err(Misshapen::Constant));
        assert_eq!(Shape::try_from("a\"*".to_owned()), Err(Misshapen::Character));
    }
}
