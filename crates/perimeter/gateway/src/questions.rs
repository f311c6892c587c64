//! What MCP servers asked of a session and it has not answered yet. An answer that nobody asked for would be a message past the zone's rules, which name
//! methods and tools: a caller can answer what was asked, once. Says nothing to anybody.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{limits, phases::message};

/// The questions to one session, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Questions(Mutex<VecDeque<Question>>);

#[derive(Debug, PartialEq)]
struct Question {
    route: String,
    id: Value,
}

impl Questions {
    /// The server behind a route asks; beyond [`limits::QUESTIONS`] the oldest are forgotten.
    pub(crate) fn asked(&self, route: &str, ids: Vec<Value>) {
        // Another id could not be answered.
        let asked = ids.into_iter().filter(message::is_id).map(|id| Question { route: route.to_owned(), id });
        let mut open = self.lock();
        open.extend(asked);
        let beyond = open.len().saturating_sub(limits::QUESTIONS);
        open.drain(..beyond);
    }

    /// Whether the server behind a route asked this, and has no answer. From now on it has.
    pub(crate) fn answered(&self, route: &str, id: &Value) -> bool {
        let mut open = self.lock();
        let place = open.iter().position(|question| question.route == route && question.id == *id);
        place.and_then(|place| open.remove(place)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_answered_once_by_its_own_id_on_its_own_route() {
        let questions = Questions::default();
        questions.asked("wiki", vec![7.into(), "x".into(), Value::Null]);
        assert!(!questions.answered("tickets", &7.into()));
        assert!(!questions.answered("wiki", &"7".into()));
        assert!(!questions.answered("wiki", &Value::Null), "an id that no answer can have");
        assert!(questions.answered("wiki", &7.into()));
        assert!(!questions.answered("wiki", &7.into()));
        assert!(questions.answered("wiki", &"x".into()));
    }

    #[test]
    fn a_server_that_asks_without_end_has_its_latest_questions_answered() {
        let questions = Questions::default();
        for id in 0..=limits::QUESTIONS {
            questions.asked("wiki", vec![id.into()]);
        }
        assert!(!questions.answered("wiki", &0.into()));
        assert!(questions.answered("wiki", &1.into()));
        assert!(questions.answered("wiki", &limits::QUESTIONS.into()));
    }
}
