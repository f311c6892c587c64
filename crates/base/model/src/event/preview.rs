//! Previews: frames of a stream that are no events of the log (contract 3.6).

use serde::{Deserialize, Serialize};

use crate::content::Block;
use crate::ids::EventId;

/// A frame of a stream that is no event of the log: a preview (contract 3.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Preview {
    /// An event began to form.
    EventStart {
        /// Which.
        event: PreviewedEvent,
    },
    /// More of its text.
    EventDelta {
        /// Which event.
        event_id: EventId,
        /// The piece.
        delta: ContentDelta,
    },
}

/// The event that a preview announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewedEvent {
    /// `agent.message` or `agent.thinking`.
    #[serde(rename = "type")]
    pub kind: Previewable,
    /// The id it will have.
    pub id: EventId,
}

/// The types of events that have previews.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Previewable {
    /// `agent.message`.
    #[serde(rename = "agent.message")]
    Message,
    /// `agent.thinking`: start only.
    #[serde(rename = "agent.thinking")]
    Thinking,
}

/// A piece of text for one content block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentDelta {
    /// More text.
    ContentDelta {
        /// Which content block.
        index: usize,
        /// The text to append.
        content: Block,
    },
}
