//! The gateway's routes: where calls lead, whose secret goes along, and how much may be said.

use super::destination::within;
use super::{Change, ChangeKind};
use crate::gateway::{Route, RouteCredential, Routes, TokenEndpoint};
use crate::permit::Endpoint;
use std::sync::Arc;

/// What differs between the routes of two configurations. Who may call them is said by the zones.
#[derive(Clone, Debug)]
pub struct RoutesDifference {
    /// Where calls can lead now and could not, or what has lost protection.
    pub wider: Vec<Change>,
    /// The reverse.
    pub narrower: Vec<Change>,
}

impl Routes {
    /// What differs between these routes and newer ones.
    #[must_use]
    pub fn diff(&self, newer: &Routes) -> RoutesDifference {
        RoutesDifference { wider: widenings(self, newer), narrower: widenings(newer, self) }
    }
}

fn widenings(from: &Routes, to: &Routes) -> Vec<Change> {
    let routes = to.iter().flat_map(|route| of_route(from.by_host_label(&route.name).map(Arc::as_ref), route));
    let listed = |endpoint: &TokenEndpoint| from.token_endpoints().find(|one| one.url == endpoint.url).map(Arc::as_ref);
    let endpoints = to.token_endpoints().flat_map(|endpoint| of_endpoint(listed(endpoint), endpoint));
    routes.chain(endpoints).collect()
}

fn of_route(from: Option<&Route>, to: &Route) -> Vec<Change> {
    // Every field is looked at: one that is added must be, too.
    let Route {
        name,
        upstream,
        path,
        url,
        addresses,
        ca_pem,
        credential,
        timeout,
        max_request_bytes,
        max_response_bytes,
    } = to;
    let Some(from) = from else {
        let secret = credential.as_ref().map(|credential| format!(", with {}", secret(credential))).unwrap_or_default();
        let answers = url.as_ref().map(|url| format!(", answers for {url}")).unwrap_or_default();
        let what = format!("{name} leads to {}{answers}{secret}", place(upstream, path));
        return vec![Change::shown(ChangeKind::Route, what)];
    };
    let route = |what: &str| format!("{name}: {what}");
    let mut changes = Vec::new();
    if (&from.upstream, &from.path) != (upstream, path) {
        let change = Change::shown(ChangeKind::Route, route("where it leads"));
        changes.push(change.between(place(&from.upstream, &from.path), place(upstream, path)));
    }
    if let Some(url) = url.as_ref().filter(|url| from.url.as_ref() != Some(url)) {
        changes.push(Change::shown(ChangeKind::Route, route(&format!("it answers for {url}"))));
    }
    if !within(addresses, &from.addresses) {
        let list = |nets: &[ipnet::IpNet]| match nets {
            [] => "public addresses".to_owned(),
            nets => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        };
        let change = Change::shown(ChangeKind::Addresses, route("addresses"));
        changes.push(change.between(list(&from.addresses), list(addresses)));
    }
    if &from.ca_pem != ca_pem {
        changes.push(Change::shown(ChangeKind::Authority, route("another authority vouches for its upstream")));
    }
    if let Some(credential) = credential.as_ref().filter(|credential| from.credential.as_ref() != Some(credential)) {
        changes.push(Change::shown(ChangeKind::Credential, route(&format!("it sends {}", secret(credential)))));
    }
    for (what, before, after) in [
        ("milliseconds a call may take", from.timeout.as_millis(), timeout.as_millis()),
        ("bytes of a request", from.max_request_bytes.into(), u128::from(*max_request_bytes)),
        ("bytes of an answer", from.max_response_bytes.into(), u128::from(*max_response_bytes)),
    ] {
        if after > before {
            changes.push(Change::shown(ChangeKind::RouteLimit, route(what)).between(before, after));
        }
    }
    changes
}

fn of_endpoint(from: Option<&TokenEndpoint>, to: &TokenEndpoint) -> Vec<Change> {
    // Every field is looked at; the upstream is part of the URL.
    let TokenEndpoint { url, upstream: _, target, addresses, ca_pem } = to;
    let Some(from) = from else {
        return vec![Change::shown(ChangeKind::TokenEndpoint, format!("refresh tokens may go to {url}"))];
    };
    let endpoint = |what: &str| format!("token endpoint {url}: {what}");
    let mut changes = Vec::new();
    if &from.target != target {
        changes.push(Change::shown(ChangeKind::TokenEndpoint, endpoint("path")).between(&from.target, target));
    }
    if !within(addresses, &from.addresses) {
        changes.push(Change::shown(ChangeKind::Addresses, endpoint("addresses")));
    }
    if &from.ca_pem != ca_pem {
        changes.push(Change::shown(ChangeKind::Authority, endpoint("another authority vouches for it")));
    }
    changes
}

fn place(upstream: &Endpoint, path: &str) -> String {
    format!("{}://{}:{}{path}", upstream.scheme, upstream.host, upstream.port)
}

fn secret(credential: &RouteCredential) -> String {
    match credential {
        RouteCredential::Own { source, header, .. } => format!("the secret {source} in {header}"),
        RouteCredential::Api => "the caller's vault credential".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    const ROUTE: &str = r#"config = 1
[[gateway.route]]
host = "wiki"
upstream = "https://wiki.internal/mcp"
addresses = ["10.0.0.0/8"]
credential = { source = "store:wiki" }
timeout = "30s"
max_request = "1MiB"
max_response = "1MiB"
"#;

    fn routes(text: &str) -> Routes {
        Routes::load(&Document::parse("postern.toml", text).unwrap()).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn kinds(from: &str, to: &str) -> (Vec<ChangeKind>, Vec<ChangeKind>) {
        let difference = routes(from).diff(&routes(to));
        let kinds = |changes: &[Change]| changes.iter().map(|change| change.kind).collect();
        (kinds(&difference.wider), kinds(&difference.narrower))
    }

    #[test]
    fn each_key_of_a_route_that_is_loosened_is_reported_and_back_it_is_narrower() {
        use ChangeKind::{Addresses, Credential, RouteLimit};
        for (from, to, expected) in [
            ("https://wiki.internal/mcp", "https://other.internal/mcp", ChangeKind::Route),
            ("https://wiki.internal/mcp", "https://wiki.internal/admin", ChangeKind::Route),
            ("host = \"wiki\"", "host = \"wiki\"\nurl = \"https://mcp.example/mcp\"", ChangeKind::Route),
            ("[\"10.0.0.0/8\"]", "[\"10.0.0.0/8\", \"192.168.0.0/16\"]", Addresses),
            ("[\"10.0.0.0/8\"]", "[\"10.0.0.0/8\", \"169.254.169.254/32\"]", Addresses),
            ("store:wiki", "store:other", Credential),
            ("{ source = \"store:wiki\" }", "{ source = \"api:\" }", Credential),
            ("30s", "30100ms", RouteLimit),
            ("max_request = \"1MiB\"", "max_request = \"2MiB\"", RouteLimit),
            ("max_response = \"1MiB\"", "max_response = \"2MiB\"", RouteLimit),
        ] {
            let looser = ROUTE.replace(from, to);
            assert_ne!(looser, ROUTE, "{from}");
            let (wider, _) = kinds(ROUTE, &looser);
            assert_eq!(wider, [expected], "{to}");
            let (_, narrower) = kinds(&looser, ROUTE);
            assert_eq!(narrower, [expected], "{to}");
        }
        assert_eq!(kinds("config = 1\n", ROUTE), (vec![ChangeKind::Route], Vec::new()));
        assert_eq!(kinds(ROUTE, "config = 1\n"), (Vec::new(), vec![ChangeKind::Route]));
        assert_eq!(kinds(ROUTE, ROUTE), (Vec::new(), Vec::new()));
        let link_local = ROUTE.replace("10.0.0.0/8", "169.254.0.0/16");
        let metadata = link_local.replace("169.254.0.0/16\"", "169.254.0.0/16\", \"169.254.169.254/32\"");
        assert_eq!(kinds(&link_local, &metadata).0, [Addresses], "a range names addresses of its own class alone");
        let halves = ROUTE.replace("\"10.0.0.0/8\"", "\"10.0.0.0/9\", \"10.128.0.0/9\"");
        assert_eq!(kinds(ROUTE, &halves), (Vec::new(), Vec::new()), "the same in two pieces");
    }
}
