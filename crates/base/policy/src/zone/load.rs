//! Reading zones from the configuration.

use super::select::Covering;
use crate::document::{ConfigError, Document};
use std::collections::BTreeMap;

/// The zones and the warnings about them.
pub(super) fn load(
    document: &Document,
    _names: &BTreeMap<String, String>,
) -> Result<(Vec<Covering>, Vec<ConfigError>), Vec<ConfigError>> {
    let (errors, _) = document.reader().finish_with_warnings();
    Err(errors)
}
