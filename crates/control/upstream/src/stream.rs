//! Reads a streamed answer: server-sent events in, what the session needs to know out.

use std::collections::BTreeMap;

use postern_model::event::{ModelUsage, StopDetails};
use postern_session::{ModelEvent, Response, ResponseBlock, Stop};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The deepest input of a call.
const MAX_INPUT_DEPTH: usize = 64;
/// The largest answer that is put together, in bytes of text, thinking and tool input, and of the events that blocks begin with.
const MAX_ANSWER: usize = 32 << 20;

/// Why a stream is not an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Not what the Messages API sends.
    #[error("the event `{0}` of the answer does not read")]
    Malformed(String),
    /// More than is put together.
    #[error("the answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The endpoint reports an error; the JSON of the event.
    #[error("the endpoint reports an error")]
    Reported(String),
}

/// Puts one answer together.
#[derive(Debug, Default)]
pub struct Decoder {
    blocks: BTreeMap<usize, Forming>,
    stop: Option<String>,
    stop_details: Option<Value>,
    usage: ModelUsage,
    size: usize,
}

#[derive(Debug)]
struct Forming {
    block: Map<String, Value>,
    text: String,
    signature: String,
    is_complete: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Wire {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: usize,
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: End,
        #[serde(default)]
        usage: Tokens,
    },
    MessageStop,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    usage: Tokens,
}

#[derive(Deserialize)]
struct End {
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    stop_details: Option<Value>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
struct Tokens {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
}

impl Decoder {
    /// Tokens counted so far.
    pub fn usage(&self) -> ModelUsage {
        self.usage
    }

    /// Takes the next event of the stream: its name and its data.
    ///
    /// # Errors
    /// The stream is no answer; nothing more is to be read from it.
    pub fn push(&mut self, name: &str, data: &str) -> Result<Option<ModelEvent>, StreamError> {
        if name == "error" {
            return Err(StreamError::Reported(data.to_owned()));
        }
        let malformed = || StreamError::Malformed(name.chars().take(40).collect());
        match serde_json::from_str(data).map_err(|_| malformed())? {
            Wire::MessageStart { message } => {
                self.count(&message.usage);
                return Ok(Some(ModelEvent::Counted(self.usage)));
            }
            Wire::ContentBlockStart { index, content_block } => {
                // As it came: what a block holds besides its text is kept, too.
                self.take(data.len())?;
                return Ok(self.begin(index, content_block));
            }
            Wire::ContentBlockDelta { index, delta } => return self.grow(index, delta, malformed),
            Wire::ContentBlockStop { index } => {
                self.blocks.get_mut(&index).ok_or_else(malformed)?.is_complete = true;
            }
            Wire::MessageDelta { delta, usage } => {
                self.stop = delta.stop_reason.or(self.stop.take());
                self.stop_details = delta.stop_details.or(self.stop_details.take());
                self.count(&usage);
            }
            Wire::MessageStop => return Ok(Some(ModelEvent::Finished(self.finish()))),
            Wire::Other => {}
        }
        Ok(None)
    }

    /// Counts are totals: a later one replaces an earlier one.
    fn count(&mut self, tokens: &Tokens) {
        let replace = |slot: &mut u64, value: Option<u64>| *slot = value.unwrap_or(*slot);
        replace(&mut self.usage.input_tokens, tokens.input_tokens);
        replace(&mut self.usage.output_tokens, tokens.output_tokens);
        replace(&mut self.usage.cache_creation_input_tokens, tokens.cache_creation_input_tokens);
        replace(&mut self.usage.cache_read_input_tokens, tokens.cache_read_input_tokens);
    }

    fn take(&mut self, bytes: usize) -> Result<(), StreamError> {
        self.size += bytes;
        if self.size > MAX_ANSWER { Err(StreamError::TooLarge) } else { Ok(()) }
    }

    fn begin(&mut self, index: usize, block: Map<String, Value>) -> Option<ModelEvent> {
        let kind = kind(&block);
        let started = is_thinking(kind).then_some(ModelEvent::ThinkingStarted { index });
        let text = if kind == "text" { owned(&block, "text") } else { String::new() };
        let first = (!text.is_empty()).then(|| ModelEvent::Text { index, text: text.clone() });
        let text = if kind == "thinking" { owned(&block, "thinking") } else { text };
        let signature = owned(&block, "signature");
        self.blocks.insert(index, Forming { block, text, signature, is_complete: false });
        started.or(first)
    }

    fn grow(
        &mut self,
        index: usize,
        delta: Delta,
        malformed: impl Fn() -> StreamError,
    ) -> Result<Option<ModelEvent>, StreamError> {
        let forming = self.blocks.get_mut(&index).ok_or_else(&malformed)?;
        let piece = match &delta {
            Delta::Text { text } => text,
            Delta::Thinking { thinking } => thinking,
            Delta::Signature { signature } => signature,
            Delta::InputJson { partial_json } => partial_json,
            Delta::Other => return Ok(None),
        };
        self.size += piece.len();
        if self.size > MAX_ANSWER {
            return Err(StreamError::TooLarge);
        }
        let target = if matches!(delta, Delta::Signature { .. }) { &mut forming.signature } else { &mut forming.text };
        target.push_str(piece);
        Ok(match delta {
            Delta::Text { text } => Some(ModelEvent::Text { index, text }),
            _ => None,
        })
    }

    fn finish(&mut self) -> Response {
        let cut = self.stop.as_deref() == Some("max_tokens");
        let blocks = std::mem::take(&mut self.blocks)
            .into_iter()
            .filter(|(_, forming)| !cut || !forming.is_cut_call())
            .map(|(index, forming)| (index, forming.finish()))
            .collect();
        Response { blocks, stop: self.stop(), usage: self.usage }
    }

    fn stop(&self) -> Stop {
        match self.stop.as_deref() {
            Some("tool_use") => Stop::ToolUse,
            Some("max_tokens") => Stop::MaxTokens,
            Some("pause_turn") => Stop::PauseTurn,
            Some("model_context_window_exceeded") => Stop::ContextExceeded,
            Some("refusal") => Stop::Refusal(Some(self.refusal())),
            // `end_turn`, `stop_sequence`, and what endpoints of other makers call a natural end.
            Some(_) | None => Stop::EndTurn,
        }
    }

    fn refusal(&self) -> StopDetails {
        let text = |key: &str| self.stop_details.as_ref().and_then(|details| details[key].as_str()).map(str::to_owned);
        StopDetails::Refusal { category: text("category"), explanation: text("explanation") }
    }
}

impl Forming {
    fn finish(mut self) -> ResponseBlock {
        match kind(&self.block) {
            "text" => ResponseBlock::Text(self.text),
            "thinking" => {
                self.block.insert("thinking".into(), self.text.into());
                self.block.insert("signature".into(), self.signature.into());
                ResponseBlock::Thinking(self.block.into())
            }
            "redacted_thinking" => ResponseBlock::Thinking(self.block.into()),
            "tool_use" => ResponseBlock::ToolUse { name: owned(&self.block, "name"), input: self.input() },
            _ => ResponseBlock::Other(self.block.into()),
        }
    }

    /// A call whose input was cut off by the limit of output tokens: nobody meant it as it stands.
    fn is_cut_call(&self) -> bool {
        kind(&self.block) == "tool_use" && (!self.is_complete || self.input().is_err())
    }

    fn input(&self) -> Result<Map<String, Value>, String> {
        if self.text.trim().is_empty() {
            return match self.block.get("input") {
                Some(Value::Object(input)) => shallow(input.clone()),
                _ => Ok(Map::new()),
            };
        }
        let input = serde_json::from_str(&self.text).map_err(|error| error.to_string())?;
        shallow(input)
    }
}

/// Refuses what could be stored with a few levels round it and then not be read again.
fn shallow(input: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if is_deeper(&input, MAX_INPUT_DEPTH) {
        return Err(format!("it is nested deeper than {MAX_INPUT_DEPTH} levels"));
    }
    Ok(input)
}

fn is_deeper(object: &Map<String, Value>, levels: usize) -> bool {
    // Bounded by the parser's own recursion limit, so this recursion is too.
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    1 + object.values().map(depth).max().unwrap_or(0) > levels
}

fn kind(block: &Map<String, Value>) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn is_thinking(kind: &str) -> bool {
    kind == "thinking" || kind == "redacted_thinking"
}

fn owned(block: &Map<String, Value>, key: &str) -> String {
    block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
