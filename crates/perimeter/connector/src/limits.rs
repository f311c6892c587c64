//! Every bound of the connector, one line each; docs/limits.md repeats them for operators.

use std::time::Duration;

/// From the TCP connection (to the edge or the proxy) to the end of the upgrade.
pub(crate) const ENTER: Duration = Duration::from_secs(20);
/// The head of an answer of edge or proxy in bytes: a welcome fits.
pub(crate) const ANSWER_HEAD_BYTES: usize = 16 << 10;
/// Headers of such an answer.
pub(crate) const ANSWER_HEADERS: usize = 64;
/// The headers of one request of the edge in bytes.
pub(crate) const REQUEST_HEAD_BYTES: u32 = 4 << 10;
/// How long a connection whose edge does not keep to that may take to end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
/// How long the gateway may take to take a stream, or to hear of a refusal.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(5);
/// Messages that wait for the gateway.
pub(crate) const WAITING: usize = 64;
/// Connections of one lane.
pub(crate) const CONNECTIONS: usize = 4;
/// The buffer of one direction of one stream in bytes.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// A connection that stood this long counts as good: the next attempt comes soon.
pub(crate) const STOOD: Duration = Duration::from_secs(5);
