//! Reading the roles' sections.

use super::{Audit, Custody, Deployment, Edge, Gateway, Protection, Server, TlsFiles, Worker, web};
use crate::address::{AddressClass, classify};
use crate::document::{ConfigError, Document, Item, Table};
use crate::zone::reading::{is_name, read_nets};
use crate::{Endpoint, Host, Scheme};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(super) fn load(document: &Document, directory: &Path) -> Result<Deployment, Vec<ConfigError>> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    let deployment = Deployment {
        server: root.table("server").map(|mut table| read_server(&mut table, directory)).unwrap_or_default(),
        web: root.table("web").map(|mut table| web::read(&mut table, directory)).unwrap_or_default(),
        edge: root.table("edge").map(|mut table| read_edge(&mut table, directory)).unwrap_or_default(),
        worker: root.table("worker").map(|mut table| read_worker(&mut table, directory)).unwrap_or_default(),
        gateway: root.table("gateway").map(|mut table| read_gateway(&mut table, directory)).unwrap_or_default(),
        custody: Custody { dir: read_dir(&mut root, "custody", directory) },
        audit: Audit { dir: read_dir(&mut root, "audit", directory) },
    };
    drop(root);
    let errors = reader.finish();
    if errors.is_empty() { Ok(deployment) } else { Err(errors) }
}

fn read_server(table: &mut Table<'_>, directory: &Path) -> Server {
    table.not_in_this_build(&["database"]);
    let listen = table.parsed::<SocketAddr>("listen");
    let protection = read_protection(table, directory, listen);
    Server {
        listen: listen.map(|item| item.value),
        protection,
        mcp_addresses: read_nets(table, "mcp_addresses").unwrap_or_default(),
        webhook_addresses: read_nets(table, "webhook_addresses").unwrap_or_default(),
        ca_file: read_path(table, "ca_file", directory),
        event_key_file: read_path(table, "event_key_file", directory),
    }
}

/// Keys and events travel over it: in the clear only within this machine, or where a proxy in front does TLS.
fn read_protection(table: &mut Table<'_>, directory: &Path, listen: Option<Item<SocketAddr>>) -> Protection {
    let tls_at = table.keys().into_iter().find(|key| key.value == "tls").map(|key| key.at);
    let tls = read_tls(table, directory);
    let behind = read_behind(table);
    match (tls_at, tls, behind) {
        (Some(at), _, true) => table.reader().error(at, "tls and behind = \"proxy\" exclude each other"),
        (Some(_), Some(files), false) => return Protection::Tls(files),
        (Some(_), None, false) => {}
        (None, _, true) => return Protection::BehindProxy,
        (None, _, false) => {
            if let Some(item) = listen.filter(|item| !item.value.ip().to_canonical().is_loopback())
                && !table.has("behind")
            {
                let message = "plain HTTP is for loopback only; name tls = { cert, key }, or behind = \"proxy\" where a proxy in front does TLS";
                table.reader().error(item.at, format!("listen: {message}"));
            }
        }
    }
    Protection::Loopback
}

fn read_behind(table: &mut Table<'_>) -> bool {
    match table.string("behind") {
        Some(Item { value: "proxy", .. }) => true,
        Some(Item { at, .. }) => {
            table.reader().error(at, "behind must be \"proxy\"");
            false
        }
        None => false,
    }
}

fn read_tls(table: &mut Table<'_>, directory: &Path) -> Option<TlsFiles> {
    let mut tls = table.table("tls")?;
    let (cert, key) = (read_path(&mut tls, "cert", directory), read_path(&mut tls, "key", directory));
    let (cert, key) = (tls.required("cert", cert), tls.required("key", key));
    Some(TlsFiles { cert: cert?, key: key? })
}

fn read_edge(table: &mut Table<'_>, directory: &Path) -> Edge {
    Edge {
        listen: table.parsed::<SocketAddr>("listen").map(|item| item.value),
        tls: read_tls(table, directory),
        domain: read_domain(table),
    }
}

fn read_domain(table: &mut Table<'_>) -> Option<String> {
    let item = table.parsed::<Host>("domain")?;
    let name = item.value.name().filter(|name| name.len() <= 150).map(str::to_owned);
    if name.is_none() {
        table.reader().error(item.at, "domain must be a DNS name of at most 150 characters, not an address");
    }
    name
}

fn read_worker(table: &mut Table<'_>, directory: &Path) -> Worker {
    let sessions = table.bounded("sessions", 1..=1024).and_then(|item| u16::try_from(item.value).ok());
    Worker {
        server: read_server_url(table),
        ca_file: read_path(table, "ca_file", directory),
        environment: read_environment(table),
        environment_key_file: read_path(table, "environment_key_file", directory),
        sessions: sessions.unwrap_or(Worker::default().sessions),
    }
}

fn read_gateway(table: &mut Table<'_>, directory: &Path) -> Gateway {
    table.leave("route");
    table.leave("token_endpoint");
    Gateway {
        server: read_server_url(table),
        ca_file: read_path(table, "ca_file", directory),
        edge: read_edge_url(table),
        edge_ca_file: read_path(table, "edge_ca_file", directory),
        proxy: read_proxy(table),
        proxy_credentials_file: read_path(table, "proxy_credentials_file", directory),
        tunnel: read_id(table, "tunnel", "tnl_"),
        tunnel_token_file: read_path(table, "tunnel_token_file", directory),
        tls_dir: read_path(table, "tls_dir", directory),
        identity_key_file: read_path(table, "identity_key_file", directory),
    }
}

/// The role's key goes there with every request.
fn read_server_url(table: &mut Table<'_>) -> Option<Endpoint> {
    let item = table.parsed::<Endpoint>("server")?;
    if item.value.scheme == Scheme::Http && !is_this_machine(&item.value.host) {
        table.reader().error(item.at, "server: a key is not sent in the clear; use https://, or http:// to loopback");
        return None;
    }
    Some(item.value)
}

pub(super) fn is_this_machine(host: &Host) -> bool {
    match host.address() {
        Some(address) => classify(address) == AddressClass::Loopback,
        None => host.name() == Some("localhost"),
    }
}

fn read_edge_url(table: &mut Table<'_>) -> Option<Endpoint> {
    let item = table.parsed::<Endpoint>("edge")?;
    if item.value.scheme == Scheme::Http || !item.value.base_path.is_empty() {
        table.reader().error(item.at, "edge must be https://HOST or https://HOST:PORT");
        return None;
    }
    Some(item.value)
}

fn read_proxy(table: &mut Table<'_>) -> Option<Endpoint> {
    let item = table.parsed::<Endpoint>("proxy")?;
    if item.value.scheme == Scheme::Https || !item.value.base_path.is_empty() {
        table.reader().error(item.at, "proxy must be http://HOST:PORT; what goes through it is TLS anyway");
        return None;
    }
    Some(item.value)
}

fn read_environment(table: &mut Table<'_>) -> Option<String> {
    match table.string("environment") {
        Some(item) if is_name(item.value) => Some(item.value.to_owned()),
        Some(_) => read_id(table, "environment", "env_"),
        None => None,
    }
}

fn read_id(table: &mut Table<'_>, key: &str, prefix: &str) -> Option<String> {
    let item = table.string(key)?;
    let suffix = item.value.strip_prefix(prefix).unwrap_or_default();
    let well_formed = (1..=64).contains(&suffix.len()) && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !well_formed {
        table.reader().error(item.at, format!("{key} must be an id: {prefix} and letters and digits"));
    }
    well_formed.then(|| item.value.to_owned())
}

pub(super) fn read_path(table: &mut Table<'_>, key: &str, directory: &Path) -> Option<PathBuf> {
    let item = table.string(key)?;
    if item.value.is_empty() || item.value.contains('\0') {
        table.reader().error(item.at, format!("{key} names no file"));
        return None;
    }
    Some(directory.join(item.value))
}

fn read_dir(root: &mut Table<'_>, section: &str, directory: &Path) -> Option<PathBuf> {
    let mut table = root.table(section)?;
    read_path(&mut table, "dir", directory)
}
