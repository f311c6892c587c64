//! Events as clients send them, and the checks that need nothing but the event itself (contract 3.1).

use serde::Deserialize;
use serde_json::Value;

use super::{Verdict, outcome};
use crate::Problem;
use crate::content::Block;
use crate::ids::{EventId, ThreadId};

/// The body of `POST /v1/sessions/{id}/events`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendEvents {
    /// In the order they take effect.
    pub events: Vec<ClientEvent>,
}

/// An event as a client sends it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
#[expect(missing_docs, reason = "field names and meanings are the contract's, one for one")]
pub enum ClientEvent {
    #[serde(rename = "user.message")]
    UserMessage { content: Vec<Block> },
    #[serde(rename = "user.interrupt")]
    UserInterrupt {
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    #[serde(rename = "user.tool_confirmation")]
    UserToolConfirmation {
        tool_use_id: EventId,
        result: Verdict,
        #[serde(default)]
        deny_message: Option<String>,
    },
    #[serde(rename = "user.custom_tool_result")]
    UserCustomToolResult {
        custom_tool_use_id: EventId,
        #[serde(default)]
        content: Option<Vec<Block>>,
        #[serde(default)]
        is_error: Option<bool>,
    },
    #[serde(rename = "user.tool_result")]
    UserToolResult {
        tool_use_id: EventId,
        #[serde(default)]
        content: Option<Vec<Block>>,
        #[serde(default)]
        is_error: Option<bool>,
    },
    #[serde(rename = "user.define_outcome")]
    UserDefineOutcome {
        description: String,
        rubric: Value,
        #[serde(default)]
        max_iterations: Option<u32>,
    },
    #[serde(rename = "system.message")]
    SystemMessage { content: Vec<Block> },
}

/// The most events one request may carry.
pub const MAX_EVENTS: usize = 50;
/// The most blocks of a `system.message`.
const MAX_SYSTEM_BLOCKS: usize = 1000;
/// The most text of one: as much as an agent's own.
const MAX_SYSTEM_CHARACTERS: usize = 100_000;

impl ClientEvent {
    /// The blocks that it has.
    pub fn blocks(&self) -> &[Block] {
        match self {
            Self::UserMessage { content } | Self::SystemMessage { content } => content,
            Self::UserCustomToolResult { content, .. } | Self::UserToolResult { content, .. } => {
                content.as_deref().unwrap_or_default()
            }
            Self::UserInterrupt { .. } | Self::UserToolConfirmation { .. } | Self::UserDefineOutcome { .. } => &[],
        }
    }

    /// The checks that need nothing but the event itself.
    ///
    /// # Errors
    /// 400 with the field and the reason.
    pub fn check(&self) -> Result<(), Problem> {
        match self {
            Self::UserMessage { content } => {
                if content.is_empty() {
                    return Err(Problem::invalid_at("content", "must have at least one block"));
                }
                check_blocks(content, &["text", "image", "document"])
            }
            Self::UserInterrupt { .. } => Ok(()),
            Self::UserToolConfirmation { result: Verdict::Allow, deny_message: Some(_), .. } => {
                Err(Problem::invalid_at("deny_message", "is only allowed with result \"deny\""))
            }
            Self::UserToolConfirmation { .. } => Ok(()),
            Self::UserCustomToolResult { content, .. } | Self::UserToolResult { content, .. } => {
                check_blocks(content.as_deref().unwrap_or_default(), &["text", "image", "document", "search_result"])
            }
            Self::UserDefineOutcome { description, rubric, max_iterations } => {
                outcome::check(description, rubric, *max_iterations)
            }
            Self::SystemMessage { content } => check_system(content),
        }
    }
}

fn check_system(content: &[Block]) -> Result<(), Problem> {
    if content.is_empty() || content.len() > MAX_SYSTEM_BLOCKS {
        let message = format!("must have 1 to {MAX_SYSTEM_BLOCKS} text blocks, has {}", content.len());
        return Err(Problem::invalid_at("content", message));
    }
    check_blocks(content, &["text"])?;
    let texts = content.iter().filter_map(Block::as_text);
    if texts.clone().any(|text| text.trim().is_empty()) {
        return Err(Problem::invalid_at("content", "text must not be blank"));
    }
    if texts.map(|text| text.chars().count()).sum::<usize>() > MAX_SYSTEM_CHARACTERS {
        let message = format!("must have at most {MAX_SYSTEM_CHARACTERS} characters together");
        return Err(Problem::invalid_at("content", message));
    }
    Ok(())
}

fn check_blocks(blocks: &[Block], allowed: &[&str]) -> Result<(), Problem> {
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("content.{index}");
        if !allowed.contains(&block.kind()) {
            return Err(Problem::invalid_at(&at, format!("a `{}` block is not allowed here", block.kind())));
        }
        if let Some(reason) = block.unreadable() {
            return Err(Problem::invalid_at(&format!("{at}.source"), reason));
        }
        if matches!(block, Block::Text { text } if text.is_empty()) {
            return Err(Problem::invalid_at(&at, "text must not be empty"));
        }
    }
    Ok(())
}
