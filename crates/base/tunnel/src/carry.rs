//! Opening a byte stream to a host behind a tunnel: what the caller of a private server sees of the edge.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::Lane;

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite + ?Sized> Duplex for T {}

/// One carried stream: inner TLS is spoken over it. Its end may be a cut: only inner TLS tells a whole message from a truncated one.
pub type Stream = Box<dyn Duplex + Send + Unpin>;

/// The stream, when it is open.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Stream, CarryError>> + Send + 'a>>;

/// Whoever can open streams into tunnels.
pub trait Carry: Send + Sync {
    /// Opens a stream to `host` (`<route>.<tunnel domain>`, without a port). Nothing of the call was sent when this fails, so trying again is
    /// safe. Cancelling leaves no stream behind.
    fn open<'a>(&'a self, host: &'a str, lane: Lane) -> Opening<'a>;
}

/// Why no stream came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CarryError {
    /// No connector of this tunnel is connected.
    #[error("tunnel {tunnel} has no connector connected")]
    Offline {
        /// Its id.
        tunnel: String,
    },
    /// The host belongs to no live tunnel.
    #[error("the host belongs to no tunnel")]
    UnknownHost,
    /// The connector refused, with its word for it.
    #[error("the connector refused the stream: {reason}")]
    Refused {
        /// One of `wire::reason`, or another word of the same alphabet.
        reason: String,
    },
    /// The connector did not answer in time.
    #[error("the connector did not answer in time")]
    Slow,
    /// All connections of the tunnel carry as many streams as they may.
    #[error("the tunnel carries as many streams as it may")]
    TooMany,
}

impl CarryError {
    /// The stable word for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "tunnel_offline",
            Self::UnknownHost => "tunnel_unknown",
            Self::Refused { .. } => "tunnel_refused",
            Self::Slow => "tunnel_slow",
            Self::TooMany => "tunnel_busy",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Offline { .. } => {
                "start `postern gateway` for this tunnel, or see `postern tunnel status` for why it is not connected"
            }
            Self::UnknownHost => {
                "use <route>.<domain of a tunnel that is not archived>; `postern tunnel list` shows the domains"
            }
            Self::Refused { .. } => "look at the gateway's log: its connector turned the stream away",
            Self::Slow => {
                "try again; if it stays so, look at the gateway's host and at the network between it and the edge"
            }
            Self::TooMany => "try again when calls have ended, or run a second gateway for this tunnel",
        }
    }
}
