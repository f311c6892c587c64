//! The OAuth token endpoints that the operator lists: `[[gateway.token_endpoint]]`. A refresh token goes to one of these or nowhere, whatever the credential
//! or the control plane names.

use super::{Routes, normalise_mcp_url};
use crate::Scheme;
use crate::document::{At, Document, Item, Table};
use crate::permit::{Destination, Endpoint, RoutePermit};
use crate::reason::{Denial, Reason};
use crate::zone::reading::{read_addresses, read_ca};
use ipnet::IpNet;
use std::sync::Arc;

/// The rule that a permit for a token endpoint names.
pub const TOKEN_ENDPOINT_RULE: &str = "gateway/token_endpoint";

/// One endpoint where tokens are refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// Its URL, normalised: what a credential's `token_endpoint` must come to.
    pub url: String,
    /// Scheme, host and port to dial; always https.
    pub upstream: Endpoint,
    /// Path and query of requests, as written.
    pub target: String,
    /// Ranges that its address may lie in; empty for public ones.
    pub addresses: Arc<[IpNet]>,
    /// Its CA, PEM text, trusted instead of the public roots.
    pub ca_pem: Option<Arc<str>>,
}

impl TokenEndpoint {
    /// The permit to dial it.
    #[must_use]
    pub fn permit(&self) -> RoutePermit {
        RoutePermit {
            destination: self.destination(),
            scheme: self.upstream.scheme,
            route: self.upstream.host.to_string(),
            rule: TOKEN_ENDPOINT_RULE.to_owned(),
        }
    }

    fn destination(&self) -> Destination {
        Destination {
            host: self.upstream.host.clone(),
            port: self.upstream.port,
            connect: None,
            addresses: Arc::clone(&self.addresses),
            ca_pem: self.ca_pem.clone(),
        }
    }
}

impl Routes {
    /// The listed endpoint that a credential's `token_endpoint` is.
    ///
    /// # Errors
    /// `token_endpoint_not_listed`, with the lines to add.
    pub fn token_endpoint(&self, url: &str) -> Result<&Arc<TokenEndpoint>, Denial> {
        let not_listed = || {
            let step = format!(
                "after the operator has agreed to it, add to the gateway's configuration: [[gateway.token_endpoint]] url = {url:?}"
            );
            Denial::advising(Reason::TokenEndpointNotListed, step).by(TOKEN_ENDPOINT_RULE)
        };
        let url = normalise_mcp_url(url).map_err(|_| not_listed())?;
        let listed = self.token_endpoints.iter().find(|listed| listed.url == url);
        listed.or_else(|| self.danger_unlisted()).ok_or_else(not_listed)
    }

    /// In a test-only build any endpoint instead of one that is not listed.
    fn danger_unlisted(&self) -> Option<&Arc<TokenEndpoint>> {
        self.token_endpoints.first().filter(|_| postern_danger::off!("renewal-endpoints"))
    }

    /// All of them, in the order of the file.
    pub fn token_endpoints(&self) -> impl Iterator<Item = &Arc<TokenEndpoint>> {
        self.token_endpoints.iter()
    }
}

/// One that was read, and where it begins.
pub(super) struct Read {
    pub(super) at: At,
    pub(super) endpoint: TokenEndpoint,
}

pub(super) fn read(document: &Document, table: &mut Table<'_>) -> Option<Read> {
    let url = table.string("url");
    let url = table.required("url", url).and_then(|item| read_url(table, item));
    let addresses = read_addresses(table);
    let ca_pem = read_ca(document, table, Some(Scheme::Https));
    let (at, url, upstream, target) = url?;
    let endpoint = TokenEndpoint { url, upstream, target, addresses: addresses?.into(), ca_pem: ca_pem? };
    let allowed = endpoint.upstream.host.address().is_none_or(|address| endpoint.destination().allows(address));
    if !allowed {
        table.reader().error(at, "url: its address is not public, or outside `addresses`: name it there");
    }
    allowed.then_some(Read { at: table.at(), endpoint })
}

fn read_url(table: &Table<'_>, item: Item<&str>) -> Option<(At, String, Endpoint, String)> {
    let url = match normalise_mcp_url(item.value) {
        Ok(url) if url.starts_with("https://") => url,
        Ok(_) => {
            table.reader().error(item.at, "url: secrets go to a token endpoint, https:// only (RFC 6749, 3.2)");
            return None;
        }
        Err(cause) => {
            table.reader().error(item.at, format!("url: {cause}"));
            return None;
        }
    };
    let written = item.value.split_once("://").map_or("", |(_, rest)| rest);
    let target = match written.find(['/', '?']).map(|at| &written[at..]) {
        Some(tail) if tail.starts_with('?') => format!("/{tail}"),
        Some(tail) => tail.to_owned(),
        None => "/".to_owned(),
    };
    let rest = &url["https://".len()..];
    let authority = rest.find(['/', '?']).map_or(rest, |at| &rest[..at]);
    match format!("https://{authority}").parse::<Endpoint>() {
        Ok(upstream) => Some((item.at, url, upstream, target)),
        Err(cause) => {
            table.reader().error(item.at, format!("url: {cause}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str =
        "config = 1\n[[gateway.token_endpoint]]\nurl = \"https://Login.example:443/oauth/token/?p=1\"\n";

    fn load(text: &str) -> Result<Routes, String> {
        let mut document = Document::parse("postern.toml", text).unwrap();
        for name in document.referenced_files() {
            document.attach(&name, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
        }
        Routes::load(&document).map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect())
    }

    #[test]
    fn a_refresh_token_goes_to_a_listed_endpoint_and_no_other() {
        let routes = load(LISTED).unwrap();
        let found = routes.token_endpoint("https://login.example/oauth/token?p=1").unwrap();
        assert_eq!(
            (found.target.as_str(), found.upstream.to_string().as_str()),
            ("/oauth/token/?p=1", "https://login.example")
        );
        for other in [
            "https://login.example/oauth/token",
            "https://login.example/oauth/token?p=2",
            "https://login.example:8443/oauth/token?p=1",
            "http://login.example/oauth/token?p=1",
            "https://login.example.evil/oauth/token?p=1",
            "https://evil.login.example/oauth/token?p=1",
            "https://login.example@evil.example/oauth/token?p=1",
            "https://login.example/oauth/../oauth/token?p=1",
            "not a url",
        ] {
            let denial = routes.token_endpoint(other).unwrap_err();
            assert_eq!(denial.reason, Reason::TokenEndpointNotListed, "{other}");
            assert!(denial.next_step.contains("[[gateway.token_endpoint]]"), "{}", denial.next_step);
        }
        assert!(Routes::none().token_endpoint("https://login.example/oauth/token?p=1").is_err());
    }

    #[test]
    fn its_permit_dials_public_addresses_unless_others_are_named() {
        let dials = |text: &str, address: &str| {
            let routes = load(text).unwrap();
            let permit = routes.token_endpoints().next().unwrap().permit();
            permit.dial(address.parse().unwrap()).is_ok()
        };
        let private = format!("{LISTED}addresses = [\"10.3.0.0/24\"]\n");
        for (text, address, allowed) in [
            (LISTED, "93.184.216.34", true),
            (LISTED, "10.3.0.7", false),
            (LISTED, "127.0.0.1", false),
            (LISTED, "169.254.169.254", false),
            (private.as_str(), "10.3.0.7", true),
            (private.as_str(), "10.4.0.7", false),
            (private.as_str(), "93.184.216.34", false),
        ] {
            assert_eq!(dials(text, address), allowed, "{address}");
        }
    }

    #[test]
    fn each_mistake_in_an_endpoint_is_refused_where_it_stands() {
        for (text, expected) in [
            ("url = \"http://login.example/token\"", "https:// only"),
            ("url = \"https://u@login.example/token\"", "user name"),
            ("addresses = [\"10.0.0.0/8\"]", "missing key: url"),
            ("url = \"https://127.0.0.1/token\"", "not public"),
            ("url = \"https://login.example/token\"\nsecret = \"x\"", "secret"),
            (
                "url = \"https://login.example/token\"\n[[gateway.token_endpoint]]\nurl = \"https://LOGIN.example/token/\"",
                "twice",
            ),
        ] {
            let errors = load(&format!("config = 1\n[[gateway.token_endpoint]]\n{text}\n")).unwrap_err();
            assert!(errors.contains(expected), "{text}: {errors}");
        }
    }

    #[test]
    fn the_digest_follows_what_is_listed() {
        let digest = |text: &str| load(text).unwrap().digest().to_owned();
        let with_ca = format!("{LISTED}ca_file = \"ca.pem\"\n");
        let all = [digest("config = 1\n"), digest(LISTED), digest(&with_ca)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
}
