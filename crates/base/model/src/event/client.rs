//! Events as clients send them, and the checks that need nothing but the event itself (contract 3.1).

use serde::Deserialize;
use serde_json::Value;

use super::{Verdict, outcome};
use crate::Problem;
use crate::content::{Block, DocumentSource, ImageSource};
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

impl ClientEvent {
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
            Self::SystemMessage { .. } => Err(Problem::invalid(
                "system.message: no model is taken to support system text in mid-conversation; \
                 put it into the agent's `system` or into a user.message",
            )
            .with_code("model_does_not_support_mid_conversation_system")),
        }
    }
}

fn check_blocks(blocks: &[Block], allowed: &[&str]) -> Result<(), Problem> {
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("content.{index}");
        if !allowed.contains(&block.kind()) {
            return Err(Problem::invalid_at(&at, format!("a `{}` block is not allowed here", block.kind())));
        }
        if uses_file(block) {
            return Err(Problem::invalid_at(&at, "file sources are not in this build; send the content inline"));
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

fn uses_file(block: &Block) -> bool {
    matches!(
        block,
        Block::Image { source: ImageSource::File { .. } } | Block::Document { source: DocumentSource::File { .. }, .. }
    )
}
