//! Where an MCP server's URL leads: into a tunnel or to a public address. Decided by the host alone, on each connect.

use http::Uri;
use http::uri::PathAndQuery;
use postern_policy::{Endpoint, Host, Port, Scheme};

use super::McpFailure;

/// The longest URL (contract 2.3).
const MAX_URL_BYTES: usize = 2048;
/// The label under a tunnel's domain that stands for public servers.
const PUBLIC_LABEL: &str = "mcp-url";

/// A server's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The host in lower case, without a port.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, McpFailure> {
        if url.len() > MAX_URL_BYTES {
            return Err(McpFailure::bad_url("it is too long"));
        }
        if url.contains('#') {
            return Err(McpFailure::bad_url("it has a fragment"));
        }
        let uri: Uri = url.parse().map_err(|_| McpFailure::bad_url("it is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(McpFailure::bad_url("it must begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| McpFailure::bad_url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(McpFailure::bad_url("it holds a user name or password"));
        }
        // What follows the host, not what the library makes of it: it passes a port that is no number as none.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 443,
            Some(port) => match port.strip_prefix(':').map(str::parse) {
                Some(Ok(port)) if port > 0 => port,
                _ => return Err(McpFailure::bad_url("its port is none")),
            },
            None => return Err(McpFailure::bad_url("its host is malformed")),
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { host, port, path })
    }

    /// The same path at a tunnel's host for public servers, a name that no route has.
    pub(super) fn through(&self, domain: &str) -> Self {
        Self { host: format!("{PUBLIC_LABEL}.{domain}"), port: 443, path: self.path.clone() }
    }

    /// The endpoint that policy is asked about.
    pub(super) fn endpoint(&self) -> Result<Endpoint, McpFailure> {
        let host = self.host.parse::<Host>().map_err(|_| McpFailure::bad_url("its host is malformed"))?;
        let port = Port::new(self.port).ok_or_else(|| McpFailure::bad_url("its port is none"))?;
        Ok(Endpoint { scheme: Scheme::Https, host, port, base_path: String::new() })
    }

    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        for (url, host, port, path) in [
            ("https://wiki.abc.tunnel.localhost/mcp", "wiki.abc.tunnel.localhost", 443, "/mcp"),
            ("https://WIKI.Example.com", "wiki.example.com", 443, "/"),
            ("https://example.com:8443/a/?x=1", "example.com", 8443, "/a/?x=1"),
            ("https://example.com./mcp", "example.com", 443, "/mcp"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.path.as_str()), (host, port, path));
        }
    }

    #[test]
    fn urls_that_could_be_read_in_two_ways_are_refused() {
        let long = format!("https://example.com/{}", "x".repeat(2048));
        for url in [
            "http://example.com/mcp",
            "https://user@example.com/",
            "https://a:b@example.com/",
            "https://example.com:0/",
            "https://example.com:/",
            "https://example.com:99999/",
            "https://example.com/#x",
            "ftp://example.com",
            "/mcp",
            "https://",
            "https://exa mple.com/",
            &long,
        ] {
            assert_eq!(Target::parse(url).unwrap_err().code, "url_invalid", "{url}");
        }
    }
}
