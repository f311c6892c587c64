//! The small words of a request: scheme, port, method. Parsed once at the door, compared as types after.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How an upstream is spoken to. Other protocols are not in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP in the clear.
    Http,
}

impl Scheme {
    /// The name as in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }

    /// The port used where none is named.
    #[must_use]
    pub fn default_port(self) -> Port {
        match self {
            Scheme::Https => Port(443),
            Scheme::Http => Port(80),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A TCP port; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

impl Port {
    /// `None` for 0, which no peer listens on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = &'static str;
    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("port 0")
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request method: an upper-case token. CONNECT and TRACE are not methods here: one opens a tunnel, the other
/// asks the upstream to send our injected headers back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// The text is not a method that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a request method: upper-case letters and dashes, at most 32, not CONNECT or TRACE")]
pub struct BadMethod;

impl Method {
    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = BadMethod;
    /// Lower case is refused, not raised: methods are case-sensitive, and upstreams disagree about "get".
    fn from_str(text: &str) -> Result<Self, BadMethod> {
        let shaped =
            (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if shaped && !matches!(text, "CONNECT" | "TRACE") { Ok(Self(text.to_owned())) } else { Err(BadMethod) }
    }
}

impl TryFrom<String> for Method {
    type Error = BadMethod;
    fn try_from(text: String) -> Result<Self, BadMethod> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> String {
        method.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upper_case_tokens_that_carry_a_request_are_methods() {
        for good in ["GET", "POST", "PROPFIND", "M-SEARCH"] {
            assert_eq!(good.parse::<Method>().unwrap().as_str(), good);
        }
        for bad in ["", "get", "Get", "GET ", "G ET", "CONNECT", "TRACE", "G\r\nET", "ÄH", &"A".repeat(33)] {
            assert_eq!(bad.parse::<Method>(), Err(BadMethod), "{bad:?}");
        }
    }

    #[test]
    fn port_zero_is_no_port() {
        assert!(Port::new(0).is_none());
        assert_eq!(Port::new(443).unwrap().number(), 443);
    }
}
