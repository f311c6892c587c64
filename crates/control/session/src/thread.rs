//! A thread: one agent's loop, what its log says and what this process knows besides.

use std::borrow::Cow;
use std::sync::Arc;

use postern_model::Timestamp;
use postern_model::event::ModelUsage;
use postern_model::ids::{EventId, ThreadId};
use postern_model::session::SessionAgent;

use crate::context::{self, Purpose};
use crate::conversation::Conversation;
use crate::judge::Judging;
use crate::mcp::{McpTool, Servers};
use crate::previews::Previews;
use crate::spending::Prices;
use crate::state::State;

/// One thread of a session.
#[derive(Debug)]
pub struct Thread {
    pub(crate) id: ThreadId,
    pub(crate) agent: Arc<SessionAgent>,
    pub(crate) prices: Prices,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) state: State,
    pub(crate) previews: Previews,
    pub(crate) servers: Servers,
    /// Tokens of the model request that runs, as far as the endpoint has said.
    pub(crate) counted: ModelUsage,
    /// The response whose calls a judge is looking at.
    pub(crate) judging: Option<Judging>,
}

impl Thread {
    /// A thread whose log is empty.
    pub(crate) fn new(id: ThreadId, agent: Arc<SessionAgent>, prices: Prices, created_at: Option<Timestamp>) -> Self {
        Self {
            id,
            agent,
            prices,
            created_at,
            state: State::default(),
            previews: Previews::default(),
            servers: Servers::default(),
            counted: ModelUsage::default(),
            judging: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> &ThreadId {
        &self.id
    }

    /// Its agent as it is now.
    pub fn agent(&self) -> &Arc<SessionAgent> {
        &self.agent
    }

    /// When the log says that it was created; the primary thread is as old as its session.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.created_at
    }

    /// What its log says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether a judge was asked under this number and has not answered.
    pub(crate) fn judges(&self, start: &EventId) -> bool {
        self.judging.as_ref().is_some_and(|judging| judging.start == *start)
    }

    /// Whether anybody beside the conversation was.
    pub(crate) fn consults(&self, start: &EventId) -> bool {
        let evaluating = self.state.outcome.as_ref().and_then(|outcome| outcome.evaluating.as_ref());
        self.judges(start) || evaluating == Some(start)
    }

    /// The tools of MCP servers that the model is told of, always in the same order.
    pub fn mcp_tools(&self) -> &[McpTool] {
        self.servers.tools()
    }

    /// The conversation as the model knows it.
    pub fn conversation(&self) -> &Conversation {
        &self.state.conversation
    }

    /// What the model is to be sent of it by the next request.
    pub(crate) fn asked(&self) -> Cow<'_, Conversation> {
        match self.state.purpose {
            Purpose::Turn | Purpose::Aside => Cow::Borrowed(&self.state.conversation),
            Purpose::Summary => Cow::Owned(context::summary_request(&self.state.conversation, self.state.size)),
        }
    }
}
