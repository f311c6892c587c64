//! Evidence that a decision was made. A permit exists only where this crate has decided: no public constructor,
//! no public field, no deserialization. The next step takes the permit, not the facts it was made from.
//!
//! ```compile_fail
//! # fn forge(host: postern_policy::Host) -> postern_policy::DialPermit {
//! postern_policy::DialPermit { address: "127.0.0.1:1".parse().unwrap(), host }
//! # }
//! ```

mod endpoint;
mod pass;

pub use endpoint::{BadEndpoint, ConfiguredPermit, Endpoint, PublicPermit, configured, public_server};
pub use pass::PassPermit;

use crate::address::{self, AddressClass};
use crate::credential::{CredentialName, Location};
use crate::reason::{Denial, Reason};
use crate::zone::{AuditMode, Shadow};
use crate::{CanonicalPath, Host, Method, Port, Scheme, Upgrade};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// This host and port may be talked to, in one of these schemes; each request is still to be decided.
#[derive(Clone, Debug)]
pub struct ConnectPermit {
    pub(crate) host: Host,
    pub(crate) port: Port,
    pub(crate) schemes: Vec<Scheme>,
    pub(crate) rule: String,
}

impl ConnectPermit {
    /// The host decided on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port decided on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// The schemes that some rule allows here.
    #[must_use]
    pub fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    /// The first rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Put this credential's secret in place of its placeholder, there and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    pub(crate) credential: CredentialName,
    pub(crate) location: Location,
}

impl Injection {
    /// Whose secret.
    #[must_use]
    pub fn credential(&self) -> &CredentialName {
        &self.credential
    }

    /// Where.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }
}

/// This exact request may leave.
#[derive(Clone, Debug)]
pub struct Permit {
    pub(crate) destination: Destination,
    pub(crate) scheme: Scheme,
    pub(crate) method: Method,
    pub(crate) path: CanonicalPath,
    pub(crate) rule: String,
    pub(crate) zone: String,
    pub(crate) policy_digest: String,
    pub(crate) injections: Vec<Injection>,
    pub(crate) upgrade: Upgrade,
    /// What a later zone says of the destination besides.
    pub(crate) also: Option<Destination>,
    pub(crate) client_certificate: Option<CredentialName>,
    pub(crate) shadow: Option<Box<Shadow>>,
}

/// Who is dialled and under what conditions: shared by all permits that lead to a socket.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) host: Host,
    pub(crate) port: Port,
    pub(crate) connect: Option<SocketAddr>,
    pub(crate) addresses: Arc<[IpNet]>,
    pub(crate) ca_pem: Option<Arc<str>>,
}

/// How the address of a permitted destination is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Look the name up, then ask [`Permit::dial`] about each address.
    Resolve(Host, Port),
    /// Dial this address; nothing is looked up. [`Permit::dial`] is asked all the same.
    Address(SocketAddr),
}

impl Permit {
    /// The host decided on, injected for and dialled.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.destination.host
    }

    /// The port decided on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.destination.port
    }

    /// The scheme to speak.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What the connection may become.
    #[must_use]
    pub fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    /// The method decided on.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path decided on: send this text.
    #[must_use]
    pub fn path(&self) -> &CanonicalPath {
        &self.path
    }

    /// The rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What a candidate of the zone would have done: refused it.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_deref()
    }

    /// The zone's name.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The digest of the zone that decided.
    #[must_use]
    pub fn policy_digest(&self) -> &str {
        &self.policy_digest
    }

    /// What to inject; empty where no placeholder of ours stands in the request.
    #[must_use]
    pub fn injections(&self) -> &[Injection] {
        &self.injections
    }

    /// Whose client certificate is presented to the upstream, where the rule names one.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&CredentialName> {
        self.client_certificate.as_ref()
    }

    /// The upstream's CA, where the rule names one: PEM text, trusted instead of the public roots.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.destination.ca_pem.as_deref()
    }

    /// How to find the address.
    #[must_use]
    pub fn target(&self) -> Target {
        self.destination.target()
    }

    /// Whether this address may be dialled for the permit.
    ///
    /// # Errors
    /// The address is special and the rule does not name it, or the rule names others.
    pub fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        dial_both(&self.destination, self.also.as_ref(), address).map_err(|denial| denial.by(&self.rule))
    }

    /// The same request under a later zone as well: dialled only where both would dial, verified only as both would.
    pub(crate) fn narrowed_by(self, later: Permit) -> Result<Self, Denial> {
        if self.ca_pem() != later.ca_pem() {
            let step = "the zone names another authority for this host now; a new turn goes by it";
            return Err(Denial::advising(Reason::UpstreamUntrusted, step).by(later.rule()));
        }
        if self.injections != later.injections || self.client_certificate != later.client_certificate {
            return Err(Denial::new(Reason::CustodyDenied).by(later.rule()));
        }
        Ok(Self { also: Some(later.destination), ..self })
    }
}

/// What both would dial, where there are two.
fn dial_both(destination: &Destination, also: Option<&Destination>, address: IpAddr) -> Result<DialPermit, Denial> {
    let dial = destination.dial(address)?;
    match also.map(|also| also.dial(address)).transpose()? {
        Some(later) if later != dial => Err(Denial::new(Reason::AddressNotAllowed)),
        Some(_) | None => Ok(dial),
    }
}

impl Destination {
    /// Whether this address could be dialled.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        self.dial(address).is_ok()
    }

    fn target(&self) -> Target {
        match (self.connect, self.host.address()) {
            (Some(address), _) => Target::Address(address),
            (None, Some(address)) => Target::Address(SocketAddr::new(address, self.port.number())),
            (None, None) => Target::Resolve(self.host.clone(), self.port),
        }
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        let address = address.to_canonical();
        let port = match self.connect {
            Some(fixed) if fixed.ip().to_canonical() != address => return Err(Denial::new(Reason::AddressNotAllowed)),
            Some(fixed) => fixed.port(),
            None => self.port.number(),
        };
        address_allowed(address, &self.addresses)?;
        Ok(DialPermit { address: SocketAddr::new(address, port), host: self.host.clone() })
    }
}

/// A special address must be named by a range of its own class: `169.254.0.0/16` does not name the metadata service
/// inside it. Where a rule names ranges at all, others are outside.
fn address_allowed(address: IpAddr, named: &[IpNet]) -> Result<(), Denial> {
    let class = address::classify(address);
    if postern_danger::off!("egress-addresses") {
        return Ok(());
    }
    if named.iter().any(|net| net.contains(&address) && address::class_of_net(net) == Some(class)) {
        return Ok(());
    }
    match class {
        AddressClass::Public if named.is_empty() => Ok(()),
        AddressClass::Public => Err(Denial::new(Reason::AddressNotAllowed)),
        AddressClass::Loopback => Err(Denial::new(Reason::AddressLoopback)),
        AddressClass::Metadata => Err(Denial::new(Reason::AddressMetadata)),
        AddressClass::LinkLocal | AddressClass::Private | AddressClass::Special => {
            Err(Denial::new(Reason::AddressPrivate))
        }
    }
}

/// This socket address may be dialled, for this host and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialPermit {
    address: SocketAddr,
    host: Host,
}

impl DialPermit {
    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host it is dialled for: the TLS name to verify.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// This MCP message may go to this route, for a session of this zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpPermit {
    pub(crate) route: String,
    pub(crate) method: String,
    pub(crate) tool: Option<String>,
    pub(crate) rule: String,
    pub(crate) zone: String,
    pub(crate) policy_digest: String,
    pub(crate) audit: AuditMode,
    pub(crate) shadow: Option<Box<Shadow>>,
}

impl McpPermit {
    /// How safe its record must be before the call.
    #[must_use]
    pub fn audit(&self) -> AuditMode {
        self.audit
    }

    /// The route decided on.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The MCP method decided on.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The tool decided on, where the method calls one.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        self.tool.as_deref()
    }

    /// The rule that allows it; `gateway/probe` where the operator's own probe is what asks.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What a candidate of the zone would have done: refused it.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_deref()
    }

    /// The zone's name; empty for a probe.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The digest of the zone that decided; of the routes, for a probe.
    #[must_use]
    pub fn policy_digest(&self) -> &str {
        &self.policy_digest
    }
}

/// This route's upstream, or this token endpoint, may be dialled. Made by [`crate::gateway::Route::permit`] and
/// [`crate::gateway::TokenEndpoint::permit`] alone.
#[derive(Clone, Debug)]
pub struct RoutePermit {
    pub(crate) destination: Destination,
    pub(crate) scheme: Scheme,
    pub(crate) route: String,
    pub(crate) rule: String,
}

impl RoutePermit {
    /// The upstream's host: what is dialled, verified in TLS and sent as Host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.destination.host
    }

    /// The upstream's port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.destination.port
    }

    /// The scheme to speak.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The rule that allowed the call.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The upstream's CA, where the route names one.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.destination.ca_pem.as_deref()
    }

    /// How to find the address.
    #[must_use]
    pub fn target(&self) -> Target {
        self.destination.target()
    }

    /// Whether this address may be dialled for the permit.
    ///
    /// # Errors
    /// The address is special and the route does not name it, or the route names others.
    pub fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        self.destination.dial(address).map_err(|denial| denial.by(&self.rule))
    }
}

/// Custody may hand this credential's secret to the egress proxy of a session in this zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantPermit {
    pub(crate) credential: CredentialName,
    pub(crate) zone: String,
}

impl GrantPermit {
    /// Whose secret.
    #[must_use]
    pub fn credential(&self) -> &CredentialName {
        &self.credential
    }

    /// The zone that allows it.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }
}

/// This tool may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPermit {
    pub(crate) tool: String,
    pub(crate) rule: String,
    pub(crate) shadow: Option<Box<Shadow>>,
}

impl ToolPermit {
    /// The tool's name.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// The rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What a candidate of the zone would have done: refused it.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_deref()
    }
}

#[cfg(test)]
mod tests;
