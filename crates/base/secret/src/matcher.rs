//! Finds many values in all their renderings, in one pass.

use std::ops::Range;

use crate::Kind;

/// Finds the renderings of a fixed list of values.
pub struct Matcher {
    values: Vec<Vec<u8>>,
}

/// One value found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Which value: its position in the list the matcher was made of.
    pub index: usize,
    /// In which form.
    pub kind: Kind,
    /// Where.
    pub range: Range<usize>,
}

impl Matcher {
    /// A matcher of `values`. Empty ones are never found.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { values: values.into_iter().map(<[u8]>::to_vec).collect() }
    }

    /// Every value in `haystack`, from left to right, without overlaps, the longest where several begin.
    #[must_use]
    pub fn find_all(&self, haystack: &[u8]) -> Vec<Hit> {
        let _ = (&self.values, haystack);
        Vec::new()
    }
}
