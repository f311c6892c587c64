//! The session: its threads, which of them an input is for, and what they do with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_model::event::{ClientEvent, Event, EventBody};
use postern_model::ids::{EventId, ThreadId};
use postern_model::money::BudgetLimit;
use postern_model::session::{SessionAgent, SessionStatus};
use postern_model::{Problem, Timestamp};
use serde_json::Value;

use crate::accept;
use crate::input::{Author, Chance, Deed, Input};
use crate::limits::Limits;
use crate::machine::Step;
use crate::overall::Overall;
use crate::sightings::Sightings;
use crate::spending::Prices;
use crate::thread::Thread;
use crate::workflow::Runs;

/// One session's loop: that of its agent in the primary thread, and of each agent that works for it in one of its own.
#[derive(Debug)]
pub struct Session {
    pub(crate) limits: Limits,
    pub(crate) budget: Option<BudgetLimit>,
    /// What the models cost of agents that work in threads of their own, by the name of the model.
    pub(crate) member_prices: BTreeMap<String, Prices>,
    /// Whether its agent's model takes system text in mid-conversation.
    pub(crate) hears_system: bool,
    pub(crate) overall: Overall,
    /// The URLs that all threads were shown.
    pub(crate) sightings: Sightings,
    /// The runs of workflows that have not ended.
    pub(crate) runs: Runs,
    /// Never empty: the primary thread is the first, the others follow as they were created.
    pub(crate) threads: Vec<Thread>,
    /// How often MCP servers were asked for their tools.
    pub(crate) attempts: u64,
}

impl Session {
    /// A session whose log is empty.
    pub fn new(thread: ThreadId, agent: Arc<SessionAgent>, limits: Limits) -> Self {
        Self {
            limits,
            budget: None,
            member_prices: BTreeMap::new(),
            hears_system: false,
            overall: Overall::default(),
            sightings: Sightings::default(),
            runs: Runs::default(),
            threads: vec![Thread::new(thread, agent, Prices::default(), None)],
            attempts: 0,
        }
    }

    /// The same with what its models cost from here on, and what it may spend.
    #[must_use]
    pub fn priced(mut self, prices: Prices, budget: Option<BudgetLimit>) -> Self {
        self.threads[0].prices = prices;
        Self { budget, ..self }
    }

    /// The same with what the models of the agents cost that work for it.
    #[must_use]
    pub fn pricing(self, member_prices: BTreeMap<String, Prices>) -> Self {
        Self { member_prices, ..self }
    }

    /// The same whose agent's model takes system text in mid-conversation, or does not.
    #[must_use]
    pub fn hearing_system(self, hears_system: bool) -> Self {
        Self { hears_system, ..self }
    }

    /// Takes in the next event of a stored log, with the blocks kept beside it, into the thread that it is of. When all
    /// are in, hand in [`Input::Resume`].
    pub fn replay(&mut self, thread: &ThreadId, event: &Event, kept: Option<Vec<Value>>) {
        if let Some(at) = self.position(thread) {
            self.apply(at, event, kept);
        }
    }

    /// Takes in that the journal says a call of this server was begun. After the event that asks for it.
    pub fn replay_started(&mut self, call: &EventId) {
        for thread in &mut self.threads {
            thread.state.start(call);
        }
    }

    /// What the log says of the session as a whole.
    pub fn overall(&self) -> &Overall {
        &self.overall
    }

    /// The thread of the session's agent.
    pub fn primary(&self) -> &Thread {
        &self.threads[0]
    }

    /// One of its threads.
    pub fn thread(&self, id: &ThreadId) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.id == *id)
    }

    /// The threads that work for the primary one, oldest first.
    pub fn children(&self) -> &[Thread] {
        &self.threads[1..]
    }

    pub(crate) fn position(&self, id: &ThreadId) -> Option<usize> {
        self.threads.iter().position(|thread| thread.id == *id)
    }

    /// The one place where an event changes anything.
    pub(crate) fn apply(&mut self, at: usize, event: &Event, kept: Option<Vec<Value>>) {
        if let EventBody::ThreadCreated { agent_name, session_thread_id, .. } = &event.body {
            self.begin_thread(agent_name, session_thread_id, event.processed_at, kept.as_deref());
        }
        self.overall.apply(event, kept.as_deref());
        self.sightings.apply(event);
        self.apply_to_runs(at, event, kept.as_deref());
        self.threads[at].state.apply(event, kept);
    }

    /// Whether these events, in this order, would be accepted from this author.
    ///
    /// # Errors
    /// The reason for the first that would not; then none may be handed in.
    pub fn check(&self, events: &[ClientEvent], author: Author) -> Result<(), Problem> {
        accept::check(self, events, author)
    }

    /// Takes one input and says what is to be done. The state has already changed when this returns: if storing the
    /// effects fails, drop the session and read the log again.
    pub fn handle(&mut self, input: Input, now: Timestamp, chance: &mut dyn Chance) -> Vec<Deed> {
        // Stored instants have microseconds; the log never goes back in time.
        let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now).max(self.overall.last_at);
        let mut step = Step { session: self, at: 0, now, chance, deeds: Vec::new() };
        step.take(input);
        step.session_still_rests();
        step.deeds
    }

    /// The thread with this open call.
    pub(crate) fn thread_of_call(&self, call: &EventId) -> Option<usize> {
        self.seek(|thread| thread.state.calls.find(call).is_some())
    }

    fn thread_of_request(&self, start: &EventId) -> Option<usize> {
        self.seek(|thread| thread.state.request.as_ref() == Some(start))
    }

    fn thread_of_consultation(&self, start: &EventId) -> Option<usize> {
        self.seek(|thread| thread.consults(start))
    }

    /// The one thread of which this is so. The newest are looked at first: thousands may have ended, and each piece of an
    /// answer is asked for.
    fn seek(&self, is_it: impl Fn(&Thread) -> bool) -> Option<usize> {
        if is_it(&self.threads[0]) { Some(0) } else { self.threads.iter().rposition(is_it) }
    }
}

impl Step<'_> {
    fn take(&mut self, input: Input) {
        if self.session.overall.status == SessionStatus::Terminated {
            return;
        }
        match input {
            Input::Resume => {
                // First: nothing begins anew for a run whose time is over.
                let is_overdue = self.end_overdue_runs();
                self.each(Self::resume);
                self.conduct_all();
                if is_overdue {
                    self.on(0, Self::session_rests_too);
                }
            }
            Input::Events(events) => {
                for event in events {
                    self.accept(event);
                }
                self.each(Self::settle);
            }
            Input::Model(start, event) => {
                self.at_thread(self.session.thread_of_request(&start), |step| step.model(start, event));
            }
            Input::McpConnected { attempt, servers } => {
                let at = self.session.threads.iter().position(|thread| thread.servers.awaits(attempt));
                self.at_thread(at, |step| step.connected(attempt, servers));
            }
            Input::Called { call, content, is_error } => {
                self.at_thread(self.session.thread_of_call(&call), |step| step.called(&call, content, is_error));
            }
            Input::Consulted { start, answer } => {
                self.at_thread(self.session.thread_of_consultation(&start), |step| step.consulted(&start, answer));
            }
            Input::Consulting(start) => {
                self.at_thread(self.session.thread_of_consultation(&start), |step| step.still_grading(&start));
            }
            Input::RetryDue(thread) => self.at_thread(self.session.position(&thread), |step| {
                if step.state().status == SessionStatus::Rescheduling {
                    step.run();
                    step.settle();
                }
            }),
            Input::WorkFailed { code, message } => self.work_failed(&code, &message),
            Input::Missing { code, message, lacking } => self.missing(&code, &message, lacking),
            Input::Lapsed => self.lapse(),
            Input::Archive => self.archive(),
            Input::ArchiveThread(thread) => self.at_thread(self.session.position(&thread), Self::archive_thread),
            Input::Updated { agent, budget, metadata, title } => {
                if let Some(agent) = &agent {
                    self.replace_agent(agent);
                }
                let is_rebudgeted = !budget.is_absent();
                if is_rebudgeted {
                    self.session.budget = budget.clone().value();
                }
                self.append(EventBody::SessionUpdated { agent, budget, metadata, title });
                if is_rebudgeted {
                    self.wake_runs();
                    self.each(Self::settle);
                }
            }
        }
    }

    /// Does something as each thread in turn, the primary one first.
    pub(crate) fn each(&mut self, mut act: impl FnMut(&mut Self)) {
        for at in 0..self.session.threads.len() {
            self.on(at, &mut act);
        }
    }

    fn at_thread(&mut self, at: Option<usize>, act: impl FnOnce(&mut Self)) {
        if let Some(at) = at {
            self.on(at, act);
        }
    }

    fn replace_agent(&mut self, agent: &SessionAgent) {
        let primary = self.thread_mut();
        primary.agent = Arc::new(agent.clone());
        primary.servers.forget();
        // Copies of the agent, and those that it defined, are as the agent is; the other agents of the roster stay as they were.
        for at in 1..self.session.threads.len() {
            let thread = &self.session.threads[at];
            let own = self.session.mind_of(&thread.agent.name, &thread.state.origin);
            if let Some(own) = own.filter(|own| *own != thread.agent) {
                self.session.threads[at].agent = own;
                self.session.threads[at].servers.forget();
            }
        }
    }
}
