//! Every bound of the MCP client, one line each.

use std::time::Duration;

/// The bounds. Changing one is for tests; docs/limits.md names the defaults.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long `initialize` and one page of `tools/list` may take, connecting included.
    pub initialize: Duration,
    /// How long one call may take.
    pub call: Duration,
    /// How large a request's body may be, in bytes.
    pub request_bytes: usize,
    /// How large one answer, or one event of an event stream, may be, in bytes.
    pub result_bytes: usize,
    /// How many bytes an event stream that answers one request may carry in all.
    pub stream_bytes: usize,
    /// How many messages an event stream that answers one request may have.
    pub stream_events: usize,
    /// How much of an error's body is read, in bytes.
    pub error_bytes: usize,
    /// From how many bytes on a request's body takes the bulk lane.
    pub bulk_from: usize,
    /// How many tools a server may have.
    pub tools: usize,
    /// How large their names, descriptions and schemas together may be, in bytes.
    pub tools_bytes: usize,
    /// In how many pages.
    pub tool_pages: usize,
    /// How many requests to one host may be in progress.
    pub requests_per_host: usize,
    /// How many idle connections are kept for one host and lane, and for how long: shorter than the gateway keeps
    /// them, so that a request seldom meets a connection that is about to close.
    pub idle_connections: usize,
    /// See `idle_connections`.
    pub idle: Duration,
    /// How many hosts have connections.
    pub hosts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            initialize: Duration::from_secs(15),
            call: Duration::from_secs(120),
            request_bytes: 4 * 1024 * 1024,
            result_bytes: 16 * 1024 * 1024,
            stream_bytes: 32 * 1024 * 1024,
            stream_events: 10_000,
            error_bytes: 64 * 1024,
            bulk_from: 64 * 1024,
            tools: 256,
            tools_bytes: 1024 * 1024,
            tool_pages: 32,
            requests_per_host: 256,
            idle_connections: 256,
            idle: Duration::from_secs(20),
            hosts: 1024,
        }
    }
}
