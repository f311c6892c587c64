//! Paths with a place for a secret: `/bot{secret}/**`, `/hooks/*/{secret}`.

use crate::CanonicalPath;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, str::FromStr};

/// The form of a path with `{secret}` in one of its segments. `*` stands for one whole segment, a last `**` for one or
/// more of them, everything else for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathTemplate {
    text: String,
    segments: Vec<String>,
    open: bool,
    at: Segment,
}

/// The segment of a path in which a placeholder stands, and what of the segment is not the placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Segment {
    index: usize,
    before: String,
    after: String,
}

/// Why a text is no such form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// The path around the braces is not canonical.
    #[error("{0}")]
    Path(#[from] crate::BadPath),
    /// `{secret}` is what says where.
    #[error("the path needs `{{secret}}` exactly once, as in /bot{{secret}}/**")]
    Secret,
    /// Stars are whole segments here.
    #[error("`*` stands for a whole segment, `**` for the last ones, and neither beside {{secret}}")]
    Stars,
}

impl Segment {
    /// Where this text stands in a path, if it does so once.
    #[must_use]
    pub fn holding(path: &CanonicalPath, text: &str) -> Option<Self> {
        let mut holding = path.segments().enumerate().filter(|(_, segment)| segment.contains(text));
        let (Some((index, segment)), None) = (holding.next(), holding.next()) else {
            return None;
        };
        let (before, after) = segment.split_once(text)?;
        (!after.contains(text)).then(|| Self { index, before: before.to_owned(), after: after.to_owned() })
    }
}

impl PathTemplate {
    /// Whether a path has this form, with what stands at `{secret}` at that segment.
    #[must_use]
    pub fn covers(&self, path: &CanonicalPath, held: &Segment) -> bool {
        let mut rest = path.segments();
        for (index, pattern) in self.segments.iter().enumerate() {
            match rest.next() {
                Some(_) if index == self.at.index => {}
                Some(segment) if !segment.is_empty() && (pattern == "*" || pattern == segment) => {}
                _ => return false,
            }
        }
        *held == self.at && rest.next().is_some() == self.open
    }

    /// Where in a path's text `{secret}` stands.
    #[must_use]
    pub fn value_in(&self, path: &CanonicalPath) -> Option<Range<usize>> {
        let segment = path.segments().nth(self.at.index)?;
        let held = segment.strip_prefix(self.at.before.as_str())?.strip_suffix(self.at.after.as_str())?;
        let earlier: usize = path.segments().take(self.at.index).map(|segment| segment.len() + 1).sum();
        let start = earlier + 1 + self.at.before.len();
        Some(start..start + held.len())
    }
}

impl FromStr for PathTemplate {
    type Err = BadTemplate;
    fn from_str(text: &str) -> Result<Self, BadTemplate> {
        // Braces are no path characters: any others are refused with the path.
        if text.contains(STAND_IN) {
            return Err(BadTemplate::Secret);
        }
        let path: CanonicalPath = text.replace(SECRET, STAND_IN).parse()?;
        let at = Segment::holding(&path, STAND_IN).ok_or(BadTemplate::Secret)?;
        let mut segments: Vec<String> = path.segments().map(str::to_owned).collect();
        let open = segments.last().is_some_and(|last| last == "**");
        if open {
            segments.pop();
        }
        if segments.iter().any(|segment| segment.contains('*') && segment != "*") {
            return Err(BadTemplate::Stars);
        }
        Ok(Self { text: path.as_str().replace(STAND_IN, SECRET), segments, open, at })
    }
}

impl TryFrom<String> for PathTemplate {
    type Error = BadTemplate;
    fn try_from(text: String) -> Result<Self, BadTemplate> {
        text.parse()
    }
}

impl From<PathTemplate> for String {
    fn from(template: PathTemplate) -> String {
        template.text
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const SECRET: &str = "{secret}";
/// Stands for the secret while the path around it is read.
const STAND_IN: &str = "SECRET-0f6b";
