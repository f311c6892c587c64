//! Which tool use of a session runs when, and when the worker is done with it: a state machine over the session's events (contract section 4.5).
//! Takes every time from its caller; never waits, reads or sends anything.

mod clock;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use clock::IdleClock;

pub use crate::event::{Gate, SessionEvent, ToolUse};
use crate::hands::ToolCall;

/// How long a finished turn is waited on for a next one.
pub const MAX_IDLE: Duration = Duration::from_secs(60);

/// What one session may keep in the worker's memory.
const MEMORY_BYTES: usize = 256 * 1024 * 1024;
/// How far back an answer's tool use is looked for.
const NEWEST: usize = 256;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A stream is open; its history is about to be read.
    HistoryBegins,
    /// One event of the history, in its order.
    History(SessionEvent),
    /// The history ended.
    HistoryEnds(History),
    /// One event of the stream.
    Live(SessionEvent),
    /// The tool use that [`Effect::Run`] named has an outcome.
    Ran {
        /// Its id.
        id: String,
    },
    /// The result that [`Effect::Post`] named was taken, or will never be.
    Settled {
        /// Its tool use.
        id: String,
    },
    /// The result that [`Effect::Post`] named could not be delivered; the next reading of the history tries again.
    Undelivered {
        /// Its tool use.
        id: String,
    },
    /// Another session waits for this one's place in the worker.
    MakeRoom,
    /// Run nothing more.
    Drain,
    /// Time passed.
    Tick,
}

/// How the reading of a history ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All of it was read.
    Complete,
    /// It could not be read: nothing is concluded from it.
    Failed,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Run this tool use; nothing else runs until [`Input::Settled`] or [`Input::Undelivered`].
    Run(ToolCall),
    /// Post the outcome of this tool use.
    Post {
        /// Its id.
        id: String,
    },
    /// The worker is done with the session.
    End(End),
}

/// Why the worker is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session is terminated or deleted.
    SessionOver,
    /// The turn is over, and nothing came for [`MAX_IDLE`], or another session needs the room.
    Idle,
    /// The server announced more than the worker can hold.
    Flooded,
    /// The worker drains. A turn that is not over is left to whoever claims the session next.
    Drained {
        /// Whether the turn was over.
        turn_over: bool,
    },
}

/// A tool use in the queue.
#[derive(Debug)]
struct Queued {
    tool_use: ToolUse,
    /// A person allowed it: it holds the idle clock until it is settled.
    confirmed: bool,
}

/// The state of one session's serving.
#[derive(Debug)]
pub struct Dispatch {
    owns: fn(&str) -> bool,
    clock: IdleClock,
    seen: HashSet<String>,
    answered: HashSet<String>,
    verdicts: HashMap<String, bool>,
    ended_threads: HashSet<String>,
    held: Vec<ToolUse>,
    queue: VecDeque<Queued>,
    current: Option<Queued>,
    reading: Reading,
    /// A turn's end that may belong to a history that could not be read.
    idle_may_be_stale: bool,
    /// Whether the newest telling event ended a turn, for a drain.
    turn_over: bool,
    draining: bool,
    over: bool,
    /// What events have added since memory was last counted.
    uncounted_bytes: usize,
    worked_before: bool,
}

#[derive(Debug, Default)]
struct Reading {
    tool_uses: Vec<ToolUse>,
    ends_turn: bool,
    session_over: bool,
}

impl Dispatch {
    /// A session of which nothing is known yet. `owns` tells the names that this worker answers.
    pub fn new(owns: fn(&str) -> bool, max_idle: Duration) -> Self {
        Self {
            owns,
            clock: IdleClock::new(max_idle),
            seen: HashSet::new(),
            answered: HashSet::new(),
            verdicts: HashMap::new(),
            ended_threads: HashSet::new(),
            held: Vec::new(),
            queue: VecDeque::new(),
            current: None,
            reading: Reading::default(),
            idle_may_be_stale: false,
            turn_over: false,
            draining: false,
            over: false,
            uncounted_bytes: 0,
            worked_before: false,
        }
    }

    /// Whether the history has a tool use that a worker ran: there must be files of it somewhere.
    pub fn worked_before(&self) -> bool {
        self.worked_before
    }

    /// When [`Input::Tick`] is due, if ever.
    pub fn wake_at(&self) -> Option<Duration> {
        self.clock.due()
    }

    /// Takes an input at `now` (any steadily growing clock) and says what to do. After [`Effect::End`] there are no effects.
    pub fn handle(&mut self, input: Input, now: Duration) -> Vec<Effect> {
        if self.over {
            return Vec::new();
        }
        if let Input::History(event) | Input::Live(event) = &input
            && self.is_too_much(event)
        {
            return self.advance(Some(End::Flooded), now);
        }
        let ended = match input {
            Input::HistoryBegins => {
                self.reading = Reading::default();
                self.idle_may_be_stale = true;
                None
            }
            Input::History(event) => {
                self.read(event);
                None
            }
            Input::HistoryEnds(history) => self.conclude(history, now),
            Input::Live(event) => self.live(event, now),
            Input::Ran { id } => return self.ran(&id, now),
            Input::Settled { id } => {
                self.answered.insert(id.clone());
                self.finish(&id, now);
                None
            }
            Input::Undelivered { id } => {
                self.finish(&id, now);
                None
            }
            Input::Drain => {
                self.draining = true;
                None
            }
            Input::MakeRoom => self.clock.due().map(|_| End::Idle),
            Input::Tick => None,
        };
        self.advance(ended, now)
    }

    /// Whether the session would outgrow its share of the worker's memory: other sessions live there too.
    fn is_too_much(&mut self, event: &SessionEvent) -> bool {
        self.uncounted_bytes += event.weight();
        if self.uncounted_bytes < MEMORY_BYTES / 8 {
            return false;
        }
        let sets = [&self.seen, &self.answered, &self.ended_threads];
        let ids: usize =
            sets.iter().flat_map(|set| set.iter()).chain(self.verdicts.keys()).map(|id| id.len() + 64).sum();
        let queued = self.queue.iter().chain(&self.current).map(|queued| &queued.tool_use);
        let open: usize = queued.chain(&self.held).chain(&self.reading.tool_uses).map(ToolUse::weight).sum();
        let held_bytes = ids + open + std::mem::take(&mut self.uncounted_bytes);
        held_bytes > MEMORY_BYTES
    }

    fn advance(&mut self, ended: Option<End>, now: Duration) -> Vec<Effect> {
        let ended = ended.or_else(|| self.drained()).or_else(|| self.clock.expired(now).then_some(End::Idle));
        if let Some(end) = ended {
            self.over = true;
            return vec![Effect::End(end)];
        }
        self.next(now).into_iter().map(Effect::Run).collect()
    }

    fn drained(&self) -> Option<End> {
        (self.draining && self.current.is_none()).then_some(End::Drained { turn_over: self.turn_over })
    }

    /// Notes one event of the history; nothing is run before all of it is known, since its answer may come later in it.
    fn read(&mut self, event: SessionEvent) {
        if !event.is_neutral() {
            self.reading.ends_turn = event.ends_turn();
        }
        match event {
            SessionEvent::ToolUse(tool_use) => {
                self.seen.insert(tool_use.call.id.clone());
                self.reading.tool_uses.push(tool_use);
            }
            SessionEvent::Answered { tool_use: id, worked } => {
                // What is answered need not be kept until the end. It is among the newest, or it stays.
                let newest = self.reading.tool_uses.iter_mut().rev().take(NEWEST);
                if let Some(asked) = newest.into_iter().find(|tool_use| tool_use.call.id == id) {
                    asked.call.input.clear();
                    self.worked_before |= worked && !asked.custom && (self.owns)(&asked.call.name);
                }
                self.answered.insert(id);
            }
            SessionEvent::Verdict { tool_use, allow } => {
                if !self.answered.contains(&tool_use) {
                    self.verdicts.insert(tool_use, allow);
                }
            }
            SessionEvent::ThreadEnded(thread) => {
                self.ended_threads.insert(thread);
            }
            SessionEvent::Over => self.reading.session_over = true,
            SessionEvent::Idle { .. } | SessionEvent::Updated | SessionEvent::Other => {}
        }
    }

    fn conclude(&mut self, history: History, now: Duration) -> Option<End> {
        let reading = std::mem::take(&mut self.reading);
        self.idle_may_be_stale = history == History::Failed;
        self.drop_held_of_ended_threads(now);
        if history == History::Failed {
            for tool_use in &reading.tool_uses {
                self.seen.remove(&tool_use.call.id);
            }
            return None;
        }
        if reading.session_over {
            return Some(End::SessionOver);
        }
        self.turn_over = reading.ends_turn;
        self.clock.disarm();
        let open: Vec<ToolUse> =
            reading.tool_uses.into_iter().filter(|tool_use| !self.answered.contains(&tool_use.call.id)).collect();
        for tool_use in &open {
            self.route(tool_use.clone(), now);
        }
        self.apply_known_verdicts(now);
        let outstanding = open.iter().any(|tool_use| self.is_outstanding(tool_use));
        if reading.ends_turn && !outstanding {
            self.clock.arm(now);
        }
        None
    }

    fn apply_known_verdicts(&mut self, now: Duration) {
        for id in self.held.iter().map(|held| held.call.id.clone()).collect::<Vec<_>>() {
            if let Some(allow) = self.verdicts.get(&id).copied() {
                self.release(&id, allow, now);
            }
        }
    }

    /// Whether an open tool use speaks against the turn being over.
    fn is_outstanding(&self, tool_use: &ToolUse) -> bool {
        let id = &tool_use.call.id;
        let is_held = self.held.iter().any(|held| held.call.id == *id);
        let decided_and_ours = self.verdicts.contains_key(id) && self.is_ours(tool_use);
        !self.answered.contains(id) && !self.thread_ended(tool_use) && !is_held && !decided_and_ours
    }

    fn live(&mut self, event: SessionEvent, now: Duration) -> Option<End> {
        if !event.is_neutral() {
            self.turn_over = event.ends_turn();
            self.idle_may_be_stale = false;
            if event.ends_turn() { self.clock.arm(now) } else { self.clock.disarm() }
        }
        match event {
            SessionEvent::ToolUse(tool_use) => {
                if self.seen.insert(tool_use.call.id.clone()) {
                    self.route(tool_use, now);
                }
            }
            SessionEvent::Answered { tool_use, .. } => {
                self.answered.insert(tool_use);
            }
            SessionEvent::Verdict { tool_use, allow } => {
                self.verdicts.insert(tool_use.clone(), allow);
                self.release(&tool_use, allow, now);
            }
            SessionEvent::ThreadEnded(thread) => {
                self.ended_threads.insert(thread);
                if self.idle_may_be_stale {
                    self.clock.disarm();
                }
                self.drop_held_of_ended_threads(now);
            }
            SessionEvent::Over => return Some(End::SessionOver),
            SessionEvent::Idle { .. } | SessionEvent::Updated | SessionEvent::Other => {}
        }
        None
    }

    /// Queues a tool use, holds it for a person, or drops it. Any word against it wins.
    fn route(&mut self, tool_use: ToolUse, now: Duration) {
        let id = &tool_use.call.id;
        if self.thread_ended(&tool_use) || self.is_under_way(id) {
            return;
        }
        match (tool_use.gate, self.verdicts.get(id).copied()) {
            (Gate::Denied, _) | (_, Some(false)) => {
                self.answered.insert(id.clone());
            }
            (Gate::Open, None) => self.queue.push_back(Queued { tool_use, confirmed: false }),
            (Gate::Ask, None) => {
                self.clock.hold();
                self.held.push(tool_use);
            }
            (Gate::Open | Gate::Ask, Some(true)) => {
                self.clock.hold();
                self.queue.push_back(Queued { tool_use, confirmed: true });
            }
        }
        self.clock.settle(now);
    }

    fn is_under_way(&self, id: &str) -> bool {
        let queued = self.queue.iter().chain(&self.current).map(|queued| &queued.tool_use);
        queued.chain(&self.held).any(|tool_use| tool_use.call.id == id)
    }

    /// Applies a verdict to a held tool use, if it is held; an allowed one keeps its hold on the clock.
    fn release(&mut self, id: &str, allow: bool, now: Duration) {
        let Some(position) = self.held.iter().position(|held| held.call.id == id) else { return };
        let tool_use = self.held.remove(position);
        if allow {
            self.queue.push_back(Queued { tool_use, confirmed: true });
        } else {
            self.answered.insert(id.to_owned());
            self.clock.release(now);
        }
    }

    fn drop_held_of_ended_threads(&mut self, now: Duration) {
        let held = std::mem::take(&mut self.held);
        let (ended, held): (Vec<_>, Vec<_>) = held.into_iter().partition(|tool_use| self.thread_ended(tool_use));
        self.held = held;
        for tool_use in &ended {
            self.release_clock(tool_use, now);
        }
    }

    fn release_clock(&mut self, tool_use: &ToolUse, now: Duration) {
        if self.idle_may_be_stale && self.thread_ended(tool_use) {
            self.clock.disarm();
        }
        self.clock.release(now);
    }

    /// Takes the next tool use that is ours and still open from the queue.
    fn next(&mut self, now: Duration) -> Option<ToolCall> {
        while self.current.is_none() && !self.draining {
            let queued = self.queue.pop_front()?;
            let is_open = !self.thread_ended(&queued.tool_use) && !self.answered.contains(&queued.tool_use.call.id);
            if is_open && self.is_ours(&queued.tool_use) {
                let call = queued.tool_use.call.clone();
                self.current = Some(queued);
                return Some(call);
            }
            if queued.confirmed {
                // Somebody else's allowed tool use: its owner is about to work on it.
                if is_open {
                    self.clock.disarm();
                }
                self.release_clock(&queued.tool_use, now);
            }
        }
        None
    }

    fn ran(&mut self, id: &str, now: Duration) -> Vec<Effect> {
        let Some(current) = self.current.as_ref().filter(|current| current.tool_use.call.id == id) else {
            return Vec::new();
        };
        if self.thread_ended(&current.tool_use) {
            self.finish(id, now);
            return self.advance(None, now);
        }
        vec![Effect::Post { id: id.to_owned() }]
    }

    fn finish(&mut self, id: &str, now: Duration) {
        if let Some(current) = self.current.take_if(|current| current.tool_use.call.id == id)
            && current.confirmed
        {
            self.release_clock(&current.tool_use, now);
        }
    }

    fn is_ours(&self, tool_use: &ToolUse) -> bool {
        !tool_use.custom && (self.owns)(&tool_use.call.name)
    }

    fn thread_ended(&self, tool_use: &ToolUse) -> bool {
        tool_use.call.thread.as_ref().is_some_and(|thread| self.ended_threads.contains(thread))
    }
}

#[cfg(test)]
mod tests;
