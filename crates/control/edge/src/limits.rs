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
/// One message between server and edge in bytes.
pub(crate) const MESSAGE_BYTES: usize = 1 << 20;
/// The edge's word about one stream in bytes.
pub(crate) const WORD_BYTES: usize = 4 << 10;
/// Tunnels that an edge is told of in one message.
pub(crate) const TUNNELS_TOLD: usize = 500;
/// Notes that a server is told of in one message.
pub(crate) const NOTES_TOLD: usize = 256;
/// Notes that an edge keeps for its server to ask for.
pub(crate) const NOTES_KEPT: usize = 1024;
/// How long an edge waits for something to note before it says that there is nothing.
pub(crate) const NOTES_EVERY: Duration = Duration::from_secs(10);
/// The longest word or sentence that a server keeps of an edge's, in characters.
pub(crate) const NOTE_CHARACTERS: usize = 500;
/// What a server waits between two questions for notes: an edge that always answers at once keeps no processor busy.
pub(crate) const NOTES_PAUSE: Duration = Duration::from_millis(100);
/// How long an edge may take to take a change, before it is given up.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// How long an edge may take to say how a tunnel stands.
pub(crate) const STATUS: Duration = Duration::from_secs(2);
/// How long an edge may take to open a stream: its own waits for connectors are shorter.
pub(crate) const OPENED: Duration = Duration::from_secs(30);
/// How long what the server wrote to a stream before it closed that may take to go out.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is on its way in one direction of a stream, besides the sockets' own buffers, in bytes.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// How long a connector may take to take a changed welcome.
pub(crate) const WELCOME: Duration = Duration::from_secs(5);
