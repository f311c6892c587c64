//! The sections that say where each role listens, whom it dials and where it keeps things: `[server]`, `[web]`, `[edge]`,
//! `[worker]`, `[gateway]`, `[custody]`, `[audit]`. Plain facts for the composition root; nothing here decides.

mod read;
mod web;

use crate::Endpoint;
use crate::document::{At, ConfigError, Document, Table};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What the file says about roles. Files are relative to the configuration file's directory, joined already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// `[server]`.
    pub server: Server,
    /// `[web]`.
    pub web: Web,
    /// `[edge]`.
    pub edge: Edge,
    /// `[worker]`.
    pub worker: Worker,
    /// `[gateway]`, without its routes.
    pub gateway: Gateway,
    /// `[custody] dir`.
    pub custody: Custody,
    /// `[audit] dir`.
    pub audit: Audit,
}

/// A process that reads sections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `postern server`, the edge not counted: a server without `[edge]` has none.
    Server,
    /// The edge, in the server or apart.
    Edge,
    /// `postern worker`.
    Worker,
    /// `postern gateway`.
    Gateway,
}

impl Role {
    /// The section, and the keys without which the role cannot run on its own. `postern up` fills them in itself.
    fn needs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Role::Server => ("server", &["listen"]),
            Role::Edge => ("edge", &["listen", "tls", "domain"]),
            Role::Worker => ("worker", &["server", "environment", "environment_key_file"]),
            Role::Gateway => ("gateway", &["server", "edge", "tunnel", "tunnel_token_file", "tls_dir"]),
        }
    }
}

impl Deployment {
    /// Reads the sections. `directory` is the configuration file's: relative files and directories are below it.
    ///
    /// # Errors
    /// Everything that is wrong in them, with its place.
    pub fn load(document: &Document, directory: &Path) -> Result<Self, Vec<ConfigError>> {
        read::load(document, directory)
    }

    /// What the file must still say before this role can run on its own.
    #[must_use]
    pub fn missing(document: &Document, role: Role) -> Vec<ConfigError> {
        let (section, keys) = role.needs();
        let reader = document.reader();
        let mut root = reader.root();
        root.leave_rest();
        match root.table(section) {
            None => reader.error(At::start(), format!("missing section: [{section}], with {}", keys.join(", "))),
            Some(mut table) => {
                table.leave_rest();
                for key in keys {
                    table.required::<()>(key, None);
                }
                require_id(&mut table, role);
            }
        }
        drop(root);
        reader.finish()
    }
}

/// Only `up` knows environments by their local names.
fn require_id(table: &mut Table<'_>, role: Role) {
    let named = match role {
        Role::Worker => table.string("environment"),
        Role::Server | Role::Edge | Role::Gateway => None,
    };
    if let Some(item) = named.filter(|item| !item.value.starts_with("env_")) {
        table.reader().error(item.at, "environment must be an id here: env_...");
    }
}

/// A certificate and its key, two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, its chain after it.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How a listener of the server is kept from the open network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing is said: plain HTTP, on loopback only.
    Loopback,
    /// TLS by these files.
    Tls(TlsFiles),
    /// Plain HTTP, behind a proxy that does TLS: `behind = "proxy"`.
    BehindProxy,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where the API listens.
    pub listen: Option<SocketAddr>,
    /// How.
    pub protection: Protection,
    /// Special ranges in which public MCP URLs may lie all the same.
    pub mcp_addresses: Vec<IpNet>,
    /// Special ranges in which webhooks may lie all the same.
    pub webhook_addresses: Vec<IpNet>,
    /// Trusted besides the system's list, for public MCP servers, webhooks, pages and the search provider.
    pub ca_file: Option<PathBuf>,
    /// The keys that what sessions say is encrypted under where it is stored.
    pub event_key_file: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: None,
            protection: Protection::Loopback,
            mcp_addresses: Vec::new(),
            webhook_addresses: Vec::new(),
            ca_file: None,
            event_key_file: None,
        }
    }
}

/// `[web]`: the tools `web_fetch` and `web_search`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Web {
    /// Whether pages are fetched; only where the section is written.
    pub fetch: bool,
    /// Special ranges in which pages may lie all the same.
    pub addresses: Vec<IpNet>,
    /// Whom to ask for searches.
    pub search: Option<Search>,
}

/// `[web.search]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Whose interface it has.
    pub kind: SearchKind,
    /// Where it is.
    pub url: Endpoint,
    /// Holds the server's key for it.
    pub key_file: Option<PathBuf>,
}

/// Whose interface a search provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchKind {
    /// SearXNG.
    Searxng,
    /// The Brave Search API.
    Brave,
}

/// `[edge]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Where connectors arrive.
    pub listen: Option<SocketAddr>,
    /// The edge's certificate.
    pub tls: Option<TlsFiles>,
    /// What tunnels' domains end in, lower case.
    pub domain: Option<String>,
}

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The server.
    pub server: Option<Endpoint>,
    /// The server's CA, besides the public roots.
    pub ca_file: Option<PathBuf>,
    /// `env_...`; or a local name, which `up` alone resolves.
    pub environment: Option<String>,
    /// Holds the environment key.
    pub environment_key_file: Option<PathBuf>,
    /// How many sessions at a time.
    pub sessions: u16,
}

impl Default for Worker {
    fn default() -> Self {
        Self { server: None, ca_file: None, environment: None, environment_key_file: None, sessions: 16 }
    }
}

/// `[gateway]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// The server, for the control stream.
    pub server: Option<Endpoint>,
    /// The server's CA, besides the public roots.
    pub ca_file: Option<PathBuf>,
    /// The edge.
    pub edge: Option<Endpoint>,
    /// The edge's CA, instead of the public roots.
    pub edge_ca_file: Option<PathBuf>,
    /// An HTTP proxy that is asked to CONNECT to the edge.
    pub proxy: Option<Endpoint>,
    /// Holds `user:password` for that proxy.
    pub proxy_credentials_file: Option<PathBuf>,
    /// `tnl_...`.
    pub tunnel: Option<String>,
    /// Holds the tunnel token.
    pub tunnel_token_file: Option<PathBuf>,
    /// Holds `leaf.pem` and `leaf.key`.
    pub tls_dir: Option<PathBuf>,
    /// Pins the keys that sign callers' identities.
    pub identity_key_file: Option<PathBuf>,
}

/// `[custody]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Custody {
    /// Its directory.
    pub dir: Option<PathBuf>,
}

/// `[audit]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Its directory.
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
