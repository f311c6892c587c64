//! The type of every secret, and the rule which values are strong enough to be one.
//! Never prints, compares or serializes a value.

use std::collections::BTreeSet;
use std::fmt;

use zeroize::Zeroize;

/// A value that is zeroed when dropped and cannot be printed, compared, serialized or cloned by accident.
pub struct Secret<T: Zeroize>(T);

/// A secret as bytes, as sources deliver it.
pub type SecretBytes = Secret<Vec<u8>>;

impl<T: Zeroize> Secret<T> {
    /// Takes the value over; the caller keeps no copy.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Each caller states its reason: clippy refuses this method elsewhere.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl SecretBytes {
    /// A second copy, for another holder inside the perimeter; named so that no derive makes one.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Length in bytes: what a placeholder must match, and no more than it already tells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Why a value is not admitted as a secret: scrubbing it would miss it, or would tear ordinary text apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// Shorter than any length that could be scrubbed; no flag lifts this.
    #[error("a secret needs at least {FLOOR_BYTES} bytes, even with --danger-short")]
    Unscrubbable,
    /// Longer than anything a header, a form or a key file holds.
    #[error("a secret may have at most {CEILING_BYTES} bytes")]
    TooLong,
    /// Short enough to be guessed, or to occur in other text by chance.
    #[error("a secret needs at least {MINIMUM_BYTES} bytes; pass --danger-short to accept it all the same")]
    TooShort,
    /// Hardly any variety.
    #[error(
        "a secret needs at least {MINIMUM_DISTINCT} different bytes; pass --danger-short to accept it all the same"
    )]
    TooUniform,
    /// Stands in the shipped list of values that people and samples use.
    #[error("this value is a well-known guess; pass --danger-short to accept it all the same")]
    Guessable,
}

/// Admits `bytes` as a secret; `danger_short` lifts all but the hard bounds.
///
/// # Errors
/// The first reason why the value is too weak to be scrubbed safely.
pub fn admit(bytes: Vec<u8>, danger_short: bool) -> Result<SecretBytes, Weak> {
    let secret = Secret::new(bytes);
    match weakness(&secret.0, danger_short) {
        Some(weak) => Err(weak),
        None => Ok(secret),
    }
}

fn weakness(bytes: &[u8], danger_short: bool) -> Option<Weak> {
    let length = bytes.len();
    let hard = [(length < FLOOR_BYTES, Weak::Unscrubbable), (length > CEILING_BYTES, Weak::TooLong)];
    let soft = || {
        [
            (length < MINIMUM_BYTES, Weak::TooShort),
            (distinct(bytes) < MINIMUM_DISTINCT, Weak::TooUniform),
            (is_guess(bytes), Weak::Guessable),
        ]
    };
    let first = |rules: &[(bool, Weak)]| rules.iter().find(|(broken, _)| *broken).map(|(_, weak)| *weak);
    first(&hard).or_else(|| if danger_short { None } else { first(&soft()) })
}

fn distinct(bytes: &[u8]) -> usize {
    bytes.iter().collect::<BTreeSet<_>>().len()
}

/// Compares without case, spaces at the ends and punctuation, so that `Change-Me-…` is one guess.
fn is_guess(bytes: &[u8]) -> bool {
    let plain = simplified(bytes);
    guesses().any(|guess| simplified(guess.as_bytes()) == plain)
}

fn simplified(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().filter(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii()).map(u8::to_ascii_lowercase).collect()
}

fn guesses() -> impl Iterator<Item = &'static str> {
    GUESSES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

const GUESSES: &str = include_str!("../data/guesses.txt");
const FLOOR_BYTES: usize = 4;
const CEILING_BYTES: usize = 16 * 1024;
const MINIMUM_BYTES: usize = 16;
const MINIMUM_DISTINCT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_values_are_refused_with_the_reason() {
        let table: [(&[u8], bool, Option<Weak>); 9] = [
            (b"", true, Some(Weak::Unscrubbable)),
            (b"abc", true, Some(Weak::Unscrubbable)),
            (b"abcd", true, None),
            (b"abcdefgh1234567", false, Some(Weak::TooShort)),
            (b"abcdefgh12345678", false, None),
            (b"abababababababababab", false, Some(Weak::TooUniform)),
            (b"abababababababababab", true, None),
            (b"Your-API-Key-Goes-Here", false, Some(Weak::Guessable)),
            (&[7; CEILING_BYTES + 1], true, Some(Weak::TooLong)),
        ];
        for (bytes, danger, expected) in table {
            assert_eq!(admit(bytes.to_vec(), danger).err(), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2-hunter2-hunter2".to_vec())), "Secret(..)");
    }

    #[test]
    fn every_shipped_guess_would_pass_the_other_rules() {
        for guess in guesses() {
            assert!(guess.len() >= MINIMUM_BYTES, "{guess}: already too short");
            assert!(distinct(guess.as_bytes()) >= MINIMUM_DISTINCT, "{guess}: already too uniform");
        }
    }
}
