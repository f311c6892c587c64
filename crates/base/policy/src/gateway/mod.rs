//! The gateway's routes: which private MCP server a host label leads to, under what conditions it is dialled, and
//! whose credential goes with a call. Whether a call is made at all is the zone's word, never the route's.

mod format;
mod load;
mod token;
mod url;

pub use format::{BadFormat, HeaderFormat};
pub use token::{TOKEN_ENDPOINT_RULE, TokenEndpoint};
pub use url::{BadMcpUrl, normalise_mcp_url};

use crate::credential::Source;
use crate::document::{ConfigError, Document};
use crate::permit::{Destination, Endpoint, McpPermit, RoutePermit};
use crate::reason::{Denial, Reason};
use crate::zone::AuditMode;
use http::HeaderName;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// The rule that a probe's permit names.
pub const PROBE_RULE: &str = "gateway/probe";

/// What a probe may ask of a route, and nothing else.
/// The label by which calls to public MCP URLs come; no route may have it.
const PUBLIC_LABEL: &str = "mcp-url";

const PROBE_METHODS: &[&str] = &["initialize", "notifications/initialized", "tools/list", "ping"];

/// Every `[[gateway.route]]` of a configuration, and every `[[gateway.token_endpoint]]`: a whole generation.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
    token_endpoints: Vec<Arc<TokenEndpoint>>,
    digest: String,
    warnings: Vec<ConfigError>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The label before the tunnel's domain; what a zone's `mcp` rule calls `server`.
    pub name: String,
    /// The upstream: scheme, host and port to dial.
    pub upstream: Endpoint,
    /// The exact path of requests to it, `/` where none is written.
    pub path: String,
    /// The public MCP URL that this route also answers for, normalised.
    pub url: Option<String>,
    /// Ranges that the upstream's address may lie in; empty for public ones.
    pub addresses: Arc<[IpNet]>,
    /// The upstream's CA, PEM text, trusted instead of the public roots.
    pub ca_pem: Option<Arc<str>>,
    /// What goes with each call.
    pub credential: Option<RouteCredential>,
    /// From the call's first byte to its answer's last.
    pub timeout: Duration,
    /// The largest request body.
    pub max_request_bytes: u64,
    /// The largest answer, decoded, all events together.
    pub max_response_bytes: u64,
}

/// Whose credential a route sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteCredential {
    /// The route's own, whoever calls.
    Own {
        /// Where custody finds the secret.
        source: Source,
        /// The header that holds it.
        header: HeaderName,
        /// The header's value around it.
        format: HeaderFormat,
    },
    /// The caller's vault credential (`source = "api:"`), as `authorization: Bearer`.
    Api,
}

impl Routes {
    /// Reads every route of the configuration.
    ///
    /// # Errors
    /// Everything that is wrong in the routes, with its place.
    pub fn load(document: &Document) -> Result<Self, Vec<ConfigError>> {
        load::load(document)
    }

    /// The routes of someone who wrote none.
    #[must_use]
    pub fn none() -> Self {
        Self { routes: Vec::new(), token_endpoints: Vec::new(), digest: digest(&[]), warnings: Vec::new() }
    }

    /// The route of this host label; any case.
    #[must_use]
    pub fn by_host_label(&self, label: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name.eq_ignore_ascii_case(label))
    }

    /// The route that answers for this public MCP URL, given as [`normalise_mcp_url`] makes it.
    #[must_use]
    pub fn by_url(&self, url: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.url.as_deref() == Some(url))
    }

    /// All routes, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The sources of all routes' own credentials, by route: what custody needs besides the zones' credentials.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.routes.iter().filter_map(|route| match &route.credential {
            Some(RouteCredential::Own { source, .. }) => Some((route.name.as_str(), source)),
            Some(RouteCredential::Api) | None => None,
        })
    }

    /// `sha256:` and 64 hexadecimal digits, of everything the file says about routes and token endpoints.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What the operator should know about the routes although they load.
    #[must_use]
    pub fn warnings(&self) -> &[ConfigError] {
        &self.warnings
    }

    /// May the operator's own probe send this method to a route? No zone is asked, so no tool is called.
    ///
    /// # Errors
    /// `mcp_method_not_allowed` for all but `initialize`, `notifications/initialized`, `tools/list` and `ping`.
    pub fn probe(&self, route: &Route, method: &str) -> Result<McpPermit, Denial> {
        let Some(method) = PROBE_METHODS.iter().find(|allowed| **allowed == method) else {
            let step = format!("a probe sends {} only", PROBE_METHODS.join(", "));
            return Err(Denial::advising(Reason::McpMethodNotAllowed, step).by(PROBE_RULE));
        };
        Ok(McpPermit {
            route: route.name.clone(),
            method: (*method).to_owned(),
            tool: None,
            rule: PROBE_RULE.to_owned(),
            zone: String::new(),
            policy_digest: self.digest.clone(),
            audit: AuditMode::Written,
            shadow: None,
        })
    }
}

impl Route {
    /// The permit to dial this route's upstream, for a call that was permitted for this route.
    ///
    /// # Errors
    /// `route_mismatch`: the permit is for another route.
    pub fn permit(&self, call: &McpPermit) -> Result<RoutePermit, Denial> {
        if call.route != self.name {
            return Err(Denial::new(Reason::RouteMismatch).by(&call.rule));
        }
        Ok(RoutePermit {
            destination: self.destination(),
            scheme: self.upstream.scheme,
            route: self.name.clone(),
            rule: call.rule.clone(),
        })
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

fn digest(canonical: &[u8]) -> String {
    crate::zone::digest_of(b"postern routes 1\0", &[canonical])
}

#[cfg(test)]
mod tests;
