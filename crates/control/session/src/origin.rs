//! Why there is a thread, and who thinks in it: a fold of the event that begins it and of the note beside it.

use std::sync::Arc;

use postern_model::Timestamp;
use postern_model::agent::{ADVISOR, InlineAgent, Mind, ThreadAgent};
use postern_model::ids::{EventId, ThreadId};
use postern_model::session::{SessionAgent, SessionStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::advise;
use crate::inline::Definition;
use crate::marks;
use crate::session::Session;
use crate::thread::Thread;
use crate::workflow::Errand;

/// Why there is a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The session's agent works in it, or one of its roster.
    #[default]
    Roster,
    /// An advisor is asked in it, by this call of the session's agent.
    Question(EventId),
    /// An agent works in it that the session's agent defined.
    Inline(Definition),
    /// An agent works in it for a run of a workflow.
    Errand(Box<Errand>),
}

impl Origin {
    /// What it does for a run of a workflow, if it does something for one.
    pub(crate) fn errand(&self) -> Option<&Errand> {
        match self {
            Self::Errand(errand) => Some(errand),
            Self::Roster | Self::Question(_) | Self::Inline(_) => None,
        }
    }
}

impl Session {
    /// A thread begins: its agent is the roster's of this name, the advisor, the one that the note defines, or one of a run.
    pub(crate) fn begin_thread(&mut self, name: &str, id: &ThreadId, at: Option<Timestamp>, kept: Option<&[Value]>) {
        let defined = || marks::read_inline(kept).map(Origin::Inline);
        let errand = || marks::read_errand(kept).map(|errand| Origin::Errand(Box::new(errand)));
        let origin =
            marks::read_question(kept).map(Origin::Question).or_else(defined).or_else(errand).unwrap_or_default();
        // A log that names an agent which is not in the roster was not written by this code: nothing is run for it.
        let (agent, status) = match self.mind_of(name, &origin) {
            Some(agent) => (agent, SessionStatus::Idle),
            None => (Arc::clone(&self.threads[0].agent), SessionStatus::Terminated),
        };
        let mut thread = self.child_of(id.clone(), agent, at);
        (thread.state.status, thread.state.origin) = (status, origin);
        self.threads.push(thread);
    }

    /// A thread whose log is empty, which works for the primary one.
    pub(crate) fn child_of(&self, id: ThreadId, agent: Arc<SessionAgent>, at: Option<Timestamp>) -> Thread {
        let prices = self.member_prices.get(&agent.model.id).copied().unwrap_or_default();
        Thread::new(id, agent, prices, at)
    }

    /// The agent with this name of a thread that began so.
    pub(crate) fn mind_of(&self, name: &str, origin: &Origin) -> Option<Arc<SessionAgent>> {
        let own = &self.threads[0].agent;
        match origin {
            Origin::Question(_) => advise::agent(own).filter(|_| name == ADVISOR).map(Arc::new),
            Origin::Inline(definition) => definition.agent(own).filter(|agent| agent.name == name).map(Arc::new),
            Origin::Errand(errand) => self.agent_of(errand, name),
            Origin::Roster => {
                let member = own.roster().iter().find(|member| member.agent().name == name);
                member.map(|member| Arc::new(member.agent().clone()))
            }
        }
    }
}

impl Thread {
    /// Who thinks in it, as it is shown.
    pub fn mind(&self) -> Mind {
        match &self.state.origin {
            Origin::Question(_) => Mind::Advisor(advise::shown(&self.agent)),
            Origin::Inline(_) | Origin::Errand(_) if self.is_inline() => {
                Mind::Inline(Box::new(InlineAgent::from((*self.agent).clone())))
            }
            Origin::Roster | Origin::Inline(_) | Origin::Errand(_) => {
                Mind::Agent(Box::new(ThreadAgent::from((*self.agent).clone())))
            }
        }
    }

    /// Which call it answers, where it does.
    pub(crate) fn question(&self) -> Option<&EventId> {
        match &self.state.origin {
            Origin::Question(call) => Some(call),
            Origin::Roster | Origin::Inline(_) | Origin::Errand(_) => None,
        }
    }

    /// Whether its agent was defined when it was started.
    pub fn is_inline(&self) -> bool {
        match &self.state.origin {
            Origin::Inline(_) => true,
            Origin::Errand(errand) => errand.is_inline,
            Origin::Roster | Origin::Question(_) => false,
        }
    }
}
