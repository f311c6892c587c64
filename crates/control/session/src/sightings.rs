//! Which URLs a session has shown its models, and where: what a model composes itself is none of them, so that nothing leaves
//! in a URL that nobody wrote. A fold over the log.

use std::collections::{BTreeSet, HashMap, VecDeque};

use postern_model::content::{Block, TextBlock};
use postern_model::event::{Event, EventBody};
use postern_model::ids::EventId;
use postern_model::tool::Builtin;
use postern_model::tool::web::{ToolSource, UrlSources, UserSource};
use postern_policy::web::{WebUrl, urls_in};
use serde::{Deserialize, Serialize};

/// How many URLs are remembered, and how many bytes of them; the oldest are forgotten first.
const MOST_URLS: usize = 10_000;
const MOST_BYTES: usize = 4 << 20;

/// Where a URL stood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Source {
    /// In what the user wrote.
    User,
    /// In a result of this custom tool.
    Custom(String),
    /// In a result of this web tool.
    Web(String),
}

/// The URLs that were shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sightings {
    seen: HashMap<String, BTreeSet<Source>>,
    /// Oldest first.
    order: VecDeque<String>,
    bytes: usize,
    /// Calls whose results will be a source.
    awaited: HashMap<EventId, Source>,
}

impl Sightings {
    pub(crate) fn apply(&mut self, event: &Event) {
        match &event.body {
            EventBody::UserMessage { content } => self.note_all(content, &Source::User),
            EventBody::UserDefineOutcome { description, .. } => self.note(description, &Source::User),
            EventBody::AgentCustomToolUse { name, .. } => {
                self.awaited.insert(event.id.clone(), Source::Custom(name.clone()));
            }
            EventBody::AgentToolUse { name, .. } => {
                if let Some(tool) = Builtin::named(name).filter(|tool| !tool.runs_in_sandbox()) {
                    self.awaited.insert(event.id.clone(), Source::Web(tool.name().to_owned()));
                }
            }
            EventBody::UserCustomToolResult { custom_tool_use_id: call, content, is_error, .. }
            | EventBody::AgentToolResult { tool_use_id: call, content, is_error } => {
                let source = self.awaited.remove(call);
                // An error may repeat what the model asked for.
                if let (Some(source), Some(content)) = (source, content)
                    && *is_error != Some(true)
                {
                    self.note_all(content, &source);
                }
            }
            _ => {}
        }
    }

    /// Whether the URL stood where these sources count.
    pub(crate) fn admit(&self, url: &WebUrl, sources: Option<&UrlSources>) -> bool {
        let seen = self.seen.get(&url.to_string());
        seen.is_some_and(|seen| seen.iter().any(|source| counts(source, sources)))
    }

    fn note_all(&mut self, content: &[Block], source: &Source) {
        for block in content {
            match block {
                Block::Text { text } => self.note(text, source),
                Block::SearchResult { source: url, content, .. } => {
                    self.note(url, source);
                    content.iter().for_each(|TextBlock::Text { text }| self.note(text, source));
                }
                Block::Image { .. } | Block::Document { .. } | Block::Redacted {} => {}
            }
        }
    }

    fn note(&mut self, text: &str, source: &Source) {
        for url in urls_in(text) {
            let url = url.to_string();
            if let Some(seen) = self.seen.get_mut(&url) {
                seen.insert(source.clone());
                continue;
            }
            self.bytes += url.len();
            self.order.push_back(url.clone());
            self.seen.insert(url, BTreeSet::from([source.clone()]));
        }
        while self.order.len() > MOST_URLS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= oldest.len();
            self.seen.remove(&oldest);
        }
    }
}

fn counts(source: &Source, sources: Option<&UrlSources>) -> bool {
    let Some(sources) = sources else { return true };
    let admits = |filter: &Option<ToolSource>, tool: &str| filter.as_ref().is_none_or(|filter| filter.admits(tool));
    match source {
        Source::User => !matches!(sources.user_input, Some(UserSource::None {})),
        Source::Custom(tool) => admits(&sources.client_tool_results, tool),
        Source::Web(tool) => admits(&sources.server_tool_results, tool),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(id: &str, body: serde_json::Value) -> Event {
        let mut event = json!({"id": id, "processed_at": "2026-01-01T00:00:00Z"});
        event.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        serde_json::from_value(event).unwrap()
    }

    fn said(text: &str) -> Event {
        event("sevt_1", json!({"type": "user.message", "content": [{"type": "text", "text": text}]}))
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut sightings = Sightings::default();
        let url = |n: usize| format!("https://a.example/{n}");
        for n in 0..=MOST_URLS {
            sightings.apply(&said(&url(n)));
        }
        let admit = |n: usize| sightings.admit(&url(n).parse().unwrap(), None);
        assert!(!admit(0) && admit(1) && admit(MOST_URLS));
        let mut sightings = Sightings::default();
        for n in 0..4_000 {
            sightings.apply(&said(&format!("https://a.example/{n}/{}", "x".repeat(2_000))));
        }
        assert!(sightings.bytes <= MOST_BYTES && sightings.order.len() == sightings.seen.len());
    }

    #[test]
    fn a_message_that_waited_and_took_effect_is_one_sighting() {
        let mut sightings = Sightings::default();
        sightings.apply(&said("https://a.example/x"));
        let once = sightings.clone();
        sightings.apply(&said("https://a.example/x"));
        assert_eq!(sightings, once);
    }
}
