//! Where a file of a skill lies: the one reading of such a path, for what clients upload and for what servers send.

/// The longest path, in bytes.
const MAX_PATH: usize = 512;
/// The longest name in it, in bytes: what file systems take.
const MAX_SEGMENT: usize = 255;
/// The most directories, one in another.
const MAX_DEPTH: usize = 16;

/// A plain relative path: segments between single slashes, each a name and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberPath(String);

impl MemberPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => return Err("it is empty"),
            _ if text.len() > MAX_PATH => return Err("it is longer than 512 bytes"),
            _ if text.starts_with('/') => return Err("it is absolute"),
            _ if text.contains('\\') => return Err("it has a backslash; directories are separated by `/`"),
            _ if text.chars().any(char::is_control) => return Err("it has control characters"),
            _ => {}
        }
        let mut depth = 0;
        for segment in text.split('/') {
            depth += 1;
            match segment {
                "" => return Err("it has an empty segment"),
                "." | ".." => return Err("it has a `.` or `..` segment"),
                _ if segment.len() > MAX_SEGMENT => return Err("a name in it is longer than 255 bytes"),
                _ => {}
            }
        }
        if depth > MAX_DEPTH { Err("it is deeper than 16 directories") } else { Ok(Self(text.to_owned())) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its first directory, and where it lies in that; none where it lies in none.
    pub fn split(&self) -> Option<(&str, Self)> {
        let (top, rest) = self.0.split_once('/')?;
        Some((top, Self(rest.to_owned())))
    }

    /// The directories that it lies in, the outermost first.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_relative_path_is_taken_as_it_is() {
        for text in ["SKILL.md", "a/b/c.py", "a/.hidden", "a/..b", "\u{fc}ber/\u{6587}.md", "a b/c"] {
            assert_eq!(MemberPath::parse(text).unwrap().as_str(), text);
        }
        let path = MemberPath::parse("a/b/c").unwrap();
        assert_eq!(path.split(), Some(("a", MemberPath::parse("b/c").unwrap())));
        assert_eq!(path.directories().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(MemberPath::parse("a").unwrap().split(), None);
    }

    #[test]
    fn whatever_could_lead_elsewhere_is_none() {
        let (long, deep) = ("x".repeat(256), "a/".repeat(16) + "b");
        for text in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "C:\\x",
            "a\0b",
            "a\nb",
            "a/\u{7f}",
            &long,
            &deep,
            &"a/".repeat(300),
        ] {
            assert!(MemberPath::parse(text).is_err(), "{text:?}");
        }
    }
}
