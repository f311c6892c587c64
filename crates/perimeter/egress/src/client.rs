//! The worker's side of the egress process: opens sessions, hands over the sandbox's sockets, collects refusals.
//! Holds no secret and makes no decision.

use std::os::fd::OwnedFd;

pub use crate::message::{Configuration, OpenSession, Opened, Refusal, SessionPlaceholder};

/// The sandbox's sockets, made inside its network namespace. A socket that this host could not make is `None`.
#[derive(Debug)]
pub struct Network {
    /// TCP listener that IPv4 connections are redirected to.
    pub redirect_v4: Option<OwnedFd>,
    /// The same for IPv6.
    pub redirect_v6: Option<OwnedFd>,
    /// DNS over UDP, IPv4.
    pub dns_udp_v4: Option<OwnedFd>,
    /// DNS over UDP, IPv6.
    pub dns_udp_v6: Option<OwnedFd>,
    /// DNS over TCP, IPv4.
    pub dns_tcp_v4: Option<OwnedFd>,
    /// DNS over TCP, IPv6.
    pub dns_tcp_v6: Option<OwnedFd>,
    /// Explicit HTTP proxy.
    pub proxy: Option<OwnedFd>,
    /// NFLOG netlink socket that reports refused UDP.
    pub refused_udp: Option<OwnedFd>,
}

/// A connection to the egress process. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {}

/// The egress process did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The process is gone; the worker ends with it.
    #[error("the egress process is gone")]
    Gone,
    /// The process refused.
    #[error("egress: {code}: {message}")]
    Failed {
        /// Stable code.
        code: String,
        /// For the operator.
        message: String,
    },
    /// The process answered another question.
    #[error("the egress process answered out of turn")]
    OutOfTurn,
}

impl Client {
    /// Makes the session's CA, name table and secrets ready.
    ///
    /// # Errors
    /// When the zone differs from the process' own reading of it, or the session is already open.
    pub async fn open(&self, session: OpenSession) -> Result<Opened, EgressError> {
        let _ = session;
        Err(EgressError::Gone)
    }

    /// Serves the sandbox's sockets until the session is closed.
    ///
    /// # Errors
    /// When the session is not open or a descriptor is not what it should be.
    pub async fn attach(&self, session: &str, network: Network) -> Result<(), EgressError> {
        let _ = (session, network);
        Err(EgressError::Gone)
    }

    /// Names the tool use that the session's next records belong to.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn current_tool_use(&self, session: &str, tool_use: Option<&str>) -> Result<(), EgressError> {
        let _ = (session, tool_use);
        Err(EgressError::Gone)
    }

    /// Takes the refusals since the last call, oldest first.
    ///
    /// # Errors
    /// When the session is not open.
    pub async fn refusals(&self, session: &str) -> Result<Vec<Refusal>, EgressError> {
        let _ = session;
        Err(EgressError::Gone)
    }

    /// Ends the session: its tasks stop, its secrets are zeroed, its CA is forgotten. Closing twice is no error.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn close(&self, session: &str) -> Result<(), EgressError> {
        let _ = session;
        Err(EgressError::Gone)
    }
}
