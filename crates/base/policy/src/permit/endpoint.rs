//! Endpoints that somebody named beforehand: the operator in the configuration, or an agent's definition a public MCP server.

use super::{DialPermit, Target, address_allowed};
use crate::address::{self, AddressClass};
use crate::reason::{Denial, Reason};
use crate::{CanonicalPath, Host, Port, Scheme};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// An endpoint named in the configuration by the operator: the model, a server, an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The scheme.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Port,
    /// The path that requests begin with, without a trailing slash; empty for none.
    pub base_path: String,
}

/// The text is no URL of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Neither http:// nor https://.
    #[error("the URL must begin with https:// or http://")]
    Scheme,
    /// The host is malformed.
    #[error("the host of the URL: {0}")]
    Host(#[from] crate::BadHost),
    /// The port is not a number from 1 to 65535.
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
    /// Names and passwords do not belong in a configuration file.
    #[error("the URL must not hold a user name or password")]
    Userinfo,
    /// A query or fragment.
    #[error("the URL must not have a query or fragment")]
    Extra,
    /// The path is not canonical.
    #[error("the path of the URL: {0}")]
    Path(#[from] crate::BadPath),
}

impl std::str::FromStr for Endpoint {
    type Err = BadEndpoint;
    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (scheme, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest)
        } else {
            (Scheme::Http, text.strip_prefix("http://").ok_or(BadEndpoint::Scheme)?)
        };
        if rest.contains(['?', '#']) {
            return Err(BadEndpoint::Extra);
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(BadEndpoint::Userinfo);
        }
        let (host, port) = split_port(authority, scheme)?;
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            path.parse::<CanonicalPath>()?;
        }
        Ok(Self { scheme, host: host.parse()?, port, base_path: path.to_owned() })
    }
}

impl Endpoint {
    fn target(&self) -> Target {
        match self.host.address() {
            Some(address) => Target::Address(SocketAddr::new(address, self.port.number())),
            None => Target::Resolve(self.host.clone(), self.port),
        }
    }
}

fn split_port(authority: &str, scheme: Scheme) -> Result<(&str, Port), BadEndpoint> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let number: u16 = port.parse().map_err(|_| BadEndpoint::Port)?;
            Ok((host, Port::new(number).ok_or(BadEndpoint::Port)?))
        }
        _ => Ok((authority, scheme.default_port())),
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host.authority(self.scheme, self.port), self.base_path)
    }
}

/// An endpoint that the operator named may be dialled, wherever its name leads. Made in `bin` alone.
#[derive(Clone, Debug)]
pub struct ConfiguredPermit {
    endpoint: Endpoint,
}

/// The permit for an endpoint of the configuration. Only `bin` calls this: what an agent chose never comes here.
#[must_use]
pub fn configured(endpoint: &Endpoint) -> ConfiguredPermit {
    ConfiguredPermit { endpoint: endpoint.clone() }
}

impl ConfiguredPermit {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How to find the address.
    #[must_use]
    pub fn target(&self) -> Target {
        self.endpoint.target()
    }

    /// The operator's word is enough: private and loopback addresses are dialled.
    ///
    /// # Errors
    /// Addresses that no service listens on (unspecified, multicast) and metadata services.
    pub fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        let address = address.to_canonical();
        match address::classify(address) {
            AddressClass::Metadata => Err(Denial::new(Reason::AddressMetadata)),
            AddressClass::Special => Err(Denial::new(Reason::AddressNotAllowed)),
            AddressClass::Public | AddressClass::Private | AddressClass::Loopback | AddressClass::LinkLocal => {
                Ok(DialPermit {
                    address: SocketAddr::new(address, self.endpoint.port.number()),
                    host: self.endpoint.host.clone(),
                })
            }
        }
    }
}
/// A public MCP server that an agent's definition names may be dialled: at public addresses, and at those special
/// ones that the operator's own list names.
#[derive(Clone, Debug)]
pub struct PublicPermit {
    endpoint: Endpoint,
    extra: Arc<[IpNet]>,
}

/// The permit for an MCP server outside any tunnel.
///
/// # Errors
/// The endpoint is not https.
pub fn public_server(endpoint: &Endpoint, extra: &[IpNet]) -> Result<PublicPermit, Denial> {
    match endpoint.scheme {
        Scheme::Https => Ok(PublicPermit { endpoint: endpoint.clone(), extra: extra.into() }),
        Scheme::Http => Err(Denial::advising(Reason::SchemeNotAllowed, "name the MCP server by an https:// URL")),
    }
}

impl PublicPermit {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How to find the address.
    #[must_use]
    pub fn target(&self) -> Target {
        self.endpoint.target()
    }

    /// Whether this address may be dialled for the permit.
    ///
    /// # Errors
    /// The address is not public and the operator's list does not name it.
    pub fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        let address = address.to_canonical();
        if address::classify(address) != AddressClass::Public {
            address_allowed(address, &self.extra)?;
        }
        Ok(DialPermit {
            address: SocketAddr::new(address, self.endpoint.port.number()),
            host: self.endpoint.host.clone(),
        })
    }
}
