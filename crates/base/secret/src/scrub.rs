//! Puts placeholders back where an upstream reflects secrets. Output is always as long as input.

use std::sync::Arc;

use crate::{Placeholder, SecretBytes};

/// Secrets and their placeholders, compiled once and shared by all scrubbers of a session.
pub struct Plan {}

impl Plan {
    /// Compiles the pairs.
    #[must_use]
    pub fn new(pairs: &[(SecretBytes, Placeholder)]) -> Arc<Self> {
        let _ = pairs;
        Arc::new(Self {})
    }

    /// Scrubs a complete text, such as a header's value; the count is how many values were replaced.
    #[must_use]
    pub fn scrub(self: &Arc<Self>, text: &[u8]) -> (Vec<u8>, u64) {
        (text.to_vec(), 0)
    }
}

/// Scrubs one stream, across the borders of its chunks.
pub struct Scrubber {
    plan: Arc<Plan>,
    replaced: u64,
}

impl Scrubber {
    /// A scrubber for one stream.
    #[must_use]
    pub fn new(pairs: &[(SecretBytes, Placeholder)]) -> Self {
        Self::with(Plan::new(pairs))
    }

    /// A scrubber that shares a compiled plan.
    #[must_use]
    pub fn with(plan: Arc<Plan>) -> Self {
        Self { plan, replaced: 0 }
    }

    /// Takes a chunk and returns what is certain by now; the start of a possible secret is held back.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.plan.scrub(chunk).0
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// How many values were replaced so far.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }
}
