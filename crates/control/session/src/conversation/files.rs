//! Pictures and documents whose bytes are a file's: the conversation names the file, and whoever asks the model puts in what
//! it is.

use serde_json::Value;

use super::Conversation;

impl Conversation {
    /// The ids of the files that its blocks name, the newest first, each once.
    pub fn files(&self) -> Vec<String> {
        let mut named: Vec<String> = Vec::new();
        for block in self.messages.iter().rev().flat_map(|message| message.content.iter().rev()) {
            let inner = block["content"].as_array().into_iter().flatten().rev();
            for id in inner.chain([block]).filter_map(file_of) {
                if !named.iter().any(|known| known == id) {
                    named.push(id.to_owned());
                }
            }
        }
        named
    }

    /// The same with something else in the place of each block that names a file: its block and the file's id are given.
    #[must_use]
    pub fn replacing_files(mut self, mut other: impl FnMut(&Value, &str) -> Value) -> Self {
        let mut replace = |block: &mut Value| {
            if let Some(id) = file_of(block) {
                *block = other(block, id);
            }
        };
        for block in self.messages.iter_mut().flat_map(|message| message.content.iter_mut()) {
            replace(block);
            block.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut replace);
        }
        self
    }
}

fn file_of(block: &Value) -> Option<&str> {
    let source = block.get("source").filter(|source| source["type"] == "file")?;
    matches!(block["type"].as_str(), Some("image" | "document")).then(|| source["file_id"].as_str())?
}

#[cfg(test)]
mod tests {
    use postern_model::ids::EventId;
    use serde_json::json;

    use super::*;

    fn picture(id: &str) -> postern_model::content::Block {
        serde_json::from_value(json!({"type": "image", "source": {"type": "file", "file_id": id}})).unwrap()
    }

    #[test]
    fn files_are_found_newest_first_and_replaced_wherever_they_stand() {
        let mut conversation = Conversation::default();
        conversation.user(&[picture("file_1"), picture("file_2")]);
        // What a model writes into a call is no block.
        let input = json!({"source": {"type": "file", "file_id": "file_9"}, "type": "image"});
        conversation.assistant(vec![json!({"type": "tool_use", "id": "x", "name": "n", "input": input})]);
        conversation.result(&EventId::parse("sevt_1").unwrap(), Some(&[picture("file_3"), picture("file_1")]), false);
        assert_eq!(conversation.files(), ["file_1", "file_3", "file_2"]);
        let replaced = conversation.replacing_files(|_, id| json!({"type": "text", "text": id}));
        assert!(replaced.files().is_empty());
        let messages = serde_json::to_value(&replaced).unwrap()["messages"].clone();
        assert_eq!(messages[0]["content"][1], json!({"type": "text", "text": "file_2"}));
        assert_eq!(messages[1]["content"][0]["input"], input);
        assert_eq!(messages[2]["content"][0]["content"][0], json!({"type": "text", "text": "file_3"}));
    }
}
