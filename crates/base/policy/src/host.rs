//! Host names in one canonical form, and the patterns that rules name them by.
//! Two spellings of one host are equal here or one of them is refused; nothing is resolved.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host: a lower-case DNS name in A-label form without the trailing dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Form);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    Name(String),
    Address(IpAddr),
}

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// A character or label that no DNS name has.
    #[error("not a DNS name or address")]
    Malformed,
    /// Longer than DNS allows: 253 in all, 63 a label.
    #[error("longer than a DNS name can be")]
    TooLong,
    /// A number that some resolvers read as an IPv4 address (`0x7f.1`, `2130706433`, `127.1`).
    #[error("an odd way to write an IPv4 address; use four decimal numbers")]
    OddAddress,
}

impl Host {
    /// The address, where the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match &self.0 {
            Form::Address(address) => Some(*address),
            Form::Name(_) => None,
        }
    }

    /// The DNS name, where the host is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Form::Name(name) => Some(name),
            Form::Address(_) => None,
        }
    }

    /// As in a Host header: an IPv6 address in brackets, the port only where it is not the scheme's own.
    #[must_use]
    pub fn authority(&self, scheme: crate::Scheme, port: crate::Port) -> String {
        if port == scheme.default_port() { self.to_string() } else { format!("{self}:{port}") }
    }
}

impl From<IpAddr> for Host {
    /// An IPv4 address mapped into IPv6 becomes the IPv4 address it is dialled as.
    fn from(address: IpAddr) -> Self {
        Self(Form::Address(address.to_canonical()))
    }
}

impl FromStr for Host {
    type Err = BadHost;

    /// Reads a host without a port: a DNS name in any case and alphabet, an IPv4 address, an IPv6 address with or
    /// without brackets.
    fn from_str(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Err(BadHost::Empty);
        }
        // Mapping a megabyte through Unicode tables is work for nobody.
        if text.len() > 1024 {
            return Err(BadHost::TooLong);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadHost::Malformed)?;
            return inner.parse::<Ipv6Addr>().map(|v6| Self::from(IpAddr::V6(v6))).map_err(|_| BadHost::Malformed);
        }
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|v6| Self::from(IpAddr::V6(v6))).map_err(|_| BadHost::Malformed);
        }
        name_or_v4(text)
    }
}

fn name_or_v4(text: &str) -> Result<Host, BadHost> {
    let ascii = idna::uts46::Uts46::new()
        .to_ascii(
            text.as_bytes(),
            idna::AsciiDenyList::URL,
            idna::uts46::Hyphens::Allow,
            idna::uts46::DnsLength::Ignore,
        )
        .map_err(|_| BadHost::Malformed)?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    check_labels(name)?;
    if ends_in_number(name) {
        return name.parse::<Ipv4Addr>().map(|v4| Host::from(IpAddr::V4(v4))).map_err(|_| BadHost::OddAddress);
    }
    Ok(Host(Form::Name(name.to_owned())))
}

fn check_labels(name: &str) -> Result<(), BadHost> {
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    if name.len() > 253 {
        return Err(BadHost::TooLong);
    }
    for label in name.split('.') {
        if label.len() > 63 {
            return Err(BadHost::TooLong);
        }
        let characters =
            label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
        if label.is_empty() || !characters || label.starts_with('-') || label.ends_with('-') {
            return Err(BadHost::Malformed);
        }
    }
    Ok(())
}

/// The WHATWG URL rule: a name whose last label is a number is an IPv4 address to somebody.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let decimal = last.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    decimal || hexadecimal
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Name(name) => f.write_str(name),
            Form::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Form::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl TryFrom<String> for Host {
    type Error = BadHost;
    fn try_from(text: String) -> Result<Self, BadHost> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.to_string()
    }
}

/// What a rule names: one host, or every name below a suffix (not the suffix itself).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Host),
    /// `*.suffix`: any name with at least one more label.
    Below(String),
}

impl HostPattern {
    /// Whether the pattern covers the host. An address is only ever covered exactly.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        match self {
            HostPattern::Exact(exact) => exact == host,
            HostPattern::Below(suffix) => host
                .name()
                .and_then(|name| name.strip_suffix(suffix.as_str()))
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl HostPattern {
    /// Whether some host is covered by both.
    pub(crate) fn meets(&self, other: &HostPattern) -> bool {
        let within = |inner: &str, outer: &str| {
            inner == outer || inner.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
        };
        match (self, other) {
            (HostPattern::Exact(host), pattern) | (pattern, HostPattern::Exact(host)) => pattern.covers(host),
            (HostPattern::Below(one), HostPattern::Below(other)) => within(one, other) || within(other, one),
        }
    }
}

impl FromStr for HostPattern {
    type Err = BadHost;
    fn from_str(text: &str) -> Result<Self, BadHost> {
        let Some(suffix) = text.strip_prefix("*.") else {
            return text.parse().map(HostPattern::Exact);
        };
        match suffix.parse::<Host>()?.0 {
            // A bare top-level suffix would be a rule for half the internet.
            Form::Name(name) if name.contains('.') => Ok(HostPattern::Below(name)),
            Form::Name(_) | Form::Address(_) => Err(BadHost::Malformed),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => host.fmt(f),
            HostPattern::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests;
