//! When an agent's conversation is shortened: an addition to the contract, left out where nobody sets it.

use serde::{Deserialize, Serialize};

use crate::Problem;

/// The fewest tokens that a conversation may be held below: less leaves no room for a turn.
const LEAST_TOKENS: u64 = 1_000;

/// What an agent says otherwise than the server. Zero tokens mean never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextSettings {
    /// Old results of tools are cleared when the conversation has more tokens than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_above_tokens: Option<u64>,
    /// How many of the newest results are never cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_tool_results: Option<u32>,
    /// The conversation is summarised when it has more tokens than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_above_tokens: Option<u64>,
}

impl ContextSettings {
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (name, tokens) in
            [("clear_above_tokens", self.clear_above_tokens), ("compact_above_tokens", self.compact_above_tokens)]
        {
            if tokens.is_some_and(|tokens| (1..LEAST_TOKENS).contains(&tokens)) {
                let message = format!("must be 0 for never, or at least {LEAST_TOKENS}");
                return Err(Problem::invalid_at(&format!("context.{name}"), message));
            }
        }
        Ok(())
    }
}
