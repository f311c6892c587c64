//! One egress rule: typed matchers, and the conditions under which it is dialled.

use crate::credential::CredentialName;
use crate::permit::Destination;
use crate::{CanonicalPath, Host, HostPattern, Method, PathGlob, Port, Scheme, Upgrade};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::sync::Arc;

/// What happens with credentials that are not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignCredentials {
    Refuse,
    Allow,
}

/// Whether what goes through a connection is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inspection {
    /// TLS is ended here and each request decided.
    Requests,
    /// `inspect = false`: name and address are decided, TLS passes through untouched.
    None,
}

/// Whether a request may become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebSocket {
    Refused,
    Carried,
}

/// Whether tokens of repositories that sessions are given may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repositories {
    Refused,
    Taken,
}

/// Whose placeholder a request carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carried<'a> {
    Nothing,
    Credential(&'a CredentialName),
    /// Of the token of one of the session's repositories; the token itself says to which URLs it may go.
    Repository,
}

/// A rule of a zone, as written there.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `<zone>/egress/<n>`, n from 1 in the order of the file.
    pub(crate) id: String,
    pub(crate) host: HostPattern,
    pub(crate) scheme: Scheme,
    pub(crate) inspection: Inspection,
    pub(crate) ports: Vec<Port>,
    /// `None`: every method.
    pub(crate) methods: Option<Vec<Method>>,
    /// `None`: every path.
    pub(crate) paths: Option<Vec<PathGlob>>,
    pub(crate) credential: Option<CredentialName>,
    /// Whose certificate the proxy presents to the upstream.
    pub(crate) client_certificate: Option<CredentialName>,
    pub(crate) repositories: Repositories,
    /// `None`: refused where any rule for the host has a credential of ours.
    pub(crate) foreign: Option<ForeignCredentials>,
    pub(crate) websocket: WebSocket,
    pub(crate) connect: Option<SocketAddr>,
    pub(crate) addresses: Arc<[IpNet]>,
    pub(crate) ca_pem: Option<Arc<str>>,
}

/// How far a request agrees with a rule, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Agreement {
    Nothing,
    Host,
    HostPort,
    Destination,
    Path,
    Whole,
}

impl Rule {
    /// Whether a secret of ours is used by this rule, in whatever way.
    pub(crate) fn uses_a_credential(&self) -> bool {
        self.credentials().next().is_some() || self.repositories == Repositories::Taken
    }

    /// Whether it has a say about a request that carries this.
    pub(crate) fn takes(&self, carried: Carried<'_>) -> bool {
        match carried {
            Carried::Nothing => true,
            Carried::Credential(name) => self.credential.as_ref() == Some(name),
            Carried::Repository => self.repositories == Repositories::Taken,
        }
    }

    /// The credentials that it names.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = &CredentialName> {
        self.credential.iter().chain(&self.client_certificate)
    }

    /// Whether it is for this host.
    pub(crate) fn names(&self, host: &Host) -> bool {
        self.host.covers(host) || postern_danger::off!("egress-hosts")
    }

    pub(crate) fn covers_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }

    pub(crate) fn covers_path(&self, path: &CanonicalPath) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.iter().any(|glob| glob.covers(path)))
    }

    /// Whether what a request asks to become is carried.
    pub(crate) fn carries(&self, upgrade: Upgrade) -> bool {
        match upgrade {
            Upgrade::None => true,
            Upgrade::WebSocket => self.websocket == WebSocket::Carried || postern_danger::off!("egress-websockets"),
        }
    }

    /// How far this request agrees with the rule.
    pub(crate) fn agreement(
        &self,
        host: &Host,
        port: Port,
        scheme: Scheme,
        method: &Method,
        path: &CanonicalPath,
    ) -> Agreement {
        if !self.names(host) {
            Agreement::Nothing
        } else if !self.ports.contains(&port) {
            Agreement::Host
        } else if self.scheme != scheme || self.inspection == Inspection::None {
            Agreement::HostPort
        } else if postern_danger::off!("egress-decision") {
            Agreement::Whole
        } else if !self.covers_path(path) {
            Agreement::Destination
        } else if !self.covers_method(method) {
            Agreement::Path
        } else {
            Agreement::Whole
        }
    }

    /// Where a permit of this rule for this host leads.
    pub(crate) fn destination(&self, host: &Host, port: Port) -> Destination {
        Destination {
            host: host.clone(),
            port,
            connect: self.connect,
            addresses: Arc::clone(&self.addresses),
            ca_pem: self.ca_pem.clone(),
        }
    }
}
