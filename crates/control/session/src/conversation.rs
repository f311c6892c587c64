//! The conversation as the model sees it: a fold over the log, in the shape of the Messages API.
//!
//! Only ever appended to, so that a prefix once sent stays byte for byte the same and the endpoint's cache holds.

use postern_model::content::Block;
use postern_model::ids::EventId;
use serde_json::{Value, json};

/// The longest text of one result that the model sees whole, in characters.
const WHOLE_RESULT: usize = 100_000;
/// How much of each end it sees of a longer one, in characters.
const RESULT_END: usize = 4_000;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The user, and the results of tools.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Blocks in the shape of the Messages API; never empty.
    pub content: Vec<Value>,
}

/// The messages so far; roles alternate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    /// The messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(crate) fn user(&mut self, content: &[Block]) {
        self.push(Role::User, content.iter().filter(|block| has_content(block)).map(wire).collect());
    }

    pub(crate) fn assistant(&mut self, content: Vec<Value>) {
        self.push(Role::Assistant, content);
    }

    pub(crate) fn result(&mut self, call: &EventId, content: Option<&[Block]>, is_error: bool) {
        let mut blocks: Vec<_> =
            content.unwrap_or_default().iter().filter(|block| has_content(block)).map(shorten).collect();
        if blocks.is_empty() {
            blocks.push(json!({"type": "text", "text": "(no output)"}));
        }
        let mut result = json!({"type": "tool_result", "tool_use_id": call, "content": blocks});
        if is_error {
            result["is_error"] = true.into();
        }
        self.push(Role::User, vec![result]);
    }

    fn push(&mut self, role: Role, content: Vec<Value>) {
        match self.messages.last_mut() {
            _ if content.is_empty() => {}
            Some(last) if last.role == role => last.content.extend(content),
            _ => self.messages.push(Message { role, content }),
        }
    }
}

/// The endpoint refuses text that is empty or only white space.
fn has_content(block: &Block) -> bool {
    !matches!(block, Block::Text { text } if text.trim().is_empty()) && !matches!(block, Block::Redacted {})
}

fn wire(block: &Block) -> Value {
    serde_json::to_value(block).expect("blocks have string keys and no failing serializer")
}

fn shorten(block: &Block) -> Value {
    match block {
        Block::Text { text } if text.len() > WHOLE_RESULT => json!({"type": "text", "text": ends(text)}),
        other => wire(other),
    }
}

fn ends(text: &str) -> String {
    let count = text.chars().count();
    if count <= WHOLE_RESULT {
        return text.to_owned();
    }
    let head: String = text.chars().take(RESULT_END).collect();
    let tail: String = text.chars().skip(count - RESULT_END).collect();
    let left_out = count - 2 * RESULT_END;
    format!("{head}\n[{left_out} of {count} characters left out: ask for less at once to see them]\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_role_become_one_message_and_blank_text_is_left_out() {
        let mut conversation = Conversation::default();
        conversation.user(&[Block::text("a"), Block::text(" \n")]);
        conversation.user(&[Block::text("b")]);
        conversation.assistant(vec![]);
        conversation.assistant(vec![json!({"type": "text", "text": "c"})]);
        let shape: Vec<_> = conversation.messages().iter().map(|m| (m.role, m.content.len())).collect();
        assert_eq!(shape, [(Role::User, 2), (Role::Assistant, 1)]);
    }

    #[test]
    fn a_result_always_has_content_and_a_long_one_shows_its_ends() {
        let mut conversation = Conversation::default();
        let call = EventId::parse("sevt_1").unwrap();
        conversation.result(&call, None, true);
        conversation.result(&call, Some(&[Block::text(format!("<{}>", "\u{e9}".repeat(100_000)))]), false);
        let [message] = conversation.messages() else { panic!("one message") };
        assert_eq!(message.content[0]["content"][0]["text"], "(no output)");
        assert_eq!(message.content[0]["is_error"], true);
        let text = message.content[1]["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with('<') && text.ends_with('>') && text.contains("[92002 of 100002 characters left out"));
    }
}
