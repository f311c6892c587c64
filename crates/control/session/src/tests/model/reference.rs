//! What a session does, as the contract has it: phases, calls that wait, messages that wait, money. No log, no events.

use postern_model::ids::EventId;

use crate::Limits;
use crate::advise::MOST_REQUESTS;

/// An answer of the model costs this many cents, a grader's that many.
const ANSWER: u64 = 11;
const VERDICT: u64 = 8;

/// What a call needs before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// A worker runs it.
    Free,
    /// A worker runs it when a person has agreed.
    Asks,
    /// Whoever knows it answers it.
    Custom,
    /// It is not enabled: answered at once.
    Disabled,
    /// An advisor answers it.
    Advised,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Free => "bash",
            Self::Asks => "write",
            Self::Custom => "lookup",
            Self::Disabled => "grep",
            Self::Advised => "ask_advisor",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Stopped {
    Refusal,
    Pause,
    Cut,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failed {
    Helpless,
    Transient,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Grade {
    Satisfied,
    Revise,
    Failed,
    Nonsense,
    Silence,
}

impl Grade {
    pub(super) fn says(self) -> Option<&'static str> {
        match self {
            Self::Satisfied => Some(r#"{"result":"satisfied","explanation":"e"}"#),
            Self::Revise => Some(r#"{"result":"needs_revision","explanation":"e"}"#),
            Self::Failed => Some(r#"{"result":"failed","explanation":"e"}"#),
            Self::Nonsense => Some("hm"),
            Self::Silence => None,
        }
    }
}

/// What can be seen from outside.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) status: &'static str,
    pub(super) reason: Option<&'static str>,
    /// What `requires_action` names.
    pub(super) waiting: Vec<EventId>,
    /// Calls without an answer, and whether a person is asked.
    pub(super) open: Vec<(EventId, bool)>,
    pub(super) asks_model: bool,
    pub(super) asks_grader: bool,
    pub(super) queued: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// At rest; `None` before the first turn.
    Idle(Option<&'static str>),
    /// The model is asked.
    Asking,
    /// Confirmed calls are run.
    Executing,
    /// The grader is asked.
    Grading,
    /// The model will be asked again.
    Retrying,
    Terminated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Asks,
    Waits,
    Confirmed,
}

pub(super) struct Reference {
    limits: Limits,
    phase: Phase,
    calls: Vec<(EventId, Tool, Open)>,
    queued: usize,
    failures: u32,
    requests: u32,
    /// Gradings left, of an outcome that is worked at.
    outcome: Option<u32>,
    /// The budget came between the end of a turn and its grading.
    ungraded: bool,
    spent: u64,
    budget: Option<u64>,
    /// Whether it works for another thread.
    rank: Rank,
    /// What other threads said and it has not heard yet.
    unheard: usize,
    /// What the thread that it works for is to hear.
    pub(super) reports: usize,
}

/// Whose loop it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Primary,
    Child,
    /// It answers one call of the primary one.
    Advisor,
}

impl Reference {
    pub(super) fn new(budget: Option<u64>, limits: Limits) -> Self {
        let phase = Phase::Idle(None);
        let (calls, outcome, rank) = (Vec::new(), None, Rank::Primary);
        let (queued, failures, requests, spent, unheard, reports) = (0, 0, 0, 0, 0, 0);
        Self {
            limits,
            phase,
            calls,
            queued,
            failures,
            requests,
            outcome,
            ungraded: false,
            spent,
            budget,
            rank,
            unheard,
            reports,
        }
    }

    /// One that works for another.
    pub(super) fn child(limits: Limits) -> Self {
        Self { rank: Rank::Child, ..Self::new(None, limits) }
    }

    /// One that is asked for advice.
    pub(super) fn advisor(limits: Limits) -> Self {
        let limits = Limits { requests_per_turn: MOST_REQUESTS, ..limits };
        Self { rank: Rank::Advisor, ..Self::new(None, limits) }
    }

    pub(super) fn is_advisor(&self) -> bool {
        self.rank == Rank::Advisor
    }

    /// The advisor of this call is over.
    pub(super) fn advised(&mut self, id: &EventId) {
        if let Some(at) = self.position(id) {
            self.calls.remove(at);
            self.proceed();
        }
    }

    /// Another thread says something.
    pub(super) fn hear(&mut self) {
        self.unheard += 1;
        self.wake();
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Terminated
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }

    /// Whether a worker has something to do for it.
    pub(super) fn needs_worker(&self) -> bool {
        self.calls.iter().any(|(_, tool, open)| !matches!(tool, Tool::Custom | Tool::Advised) && *open != Open::Asks)
    }

    pub(super) fn has(&self, id: &EventId) -> bool {
        self.position(id).is_some()
    }

    pub(super) fn spent(&self) -> u64 {
        self.spent
    }

    pub(super) fn seen(&self) -> Seen {
        let reason = if let Phase::Idle(reason) = self.phase { reason } else { None };
        Seen {
            status: match self.phase {
                Phase::Idle(_) => "idle",
                Phase::Asking | Phase::Executing | Phase::Grading => "running",
                Phase::Retrying => "rescheduling",
                Phase::Terminated => "terminated",
            },
            reason,
            waiting: if reason == Some("requires_action") { self.waiting() } else { Vec::new() },
            open: self.calls.iter().map(|(id, _, open)| (id.clone(), *open == Open::Asks)).collect(),
            asks_model: self.phase == Phase::Asking,
            asks_grader: self.phase == Phase::Grading,
            queued: self.queued,
        }
    }

    pub(super) fn say(&mut self) -> bool {
        if self.phase == Phase::Terminated || self.is_broke() || self.queued == self.limits.queued_messages {
            return false;
        }
        self.queued += 1;
        self.wake();
        true
    }

    pub(super) fn interrupt(&mut self) -> bool {
        match self.phase {
            Phase::Terminated => return false,
            _ if self.is_advisor() => self.archive(),
            // At the cap it has no effect.
            Phase::Idle(Some("budget_reached")) => return true,
            Phase::Idle(_) if self.calls.is_empty() => self.outcome = None,
            Phase::Idle(_) | Phase::Asking | Phase::Executing | Phase::Grading | Phase::Retrying => {
                self.outcome = None;
                self.rest("end_turn");
                self.unheard = 0;
            }
        }
        self.wake();
        true
    }

    pub(super) fn define(&mut self, iterations: u32) -> bool {
        let is_at_rest = matches!(self.phase, Phase::Idle(_)) && self.calls.is_empty();
        if !is_at_rest || self.outcome.is_some() || self.is_broke() {
            return false;
        }
        self.outcome = Some(iterations);
        self.begin();
        true
    }

    pub(super) fn result(&mut self, id: &EventId, is_custom: bool) -> bool {
        let Some(at) = self.position(id) else { return false };
        let (_, tool, open) = self.calls[at];
        if self.phase == Phase::Terminated
            || open == Open::Asks
            || tool == Tool::Advised
            || is_custom != (tool == Tool::Custom)
        {
            return false;
        }
        self.calls.remove(at);
        self.proceed();
        true
    }

    pub(super) fn confirm(&mut self, id: &EventId, allow: bool) -> bool {
        let Some(at) = self.position(id).filter(|at| self.calls[*at].2 == Open::Asks) else { return false };
        if allow {
            self.calls[at].2 = Open::Confirmed;
        } else {
            self.calls.remove(at);
        }
        self.proceed();
        true
    }

    /// The model has answered with these calls.
    pub(super) fn answer(&mut self, calls: Vec<(EventId, Tool)>) {
        self.pay(ANSWER);
        self.failures = 0;
        let must_hear = self.queued + self.unheard > 0 || calls.iter().any(|(_, tool)| *tool == Tool::Disabled);
        let opened = calls.into_iter().filter(|(_, tool)| *tool != Tool::Disabled);
        let open = |tool| match tool {
            Tool::Asks => Open::Asks,
            Tool::Advised => Open::Confirmed,
            Tool::Free | Tool::Custom | Tool::Disabled => Open::Waits,
        };
        self.calls = opened.map(|(id, tool)| (id, tool, open(tool))).collect();
        if !self.calls.is_empty() {
            self.rest_for_calls();
        } else if must_hear {
            self.ask();
        } else {
            self.end_turn();
        }
    }

    pub(super) fn stopped(&mut self, how: Stopped) {
        self.pay(ANSWER);
        self.failures = 0;
        match how {
            Stopped::Refusal if self.is_advisor() => self.archive(),
            Stopped::Refusal => {
                self.report();
                self.rest("refusal");
                self.wake();
            }
            Stopped::Pause => self.ask(),
            Stopped::Cut => self.give_up(),
        }
    }

    pub(super) fn fail(&mut self, how: Failed) {
        self.failures += 1;
        match how {
            Failed::Transient if self.failures < self.limits.attempts => self.phase = Phase::Retrying,
            Failed::Transient | Failed::Helpless => self.give_up(),
        }
    }

    pub(super) fn retry(&mut self) {
        if self.phase == Phase::Retrying {
            self.ask();
        }
    }

    pub(super) fn grade(&mut self, grade: Grade) {
        if !matches!(grade, Grade::Silence) {
            self.pay(VERDICT);
        }
        match (grade, self.outcome) {
            (Grade::Revise, Some(left)) => {
                self.outcome = (left > 1).then(|| left - 1);
                self.ask();
            }
            _ => {
                self.outcome = None;
                self.rest("end_turn");
                self.wake();
            }
        }
    }

    /// Another process goes on: what ran for the session is begun again.
    pub(super) fn crash(&mut self) {
        if self.phase == Phase::Asking {
            self.ask();
        }
    }

    pub(super) fn work_failed(&mut self) {
        if self.phase == Phase::Terminated {
            return;
        }
        if self.phase == Phase::Grading {
            self.outcome = None;
        }
        self.give_up();
    }

    pub(super) fn archive(&mut self) {
        self.calls.clear();
        self.queued = 0;
        self.phase = Phase::Terminated;
    }

    pub(super) fn rebudget(&mut self, budget: Option<u64>) {
        self.budget = budget;
        if self.phase != Phase::Idle(Some("budget_reached")) || self.is_broke() {
            return;
        }
        if std::mem::take(&mut self.ungraded) { self.end_turn() } else { self.ask() }
    }

    fn position(&self, id: &EventId) -> Option<usize> {
        self.calls.iter().position(|(open, ..)| open == id)
    }

    fn waiting(&self) -> Vec<EventId> {
        self.calls.iter().filter(|(_, _, open)| *open != Open::Confirmed).map(|(id, ..)| id.clone()).collect()
    }

    fn is_broke(&self) -> bool {
        self.budget.is_some_and(|budget| self.spent >= budget)
    }

    fn pay(&mut self, cents: u64) {
        self.spent += cents;
    }

    /// A message that waits begins a turn where none is under way and no call is open.
    fn wake(&mut self) {
        if matches!(self.phase, Phase::Idle(reason) if reason != Some("budget_reached"))
            && self.calls.is_empty()
            && self.queued + self.unheard > 0
        {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.requests = 0;
        self.ask();
    }

    fn proceed(&mut self) {
        match self.phase {
            Phase::Asking | Phase::Grading | Phase::Retrying => {}
            _ if self.calls.is_empty() => self.ask(),
            _ => self.rest_for_calls(),
        }
    }

    fn rest_for_calls(&mut self) {
        self.phase = if self.waiting().is_empty() { Phase::Executing } else { Phase::Idle(Some("requires_action")) };
        if self.phase != Phase::Executing {
            self.failures = 0;
        }
    }

    fn ask(&mut self) {
        if self.is_broke() {
            self.queued = 0;
            return self.rest("budget_reached");
        }
        if self.requests == self.limits.requests_per_turn {
            return self.give_up();
        }
        self.requests += 1;
        self.queued = 0;
        self.unheard = 0;
        self.phase = Phase::Asking;
    }

    fn end_turn(&mut self) {
        match self.outcome {
            Some(_) if self.is_broke() => {
                self.queued = 0;
                self.rest("budget_reached");
                self.ungraded = true;
            }
            Some(_) => self.phase = Phase::Grading,
            None if self.is_advisor() => self.archive(),
            None => {
                self.report();
                self.rest("end_turn");
            }
        }
    }

    /// One that works for another is over; the other hears of it.
    fn give_up(&mut self) {
        self.queued = 0;
        self.unheard = 0;
        self.report();
        match self.rank {
            Rank::Primary => self.rest("retries_exhausted"),
            Rank::Child | Rank::Advisor => self.archive(),
        }
    }

    fn report(&mut self) {
        self.reports += usize::from(self.rank == Rank::Child);
    }

    fn rest(&mut self, reason: &'static str) {
        self.calls.clear();
        self.failures = 0;
        self.ungraded = false;
        self.phase = Phase::Idle(Some(reason));
    }
}
