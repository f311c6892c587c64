//! Every bound of the edge, one line each; docs/limits.md repeats them for operators.

use std::time::Duration;

/// The bounds that a deployment or a test may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are not let in yet, together.
    pub unauthenticated: usize,
    /// From the TCP connection to the end of the upgrade.
    pub head: Duration,
    /// Connections of one tunnel.
    pub connections_per_tunnel: usize,
    /// How long a connector may take to answer a CONNECT.
    pub open: Duration,
    /// How long a stream waits for a connector that was lost a moment ago.
    pub reconnect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unauthenticated: 64,
            head: Duration::from_secs(5),
            connections_per_tunnel: 16,
            open: Duration::from_secs(10),
            reconnect: Duration::from_secs(2),
        }
    }
}

/// The head of the upgrade request in bytes (hyper's least buffer).
pub(crate) const HEAD_BYTES: usize = 8 << 10;
/// Headers of the upgrade request.
pub(crate) const HEADERS: usize = 32;
/// The headers of a connector's answer in bytes.
pub(crate) const ANSWER_HEAD_BYTES: u32 = 4 << 10;
/// Errors remembered per tunnel.
pub(crate) const LAST_ERRORS: usize = 16;
/// Tunnels whose errors are remembered; the directory bounds it, this bounds the directory's past.
pub(crate) const TUNNELS_REMEMBERED: usize = 4096;
/// How long ago a tunnel may have lost its last connection to count as just dialling again; also how long an edge is young.
pub(crate) const RECENT: Duration = Duration::from_secs(5);
/// How long a connector may take to take a changed welcome.
pub(crate) const WELCOME: Duration = Duration::from_secs(5);
