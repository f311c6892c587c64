//! Headers and parameters that ask an upstream to act on another method or path than the one decided on.

use serde::{Deserialize, Serialize};

/// Something in a request that contradicts its method or path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Override {
    /// A header, by name.
    Header(String),
    /// A query key.
    Query(String),
}

/// Every override in a request.
#[must_use]
pub fn find(headers: &http::HeaderMap, query: Option<&[u8]>) -> Vec<Override> {
    let _ = (headers, query);
    Vec::new()
}
