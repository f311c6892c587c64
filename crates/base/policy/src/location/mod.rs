//! The exact places in a request where a placeholder is replaced. Each is found again in the same way by whoever
//! decides and by whoever replaces; what is not found whole and once at its place is no place at all.

mod body;
mod json;
mod pairs;
mod pointer;
mod template;

pub use body::BodyKind;
pub use json::{JsonPlaces, NotOneReading};
pub use pairs::{KeyName, key_of, value_of};
pub use pointer::JsonPointer;
pub use template::{PathTemplate, Segment};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A body in which places are looked for is read whole before the decision; a longer one has none.
pub const BODY_BYTES: usize = 256 * 1024;

/// Which half of HTTP Basic credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BasicPart {
    /// Before the colon.
    Username,
    /// After the colon.
    Password,
}

impl BasicPart {
    /// The word used in zones.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BasicPart::Username => "username",
            BasicPart::Password => "password",
        }
    }
}

/// An exact place in a request where a placeholder is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// The value of this header, lower case: the placeholder alone, or after a scheme word such as `Bearer`.
    Header(String),
    /// Inside `authorization: Basic ...`, after decoding.
    Basic(BasicPart),
    /// The whole value of this key of the query, which stands there once.
    Query(KeyName),
    /// What `{secret}` stands for in a path of this form.
    Path(PathTemplate),
    /// The whole string that this pointer leads to in a JSON body.
    Json(JsonPointer),
    /// The whole value of this key of a form, which stands there once.
    Form(KeyName),
    /// In no request: the proxy proves itself with it in the TLS handshake with the upstream. Nothing stands for it in
    /// the sandbox.
    ClientCertificate,
}

impl Location {
    /// The kind of body that this place is in, if it is in one.
    #[must_use]
    pub fn body(&self) -> Option<BodyKind> {
        match self {
            Location::Json(_) => Some(BodyKind::Json),
            Location::Form(_) => Some(BodyKind::Form),
            Location::Header(_)
            | Location::Basic(_)
            | Location::Query(_)
            | Location::Path(_)
            | Location::ClientCertificate => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Header(name) => write!(f, "header {name}"),
            Location::Basic(part) => write!(f, "basic {}", part.as_str()),
            Location::Query(key) => write!(f, "query {key}"),
            Location::Path(template) => write!(f, "path {template}"),
            Location::Json(pointer) => write!(f, "json {pointer}"),
            Location::Form(key) => write!(f, "form {key}"),
            Location::ClientCertificate => f.write_str("client certificate"),
        }
    }
}

#[cfg(test)]
mod tests;
