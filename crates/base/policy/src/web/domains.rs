//! Lists of domains: whether they let a URL pass. Several lists hold together: what is allowed must be allowed by each that
//! allows, and is blocked by any that blocks.

use std::str::FromStr;

use super::WebUrl;
use crate::{BadHost, Host};

/// A host with everything below it, and where it has a path that path with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPattern {
    host: Host,
    /// Without a slash at its end; empty for every path.
    path: String,
}

impl FromStr for DomainPattern {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let host: Host = host.parse()?;
        match host.name() {
            Some(_) => Ok(Self { host, path: path.trim_end_matches('/').to_owned() }),
            None => Err(BadHost::Malformed),
        }
    }
}

impl DomainPattern {
    /// Whether the URL is of this host or one below it, and below the path.
    #[must_use]
    pub fn covers(&self, url: &WebUrl) -> bool {
        let (Some(own), Some(name)) = (self.host.name(), url.host().name()) else { return false };
        let is_below = |whole: &str, part: &str, mark: char| {
            whole.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(mark))
        };
        let is_host = name == own || name.strip_suffix(own).is_some_and(|before| before.ends_with('.'));
        is_host && (self.path.is_empty() || is_below(url.path(), &self.path, '/'))
    }

    /// The host that it names.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// One list, of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainList {
    /// Nothing else passes.
    Allowed(Vec<DomainPattern>),
    /// None of these passes.
    Blocked(Vec<DomainPattern>),
}

impl DomainList {
    fn lets_pass(&self, url: &WebUrl) -> bool {
        match self {
            Self::Allowed(patterns) => patterns.iter().any(|pattern| pattern.covers(url)),
            Self::Blocked(patterns) => !patterns.iter().any(|pattern| pattern.covers(url)),
        }
    }
}

/// Every list that holds for a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainRules(pub Vec<DomainList>);

/// A list does not let the URL pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host is not among those that this agent may reach")]
pub struct NotAllowed;

impl DomainRules {
    /// Whether the URL may be fetched or shown.
    ///
    /// # Errors
    /// A list does not let it pass.
    pub fn check(&self, url: &WebUrl) -> Result<(), NotAllowed> {
        if self.0.iter().all(|list| list.lets_pass(url)) { Ok(()) } else { Err(NotAllowed) }
    }
}
