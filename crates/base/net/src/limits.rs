//! Every bound that this crate sets, one line each; docs/limits.md repeats them for operators.

use std::time::Duration;

/// How long one address may take to accept a connection.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long all addresses of one host together may take.
pub const CONNECT_TOTAL: Duration = Duration::from_secs(30);
/// How long the first address may take before the next one is tried beside it (RFC 8305, section 5).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// How long a name may take to resolve.
pub const RESOLVE: Duration = Duration::from_secs(5);
/// How many addresses of one name are considered.
pub const ADDRESSES: usize = 16;
/// How long a TLS handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many idle connections a client keeps to its endpoint.
pub const IDLE_CONNECTIONS: usize = 8;
/// How long a connection may lie idle before it is closed instead of used again.
pub const IDLE: Duration = Duration::from_secs(60);
/// How long a response body may stay silent between two chunks. Model streams send pings far more often.
pub const BODY_SILENCE: Duration = Duration::from_secs(300);
/// How much of a body that nobody needs is read for the sake of its connection, in bytes.
pub const REST_BYTES: usize = 64 * 1024;
/// How long such a rest may take.
pub const REST: Duration = Duration::from_secs(2);
/// How large the head of a response may be, in bytes.
pub const HEAD_BYTES: usize = 64 * 1024;
/// How many headers a response may have.
pub const HEADERS: usize = 128;
/// How long one line of an event stream may be, in bytes.
pub const SSE_LINE_BYTES: usize = 8 * 1024 * 1024;
/// How large one event of an event stream may be, in bytes.
pub const SSE_EVENT_BYTES: usize = 16 * 1024 * 1024;
/// How large a certificate file may be, in bytes.
pub const CERTIFICATE_FILE_BYTES: u64 = 4 * 1024 * 1024;
