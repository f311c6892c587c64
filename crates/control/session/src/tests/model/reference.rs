//! What a session does, as the contract has it: phases, calls that wait, messages that wait, money. No log, no events.

use postern_model::ids::EventId;

use super::lines::{Lines, Window};
use super::words::{Failed, Grade, Open, Seen, Stopped, Tool, Verdict};
use crate::advise::MOST_REQUESTS;
use crate::{Counsellor, Limits};

/// An answer of the model costs this many cents, a grader's that many.
const ANSWER: u64 = 11;
const VERDICT: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// At rest; `None` before the first turn.
    Idle(Option<&'static str>),
    /// The model is asked.
    Asking,
    /// Calls are run, or servers asked who they are.
    Executing,
    /// The judge is asked about an answer.
    Judging,
    /// The grader is asked.
    Grading,
    /// The model will be asked again.
    Retrying,
    Terminated,
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
    lines: Lines,
    window: Window,
    /// The calls of an answer that a judge is asked about.
    judged: Vec<Tool>,
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
        Self {
            limits,
            phase: Phase::Idle(None),
            calls: Vec::new(),
            queued: 0,
            failures: 0,
            requests: 0,
            outcome: None,
            ungraded: false,
            spent: 0,
            budget,
            rank: Rank::Primary,
            unheard: 0,
            reports: 0,
            lines: Lines::default(),
            window: Window::default(),
            judged: Vec::new(),
        }
    }

    /// One whose agent has MCP servers.
    pub(super) fn served(budget: Option<u64>, limits: Limits) -> Self {
        Self { lines: Lines::unasked(), ..Self::new(budget, limits) }
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
            self.close(at);
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
        let is_worker_s = |tool: Tool| !matches!(tool, Tool::Custom | Tool::Advised) && !tool.is_servers();
        self.calls.iter().any(|(_, tool, open)| is_worker_s(*tool) && *open != Open::Asks)
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
                Phase::Asking | Phase::Executing | Phase::Judging | Phase::Grading => "running",
                Phase::Retrying => "rescheduling",
                Phase::Terminated => "terminated",
            },
            reason,
            waiting: if reason == Some("requires_action") { self.waiting() } else { Vec::new() },
            open: self.calls.iter().map(|(id, _, open)| (id.clone(), *open == Open::Asks)).collect(),
            asks_model: self.phase == Phase::Asking,
            consults: matches!(self.phase, Phase::Grading | Phase::Judging),
            queued: self.queued,
            connects: self.lines.is_asking(),
            running: self.lines.running().to_vec(),
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
            Phase::Idle(_) | Phase::Asking | Phase::Executing | Phase::Judging | Phase::Grading | Phase::Retrying => {
                self.stop();
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
        self.window.words();
        self.begin();
        true
    }

    pub(super) fn result(&mut self, id: &EventId, is_custom: bool) -> bool {
        let Some(at) = self.position(id) else { return false };
        let (_, tool, open) = self.calls[at];
        if self.phase == Phase::Terminated
            || open == Open::Asks
            || tool == Tool::Advised
            || tool.is_servers()
            || is_custom != (tool == Tool::Custom)
        {
            return false;
        }
        self.close(at);
        self.proceed();
        true
    }

    pub(super) fn confirm(&mut self, id: &EventId, allow: bool) -> bool {
        let Some(at) = self.position(id).filter(|at| self.calls[*at].2 == Open::Asks) else { return false };
        if allow {
            self.calls[at].2 = Open::Confirmed;
        } else {
            self.close(at);
        }
        self.proceed();
        true
    }

    /// Whether an answer with these calls goes to the judge first.
    pub(super) fn consults(&mut self, tools: &[Tool]) -> bool {
        let may_ask =
            self.limits.judge == Counsellor::Present && self.budget.is_none_or(|most| self.spent + ANSWER < most);
        let asks = may_ask && !self.window.summary && !self.lines.wiki_fails() && tools.contains(&Tool::Judged);
        if asks {
            self.judged = tools.to_vec();
            self.phase = Phase::Judging;
        }
        asks
    }

    /// The judge has answered, and these are the ids of the calls that it was asked about.
    pub(super) fn judge(&mut self, verdict: Verdict, ids: &[EventId]) {
        let tools = std::mem::take(&mut self.judged);
        self.phase = Phase::Asking;
        if verdict != Verdict::Silence {
            self.pay(VERDICT);
        }
        self.take_in(ids.iter().cloned().zip(tools).collect(), verdict);
    }

    /// The model has answered with these calls.
    pub(super) fn answer(&mut self, calls: Vec<(EventId, Tool)>) {
        self.take_in(calls, Verdict::Ask);
    }

    fn take_in(&mut self, calls: Vec<(EventId, Tool)>, verdict: Verdict) {
        self.pay(ANSWER);
        self.failures = 0;
        if self.window.summary {
            self.window.summarised();
            return self.ask();
        }
        self.window.said();
        let count = calls.len();
        let opened = |(id, tool)| Some((id, tool, self.opened(tool, verdict)?));
        let opened: Vec<_> = calls.into_iter().filter_map(opened).collect();
        let must_hear = self.queued + self.unheard > 0 || opened.len() < count;
        if opened.len() < count {
            self.window.results();
        }
        self.calls = opened;
        if !self.calls.is_empty() {
            self.settle();
        } else if must_hear {
            self.ask();
        } else {
            self.end_turn();
        }
    }

    /// How far a call is that was just made; `None` for one that is answered at once.
    fn opened(&self, tool: Tool, verdict: Verdict) -> Option<Open> {
        match tool {
            Tool::Disabled | Tool::Danger => None,
            Tool::Search | Tool::Edit | Tool::Judged if self.lines.wiki_fails() => None,
            Tool::Read if self.lines.docs_fails() => None,
            Tool::Asks | Tool::Edit => Some(Open::Asks),
            Tool::Judged => match verdict {
                Verdict::Allow => Some(Open::Waits),
                Verdict::Deny => None,
                Verdict::Ask | Verdict::Nonsense | Verdict::Silence => Some(Open::Asks),
            },
            Tool::Advised => Some(Open::Confirmed),
            Tool::Free | Tool::Custom | Tool::Search | Tool::Read | Tool::WebSearch | Tool::Composed => {
                Some(Open::Waits)
            }
        }
    }

    pub(super) fn stopped(&mut self, how: Stopped) {
        self.pay(ANSWER);
        self.failures = 0;
        match how {
            Stopped::Refusal if self.window.summary => return self.give_up(),
            _ if self.window.summary => {
                self.window.summarised();
                return self.ask();
            }
            Stopped::Refusal => {}
            Stopped::Pause | Stopped::Cut | Stopped::Outgrown => self.window.said(),
        }
        match how {
            Stopped::Refusal if self.is_advisor() => self.archive(),
            Stopped::Refusal => {
                self.report();
                self.rest("refusal");
                self.wake();
            }
            Stopped::Pause => self.ask(),
            Stopped::Cut => self.give_up(),
            Stopped::Outgrown => self.outgrow(),
        }
    }

    /// The window is too small: what can be done about it is done once.
    fn outgrow(&mut self) {
        if !self.window.outgrow() {
            return self.give_up();
        }
        self.failures += 1;
        self.ask();
    }

    pub(super) fn fail(&mut self, how: Failed) {
        self.failures += u32::from(!matches!(how, Failed::TooLong));
        match how {
            Failed::TooLong => self.outgrow(),
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
                self.window.words();
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
        for call in self.lines.crash() {
            if let Some(at) = self.position(&call) {
                self.close(at);
            }
        }
        self.judged.clear();
        if matches!(self.phase, Phase::Asking | Phase::Judging | Phase::Executing) {
            self.settle();
        }
    }

    /// The servers have answered, or these have not.
    pub(super) fn connected(&mut self, wiki_fails: bool, docs_fails: bool) {
        self.lines.connected(wiki_fails, docs_fails);
        self.settle();
    }

    /// A call that the server ran has ended.
    pub(super) fn called(&mut self, id: &EventId) {
        if let Some(at) = self.position(id).filter(|_| self.lines.end(id)) {
            self.close(at);
            self.settle();
        }
    }

    pub(super) fn work_failed(&mut self) {
        // Paused by its budget it needs no worker.
        if matches!(self.phase, Phase::Terminated | Phase::Idle(Some("budget_reached"))) {
            return;
        }
        if self.phase == Phase::Grading {
            self.outcome = None;
        }
        self.stop();
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
        let waits = |tool: Tool, open| match open {
            Open::Asks => true,
            Open::Waits => !tool.is_servers(),
            Open::Confirmed | Open::Started => false,
        };
        self.calls.iter().filter(|(_, tool, open)| waits(*tool, *open)).map(|(id, ..)| id.clone()).collect()
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
        self.flush();
        self.lines.lapse();
        self.ask();
    }

    /// The messages that wait are in the conversation.
    fn flush(&mut self) {
        if std::mem::take(&mut self.queued) > 0 {
            self.window.words();
        }
    }

    fn close(&mut self, at: usize) {
        self.calls.remove(at);
        self.window.results();
    }

    /// What runs is cancelled; an answer that a judge was asked about is paid for and gone.
    fn stop(&mut self) {
        if self.phase == Phase::Judging {
            self.judged.clear();
            self.pay(ANSWER);
        }
        self.lines.stop();
        if !self.calls.is_empty() {
            self.window.results();
        }
    }

    fn proceed(&mut self) {
        match self.phase {
            Phase::Asking | Phase::Judging | Phase::Grading | Phase::Retrying => {}
            Phase::Idle(Some("requires_action")) if !self.waiting().is_empty() => {}
            _ => self.settle(),
        }
    }

    /// A turn goes on, as far as it can: the server's calls begin first, then others are waited for, then the model is asked.
    fn settle(&mut self) {
        self.phase = Phase::Executing;
        let is_ready = |(_, tool, open): &(EventId, Tool, Open)| {
            tool.is_servers() && matches!(open, Open::Waits | Open::Confirmed)
        };
        if self.lines.is_asking() {
            return;
        }
        if self.calls.iter().any(is_ready) {
            if !self.lines.connect() {
                return;
            }
            self.begin_calls();
        }
        if !self.lines.running().is_empty() {
            return;
        }
        if !self.waiting().is_empty() {
            self.phase = Phase::Idle(Some("requires_action"));
            self.failures = 0;
            self.window.rest();
        } else if self.calls.is_empty() {
            self.ask();
        }
    }

    /// As many at a time as may be; one that cannot be called is answered without it.
    fn begin_calls(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        for (id, tool, open) in calls {
            let is_ready = tool.is_servers() && matches!(open, Open::Waits | Open::Confirmed);
            let fails = match tool {
                Tool::Composed => true,
                Tool::Search | Tool::Edit | Tool::Judged => self.lines.wiki_fails(),
                Tool::Read => self.lines.docs_fails(),
                _ => false,
            };
            if is_ready && fails {
                self.window.results();
            } else if is_ready && self.lines.running().len() < self.limits.parallel_mcp_calls {
                self.lines.begin(&id);
                self.calls.push((id, tool, Open::Started));
            } else {
                self.calls.push((id, tool, open));
            }
        }
    }

    fn ask(&mut self) {
        if self.is_broke() {
            self.flush();
            return self.rest("budget_reached");
        }
        if self.requests == self.limits.requests_per_turn {
            return self.give_up();
        }
        if !self.lines.connect() {
            self.phase = Phase::Executing;
            return;
        }
        self.requests += 1;
        self.window.ask();
        // A summary is of what there was.
        if !self.window.summary {
            self.flush();
        }
        self.unheard = 0;
        self.phase = Phase::Asking;
    }

    fn end_turn(&mut self) {
        match self.outcome {
            Some(_) if self.is_broke() => {
                self.flush();
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
        self.flush();
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
        self.window.rest();
        self.window.summary = false;
        self.ungraded = false;
        self.phase = Phase::Idle(Some(reason));
    }
}
