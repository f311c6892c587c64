//! Every bound of the egress proxy, with the attack or accident it stops.

use std::time::Duration;

/// Connections that one session may have open; more are closed at once with `limit_connections`.
pub const CONNECTIONS_PER_SESSION: usize = 256;
/// Connections of all sessions together, so that one process' descriptors are not the limit.
pub const CONNECTIONS_TOTAL: usize = 4096;
/// The bounds that take long to reach. One value per process, so that tests need not wait as long or send as much.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// See [`FIRST_BYTES`].
    pub first_bytes: Duration,
    /// See [`HANDSHAKE`].
    pub handshake: Duration,
    /// See [`REQUEST_HEAD`].
    pub request_head: Duration,
    /// See [`BODY_IDLE`].
    pub body_idle: Duration,
    /// See [`PASSED_IDLE`].
    pub passed_idle: Duration,
    /// See [`RESPONSE_HEAD`].
    pub response_head: Duration,
    /// See [`CONNECTION_TOTAL`].
    pub connection_total: Duration,
    /// See [`DNS_IDLE`].
    pub dns_idle: Duration,
    /// See [`WEBSOCKET_IDLE`].
    pub websocket_idle: Duration,
    /// See [`WEBSOCKET_MESSAGE_BYTES`].
    pub websocket_message_bytes: u64,
    /// See [`REFUSED_BODY`].
    pub refused_body: Duration,
    /// See [`REFUSALS_COUNTED`].
    pub refusals_counted: Duration,
    /// See [`REQUEST_BODY_BYTES`].
    pub request_body_bytes: u64,
    /// See [`DECODED_BODY_BYTES`].
    pub decoded_body_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            first_bytes: FIRST_BYTES,
            handshake: HANDSHAKE,
            request_head: REQUEST_HEAD,
            body_idle: BODY_IDLE,
            passed_idle: PASSED_IDLE,
            response_head: RESPONSE_HEAD,
            connection_total: CONNECTION_TOTAL,
            dns_idle: DNS_IDLE,
            websocket_idle: WEBSOCKET_IDLE,
            websocket_message_bytes: WEBSOCKET_MESSAGE_BYTES,
            refused_body: REFUSED_BODY,
            refusals_counted: REFUSALS_COUNTED,
            request_body_bytes: REQUEST_BODY_BYTES,
            decoded_body_bytes: DECODED_BODY_BYTES,
        }
    }
}

/// A client must say what it speaks within this time; also ends protocols in which the server speaks first.
pub const FIRST_BYTES: Duration = Duration::from_secs(10);
/// TLS handshake with the sandbox or with an upstream.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// From the first byte of a request to the end of its head: a slow head holds a connection no longer.
pub const REQUEST_HEAD: Duration = Duration::from_secs(20);
/// Bytes of a request head.
pub const REQUEST_HEAD_BYTES: usize = 64 * 1024;
/// Header lines of a request or response.
pub const HEADER_LINES: usize = 100;
/// Bytes of a response head.
pub const RESPONSE_HEAD_BYTES: usize = 128 * 1024;
/// HTTP/2 streams that one connection may have open; a client is told so and waits.
pub const STREAMS_PER_CONNECTION: u32 = 100;
/// HTTP/2 streams of one session, on all its connections; more are answered `limit_connections`.
pub const STREAMS_PER_SESSION: usize = 512;
/// HTTP/2 requests that a client gives up before their answer, within [`GIVEN_UP_WINDOW`]; the connection of one that
/// gives up more is closed (rapid reset).
pub const STREAMS_GIVEN_UP: usize = 200;
/// The time over which given up requests are counted.
pub const GIVEN_UP_WINDOW: Duration = Duration::from_secs(10);
/// Streams reset by the peer before they were looked at, and streams reset for the peer's errors; more close an HTTP/2
/// connection.
pub const STREAM_ERRORS: usize = 64;
/// The table of header fields that an HTTP/2 peer may fill (RFC 7541, section 4).
pub const HPACK_TABLE_BYTES: u32 = 4096;
/// Bytes that an HTTP/2 peer may send ahead of their reader on one stream.
pub const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// The same on all streams of one connection.
pub const STREAMS_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes of one HTTP/2 stream that wait for a peer that does not read.
pub const STREAM_SEND_BYTES: usize = 64 * 1024;
/// A WebSocket over which neither side says anything.
pub const WEBSOCKET_IDLE: Duration = Duration::from_secs(5 * 60);
/// Bytes of one WebSocket message, in one frame or many, either way. It is carried as it comes, not held.
pub const WEBSOCKET_MESSAGE_BYTES: u64 = 64 * 1024 * 1024;
/// How long the second side of a WebSocket may take to close after the first.
pub const WEBSOCKET_CLOSING: Duration = Duration::from_secs(5);
/// How long a client may take to end a connection that it was asked to end.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// Between two pieces of a body, in either direction.
pub const BODY_IDLE: Duration = Duration::from_secs(120);
/// A connection that passes through uninspected and is silent both ways.
pub const PASSED_IDLE: Duration = Duration::from_secs(600);
/// From a forwarded request to the head of its response.
pub const RESPONSE_HEAD: Duration = Duration::from_secs(300);
/// One connection from a sandbox, whatever it does.
pub const CONNECTION_TOTAL: Duration = Duration::from_secs(6 * 60 * 60);
/// Resolving an upstream's name and connecting to one of its addresses, all of them together.
pub const DIAL: Duration = Duration::from_secs(20);
/// Bytes of a request body that are inspected before the decision; a longer one is inspected as it streams.
pub const BODY_PREVIEW_BYTES: usize = postern_policy::location::BODY_BYTES;
/// Bytes that are read ahead of a connection's TLS, which itself takes them in small pieces.
pub const READ_BYTES: usize = 32 * 1024;
/// Bytes of an answer's body that go on in one piece with its head, where they came with it; a longer one streams.
pub const AT_ONCE_BYTES: usize = 64 * 1024;
/// Bytes of an encoded request body that wait until it is certain what they decode to.
pub const WAITING_BYTES: u64 = 1024 * 1024;
/// Bytes of a request body in all.
pub const REQUEST_BODY_BYTES: u64 = 1 << 30;
/// Bytes of a form after its encoding is taken off, in which foreign credentials are looked for; a longer form is
/// taken for one that holds them.
pub const FORM_BYTES: u64 = 1024 * 1024;
/// Bytes of a refused request's body that are read and thrown away, so that the client gets to read the refusal.
pub const REFUSED_BODY_BYTES: usize = 16 * 1024 * 1024;
/// How long that may take.
pub const REFUSED_BODY: Duration = Duration::from_secs(10);
/// Bytes that a decoded body may have, in either direction: a compression bomb ends here.
pub const DECODED_BODY_BYTES: u64 = 1 << 30;
/// Names in one session's table; a further one is answered SERVFAIL. Never reused, so a cached answer stays true.
pub const NAMES_PER_SESSION: usize = 4096;
/// Bytes of a DNS question; a longer one is answered FORMERR.
pub const DNS_MESSAGE_BYTES: usize = 1024;
/// DNS connections over TCP that one session may have open.
pub const DNS_CONNECTIONS: usize = 32;
/// How long a DNS connection may be silent.
pub const DNS_IDLE: Duration = Duration::from_secs(10);
/// Refusals kept for the worker to collect; the oldest go first.
pub const REFUSALS_KEPT: usize = 32;
/// Refusals of one kind and reason that a session may cause at once with a record of each; one more every second. What is beyond is counted.
pub const REFUSALS_RECORDED: u32 = 200;
/// From the first refusal that is counted to the record of the count.
pub const REFUSALS_COUNTED: Duration = Duration::from_secs(10);
/// Idle upstream connections that one session keeps.
pub const POOL_PER_SESSION: usize = 32;
/// How long an upstream connection may idle before it is not used again.
pub const POOL_IDLE: Duration = Duration::from_secs(30);
/// Leaf certificates that one session keeps; more are minted again when needed.
pub const LEAVES_KEPT: usize = 256;
/// Cookies of upstreams remembered per session, to tell them from foreign ones; the oldest go first.
pub const COOKIES_KEPT: usize = 512;
/// Bytes of one of them; a longer one is foreign when it comes back. Browsers keep 4,096 (RFC 6265, section 6.1).
pub const COOKIE_BYTES: usize = 8 * 1024;
/// Bytes of all of them together.
pub const COOKIES_BYTES: usize = 512 * 1024;
/// Hosts remembered per session that were sent a secret; with more, every host counts as one of them. A rule for all
/// names below a suffix lets a sandbox name as many as it likes.
pub const INJECTED_HOSTS: usize = 4096;
/// Secrets of a session that were replaced while it ran and are still recognised and scrubbed. A session whose
/// credentials change more often gets no further ones.
pub const FORMER_SECRETS: usize = 16;
/// Sessions that one process serves.
pub const SESSIONS: usize = 256;
/// A session's CA and its leaves, at most.
pub const CA_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How far back a certificate's validity starts, for clocks that differ.
pub const CA_BACKDATED: Duration = Duration::from_secs(5 * 60);
