//! Combining facts by Cedar policies.

use crate::reason::{Denial, Reason};

/// The compiled policies of a zone.
#[derive(Debug)]
pub(crate) struct Policies {}

impl Policies {
    pub(crate) fn tool_use(&self, _zone: &str, _tool: &str) -> Result<String, Denial> {
        Err(Denial::new(Reason::PolicyFailed))
    }
}
