//! The permit of a connection that passes through uninspected.

use super::{Destination, DialPermit, Target, dial_both};
use crate::reason::Denial;
use crate::{Host, Port};
use std::net::IpAddr;

/// A TLS connection may pass through to this host and port, uninspected: nothing in it is decided, injected or scrubbed.
#[derive(Clone, Debug)]
pub struct PassPermit {
    pub(crate) destination: Destination,
    pub(crate) rule: String,
    pub(crate) policy_digest: String,
    /// What a later zone says of the destination besides.
    pub(crate) also: Option<Destination>,
}

impl PassPermit {
    /// The host decided on: the TLS name must be it, and it is dialled.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.destination.host
    }

    /// The port decided on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.destination.port
    }

    /// The rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The digest of the zone that decided.
    #[must_use]
    pub fn policy_digest(&self) -> &str {
        &self.policy_digest
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

    /// The same under a later zone as well.
    pub(crate) fn narrowed_by(self, later: PassPermit) -> Self {
        Self { also: Some(later.destination), ..self }
    }
}
