//! The calls that this server makes itself: connecting to MCP servers, beginning calls, those of web tools too, taking in their
//! results.
//!
//! While such a call runs the session is running; only when none is left does it go idle for the answers of others.

use postern_model::content::Block;
use postern_model::event::{EventBody, RetryStatus, SessionErrorKind};
use postern_model::ids::EventId;

use crate::calls::{Call, Owner, Progress, Target};
use crate::input::{Effect, McpFailureKind, McpNews};
use crate::machine::Step;
use crate::mcp;

/// Said of a call that was cancelled after it had begun.
const MAY_HAVE_RUN: &str = "It had begun and may have taken effect: check that before you call it again.";

impl Step<'_> {
    /// Sees that the agent's servers were asked in this turn. Returns whether they have all answered.
    pub(crate) fn connect(&mut self) -> bool {
        let servers = self.thread().agent.mcp_servers.clone();
        if servers.is_empty() || self.thread().servers.is_known() {
            return true;
        }
        self.session.attempts += 1;
        let attempt = self.session.attempts;
        self.thread_mut().servers.ask(attempt);
        self.push(Effect::ConnectMcp { attempt, servers });
        false
    }

    /// Every server has answered or failed. A failure is told once per turn and never blocks.
    pub(crate) fn connected(&mut self, attempt: u64, news: Vec<McpNews>) {
        if !self.thread().servers.awaits(attempt) {
            return;
        }
        let agent = self.thread().agent.clone();
        for (server, failure) in self.thread_mut().servers.learn(&agent, news) {
            if self.state().reported.contains(&server) {
                continue;
            }
            let kind = match failure.kind {
                McpFailureKind::Connection => SessionErrorKind::McpConnectionFailedError,
                McpFailureKind::Authentication => SessionErrorKind::McpAuthenticationFailedError,
            };
            self.error_of(kind, Some(server), failure.message, RetryStatus::Retrying {});
        }
        self.settle();
    }

    /// Begins what may begin. Returns whether nothing is left of such calls, so that the turn can go on.
    pub(crate) fn call_servers(&mut self) -> bool {
        if self.state().calls.ready().next().is_some() {
            if !self.connect() {
                return false;
            }
            self.begin_calls();
        }
        self.state().calls.started().next().is_none()
    }

    fn begin_calls(&mut self) {
        let running = self.state().calls.started().count();
        let mut room = self.session.limits.parallel_mcp_calls.saturating_sub(running);
        let ready: Vec<Call> = self.state().calls.ready().cloned().collect();
        for call in ready {
            let Some(target) = call.target else { continue };
            let effect = match self.order(call.id.clone(), target) {
                Ok(effect) => effect,
                Err(reason) => {
                    self.refuse(call.id, reason);
                    continue;
                }
            };
            if room == 0 {
                continue;
            }
            room -= 1;
            self.thread_mut().state.start(&call.id);
            self.push(effect);
        }
    }

    /// What is to be done for a call, or why it cannot be.
    fn order(&self, call: EventId, target: Target) -> Result<Effect, String> {
        match target {
            Target::Mcp { server, tool, input } => match self.cannot_call(&server, &tool) {
                Some(reason) => Err(reason),
                None => Ok(Effect::CallMcp { call, server, tool, input }),
            },
            Target::Web { tool, input } => self
                .order_web(tool, &input)
                .map(|order| Effect::CallWeb { call, order })
                .map_err(|failure| failure.told()),
        }
    }

    /// Why this tool cannot be called now: much may have changed while a person thought about it.
    fn cannot_call(&self, server: &str, tool: &str) -> Option<String> {
        if let Some(reason) = self.thread().servers.failure(server) {
            return Some(format!(
                "The tool was not run: the MCP server `{server}` is not connected. {reason} It is tried again with the \
                 next message."
            ));
        }
        let is_configured = self.thread().agent.mcp_servers.iter().any(|known| known.name == server);
        let toolset = mcp::toolset(&self.thread().agent, server).filter(|_| is_configured);
        match toolset.map(|toolset| toolset.config(tool).enabled) {
            Some(true) => None,
            Some(false) => Some(format!("The tool was not run: `{tool}` of `{server}` is not enabled any more.")),
            None => Some(format!("The tool was not run: this session has no MCP server `{server}` any more.")),
        }
    }

    /// A call has ended.
    pub(crate) fn called(&mut self, call: &EventId, content: Vec<Block>, is_error: bool) {
        if self.state().calls.find(call).is_none_or(|call| call.progress != Progress::Started) {
            return;
        }
        self.answer_call(call.clone(), content, is_error);
        self.settle();
    }

    /// Answers every call that was begun and whose end nobody saw.
    pub(crate) fn close_started(&mut self, text: &str) {
        let begun: Vec<_> = self.state().calls.started().map(|call| call.id.clone()).collect();
        for call in begun {
            self.answer_call(call, vec![Block::text(text)], true);
        }
    }

    /// Cancels what runs for MCP servers.
    pub(crate) fn stop_servers(&mut self) {
        if self.thread().servers.is_asking() || self.state().calls.started().next().is_some() {
            self.thread_mut().servers.lapse();
            self.push(Effect::CancelMcp);
        }
    }

    /// Answers a call of this server's, in the form that its use had.
    pub(crate) fn answer_call(&mut self, id: EventId, content: Vec<Block>, is_error: bool) {
        let (content, is_error) = (Some(content), Some(is_error));
        let target = self.state().calls.find(&id).and_then(|call| call.target.as_ref());
        self.append(match target {
            Some(Target::Mcp { .. }) => EventBody::AgentMcpToolResult { mcp_tool_use_id: id, content, is_error },
            Some(Target::Web { .. }) | None => EventBody::AgentToolResult { tool_use_id: id, content, is_error },
        });
    }
}

/// What a call is answered with when it is closed from outside.
pub(crate) fn closed(call: &Call, text: &str) -> String {
    match (call.owner, call.progress) {
        (Owner::Server, Progress::Started) => format!("{text} {MAY_HAVE_RUN}"),
        _ => text.to_owned(),
    }
}
