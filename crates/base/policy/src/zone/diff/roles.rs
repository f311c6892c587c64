//! What the roles themselves reach and believe, whatever zones and routes say: pages, searches, public MCP servers, webhooks, and who vouches for
//! them and for callers.

use super::destination::within;
use super::{Change, ChangeKind, RoutesDifference};
use crate::Endpoint;
use crate::deployment::{Gateway, Search, Server, Web};
use ipnet::IpNet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The sections of one configuration that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Roles<'c> {
    /// `[server]`.
    pub server: &'c Server,
    /// `[web]`.
    pub web: &'c Web,
    /// `[gateway]`, without its routes.
    pub gateway: &'c Gateway,
}

impl Roles<'_> {
    /// What differs between these sections and newer ones.
    #[must_use]
    pub fn diff(self, newer: Roles<'_>) -> RoutesDifference {
        RoutesDifference { wider: widenings(self, newer), narrower: widenings(newer, self) }
    }
}

fn widenings(from: Roles<'_>, to: Roles<'_>) -> Vec<Change> {
    // Every field is looked at: where a role listens and where it keeps things opens nothing to an agent.
    let Web { fetch, addresses, search } = to.web;
    let Server { listen: _, protection: _, mcp_addresses, webhook_addresses, ca_file, event_key_file: _ } = to.server;
    let Gateway {
        server: _,
        ca_file: server_ca_file,
        edge,
        edge_ca_file,
        proxy: _,
        proxy_credentials_file: _,
        tunnel: _,
        tunnel_token_file: _,
        tls_dir: _,
        identity_key_file,
    } = to.gateway;
    let pages = (*fetch && !from.web.fetch).then(|| Change::shown(ChangeKind::Web, "pages are fetched"));
    let all = [
        pages,
        searches(from.web.search.as_ref(), search.as_ref()),
        named("web.addresses", &from.web.addresses, addresses),
        named("server.mcp_addresses", &from.server.mcp_addresses, mcp_addresses),
        named("server.webhook_addresses", &from.server.webhook_addresses, webhook_addresses),
        trusted("server.ca_file", from.server.ca_file.as_ref(), ca_file.as_ref()),
        trusted("gateway.ca_file", from.gateway.ca_file.as_ref(), server_ca_file.as_ref()),
        another("gateway.edge_ca_file", from.gateway.edge_ca_file.as_ref(), edge_ca_file.as_ref()),
        elsewhere(from.gateway, edge.as_ref(), identity_key_file.as_ref()),
        unpinned(from.gateway.identity_key_file.as_ref(), identity_key_file.as_ref()),
    ];
    all.into_iter().flatten().collect()
}

fn searches(from: Option<&Search>, to: Option<&Search>) -> Option<Change> {
    let Search { kind, url, key_file } = to?;
    let same = from
        .is_some_and(|from| (from.kind, &from.url) == (*kind, url) && same(from.key_file.as_ref(), key_file.as_ref()));
    (!same).then(|| Change::shown(ChangeKind::Web, format!("searches go to {url}")))
}

/// Special ranges besides everything public.
fn named(key: &str, from: &[IpNet], to: &[IpNet]) -> Option<Change> {
    let wider = !to.is_empty() && (from.is_empty() || !within(to, from));
    let list = |nets: &[IpNet]| match nets {
        [] => "none besides public ones".to_owned(),
        nets => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    wider.then(|| Change::shown(ChangeKind::Addresses, key).between(list(from), list(to)))
}

/// Trusted besides others.
fn trusted(key: &str, from: Option<&PathBuf>, to: Option<&PathBuf>) -> Option<Change> {
    (to.is_some() && !same(from, to)).then(|| authority(key, from, to))
}

/// Trusted instead of others.
fn another(key: &str, from: Option<&PathBuf>, to: Option<&PathBuf>) -> Option<Change> {
    (!same(from, to)).then(|| authority(key, from, to))
}

/// Without a pin the edge says whose word counts for callers.
fn elsewhere(from: &Gateway, to: Option<&Endpoint>, pin: Option<&PathBuf>) -> Option<Change> {
    let words = |edge: Option<&Endpoint>| edge.map_or("the server's".to_owned(), ToString::to_string);
    let change = Change::shown(ChangeKind::Authority, "gateway.edge").between(words(from.edge.as_ref()), words(to));
    (pin.is_none() && from.edge.as_ref() != to).then_some(change)
}

/// Without a pin whoever signs is believed.
fn unpinned(from: Option<&PathBuf>, to: Option<&PathBuf>) -> Option<Change> {
    (from.is_some() && !same(from, to)).then(|| authority("gateway.identity_key_file", from, to))
}

fn authority(key: &str, from: Option<&PathBuf>, to: Option<&PathBuf>) -> Change {
    let words = |file: Option<&PathBuf>| file.map_or("none".to_owned(), |file| file.display().to_string());
    Change::shown(ChangeKind::Authority, key).between(words(from), words(to))
}

/// By name: the two configurations may lie in two directories.
fn same(one: Option<&PathBuf>, other: Option<&PathBuf>) -> bool {
    let name = |file: Option<&PathBuf>| file.map(|file| Path::file_name(file).map(OsStr::to_owned));
    name(one) == name(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::Deployment;
    use crate::document::Document;
    use ChangeKind::{Addresses, Authority, Web};

    fn deployment(text: &str) -> Deployment {
        let document = Document::parse("postern.toml", &format!("config = 1\n{text}\n")).unwrap();
        Deployment::load(&document, Path::new("/etc/postern")).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn roles(deployment: &Deployment) -> Roles<'_> {
        Roles { server: &deployment.server, web: &deployment.web, gateway: &deployment.gateway }
    }

    fn kinds(from: &str, to: &str) -> Vec<ChangeKind> {
        let (from, to) = (deployment(from), deployment(to));
        roles(&from).diff(roles(&to)).wider.iter().map(|change| change.kind).collect()
    }

    #[test]
    fn what_a_role_reaches_or_believes_newly_is_reported() {
        let table = [
            ("", "[web]\nfetch = true", Web),
            ("[web]\nfetch = true", "[web]\nfetch = true\naddresses = ['169.254.169.254/32']", Addresses),
            ("[web]\nfetch = true", "[web.search]\nkind = 'searxng'\nurl = 'https://search.example'", Web),
            (
                "[web.search]\nkind = 'searxng'\nurl = 'https://search.example'",
                "[web.search]\nkind = 'searxng'\nurl = 'https://evil.example'",
                Web,
            ),
            ("", "[server]\nmcp_addresses = ['10.0.0.0/8']", Addresses),
            ("[server]\nmcp_addresses = ['10.0.0.0/9']", "[server]\nmcp_addresses = ['10.0.0.0/8']", Addresses),
            ("", "[server]\nwebhook_addresses = ['127.0.0.0/8']", Addresses),
            ("", "[server]\nca_file = 'ca.pem'", Authority),
            ("", "[gateway]\nca_file = 'ca.pem'", Authority),
            ("[gateway]\nedge_ca_file = 'ca.pem'", "", Authority),
            ("[gateway]\nidentity_key_file = 'k.pub'", "", Authority),
            ("", "[gateway]\nedge = 'https://edge.evil.example'", Authority),
            ("[gateway]\nedge = 'https://edge.example'", "[gateway]\nedge = 'https://edge.evil.example'", Authority),
            ("[gateway]\nidentity_key_file = 'k.pub'", "[gateway]\nidentity_key_file = 'j.pub'", Authority),
        ];
        for (from, to, kind) in table {
            assert_eq!(kinds(from, to), [kind], "{to}");
            assert_eq!(kinds(to, to), [], "{to}");
        }
    }

    #[test]
    fn what_a_role_reaches_no_more_is_not_wider() {
        let table = [
            ("[web]\nfetch = true\naddresses = ['10.0.0.0/8']", "[web]\nfetch = true"),
            ("[server]\nmcp_addresses = ['10.0.0.0/8']", "[server]\nmcp_addresses = ['10.1.0.0/16']"),
            ("[server]\nca_file = 'ca.pem'", ""),
            ("", "[gateway]\nidentity_key_file = 'k.pub'"),
            (
                "[gateway]\nedge = 'https://edge.example'\nidentity_key_file = 'k.pub'",
                "[gateway]\nedge = 'https://other.example'\nidentity_key_file = 'k.pub'",
            ),
        ];
        for (from, to) in table {
            assert_eq!(kinds(from, to), [], "{from}");
        }
    }
}
