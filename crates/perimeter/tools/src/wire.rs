//! What crosses the tool channel: calls in, outcomes out, as length-framed JSON. Never carries a secret or a descriptor.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest frame either end accepts: the hosted platform's cap on one request, so a larger result could not be posted anyway.
pub const FRAME_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// How long one tool call may take when its caller names nothing shorter (contract section 5.3).
pub const CALL_DEADLINE_MS: u64 = 150_000;

/// One frame from the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Request {
    /// Run one tool; answered by one [`ToolOutcome`].
    Call(CallTool),
    /// Replace the working directory and the further roots; not answered.
    Configure {
        /// The new configuration.
        configure: Configuration,
    },
}

/// One tool call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallTool {
    /// The tool use's id; comes back in the outcome.
    pub id: String,
    /// `bash`, `read`, `write`, `edit`, `glob` or `grep`.
    pub name: String,
    /// The arguments as the model wrote them.
    pub input: Map<String, Value>,
    /// How long the call may take, in milliseconds.
    #[serde(default = "call_deadline_ms")]
    pub deadline_ms: u64,
}

fn call_deadline_ms() -> u64 {
    CALL_DEADLINE_MS
}

/// Where the tools work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configuration {
    /// Relative paths start here, the shell too.
    pub workdir: PathBuf,
    /// Directories outside of it that the file tools may also reach, and read-only ones inside.
    #[serde(default)]
    pub roots: Vec<Root>,
}

/// A further directory of the file tools.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    /// An absolute path.
    pub path: PathBuf,
    /// What the tools may do there.
    pub access: Access,
}

/// What the file tools may do under a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read only: `write` and `edit` refuse.
    Read,
    /// Read and write.
    ReadWrite,
}

/// The answer to one [`CallTool`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolOutcome {
    /// The id of the call.
    pub id: String,
    /// Whether the tool failed; its text then says why.
    pub is_error: bool,
    /// At least one block.
    pub content: Vec<Block>,
}

/// One content block, in the wire shape of `user.tool_result`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// Plain text.
    Text {
        /// The text; never empty.
        text: String,
    },
    /// An image file's content.
    Image {
        /// The encoded bytes.
        source: Source,
    },
    /// A PDF file's content.
    Document {
        /// The encoded bytes.
        source: Source,
    },
}

impl Block {
    /// A text block; the empty text becomes `(no output)`, since the wire wants words.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::Text { text: if text.is_empty() { "(no output)".to_owned() } else { text } }
    }
}

/// Where a media block's bytes are; only inline bytes leave a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Standard base64.
    Base64 {
        /// `image/png` and the like.
        media_type: String,
        /// The encoded bytes.
        data: String,
    },
}
