//! Reading routes from the configuration: `[[gateway.route]]`.

use super::format::HeaderFormat;
use super::{Route, RouteCredential, Routes, normalise_mcp_url, token};
use crate::address::{AddressClass, class_of_net, classify};
use crate::document::{At, ByteCount, ConfigError, Document, Duration, Item, Reader, Table};
use crate::permit::Endpoint;
use crate::zone::reading::{is_name, read_addresses, read_ca, read_source, reserved_header};
use crate::{Scheme, Source};
use http::HeaderName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A route that was read, and where it begins.
struct Read {
    at: At,
    route: Route,
}

pub(super) fn load(document: &Document) -> Result<Routes, Vec<ConfigError>> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    let (routes, endpoints, digest) = match root.table("gateway") {
        Some(mut gateway) => {
            gateway.leave_rest();
            let digest = digest_of(gateway.tables("route"), gateway.tables("token_endpoint"));
            let routes: Vec<Read> =
                gateway.tables("route").into_iter().filter_map(|mut table| read_route(document, &mut table)).collect();
            let endpoints = gateway.tables("token_endpoint");
            let endpoints: Vec<token::Read> =
                endpoints.into_iter().filter_map(|mut table| token::read(document, &mut table)).collect();
            (routes, endpoints, digest)
        }
        None => (Vec::new(), Vec::new(), super::digest(&[])),
    };
    refuse_duplicates(&reader, &routes);
    refuse_repeated(&reader, &endpoints);
    warn_of_strangers(&mut root, &routes);
    drop(root);
    let (errors, warnings) = reader.finish_with_warnings();
    let routes = routes.into_iter().map(|read| Arc::new(read.route)).collect();
    let token_endpoints = endpoints.into_iter().map(|read| Arc::new(read.endpoint)).collect();
    if errors.is_empty() { Ok(Routes { routes, token_endpoints, digest, warnings }) } else { Err(errors) }
}

fn digest_of(routes: Vec<Table<'_>>, token_endpoints: Vec<Table<'_>>) -> String {
    let mut canonical = Vec::new();
    let routes = routes.into_iter().map(|table| (b"".as_slice(), table));
    // Nothing that stands in one list can be taken for something of the other.
    let token_endpoints = token_endpoints.into_iter().map(|table| (b"token endpoint\0".as_slice(), table));
    for (prefix, mut table) in routes.chain(token_endpoints) {
        table.leave_rest();
        let bytes = table.canonical();
        canonical.extend(((prefix.len() + bytes.len()) as u64).to_be_bytes());
        canonical.extend(prefix);
        canonical.extend(bytes);
    }
    super::digest(&canonical)
}

fn read_route(document: &Document, table: &mut Table<'_>) -> Option<Read> {
    let name = read_name(table);
    let url = read_url(table);
    let upstream = read_upstream(table, url.as_ref());
    let scheme = upstream.as_ref().map(|(endpoint, _)| endpoint.value.scheme);
    let addresses = read_addresses(table);
    let ca_pem = read_ca(document, table, scheme);
    let credential = read_credential(table);
    let timeout = read_timeout(table);
    let max_request_bytes = read_size(table, "max_request", 4 << 20, 64 << 20);
    let max_response_bytes = read_size(table, "max_response", 32 << 20, 256 << 20);
    let (endpoint, path) = upstream?;
    let at = endpoint.at;
    let route = Route {
        name: name?,
        upstream: endpoint.value,
        path,
        url: url?.map(|item| item.value),
        addresses: addresses?.into(),
        ca_pem: ca_pem?,
        credential: credential?,
        timeout: timeout?,
        max_request_bytes: max_request_bytes?,
        max_response_bytes: max_response_bytes?,
    };
    let sound = [check_clear_text(table, &route, at), check_literal(table, &route, at)];
    sound.into_iter().all(|holds| holds).then_some(Read { at: table.at(), route })
}

fn read_name(table: &mut Table<'_>) -> Option<String> {
    let item = table.string("host");
    let item = table.required("host", item)?;
    let label = is_name(item.value)
        && item.value.len() <= 63
        && !item.value.starts_with('-')
        && !item.value.ends_with('-')
        && !item.value.starts_with("xn--");
    if item.value == super::PUBLIC_LABEL {
        let message = "host \"mcp-url\" is taken: calls of routes that have a `url` come by it";
        table.reader().error(item.at, message);
        return None;
    }
    if !label {
        let message = "host is one DNS label, what stands before the tunnel's domain: lower-case letters, digits and dashes, at most 63";
        table.reader().error(item.at, message);
    }
    label.then(|| item.value.to_owned())
}

/// The outer `None` is an error.
fn read_url(table: &mut Table<'_>) -> Option<Option<Item<String>>> {
    let Some(item) = table.string("url") else {
        return (!table.has("url")).then_some(None);
    };
    match normalise_mcp_url(item.value) {
        Ok(url) if url.starts_with("https://") => Some(Some(Item { value: url, at: item.at })),
        Ok(_) => {
            table.reader().error(item.at, "url is that of a public MCP server: https:// only");
            None
        }
        Err(cause) => {
            table.reader().error(item.at, format!("url: {cause}"));
            None
        }
    }
}

/// Where the route leads, and the exact path of requests: a slash at its end is the upstream's to know. A route with
/// a public URL leads there unless it says otherwise.
fn read_upstream(table: &mut Table<'_>, url: Option<&Option<Item<String>>>) -> Option<(Item<Endpoint>, String)> {
    let written = table.string("upstream");
    let alias = url.and_then(Option::as_ref);
    let (key, text, at) = match (written, alias) {
        (Some(item), _) => ("upstream", item.value.to_owned(), item.at),
        (None, Some(item)) if !table.has("upstream") => ("url", item.value.clone(), item.at),
        // What is wrong with the URL is said already.
        (None, _) if url.is_none() && !table.has("upstream") => return None,
        (None, _) => {
            table.required::<()>("upstream", None);
            return None;
        }
    };
    let endpoint = match text.parse::<Endpoint>() {
        Ok(endpoint) => endpoint,
        Err(cause) => {
            table.reader().error(at, format!("{key}: {cause}"));
            return None;
        }
    };
    let path = exact_path(&text, &endpoint);
    Some((Item { value: endpoint, at }, path))
}

fn exact_path(text: &str, endpoint: &Endpoint) -> String {
    let slash = if endpoint.base_path.is_empty() || text.ends_with('/') { "/" } else { "" };
    format!("{}{slash}", endpoint.base_path)
}

/// The outer `None` is an error.
fn read_credential(table: &mut Table<'_>) -> Option<Option<RouteCredential>> {
    if !table.has("credential") {
        return Some(None);
    }
    let mut credential = table.table("credential")?;
    let source = credential.string("source");
    let source = credential.required("source", source);
    if let Some(Item { value: "api:", .. }) = source {
        return read_api(&mut credential).map(Some);
    }
    if let Some(named) = source.as_ref().filter(|item| item.value.starts_with("api:")) {
        let message = "a route takes the caller's credential for its own URL: source = \"api:\", without a name";
        credential.reader().error(named.at, message);
        ["header", "format"].iter().for_each(|key| credential.leave(key));
        return None;
    }
    let header = read_header(&mut credential);
    let format = read_format(&mut credential, header.as_ref());
    let source: Option<Source> = source.and_then(|item| read_source(&credential, item));
    Some(Some(RouteCredential::Own { source: source?, header: header?, format: format? }))
}

/// The contract says how a vault credential is sent: as a bearer.
fn read_api(credential: &mut Table<'_>) -> Option<RouteCredential> {
    let extra = credential.keys().into_iter().find(|key| matches!(key.value, "header" | "format"));
    let Some(extra) = extra else {
        return Some(RouteCredential::Api);
    };
    ["header", "format"].iter().for_each(|key| credential.leave(key));
    credential
        .reader()
        .error(extra.at, format!("{}: a vault credential is always sent as authorization: Bearer", extra.value));
    None
}

fn read_header(credential: &mut Table<'_>) -> Option<HeaderName> {
    let Some(item) = credential.string("header") else {
        return (!credential.has("header")).then_some(http::header::AUTHORIZATION);
    };
    let Ok(name) = HeaderName::try_from(item.value) else {
        credential.reader().error(item.at, "header is not the name of a header");
        return None;
    };
    if let Some(why) = reserved(&name) {
        credential.reader().error(item.at, format!("header: {name} {why} and cannot hold a credential"));
        return None;
    }
    Some(name)
}

fn reserved(name: &HeaderName) -> Option<&'static str> {
    let text = name.as_str();
    if reserved_header(name) || text.starts_with("accept") || text.starts_with("content-") {
        Some("is set by the gateway")
    } else if text.starts_with("mcp-") || text == "last-event-id" {
        Some("belongs to MCP")
    } else if text.starts_with("postern-") {
        Some("is ours")
    } else if matches!(text, "cookie" | "set-cookie" | "origin" | "referer") {
        Some("has a meaning of its own")
    } else {
        None
    }
}

fn read_format(credential: &mut Table<'_>, header: Option<&HeaderName>) -> Option<HeaderFormat> {
    if credential.has("format") {
        return credential.parsed("format").map(|item| item.value);
    }
    let bearer = header.is_none_or(|name| *name == http::header::AUTHORIZATION);
    Some(if bearer { HeaderFormat::bearer() } else { HeaderFormat::bare() })
}

fn read_timeout(table: &mut Table<'_>) -> Option<std::time::Duration> {
    let (shortest, longest) = (std::time::Duration::from_millis(100), std::time::Duration::from_secs(600));
    let Some(item) = table.parsed::<Duration>("timeout") else {
        return (!table.has("timeout")).then_some(std::time::Duration::from_secs(60));
    };
    let within = (shortest..=longest).contains(&item.value.0);
    if !within {
        table.reader().error(item.at, "timeout must be from 100ms to 10m");
    }
    within.then_some(item.value.0)
}

fn read_size(table: &mut Table<'_>, key: &str, default: u64, most: u64) -> Option<u64> {
    let Some(item) = table.parsed::<ByteCount>(key) else {
        return (!table.has(key)).then_some(default);
    };
    let within = (1024..=most).contains(&item.value.0);
    if !within {
        table.reader().error(item.at, format!("{key} must be from 1KiB to {}MiB", most >> 20));
    }
    within.then_some(item.value.0)
}

/// Calls and answers in the clear are read by everything on the way: only networks that the operator names as his own
/// are no stranger's way.
fn check_clear_text(table: &Table<'_>, route: &Route, at: At) -> bool {
    if route.upstream.scheme == Scheme::Https {
        return true;
    }
    let class_is = |wanted: &[AddressClass]| {
        let of = |net: &IpNet| class_of_net(net).is_some_and(|class| wanted.contains(&class));
        !route.addresses.is_empty() && route.addresses.iter().all(of)
    };
    if !class_is(&[AddressClass::Private, AddressClass::Loopback]) {
        let message = "upstream: http:// goes to private and loopback addresses only, named in `addresses`; elsewhere use https://";
        table.reader().error(at, message);
        return false;
    }
    if route.credential.is_some() && !class_is(&[AddressClass::Loopback]) {
        table.reader().warn(at, "a credential leaves in the clear here, on a private network");
    }
    true
}

/// An address written as the upstream's host is judged like a resolved one.
fn check_literal(table: &Table<'_>, route: &Route, at: At) -> bool {
    let Some(address) = route.upstream.host.address() else {
        return true;
    };
    let holds = route.destination().allows(address);
    if !holds {
        let why = match classify(address) {
            AddressClass::Public => "is outside `addresses`",
            AddressClass::Private
            | AddressClass::LinkLocal
            | AddressClass::Loopback
            | AddressClass::Special
            | AddressClass::Metadata => "is not a public address, so `addresses` must name it",
        };
        table.reader().error(at, format!("upstream: {address} {why}"));
    }
    holds
}

fn refuse_duplicates(reader: &Reader<'_>, routes: &[Read]) {
    let (mut names, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for read in routes {
        if names.insert(&read.route.name, ()).is_some() {
            reader.error(read.at, format!("two routes have the host {}", read.route.name));
        }
        if let Some(url) = read.route.url.as_ref().filter(|url| urls.insert(*url, ()).is_some()) {
            reader.error(read.at, format!("two routes have the url {url}"));
        }
    }
}

fn refuse_repeated(reader: &Reader<'_>, endpoints: &[token::Read]) {
    let mut urls = BTreeMap::new();
    for read in endpoints {
        if urls.insert(&read.endpoint.url, ()).is_some() {
            reader.error(read.at, format!("the token endpoint {} is listed twice", read.endpoint.url));
        }
    }
}

/// Zones may speak of routes that another gateway's file holds, so an unknown one is no error.
fn warn_of_strangers(root: &mut Table<'_>, routes: &[Read]) {
    for (_, mut zone) in root.named_tables("zone") {
        zone.leave_rest();
        for mut rule in zone.tables("mcp") {
            rule.leave_rest();
            let Some(server) = rule.string("server") else { continue };
            if !routes.iter().any(|read| read.route.name == server.value) {
                let message = format!("no [[gateway.route]] of this file has host = {:?}", server.value);
                root.reader().warn(server.at, message);
            }
        }
    }
}
