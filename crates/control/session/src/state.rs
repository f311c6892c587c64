//! The state of a thread: a fold over its log. The one place where an event changes anything.

use std::collections::{BTreeSet, HashSet, VecDeque};

use postern_model::Timestamp;
use postern_model::agent::{ADVISOR, ASK_ADVISOR, CONTINUE_WORKFLOW, STOP_WORKFLOW};
use postern_model::content::Block;
use postern_model::event::{
    Event, EventBody, ModelUsage, OutcomeEvaluation, Permission, RetryStatus, SessionError, StopDetails, StopReason,
    Verdict,
};
use postern_model::ids::{EventId, ThreadId};
use postern_model::money::Price;
use postern_model::session::{SessionStatus, Usage};
use postern_model::tool::Builtin;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::calls::{Call, Calls, Owner, Progress, Target};
use crate::context::{Purpose, Size, stand_in};
use crate::conversation::Conversation;
use crate::marks::{self, Mark};
use crate::origin::Origin;
use crate::outcome::Outcome;
use crate::spending::Spending;

/// How many of the user's messages a judge is shown, and how much of each.
const REMEMBERED_MESSAGES: usize = 8;
const REMEMBERED_CHARACTERS: usize = 4_000;

/// What the log says. Two states folded from the same log are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Why there is the thread.
    pub(crate) origin: Origin,
    /// What the thread does.
    pub status: SessionStatus,
    /// Why it went idle last; `None` before it first did.
    pub stop: Option<StopReason>,
    /// Details of that.
    pub(crate) stop_details: Option<StopDetails>,
    /// Whether it ever ran.
    pub has_run: bool,
    pub(crate) calls: Calls,
    pub(crate) answered: HashSet<EventId>,
    /// Accepted messages that wait for the next model request.
    pub(crate) queue: VecDeque<Event>,
    /// What other threads said and the conversation does not hold yet.
    pub(crate) inbox: VecDeque<Vec<Block>>,
    /// How runs of workflows ended, which the conversation does not hold yet either: whoever rests has a turn with it.
    pub(crate) notices: VecDeque<Vec<Block>>,
    /// What is told with the next request, and wakes nobody.
    asides: VecDeque<Vec<Block>>,
    /// The last message of this turn.
    pub(crate) said: Vec<Block>,
    /// What the user said last, oldest first: what a judge measures calls by.
    pub(crate) intent: VecDeque<String>,
    /// A message that took effect while idle: the turn it begins follows in the same transaction.
    pub(crate) has_new_input: bool,
    /// The outcome that is worked at.
    pub(crate) outcome: Option<Outcome>,
    /// Every outcome, as the session shows it.
    pub(crate) evaluations: Vec<OutcomeEvaluation>,
    /// The start of a model request that has no end yet.
    pub(crate) request: Option<EventId>,
    /// Failed model requests in a row.
    pub(crate) failures: u32,
    /// Model requests of this turn.
    pub(crate) requests: u32,
    /// The MCP servers whose failure this turn has been told of.
    pub(crate) reported: BTreeSet<String>,
    /// The last time in the log; the next event is not earlier.
    pub(crate) last_at: Timestamp,
    pub(crate) conversation: Conversation,
    pub(crate) size: Size,
    /// What the model request is for that began last.
    pub(crate) purpose: Purpose,
    /// What was spent.
    pub spending: Spending,
    /// What the tokens cost of the request or grading that began last.
    pub(crate) price: Option<Price>,
    /// The budget paused the turn before its outcome was graded.
    pub(crate) ungraded: bool,
    usage: Usage,
    running_since: Option<Timestamp>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            origin: Origin::default(),
            status: SessionStatus::Idle,
            stop: None,
            stop_details: None,
            has_run: false,
            calls: Calls::default(),
            answered: HashSet::new(),
            queue: VecDeque::new(),
            inbox: VecDeque::new(),
            notices: VecDeque::new(),
            asides: VecDeque::new(),
            said: Vec::new(),
            intent: VecDeque::new(),
            has_new_input: false,
            outcome: None,
            evaluations: Vec::new(),
            request: None,
            failures: 0,
            requests: 0,
            reported: BTreeSet::new(),
            last_at: Timestamp::UNIX_EPOCH,
            conversation: Conversation::default(),
            size: Size::default(),
            purpose: Purpose::default(),
            spending: Spending::default(),
            price: None,
            ungraded: false,
            usage: Usage::default(),
            running_since: None,
        }
    }
}

impl State {
    /// Tokens so far, and seconds of running up to `now`.
    pub fn usage(&self, now: Timestamp) -> Usage {
        let running = self.running_since.map_or(0.0, |since| seconds_between(since, now));
        Usage { active_seconds: self.usage.active_seconds + running, ..self.settled_usage() }
    }

    /// Since when it runs, if it does; not in [`State::settled_usage`].
    pub fn running_since(&self) -> Option<Timestamp> {
        self.running_since
    }

    /// Tokens so far, and seconds of running without the present run.
    pub fn settled_usage(&self) -> Usage {
        Usage { list_cost: self.spending.shown(), ..self.usage }
    }

    /// Whether calls wait that only a worker can answer.
    pub fn needs_worker(&self) -> bool {
        self.calls.need_worker()
    }

    /// Whether running from here begins a turn, instead of going on with one that waited for somebody's answers or for its
    /// budget.
    pub(crate) fn begins_turn(&self) -> bool {
        let is_amid = matches!(self.stop, Some(StopReason::RequiresAction { .. } | StopReason::BudgetReached {}));
        self.status == SessionStatus::Idle && !is_amid
    }

    /// Takes in the next event of the log; `kept` are the blocks stored beside it.
    pub fn apply(&mut self, event: &Event, kept: Option<Vec<Value>>) {
        if let Some(at) = event.processed_at {
            self.last_at = self.last_at.max(at);
        }
        match &event.body {
            EventBody::UserMessage { .. } | EventBody::SystemMessage { .. } if event.processed_at.is_none() => {
                self.queue.push_back(event.clone());
            }
            // No intent: a judge measures calls by what the user said.
            EventBody::SystemMessage { content } => {
                self.queue.retain(|queued| queued.id != event.id);
                self.conversation.system(content);
            }
            EventBody::UserMessage { content } => {
                self.queue.retain(|queued| queued.id != event.id);
                self.conversation.user(content);
                self.remember(content);
                self.has_new_input = self.status == SessionStatus::Idle && self.calls.is_empty();
            }
            EventBody::UserDefineOutcome { outcome_id, description, rubric, max_iterations } => {
                self.define(outcome_id, description, rubric, *max_iterations);
                self.remember(&[Block::text(description.clone())]);
                self.has_new_input = true;
            }
            EventBody::OutcomeEvaluationStart { .. } => {
                self.price = marks::read_price(kept.as_deref());
                self.begin_evaluation(&event.id);
            }
            EventBody::OutcomeEvaluationEnd { result, explanation, usage, .. } => {
                self.count(usage);
                self.end_evaluation(*result, explanation, self.last_at);
            }
            EventBody::UserToolConfirmation { tool_use_id, result: Verdict::Allow, .. } => {
                self.calls.confirm(tool_use_id)
            }
            EventBody::UserToolConfirmation { result: Verdict::Deny, .. } | EventBody::UserInterrupt { .. } => {}
            EventBody::UserToolResult { tool_use_id: call, content, is_error, .. }
            | EventBody::UserCustomToolResult { custom_tool_use_id: call, content, is_error, .. }
            | EventBody::AgentToolResult { tool_use_id: call, content, is_error }
            | EventBody::AgentMcpToolResult { mcp_tool_use_id: call, content, is_error } => {
                self.count_web(call, is_error.unwrap_or(false));
                self.calls.close(call);
                self.answered.insert(call.clone());
                self.conversation.result(call, content.as_deref(), is_error.unwrap_or(false));
            }
            EventBody::AgentToolUse { name, .. } if name == ASK_ADVISOR => {
                self.open_call(event, Owner::Advisor, None, false, None);
            }
            EventBody::AgentToolUse { name, input, evaluated_permission, session_thread_id, .. } => {
                let target = Target::builtin(name, input);
                let owner = if target.is_some() { Owner::Server } else { Owner::Worker };
                self.open_call(event, owner, *evaluated_permission, session_thread_id.is_some(), target);
            }
            EventBody::AgentMcpToolUse {
                mcp_server_name,
                name,
                input,
                evaluated_permission,
                session_thread_id,
                ..
            } => {
                let (server, tool) = (mcp_server_name.clone(), name.clone());
                let target = Target::Mcp { server, tool, input: input.clone() };
                self.open_call(event, Owner::Server, *evaluated_permission, session_thread_id.is_some(), Some(target));
            }
            EventBody::AgentCustomToolUse { session_thread_id, .. } => {
                self.open_call(event, Owner::Custom, None, session_thread_id.is_some(), None);
            }
            EventBody::ModelRequestStart {} => {
                self.price = marks::read_price(kept.as_deref());
                self.begin_request(event, Mark::read(kept.as_deref()));
            }
            EventBody::ModelRequestEnd { model_usage, is_error, .. } => {
                self.request = None;
                self.count(model_usage);
                if *is_error != Some(true) {
                    self.failures = 0;
                    if self.purpose == Purpose::Turn {
                        self.conversation.assistant(kept.unwrap_or_default());
                        self.size.counted(model_usage, &self.conversation);
                    }
                }
            }
            EventBody::SessionError { error: SessionError { mcp_server_name: Some(server), .. } } => {
                self.reported.insert(server.clone());
            }
            EventBody::SessionError { error } => {
                let mark = Mark::read(kept.as_deref());
                if matches!(error.retry_status, RetryStatus::Retrying {}) && mark != Some(Mark::Missing) {
                    self.failures += 1;
                }
                self.size.outgrown |= mark == Some(Mark::Outgrown);
            }
            EventBody::ThreadStatusRunning { .. } => {
                if self.begins_turn() {
                    self.said.clear();
                    self.requests = 0;
                    self.reported.clear();
                }
                self.has_run = true;
                self.has_new_input = false;
                self.become_status(SessionStatus::Running);
            }
            EventBody::ThreadStatusRescheduled { .. } => self.become_status(SessionStatus::Rescheduling),
            EventBody::ThreadStatusTerminated { .. } => {
                // Whatever was said to an advisor or an agent of a run and by it: the answered call, or the run, has what counts,
                // and nobody asks it again.
                if matches!(self.origin, Origin::Question(_) | Origin::Errand(_)) {
                    self.conversation = Conversation::default();
                    self.said.clear();
                }
                self.become_status(SessionStatus::Terminated);
            }
            EventBody::ThreadStatusIdle { stop_reason, stop_details, .. } => {
                self.failures = 0;
                self.has_new_input = false;
                let mark = Mark::read(kept.as_deref());
                self.ungraded = mark == Some(Mark::Ungraded);
                // What was not heard before the turn was given up begins no turn of its own, except how a run ended; and of two
                // turns in a row that are given up the second leaves nothing to begin another.
                let is_given_up = matches!(stop_reason, StopReason::RetriesExhausted {});
                let is_first = self.stop.as_ref().is_none_or(|before| before != stop_reason);
                if is_given_up && is_first {
                    let notices = std::mem::take(&mut self.notices);
                    self.empty_inbox();
                    self.notices = notices;
                } else if is_given_up || mark == Some(Mark::Interrupted) {
                    self.empty_inbox();
                }
                self.size.rest();
                self.stop = Some(stop_reason.clone());
                self.stop_details.clone_from(stop_details);
                self.become_status(SessionStatus::Idle);
            }
            // Where logs of before there were several threads have the note.
            EventBody::StatusIdle { .. } => {
                self.ungraded |= Mark::read(kept.as_deref()) == Some(Mark::Ungraded);
            }
            EventBody::AgentThreadContextCompacted {} => self.compact(&kept.unwrap_or_default()),
            EventBody::AgentMessage { content } => self.said.clone_from(content),
            // The answer of the call that asked for it.
            EventBody::ThreadMessageReceived { from_agent_name: Some(name), .. } if name == ADVISOR => {}
            EventBody::ThreadMessageReceived { content, from_session_thread_id, from_agent_name } => {
                self.inbox.push_back(letter(content, from_session_thread_id, from_agent_name.as_deref()));
            }
            EventBody::WorkflowRunEnded { .. } => self.notices.extend(marks::read_notice(kept.as_deref())),
            EventBody::WorkflowRunIdle { workflow_run_id }
                if Mark::read(kept.as_deref()) == Some(Mark::Interrupted) =>
            {
                self.asides.push_back(vec![Block::text(format!(
                    "[The user's interrupt paused workflow run {workflow_run_id}. `{CONTINUE_WORKFLOW}` has it go on and \
                     `{STOP_WORKFLOW}` ends it, if that is what the user wants.]"
                ))]);
            }
            EventBody::AgentThinking {}
            | EventBody::WorkflowRunCreated { .. }
            | EventBody::WorkflowRunRunning { .. }
            | EventBody::WorkflowRunIdle { .. }
            | EventBody::WorkflowRunPhaseStarted { .. }
            | EventBody::WorkflowRunPhaseEnded { .. }
            | EventBody::WorkflowRunError { .. }
            | EventBody::ThreadMessageSent { .. }
            | EventBody::ThreadCreated { .. }
            | EventBody::OutcomeEvaluationOngoing { .. }
            | EventBody::StatusRunning {}
            | EventBody::StatusRescheduled {}
            | EventBody::StatusTerminated {}
            | EventBody::SessionUpdated { .. }
            | EventBody::SessionDeleted {}
            | EventBody::SessionUsage { .. } => {}
        }
    }

    /// Whether something was said to the thread that its conversation does not hold yet.
    pub(crate) fn has_mail(&self) -> bool {
        !self.inbox.is_empty() || !self.notices.is_empty()
    }

    /// Takes in the blocks that belong to the model request that just ended.
    pub(crate) fn keep(&mut self, kept: Vec<Value>) {
        let before = self.conversation.weight();
        self.conversation.assistant(kept);
        self.size.answered(self.conversation.weight() - before);
    }

    fn begin_request(&mut self, event: &Event, mark: Option<Mark>) {
        self.request = Some(event.id.clone());
        self.requests += u32::from(mark != Some(Mark::Aside));
        self.purpose = match mark {
            Some(Mark::Compacting) => Purpose::Summary,
            Some(Mark::Aside) => Purpose::Aside,
            Some(
                Mark::Cleared { .. }
                | Mark::Again
                | Mark::Outgrown
                | Mark::Missing
                | Mark::Ungraded
                | Mark::Interrupted,
            )
            | None => Purpose::Turn,
        };
        if self.purpose != Purpose::Aside {
            self.empty_inbox();
        }
        if let Some(Mark::Cleared { keep }) = mark {
            self.conversation.clear(keep);
        }
        if self.purpose == Purpose::Turn {
            self.size.asked();
        }
    }

    /// What other threads said goes into the conversation.
    fn empty_inbox(&mut self) {
        for letters in [&mut self.asides, &mut self.inbox, &mut self.notices] {
            for content in std::mem::take(letters) {
                self.conversation.user(&content);
            }
        }
    }

    fn count(&mut self, tokens: &ModelUsage) {
        self.spending = self.spending.with(self.price.as_ref(), tokens);
        self.usage.input_tokens += tokens.input_tokens;
        self.usage.output_tokens += tokens.output_tokens;
        self.usage.cache_read_input_tokens += tokens.cache_read_input_tokens;
        self.usage.cache_creation.ephemeral_5m_input_tokens += tokens.cache_creation_input_tokens;
    }

    /// Counts a web tool that was run.
    fn count_web(&mut self, call: &EventId, is_error: bool) {
        let target = self.calls.find(call).and_then(|call| call.target.as_ref());
        let Some(Target::Web { tool, .. }) = target.filter(|_| !is_error) else { return };
        // Fetches read as 0 (contract 2.2): they have no price of their own.
        let searches = u64::from(*tool == Builtin::WebSearch);
        self.usage.server_tool_use.get_or_insert_default().web_search_requests += searches;
    }

    fn remember(&mut self, content: &[Block]) {
        let texts = content.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        let text: String = texts.collect::<Vec<_>>().join("\n").chars().take(REMEMBERED_CHARACTERS).collect();
        if text.is_empty() {
            return;
        }
        if self.intent.len() == REMEMBERED_MESSAGES {
            self.intent.pop_front();
        }
        self.intent.push_back(text);
    }

    fn compact(&mut self, kept: &[Value]) {
        if let Some(stand_in) = stand_in(kept) {
            self.conversation.compact(&stand_in);
        }
        if self.size.outgrown {
            self.conversation.shorten();
        }
        self.size.outgrown = false;
        self.size.shortened = true;
    }

    /// Takes in that the journal says this call was begun.
    pub(crate) fn start(&mut self, call: &EventId) {
        self.calls.start(call);
    }

    fn open_call(
        &mut self,
        event: &Event,
        owner: Owner,
        permission: Option<Permission>,
        is_posted: bool,
        target: Option<Target>,
    ) {
        let progress = match permission {
            Some(Permission::Ask) => Progress::Asking,
            // A denied call is open until its synthetic result, which follows in the same transaction.
            Some(Permission::Allow | Permission::Deny) | None => Progress::Free,
        };
        self.calls.open(Call { id: event.id.clone(), owner, progress, is_posted, target });
    }

    fn become_status(&mut self, status: SessionStatus) {
        if let Some(since) = self.running_since.take() {
            self.usage.active_seconds += seconds_between(since, self.last_at);
        }
        if status == SessionStatus::Running {
            self.running_since = Some(self.last_at);
        }
        self.status = status;
    }
}

/// What another thread said, as the model reads it: with whom it is from, which the text itself cannot feign.
fn letter(content: &[Block], from: &ThreadId, agent: Option<&str>) -> Vec<Block> {
    let head = match agent {
        Some(name) => format!("[Message of the agent `{name}` in thread {from}:]"),
        None => "[Message of the agent that you work for:]".to_owned(),
    };
    [Block::text(head)].into_iter().chain(content.iter().cloned()).collect()
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}
