//! What a zone says about a credential: its name, where its secret comes from and where it may be put.
//! Never the secret itself.

pub use crate::location::{BasicPart, Location};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The name a zone gives a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CredentialName(String);

impl CredentialName {
    /// Any text; a name that no zone knows is refused where it is used.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One credential of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name, unique in the zone.
    pub name: CredentialName,
    /// Where custody finds the secret.
    pub source: Source,
    /// The variable in which the sandbox sees the placeholder.
    pub env: Option<String>,
    /// The exact places in a request where it may be put.
    pub inject: Vec<Location>,
}

impl Credential {
    /// Whether its secret is a client certificate and its key: presented by the proxy, never stood for by a placeholder.
    #[must_use]
    pub fn is_client_certificate(&self) -> bool {
        self.inject.contains(&Location::ClientCertificate)
    }
}

/// Where the perimeter finds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The encrypted local store, by name.
    Store(String),
    /// A variable of the operator's environment.
    Env(String),
    /// A file of the operator's.
    File(PathBuf),
    /// A variable of the session's vaults, by its name. A session whose vaults have none goes on without.
    Api(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Store(name) => write!(f, "store:{name}"),
            Source::Env(name) => write!(f, "env:{name}"),
            Source::File(path) => write!(f, "file:{}", path.display()),
            Source::Api(name) => write!(f, "api:{name}"),
        }
    }
}
