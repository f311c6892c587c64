//! Request paths in one canonical form, and the globs that rules name them by.
//! A path that two servers could read in two ways is refused, not repaired: a rule would be asked about one
//! reading and the upstream would act on the other.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An absolute path without query: unreserved characters decoded, other escapes in upper case, no dot segments,
/// no empty segments but a last one. This text is what is decided on *and* what is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CanonicalPath(String);

/// Why a path has no one canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Not beginning with a slash (`*`, an absolute URL).
    #[error("the path does not begin with /")]
    NotAbsolute,
    /// More than 8,192 bytes.
    #[error("the path is longer than 8192 bytes")]
    TooLong,
    /// A raw byte that must be escaped in a path, a query or a fragment.
    #[error("the path has a character that must be percent-encoded")]
    BadCharacter,
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent escape")]
    BrokenEscape,
    /// `%2f`, `%5c` or a backslash: a separator to some servers, a character to others.
    #[error("the path has an encoded slash or a backslash")]
    EncodedSeparator,
    /// `%00` to `%1f`, `%7f`.
    #[error("the path has an encoded control character")]
    EncodedControl,
    /// An escape that becomes another escape when decoded twice.
    #[error("the path is encoded twice")]
    DoubleEncoding,
    /// Escapes that are not UTF-8, or characters that some servers fold to `.`, `/` or `\`.
    #[error("the path has escapes that servers decode differently")]
    AmbiguousText,
    /// `.`, `..`, or what some servers take for them (`..;x`, `...`).
    #[error("the path has a dot segment")]
    DotSegment,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
}

const LONGEST: usize = 8192;
/// `;`, and what compatibility folding makes one.
const BEGINS_PARAMETERS: &[char] = &[';', '\u{37e}', '\u{fe14}', '\u{fe54}', '\u{ff1b}'];
/// `?` and `#`, and what compatibility folding makes one of them.
const ENDS_A_PATH: &[char] =
    &['?', '\u{2047}', '\u{2048}', '\u{fe16}', '\u{fe56}', '\u{ff1f}', '#', '\u{fe5f}', '\u{ff03}'];

impl CanonicalPath {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn segments(&self) -> std::str::Split<'_, char> {
        self.0[1..].split('/')
    }
}

impl FromStr for CanonicalPath {
    type Err = BadPath;
    fn from_str(text: &str) -> Result<Self, BadPath> {
        if !text.starts_with('/') {
            return Err(BadPath::NotAbsolute);
        }
        if text.len() > LONGEST {
            return Err(BadPath::TooLong);
        }
        let canonical = unescape_unreserved(text)?;
        check_twice_encoded(&canonical)?;
        check_text(&canonical)?;
        check_segments(&canonical)?;
        Ok(Self(canonical))
    }
}

fn unescape_unreserved(text: &str) -> Result<String, BadPath> {
    let mut canonical = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => push_escape(&mut canonical, escaped(bytes.next(), bytes.next())?)?,
            b'\\' => return Err(BadPath::EncodedSeparator),
            _ if is_path_character(byte) => canonical.push(char::from(byte)),
            _ => return Err(BadPath::BadCharacter),
        }
    }
    Ok(canonical)
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, BadPath> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(BadPath::BrokenEscape);
    Ok(u8::try_from(digit(high)? * 16 + digit(low)?).expect("two hexadecimal digits are at most 255"))
}

fn push_escape(canonical: &mut String, byte: u8) -> Result<(), BadPath> {
    match byte {
        b'/' | b'\\' => Err(BadPath::EncodedSeparator),
        0..=0x1f | 0x7f => Err(BadPath::EncodedControl),
        _ if is_unreserved(byte) => {
            canonical.push(char::from(byte));
            Ok(())
        }
        _ => {
            canonical.push_str(&format!("%{byte:02X}"));
            Ok(())
        }
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 3.3: pchar and the slash.
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@/".contains(&byte)
}

fn check_twice_encoded(canonical: &str) -> Result<(), BadPath> {
    let hexadecimal = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    for (at, _) in canonical.match_indices("%25") {
        let rest = &canonical.as_bytes()[at + 3..];
        // `%25%32...` is not spared: its `%32` has been decoded to `2` by now.
        if hexadecimal(rest.first()) && hexadecimal(rest.get(1)) {
            return Err(BadPath::DoubleEncoding);
        }
    }
    Ok(())
}

fn check_text(canonical: &str) -> Result<(), BadPath> {
    let decoded = percent_encoding::percent_decode_str(canonical).decode_utf8().map_err(|_| BadPath::AmbiguousText)?;
    if decoded.chars().any(|character| character.is_control() || folds(character)) {
        return Err(BadPath::AmbiguousText);
    }
    if decoded.chars().zip(decoded.chars().skip(1)).any(folds_to_escape) {
        Err(BadPath::DoubleEncoding)
    } else {
        Ok(())
    }
}

/// Full-width, small, leader and abbreviating forms: compatibility folding makes `/ \ .` of them before the upstream's
/// router looks.
fn folds(character: char) -> bool {
    matches!(
        character,
        '\u{ff0f}' | '\u{ff3c}' | '\u{ff0e}' | '\u{2024}'
            ..='\u{2026}'
                | '\u{2044}'
                | '\u{2215}'
                | '\u{29f8}'
                | '\u{2100}'
                | '\u{2101}'
                | '\u{2105}'
                | '\u{2106}'
                | '\u{fe19}'
                | '\u{fe30}'
                | '\u{fe52}'
                | '\u{fe68}'
    )
}

/// A full-width or small per cent sign before what folds to a hexadecimal digit.
fn folds_to_escape((first, second): (char, char)) -> bool {
    let digit = second.is_ascii_hexdigit()
        || matches!(second, '\u{ff10}'..='\u{ff19}' | '\u{ff21}'..='\u{ff26}' | '\u{ff41}'..='\u{ff46}');
    matches!(first, '\u{ff05}' | '\u{fe6a}') && digit
}

fn check_segments(canonical: &str) -> Result<(), BadPath> {
    let mut segments = canonical[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(BadPath::EmptySegment);
        }
        if is_dot_like(segment) {
            return Err(BadPath::DotSegment);
        }
    }
    Ok(())
}

/// What is left of a segment for servers that drop path parameters (`..;x`), what follows a decoded `?` or `#`, or
/// trailing dots and blanks (`.. `).
fn is_dot_like(segment: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
    let name = decoded.split(BEGINS_PARAMETERS).next().unwrap_or(&decoded);
    let before_query = name.split(ENDS_A_PATH).next().unwrap_or(name);
    let dots = |text: &str| text.trim_matches([' ', '.']).is_empty();
    // A name may begin with a question mark; what is left of it is the directory that it is in.
    (!segment.is_empty() && dots(name)) || (!before_query.is_empty() && dots(before_query))
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CanonicalPath {
    type Error = BadPath;
    fn try_from(text: String) -> Result<Self, BadPath> {
        text.parse()
    }
}

impl From<CanonicalPath> for String {
    fn from(path: CanonicalPath) -> String {
        path.0
    }
}

/// A rule's path: `*` stands for one or more characters within a segment, a last `**` for everything below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    text: String,
    segments: Vec<String>,
    open: bool,
}

/// Why a text is not a path glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// The path around the stars is not canonical.
    #[error("{0}")]
    Path(#[from] BadPath),
    /// `**` stands for everything below, so it ends a pattern and is a segment of its own.
    #[error("`**` may only be the last segment, as in /v1/**")]
    StarsInside,
}

impl PathGlob {
    /// Whether the glob covers the path.
    #[must_use]
    pub fn covers(&self, path: &CanonicalPath) -> bool {
        let mut rest = path.segments();
        for pattern in &self.segments {
            match rest.next() {
                Some(segment) if segment_matches(pattern, segment) => {}
                _ => return false,
            }
        }
        // `**` needs a segment, be it the empty one of a trailing slash: `/v1/**` does not cover `/v1`.
        rest.next().is_some() == self.open
    }
}

/// The glob's parts, for comparing what two globs cover.
impl PathGlob {
    /// What each segment must be like, without a last `**`.
    pub(crate) fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Whether it ends in `**`.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

impl FromStr for PathGlob {
    type Err = BadGlob;
    fn from_str(text: &str) -> Result<Self, BadGlob> {
        let path: CanonicalPath = text.parse()?;
        let mut segments: Vec<String> = path.segments().map(str::to_owned).collect();
        let open = segments.last().is_some_and(|last| last == "**");
        if open {
            segments.pop();
        }
        if segments.iter().any(|segment| segment.contains("**")) {
            return Err(BadGlob::StarsInside);
        }
        Ok(Self { text: path.0, segments, open })
    }
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Star matching in one pass with one way back: time is bounded by the product of the lengths.
fn segment_matches(pattern: &str, segment: &str) -> bool {
    let (pattern, segment) = (pattern.as_bytes(), segment.as_bytes());
    let (mut at, mut seen) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while seen < segment.len() {
        match pattern.get(at) {
            Some(b'*') => {
                // One character at least: an empty match would let `/a/*` cover `/a/`.
                seen += 1;
                at += 1;
                retry = Some((at, seen));
            }
            Some(byte) if *byte == segment[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    at = star;
                    seen = from + 1;
                    retry = Some((star, seen));
                }
                None => return false,
            },
        }
    }
    at == pattern.len()
}

#[cfg(test)]
mod tests;
