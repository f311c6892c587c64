//! What kind of failure a failure is, in stable words, with what to do next.

/// Which of the contract's two `session.error` types says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McpFailureKind {
    /// `mcp_connection_failed_error`.
    Connection,
    /// `mcp_authentication_failed_error`.
    Authentication,
}

/// Why a server could not be connected to, or a call got no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct McpFailure {
    /// Which `session.error` it is.
    pub kind: McpFailureKind,
    /// The stable name: `tunnel_offline`, `certificate_none`, `policy_denied`, `outcome_unknown`, ...
    pub code: String,
    /// What happened, for whoever reads the session.
    pub message: String,
    /// What to do about it.
    pub next_step: String,
    /// Whether the tool may have run.
    pub started: bool,
}
