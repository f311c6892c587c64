//! Every bound of the gateway, with the attack or accident it stops.

use std::time::Duration;

/// Inner connections at one time; a further stream is closed unserved.
pub const CONNECTIONS: usize = 1024;
/// Requests of one session at one time; more are refused with `gateway_busy`, so that one session does not take the
/// places of all.
pub const STREAMS_PER_SESSION: usize = 256;
/// Sessions whose secrets and connections are kept at one time; further ones are refused with `gateway_busy`.
pub const SESSIONS: usize = 4096;
/// Sessions that may be frozen or revoked at one time; a further command is answered with an error.
pub const HELD_SESSIONS: usize = 65_536;
/// Bytes of a request's head.
pub const HEAD_BYTES: usize = 32 * 1024;
/// Header lines of a request.
pub const HEADER_LINES: usize = 128;
/// Bytes of an answer's head.
pub const ANSWER_HEAD_BYTES: usize = 64 * 1024;
/// Bytes of one forwarded header's value.
pub const HEADER_VALUE_BYTES: usize = 2048;
/// Bytes of an MCP session id.
pub const MCP_SESSION_BYTES: usize = 512;
/// Bytes of a refused request's body that are read and thrown away, so that the caller gets to read the refusal.
pub const REFUSED_BODY_BYTES: usize = 4 * 1024 * 1024;
/// How long that may take.
pub const REFUSED_BODY: Duration = Duration::from_secs(5);
/// Levels of JSON in a request: a parser that recurses is not led to its end.
pub const JSON_DEPTH: usize = 64;
/// Levels of JSON in a result.
pub const ANSWER_DEPTH: usize = 100;
/// Questions of servers to one session that are open at one time; beyond them the oldest can no longer be answered.
pub const QUESTIONS: usize = 256;
/// Refusals of one session, kind and reason that are written one by one, at once; one more each second. The rest is told by its number.
pub const REFUSALS_RECORDED: u32 = 200;
/// Bytes of an MCP method or a tool's name.
pub const NAME_BYTES: usize = 256;
/// Bytes of a JSON-RPC id that is a text.
pub const ID_BYTES: usize = 256;
/// Bytes of answers that are held in memory at one time, all requests together.
pub const HELD_ANSWER_BYTES: usize = 512 << 20;
/// Bytes that a decoded answer may have at most, whatever the route allows: a compression bomb ends here.
pub const DECODED_BYTES: u64 = 1 << 30;
/// Idle upstream connections that one session keeps.
pub const POOL_PER_SESSION: usize = 32;
/// How long an upstream connection may idle before it is not used again.
pub const POOL_IDLE: Duration = Duration::from_secs(30);
/// Secrets of one session, all routes together, that are recognised and scrubbed: those that were replaced while it ran too.
/// A further one is refused.
pub const FORMER_SECRETS: usize = 16;
/// Errors that `status` tells.
pub const TROUBLES: usize = 32;
/// Characters of one such error's message.
pub const TROUBLE_CHARACTERS: usize = 300;
/// Encodings on top of each other that are taken off an answer.
pub const ENCODINGS: usize = 3;
/// Answers of token endpoints that custody did not take, each of another credential; over it the oldest goes.
pub const KEPT_ANSWERS: usize = 256;
/// Bytes of a token endpoint's answer.
pub const TOKEN_ANSWER_BYTES: usize = 64 * 1024;
/// Bytes of one token in it.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Bytes of an MCP server's answer that a validation reads.
pub const VALIDATION_BYTES: usize = 1 << 20;
/// Bytes of a refusal's body that a validation shows.
pub const SHOWN_BYTES: usize = 2048;
/// How long custody may take to answer.
pub const CUSTODY: Duration = Duration::from_secs(10);
/// How long custody may take to read another document.
pub const CUSTODY_RELOADS: Duration = Duration::from_secs(20);
/// How often the leaf's files are looked at.
pub const LEAF_LOOK: Duration = Duration::from_secs(1);
/// Bytes of a leaf or its key.
pub const PEM_BYTES: u64 = 64 * 1024;

/// The bounds that take long to reach. One value per process, so that tests need not wait as long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The inner TLS handshake.
    pub handshake: Duration,
    /// From a connection's last answer, or its beginning, to the end of the next head: idle or slow, it is closed.
    pub request_head: Duration,
    /// Between two pieces of a request's body.
    pub body_idle: Duration,
    /// A request's body in all: one that trickles does not keep its place for ever.
    pub request_body: Duration,
    /// Between two pieces of an event stream, in either direction, and for a caller to take any bytes at all.
    pub stream_idle: Duration,
    /// Resolving an upstream's name and connecting to it.
    pub dial: Duration,
    /// How long a session's secrets are kept after its last request.
    pub session_idle: Duration,
    /// A token endpoint, from the lookup of its name to its answer's last byte.
    pub token_endpoint: Duration,
    /// An MCP server over one request of a validation, the same way.
    pub validation: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(60),
            body_idle: Duration::from_secs(30),
            request_body: Duration::from_secs(300),
            stream_idle: Duration::from_secs(300),
            dial: Duration::from_secs(10),
            session_idle: Duration::from_secs(600),
            token_endpoint: Duration::from_secs(10),
            validation: Duration::from_secs(5),
        }
    }
}
