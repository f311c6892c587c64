//! The conversation as the model sees it: a fold over the log, in the shape of the Messages API.
//!
//! Appended to, so that a prefix once sent stays byte for byte the same and the endpoint's cache holds; changed at its
//! beginning only where the log says so (see `context`).

mod files;

use postern_model::content::Block;
use postern_model::ids::EventId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The longest text of one result that the model sees whole, in characters.
const WHOLE_RESULT: usize = 100_000;
/// How much of each end it sees of a longer one, in characters.
const RESULT_END: usize = 4_000;

/// How long a text may be in a conversation that is shortened, in characters: its ends are kept.
const SHORT_TEXT: usize = 8_000;
/// What stands for a result that was cleared.
const CLEARED: &str = "[This result was cleared to save room. Run the tool again if you need it.]";
/// A picture or document costs tokens by its pages, not by its bytes.
const MOST_DATA_WEIGHT: usize = 8_000;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The user, and the results of tools.
    User,
    /// Whoever runs the agent, in mid-conversation.
    System,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Blocks in the shape of the Messages API; never empty.
    pub content: Vec<Value>,
}

/// The messages so far; roles alternate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    messages: Vec<Message>,
    weight: u64,
}

impl Conversation {
    /// The messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(crate) fn user(&mut self, content: &[Block]) {
        self.push(Role::User, content.iter().filter(|block| has_content(block)).map(wire).collect());
    }

    /// Adds system text: behind all that the model has not answered yet, also what is added later.
    pub(crate) fn system(&mut self, content: &[Block]) {
        if !matches!(self.messages.last(), Some(last) if last.role != Role::Assistant) {
            // What it belongs to was blank, and there is no system text without a user's turn before it.
            self.instruct("(no text)");
        }
        self.push(Role::System, content.iter().filter(|block| has_content(block)).map(wire).collect());
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

    /// Adds the messages of another.
    pub(crate) fn extend(&mut self, other: &Self) {
        for message in &other.messages {
            self.push(message.role, message.content.clone());
        }
    }

    /// Adds words of the loop's own.
    pub(crate) fn instruct(&mut self, text: &str) {
        self.push(Role::User, vec![json!({"type": "text", "text": text})]);
    }

    /// What it weighs, in bytes of text.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// What a summary would take the place of weighs.
    pub(crate) fn head_weight(&self) -> u64 {
        weight(self.messages[..self.tail()].iter().filter(|message| message.role != Role::System))
    }

    /// What clearing all results but the newest would free.
    pub(crate) fn clearable(&self, keep: usize) -> u64 {
        let results = || self.messages.iter().rev().flat_map(|message| message.content.iter().rev()).filter(is_result);
        results().skip(keep).map(|result| block_weight(&result["content"]).saturating_sub(CLEARED.len() as u64)).sum()
    }

    /// Clears all results but the newest.
    pub(crate) fn clear(&mut self, keep: usize) {
        let blocks = self.messages.iter_mut().rev().flat_map(|message| message.content.iter_mut().rev());
        for result in blocks.filter(|block| is_result(&&**block)).skip(keep) {
            if block_weight(&result["content"]) > CLEARED.len() as u64 {
                result["content"] = json!([{"type": "text", "text": CLEARED}]);
            }
        }
        self.weigh();
    }

    /// Keeps the ends of every long text, and system text whole.
    pub(crate) fn shorten(&mut self) {
        let said = self.messages.iter_mut().filter(|message| message.role != Role::System);
        for block in said.flat_map(|message| message.content.iter_mut()) {
            shorten_text(block);
            if let Some(content) = block.get_mut("content").and_then(Value::as_array_mut) {
                content.iter_mut().for_each(shorten_text);
            }
        }
        self.weigh();
    }

    /// Puts a text in the place of everything but the end, and of no system text: what its operator said a summary does not
    /// soften.
    pub(crate) fn compact(&mut self, stand_in: &str) {
        let tail = self.messages.split_off(self.tail());
        let head = std::mem::take(&mut self.messages).into_iter();
        let system = head.filter(|message| message.role == Role::System).flat_map(|message| message.content).collect();
        self.instruct(stand_in);
        self.push(Role::System, system);
        for message in tail {
            self.push(message.role, message.content);
        }
        self.weigh();
    }

    /// Where the end begins that no summary takes the place of: the newest input, with the calls that it answers.
    fn tail(&self) -> usize {
        let count = self.messages.len() - self.trailing_system();
        match self.messages[..count].last() {
            Some(last) if last.role == Role::Assistant => count,
            Some(last) if last.content.first().is_some_and(|block| is_result(&block)) => count.saturating_sub(2),
            _ => count.saturating_sub(1),
        }
    }

    /// How many messages of system text stand at the end: one or none.
    fn trailing_system(&self) -> usize {
        usize::from(self.messages.last().is_some_and(|last| last.role == Role::System))
    }

    fn weigh(&mut self) {
        self.weight = weight(&self.messages);
    }

    fn push(&mut self, role: Role, content: Vec<Value>) {
        self.weight += content.iter().map(block_weight).sum::<u64>();
        // The user's turn is one message, and system text stands behind it.
        let end = match role {
            Role::User => self.messages.len() - self.trailing_system(),
            Role::System | Role::Assistant => self.messages.len(),
        };
        match self.messages[..end].last_mut() {
            _ if content.is_empty() => {}
            Some(last) if last.role == role => last.content.extend(content),
            _ => self.messages.insert(end, Message { role, content }),
        }
    }
}

fn is_result(block: &&Value) -> bool {
    block["type"] == "tool_result"
}

fn weight<'a>(messages: impl IntoIterator<Item = &'a Message>) -> u64 {
    messages.into_iter().flat_map(|message| &message.content).map(block_weight).sum()
}

fn block_weight(value: &Value) -> u64 {
    // As deep as what it was parsed from, and parsers bound that.
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(block_weight).sum(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("data", Value::String(data)) => data.len().min(MOST_DATA_WEIGHT) as u64,
                // Whatever the file holds.
                ("file_id", Value::String(_)) => MOST_DATA_WEIGHT as u64,
                _ => key.len() as u64 + block_weight(value),
            })
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}

fn shorten_text(block: &mut Value) {
    if block["type"] == "text"
        && let Some(text) = block["text"].as_str()
        && let Some(shorter) = ends(text, SHORT_TEXT, SHORT_TEXT / 4)
    {
        block["text"] = shorter.into();
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
        Block::Text { text } => {
            let text = ends(text, WHOLE_RESULT, RESULT_END);
            text.map_or_else(|| wire(block), |text| json!({"type": "text", "text": text}))
        }
        other => wire(other),
    }
}

/// Both ends of a text that has more characters than `whole`.
fn ends(text: &str, whole: usize, end: usize) -> Option<String> {
    let count = if text.len() > whole { text.chars().count() } else { 0 };
    if count <= whole {
        return None;
    }
    let head: String = text.chars().take(end).collect();
    let tail: String = text.chars().skip(count - end).collect();
    let left_out = count - 2 * end;
    Some(format!("{head}\n[{left_out} of {count} characters left out: ask for less at once to see them]\n{tail}"))
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
    fn system_text_stands_behind_the_turn_that_it_belongs_to_and_no_summary_takes_its_place() {
        let mut conversation = Conversation::default();
        conversation.user(&[Block::text("a")]);
        conversation.system(&[Block::text("RULE 1")]);
        conversation.user(&[Block::text("b")]);
        conversation.assistant(vec![json!({"type": "text", "text": "c"})]);
        conversation.user(&[Block::text(" ")]);
        conversation.system(&[Block::text(format!("RULE 2 {}", "x".repeat(SHORT_TEXT)))]);
        let shape = |conversation: &Conversation| -> Vec<_> {
            conversation.messages().iter().map(|message| (message.role, message.content.len())).collect()
        };
        let (user, system, assistant) = ((Role::User, 1), (Role::System, 1), (Role::Assistant, 1));
        assert_eq!(shape(&conversation), [(Role::User, 2), system, assistant, user, system]);
        conversation.shorten();
        let rule = conversation.messages()[4].clone();
        assert!(rule.content[0]["text"].as_str().unwrap().len() > SHORT_TEXT);
        conversation.assistant(vec![json!({"type": "text", "text": "d"})]);
        conversation.user(&[Block::text("e")]);
        conversation.compact("SUMMARY");
        assert_eq!(shape(&conversation), [(Role::User, 2), (Role::System, 2)]);
        let [first, kept] = conversation.messages() else { panic!("two messages") };
        assert_eq!(
            (first.content[0]["text"].as_str(), first.content[1]["text"].as_str()),
            (Some("SUMMARY"), Some("e"))
        );
        assert_eq!((kept.content[0]["text"].as_str(), &kept.content[1]), (Some("RULE 1"), &rule.content[0]));
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
