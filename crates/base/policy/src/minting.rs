//! Endpoints that issue new credentials: their answers would hold secrets that nobody can scrub.

use crate::{CanonicalPath, Host, Method};

/// Why this endpoint is on the reviewed list, where it is.
#[must_use]
pub fn minted_at(host: &Host, method: &Method, path: &CanonicalPath) -> Option<&'static str> {
    let _ = (host, method, path);
    None
}
