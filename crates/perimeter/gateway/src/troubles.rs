//! The last things that went wrong, for `status`: codes and sentences of ours, nothing that an agent or server wrote.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use crate::limits;

/// One thing that went wrong.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// When.
    pub(crate) at: SystemTime,
    /// A stable code.
    pub(crate) code: String,
    /// For the operator.
    pub(crate) message: String,
}

/// The last of them, oldest first.
#[derive(Default)]
pub(crate) struct Troubles(Mutex<VecDeque<Trouble>>);

impl Troubles {
    /// Adds one; the oldest goes where there are too many.
    pub(crate) fn note(&self, code: &str, message: impl Into<String>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= limits::TROUBLES {
            kept.pop_front();
        }
        kept.push_back(Trouble { at: SystemTime::now(), code: code.to_owned(), message: message.into() });
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
