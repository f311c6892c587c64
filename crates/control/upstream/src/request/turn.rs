//! The messages of a request: borrowed from the conversation, and marked where a prefix ends.

use postern_session::{Message, Role};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// What ends a prefix that an endpoint keeps, as a member of a block.
pub(super) const MARK: (&str, Mark) = ("cache_control", Mark { r#type: "ephemeral" });

#[derive(Serialize)]
pub(super) struct Mark {
    r#type: &'static str,
}

/// One message.
#[derive(Serialize)]
pub(super) struct Turn<'a> {
    role: &'static str,
    content: Content<'a>,
}

enum Content<'a> {
    AsItIs(&'a [Value]),
    /// With a marker on the last block.
    Marked(&'a [Value]),
}

/// Markers on the last two user messages: the request before this one ended at the older of them, and finds its own
/// prefix in the cache there.
pub(super) fn turns<'a>(messages: &'a [Message]) -> Vec<Turn<'a>> {
    let users = messages.iter().enumerate().filter(|(_, message)| message.role == Role::User);
    let last_two: Vec<_> = users.map(|(index, _)| index).rev().take(2).collect();
    let turn = |(index, message): (usize, &'a Message)| {
        let role = match message.role {
            Role::User => "user",
            Role::System => "system",
            Role::Assistant => "assistant",
        };
        let blocks = message.content.as_slice();
        let content = if last_two.contains(&index) { Content::Marked(blocks) } else { Content::AsItIs(blocks) };
        Turn { role, content }
    };
    messages.iter().enumerate().map(turn).collect()
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (blocks, last) = match self {
            Self::AsItIs(blocks) => (*blocks, None),
            Self::Marked(blocks) => blocks.split_last().map_or((*blocks, None), |(last, blocks)| (blocks, Some(last))),
        };
        let mut all = serializer.serialize_seq(Some(blocks.len() + usize::from(last.is_some())))?;
        for block in blocks {
            all.serialize_element(block)?;
        }
        if let Some(last) = last {
            all.serialize_element(&Ending(last))?;
        }
        all.end()
    }
}

/// A block with a marker behind its own members.
struct Ending<'a>(&'a Value);

impl Serialize for Ending<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(members) = self.0 else { return self.0.serialize(serializer) };
        let mut block = serializer.serialize_map(Some(members.len() + 1))?;
        for (name, value) in members.iter().filter(|(name, _)| *name != MARK.0) {
            block.serialize_entry(name, value)?;
        }
        block.serialize_entry(MARK.0, &MARK.1)?;
        block.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(messages: &[Message]) -> Value {
        serde_json::to_value(turns(messages)).unwrap()
    }

    fn said(role: Role, texts: &[&str]) -> Message {
        Message { role, content: texts.iter().map(|text| json!({"type": "text", "text": text})).collect() }
    }

    #[test]
    fn the_last_block_of_the_last_two_user_messages_is_marked_and_no_other() {
        let messages = [
            said(Role::User, &["a"]),
            said(Role::Assistant, &["b"]),
            said(Role::User, &["c", "more"]),
            said(Role::Assistant, &["d"]),
            said(Role::User, &["e"]),
        ];
        let plain = |text: &str| json!({"type": "text", "text": text});
        let marked = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
        assert_eq!(
            rendered(&messages),
            json!([
                {"role": "user", "content": [plain("a")]},
                {"role": "assistant", "content": [plain("b")]},
                {"role": "user", "content": [plain("c"), marked("more")]},
                {"role": "assistant", "content": [plain("d")]},
                {"role": "user", "content": [marked("e")]},
            ])
        );
    }

    #[test]
    fn a_block_that_says_where_a_prefix_ends_is_marked_once() {
        let block = json!({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}});
        let text = serde_json::to_string(&turns(&[Message { role: Role::User, content: vec![block] }])).unwrap();
        assert_eq!(text.matches("cache_control").count(), 1, "{text}");
    }
}
