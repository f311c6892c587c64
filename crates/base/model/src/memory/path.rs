//! Where memories lie: absolute paths that become file names on somebody's machine, so that only what is plainly one file
//! below its root is a path.

use std::fmt;

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::is_nfc;

use crate::Problem;

/// The most segments of a path.
pub const MAX_SEGMENTS: usize = 20;
const MAX_BYTES: usize = 1024;

/// The path of a memory: `/`, then 1 to 20 segments.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct MemoryPath(Box<str>);

impl MemoryPath {
    /// Reads a path.
    ///
    /// # Errors
    /// 400 at `path`, saying which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        check(text).map_err(|rule| Problem::invalid_at("path", rule))?;
        Ok(Self(text.into()))
    }

    /// The path as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MemoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> serde::Deserialize<'de> for MemoryPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What the paths of a list begin with: whole segments, `/` at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix(Box<str>);

impl PathPrefix {
    /// Reads a prefix.
    ///
    /// # Errors
    /// 400 at `path_prefix`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let directory = text.strip_suffix('/').ok_or("must end with `/`");
        let checked = directory.and_then(|path| if path.is_empty() { Ok(()) } else { check(path) });
        checked.map_err(|rule| Problem::invalid_at("path_prefix", rule))?;
        Ok(Self(text.into()))
    }

    /// The prefix, with its last `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PathPrefix {
    /// The whole store.
    fn default() -> Self {
        Self("/".into())
    }
}

fn check(path: &str) -> Result<(), &'static str> {
    let segments = path.strip_prefix('/').ok_or("must start with `/`")?;
    if path.len() > MAX_BYTES {
        return Err("must have at most 1024 bytes");
    }
    if segments.split('/').count() > MAX_SEGMENTS {
        return Err("must have at most 20 segments");
    }
    if segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("no segment may be empty, `.` or `..`");
    }
    if path.chars().any(is_hidden) {
        return Err("must not have control or format characters, or line or paragraph separators");
    }
    if !is_nfc(path) {
        return Err("must be in Unicode Normalization Form C");
    }
    Ok(())
}

/// A character that two paths could differ by without showing it.
fn is_hidden(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(get_general_category(c), Control | Format | LineSeparator | ParagraphSeparator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_file_below_the_root_of_its_store() {
        let deepest = "/s".repeat(MAX_SEGMENTS);
        let longest = format!("/{}", "x".repeat(MAX_BYTES - 1));
        for path in ["/a", "/notes/todo.md", "/ A/..b/c..", "/\u{e9}/\u{65e5}\u{672c}", "/a\\b", &deepest, &longest] {
            assert_eq!(MemoryPath::parse(path).unwrap().as_str(), path);
        }
        for path in [
            "",
            "/",
            "a",
            "a/b",
            "//",
            "/a/",
            "/a//b",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a\u{0}",
            "/a\nb",
            "/\u{85}",
            "/\u{200b}",
            "/\u{202e}a",
            "/\u{feff}a",
            "/\u{ad}",
            "/a\u{2028}",
            "/a\u{2029}",
            // An `e` and a combining accent: one letter in two forms.
            "/e\u{301}",
            &format!("{deepest}/s"),
            &format!("{longest}x"),
        ] {
            assert_eq!(MemoryPath::parse(path).unwrap_err().status(), 400, "{path:?}");
        }
    }

    #[test]
    fn a_prefix_ends_with_a_slash_and_is_a_path_otherwise() {
        for prefix in ["/", "/notes/", "/a/b/"] {
            assert_eq!(PathPrefix::parse(prefix).unwrap().as_str(), prefix);
        }
        for prefix in ["", "/notes", "notes/", "//", "/a//", "/../"] {
            assert_eq!(PathPrefix::parse(prefix).unwrap_err().status(), 400, "{prefix:?}");
        }
    }
}
