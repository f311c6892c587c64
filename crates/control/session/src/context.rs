//! Keeping the conversation inside the model's window: old results of tools are cleared, then all but the end is replaced
//! by the model's own summary. Both rarely and much at a time: each changes the prefix that the endpoint has cached.
//!
//! The log keeps everything; only what the model is sent becomes shorter.

use postern_model::agent::ContextSettings;
use postern_model::event::{EventBody, ModelUsage, RetryStatus, SessionError, SessionErrorKind};
use postern_model::ids::EventId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::conversation::Conversation;
use crate::input::{Effect, Response, ResponseBlock, Stop};
use crate::machine::Step;
use crate::marks::Mark;

/// What the model is asked for when the conversation is to be shortened.
const SUMMARISE: &str = "Stop here: the conversation grows too long and its beginning is about to be replaced by what you \
     write now. Write a summary for yourself to go on from, in plain text and without calling a tool: what the user asked \
     for, in their words where the words matter; decisions and their reasons; what was done and what came of it, with \
     names of files, commands, identifiers and numbers exactly as they are; what failed and why; what is left to do, and \
     the very next step. Leave out what no longer matters.";

/// When the conversation is shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLimits {
    /// Old results of tools are cleared when the conversation has more tokens than this; `None`: never.
    pub clear_above: Option<u64>,
    /// How many of the newest results are never cleared.
    pub keep_results: usize,
    /// The conversation is summarised when it has more tokens than this; `None`: only when the endpoint refuses it.
    pub compact_above: Option<u64>,
}

impl Default for ContextLimits {
    fn default() -> Self {
        Self { clear_above: Some(100_000), keep_results: 5, compact_above: Some(150_000) }
    }
}

impl ContextLimits {
    /// These, with what an agent says otherwise. Zero tokens mean never.
    #[must_use]
    pub fn with(self, agent: Option<ContextSettings>) -> Self {
        let Some(agent) = agent else { return self };
        let above = |own: Option<u64>, other| own.map_or(other, |tokens| (tokens > 0).then_some(tokens));
        Self {
            clear_above: above(agent.clear_above_tokens, self.clear_above),
            keep_results: agent.keep_tool_results.map_or(self.keep_results, |keep| keep as usize),
            compact_above: above(agent.compact_above_tokens, self.compact_above),
        }
    }
}

/// Clearing has to free at least this share of what it is to stay below: it costs the endpoint's cache.
const WORTH_CLEARING: u64 = 4;
/// The same for a summary.
const WORTH_COMPACTING: u64 = 8;
/// What a token has in bytes, roughly: only what was added since the endpoint last counted is guessed with it.
const BYTES_PER_TOKEN: u64 = 4;
/// What a token has at most, in text that is not chosen to fool this.
const MOST_BYTES_PER_TOKEN: u64 = 8;

/// How large the conversation is, as far as the log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// What the endpoint counted last, the answer included.
    tokens: u64,
    /// What the conversation weighed then, in bytes.
    weight: u64,
    /// The endpoint said that it is too much.
    pub(crate) outgrown: bool,
    /// It was shortened, and not asked with since.
    pub(crate) shortened: bool,
    /// The request that began last is the first with the shortened conversation.
    tried_short: bool,
}

impl Size {
    pub(crate) fn counted(&mut self, usage: &ModelUsage, conversation: &Conversation) {
        let input = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
        self.tokens = input + usage.output_tokens;
        self.weight = conversation.weight();
    }

    /// The answer that was counted weighs this.
    pub(crate) fn answered(&mut self, weight: u64) {
        self.weight += weight;
    }

    /// The next step of the turn is asked for.
    pub(crate) fn asked(&mut self) {
        self.tried_short = std::mem::take(&mut self.shortened);
    }

    /// The turn is over: what comes next is a new try.
    pub(crate) fn rest(&mut self) {
        self.shortened = false;
        self.tried_short = false;
    }

    /// The conversation's tokens, by the last count and by weight for what changed since.
    fn tokens(&self, conversation: &Conversation) -> u64 {
        let (now, then) = (conversation.weight(), self.weight);
        let grown = now.saturating_sub(then) / BYTES_PER_TOKEN;
        let shrunk = then.saturating_sub(now) / BYTES_PER_TOKEN;
        // Some endpoints count nothing.
        (self.tokens + grown).saturating_sub(shrunk).max(now / MOST_BYTES_PER_TOKEN)
    }
}

/// What a model request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// The next step of the turn.
    #[default]
    Turn,
    /// A summary of the conversation.
    Summary,
    /// An answer that the conversation does not hold: a judge's.
    Aside,
}

/// What comes before the next step of the turn.
enum Need {
    Nothing,
    Clear { keep: usize },
    Shorten,
    Summarise,
}

impl Step<'_> {
    /// Begins the next model request: for the next step of the turn, or for a summary first.
    pub(crate) fn request(&mut self) {
        let mark = match self.need() {
            Need::Summarise => {
                let price = self.thread().prices.agent;
                let start = self.begin_costly(EventBody::ModelRequestStart {}, Some(Mark::Compacting), price);
                return self.push(Effect::CallModel(start));
            }
            Need::Shorten => {
                self.append_with(EventBody::AgentThreadContextCompacted {}, Vec::new());
                None
            }
            Need::Clear { keep } => Some(Mark::Cleared { keep }),
            Need::Nothing => None,
        };
        self.flush();
        let price = self.thread().prices.agent;
        let start = self.begin_costly(EventBody::ModelRequestStart {}, mark, price);
        self.push(Effect::CallModel(start));
    }

    fn need(&self) -> Need {
        let (state, limits) = (self.state(), self.context());
        let conversation = &state.conversation;
        if state.size.outgrown {
            return if conversation.head_weight() > 0 { Need::Summarise } else { Need::Shorten };
        }
        let tokens = state.size.tokens(conversation);
        let is_worth = |bytes: u64, limit: u64, share| bytes / BYTES_PER_TOKEN >= limit / share;
        if let Some(limit) = limits.compact_above.filter(|limit| tokens > *limit)
            && !state.size.shortened
            && is_worth(conversation.head_weight(), limit, WORTH_COMPACTING)
        {
            return Need::Summarise;
        }
        let keep = limits.keep_results;
        match limits.clear_above.filter(|limit| tokens > *limit) {
            Some(limit) if is_worth(conversation.clearable(keep), limit, WORTH_CLEARING) => Need::Clear { keep },
            _ => Need::Nothing,
        }
    }

    /// The summary is there: it takes the place of what it summarises.
    pub(crate) fn summarised(&mut self, start: &EventId, response: Response) {
        let is_refused = matches!(response.stop, Stop::Refusal(_));
        let summary = text_of(response.blocks);
        self.end_request(start, response.usage, false);
        if is_refused || summary.trim().is_empty() {
            let message = "The conversation grew too long, and the model wrote no summary of it. Send a message to try \
                           again, or start a new session.";
            return self.exhausted(SessionErrorKind::CompactionLimitReachedError, message.into());
        }
        let kept = vec![json!({"type": "text", "text": summary})];
        self.append_with(EventBody::AgentThreadContextCompacted {}, kept);
        self.settle();
    }

    /// The endpoint says that the conversation is too long. It is shortened and asked for once more.
    pub(crate) fn outgrew(&mut self, purpose: Purpose, message: &str) {
        if self.question().is_some() {
            return self.exhausted(SessionErrorKind::ModelRequestFailedError, message.to_owned());
        }
        let size = self.state().size;
        let was_shortened = match purpose {
            Purpose::Turn => size.tried_short,
            // The second time the model is shown less of what it is to summarise.
            Purpose::Summary => size.outgrown,
            // No endpoint is asked for it under this name.
            Purpose::Aside => true,
        };
        if was_shortened {
            let message = format!("{message} It was shortened and is still too long. Start a new session.");
            return self.exhausted(SessionErrorKind::CompactionLimitReachedError, message);
        }
        let error = SessionError {
            kind: SessionErrorKind::ModelRequestFailedError,
            repository_url: None,
            mcp_server_name: None,
            credential_id: None,
            vault_id: None,
            message: format!("{message} It is shortened and tried again."),
            retry_status: RetryStatus::Retrying {},
        };
        self.append_with(EventBody::SessionError { error }, Mark::Outgrown.kept());
        self.settle();
    }
}

/// What the model is sent when it is asked for a summary.
pub(crate) fn summary_request(conversation: &Conversation, size: Size) -> Conversation {
    let mut asked = conversation.clone();
    if size.outgrown {
        asked.clear(0);
        asked.shorten();
    }
    asked.instruct(SUMMARISE);
    asked
}

fn text_of(blocks: Vec<(usize, ResponseBlock)>) -> String {
    let text = |(_, block)| match block {
        ResponseBlock::Text(text) => Some(text),
        ResponseBlock::Thinking(_) | ResponseBlock::ToolUse { .. } | ResponseBlock::Other(_) => None,
    };
    blocks.into_iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

/// The text that stands for the part of the conversation that was summarised.
pub(crate) fn stand_in(kept: &[Value]) -> Option<String> {
    let summary = kept.first()?["text"].as_str()?;
    Some(format!(
        "[The conversation before this point was too long and is replaced by your own summary of it.]\n\n{summary}\n\n\
         [End of the summary. Whatever follows is as it was. Go on from here.]"
    ))
}
