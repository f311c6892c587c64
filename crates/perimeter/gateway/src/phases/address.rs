//! Phase: which address the upstream has, and whether the route allows it. Looked up after the zone's permit, checked
//! address by address; what is dialled later is what was checked here.

use std::time::Instant;

use postern_net::DialError;
use postern_policy::{Denial, DialPermit, Reason, RoutePermit};
use tokio::time::timeout;

use crate::{gateway::Gateway, pool::Connection, sessions::Session};

/// A way to the upstream.
pub(crate) enum Way {
    /// A connection that stands, to an address that is still allowed.
    Kept(Connection),
    /// Addresses that may be dialled.
    Addresses(Vec<DialPermit>),
}

impl Way {
    /// The address, as far as it is certain; for the record.
    pub(crate) fn address(&self) -> Option<String> {
        match self {
            Self::Kept(connection) => Some(connection.leads_to.address().to_string()),
            Self::Addresses(addresses) => addresses.first().map(|one| one.address().to_string()),
        }
    }
}

/// Finds a way.
pub(crate) async fn find(gateway: &Gateway, session: &Session, permit: &RoutePermit) -> Result<Way, Denial> {
    match session.pool.take(permit, Instant::now()) {
        Some(connection) => Ok(Way::Kept(connection)),
        None => look_up(gateway, permit).await.map(Way::Addresses),
    }
}

/// The addresses of the permit's host that the route allows.
pub(crate) async fn look_up(gateway: &Gateway, permit: &RoutePermit) -> Result<Vec<DialPermit>, Denial> {
    timeout(gateway.bounds.dial, gateway.dialer.permitted(permit))
        .await
        .unwrap_or_else(|_| Err(DialError::ResolveSlow(permit.host().to_string())))
        .map_err(not_dialled)
}

/// A failed lookup or dial in the words of policy.
pub(crate) fn not_dialled(error: DialError) -> Denial {
    match error {
        DialError::Denied { denial, .. } => Denial {
            next_step: format!(
                "{}; `addresses` of the route names where its upstream may lie",
                denial.reason.next_step()
            ),
            ..*denial
        },
        error => {
            tracing::info!(error = &error as &dyn std::error::Error, "an MCP server is not reached");
            Denial::new(Reason::UpstreamUnreachable)
        }
    }
}
