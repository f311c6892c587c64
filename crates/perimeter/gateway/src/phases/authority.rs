//! Phase: where the request is meant to go. TLS name, Host and route are one; the path is the route's own. Whatever could
//! mean another place is refused.

use std::sync::Arc;

use http::{HeaderMap, Version, header, request::Parts};
use postern_policy::{
    CanonicalPath, Denial, Reason,
    gateway::{Route, normalise_mcp_url},
};

use crate::gateway::Rules;

/// The one place that a request is meant for.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// The route.
    pub(crate) route: Arc<Route>,
    /// The MCP server's URL as the caller has it, normalised.
    pub(crate) url: String,
}

/// Finds it. `host` is the TLS name, `<route>.<domain>`.
pub(crate) fn find(rules: &Rules, host: &str, parts: &Parts) -> Result<Destination, Denial> {
    if parts.version != Version::HTTP_11 {
        return Err(Denial::advising(Reason::RequestMalformed, "speak HTTP/1.1"));
    }
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        return Err(Denial::advising(Reason::AuthorityMismatch, "send the path alone as the request's target"));
    }
    same_host(host, &parts.headers)?;
    let label = host.split('.').next().unwrap_or_default();
    match route_url(&parts.headers)? {
        Some(url) => by_url(rules, label, &url, parts),
        None => by_label(rules, host, label, parts),
    }
}

fn same_host(host: &str, headers: &HeaderMap) -> Result<(), Denial> {
    let mismatch = || Denial::advising(Reason::AuthorityMismatch, "make Host equal to the TLS server name");
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(only), None) = (hosts.next(), hosts.next()) else { return Err(mismatch()) };
    let said = only.to_str().map_err(|_| mismatch())?;
    let said = said.strip_suffix(":443").unwrap_or(said);
    if said.eq_ignore_ascii_case(host) { Ok(()) } else { Err(mismatch()) }
}

fn by_label(rules: &Rules, host: &str, label: &str, parts: &Parts) -> Result<Destination, Denial> {
    let route = rules.routes.by_host_label(label).ok_or_else(|| Denial::new(Reason::RouteUnknown))?;
    let path = path(parts)?;
    if path.trim_end_matches('/') != route.path.trim_end_matches('/') {
        return Err(Denial::advising(Reason::PathNotAllowed, format!("this route's path is {}", route.path)));
    }
    let url = normalise_mcp_url(&format!("https://{host}{path}")).map_err(|_| Denial::new(Reason::PathAmbiguous))?;
    Ok(Destination { route: Arc::clone(route), url })
}

/// A public server that a route stands for. The TLS name must not name another route.
fn by_url(rules: &Rules, label: &str, url: &str, parts: &Parts) -> Result<Destination, Denial> {
    let route = rules.routes.by_url(url).ok_or_else(|| Denial::new(Reason::RouteUnknown))?;
    if rules.routes.by_host_label(label).is_some_and(|named| named.name != route.name) {
        return Err(Denial::new(Reason::RouteMismatch));
    }
    let path = path(parts)?;
    let path = path.trim_end_matches('/');
    let of_url = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or_default();
    if path != of_url.trim_end_matches('/') && path != route.path.trim_end_matches('/') {
        return Err(Denial::advising(Reason::PathNotAllowed, format!("this route's path is {}", route.path)));
    }
    Ok(Destination { route: Arc::clone(route), url: url.to_owned() })
}

fn route_url(headers: &HeaderMap) -> Result<Option<String>, Denial> {
    let mut urls = headers.get_all(ROUTE_URL).iter();
    let (first, second) = (urls.next(), urls.next());
    let Some(url) = first else { return Ok(None) };
    let url = url.to_str().ok().filter(|_| second.is_none());
    let normalised = url.and_then(|url| normalise_mcp_url(url).ok().filter(|normalised| normalised == url));
    normalised.map(Some).ok_or_else(|| Denial::new(Reason::RouteMismatch))
}

/// The canonical path; a query could ask a server for something else than the message does.
fn path(parts: &Parts) -> Result<String, Denial> {
    if parts.uri.query().is_some() {
        return Err(Denial::advising(Reason::PathNotAllowed, "send no query; arguments belong in the message"));
    }
    let path: CanonicalPath = parts.uri.path().parse().map_err(|_| Denial::new(Reason::PathAmbiguous))?;
    Ok(path.as_str().to_owned())
}

/// Names the public MCP URL, where the call is for one.
pub(crate) const ROUTE_URL: &str = "postern-route-url";
