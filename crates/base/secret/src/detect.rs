//! Finds placeholders and real values in what a sandbox sends.

pub use crate::matcher::Hit;
use crate::matcher::Matcher;

/// Finds a fixed list of values in complete buffers.
pub struct Detector {
    matcher: Matcher,
}

impl Detector {
    /// A detector of `values`: placeholders, real values, or both; hits tell by index.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { matcher: Matcher::new(values) }
    }

    /// Every value in `text`, in any rendering.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Vec<Hit> {
        self.matcher.find_all(text)
    }
}
