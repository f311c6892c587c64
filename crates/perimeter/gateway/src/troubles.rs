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
        let message: String = message.into().chars().take(limits::TROUBLE_CHARACTERS).collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One thing that goes wrong again and again does not push out the others.
        kept.retain(|one| one.code != code || one.message != message);
        if kept.len() >= limits::TROUBLES {
            kept.pop_front();
        }
        kept.push_back(Trouble { at: SystemTime::now(), code: code.to_owned(), message });
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_again_and_again_stands_once_and_nothing_is_long() {
        let troubles = Troubles::default();
        troubles.note("other", "rare");
        for _ in 0..100 {
            troubles.note("edge_unreachable", "x".repeat(100_000));
        }
        let list = troubles.list();
        assert_eq!(list.iter().map(|one| one.code.as_str()).collect::<Vec<_>>(), ["other", "edge_unreachable"]);
        assert_eq!(list[1].message.len(), limits::TROUBLE_CHARACTERS);
    }
    #[test]
    fn only_the_last_are_kept() {
        let troubles = Troubles::default();
        for number in 0..=limits::TROUBLES {
            troubles.note("edge_unreachable", number.to_string());
        }
        let list = troubles.list();
        assert_eq!((list.len(), list[0].message.as_str()), (limits::TROUBLES, "1"));
    }
}
