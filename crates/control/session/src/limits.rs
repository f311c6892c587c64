//! Bounds on what a session does by itself.

use postern_model::tool::web::WebTools;

use crate::backoff::Backoff;
use crate::context::ContextLimits;
use crate::judge::Counsellor;

/// Bounds on what a session does by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How often a model request is tried before the turn ends.
    pub attempts: u32,
    /// How many model requests one turn may make.
    pub requests_per_turn: u32,
    /// How many messages may wait.
    pub queued_messages: usize,
    /// How many calls of this server's own, to MCP servers and of web tools, may run at once.
    pub parallel_mcp_calls: usize,
    /// Whether there is a judge of calls whose policy is `auto`; without one a person is asked.
    pub judge: Counsellor,
    /// Which web tools this server has.
    pub web: WebTools,
    /// When the conversation is shortened, unless the agent says otherwise.
    pub context: ContextLimits,
    /// Waits between attempts.
    pub backoff: Backoff,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 8,
            requests_per_turn: 1000,
            queued_messages: 200,
            parallel_mcp_calls: 16,
            judge: Counsellor::Absent,
            web: WebTools::None,
            context: ContextLimits::default(),
            backoff: Backoff::default(),
        }
    }
}
