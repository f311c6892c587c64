//! Questions that Cedar said yes to and would again. Where a zone has no policies of its own, all that its generated permits read is the rule, the
//! decision point, the credential and the facts: a request with another path and the same facts is the same question. There are as many of them as a
//! zone's rules can have facts, so nothing needs to be forgotten. A no is asked anew.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use super::{Action, Attribute};

/// The questions, as far as they came up.
#[derive(Debug, Default)]
pub(super) struct Settled(RwLock<BTreeSet<Question>>);

/// All that a generated permit reads of a question.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    action: &'static str,
    rule: String,
    credential: Option<String>,
    facts: Vec<String>,
}

impl Question {
    /// Of a question; `None` for a decision point whose permits read more.
    pub(super) fn of(rule: &str, action: Action, resource: &str, attributes: &[(&str, Attribute<'_>)]) -> Option<Self> {
        let credential = match action {
            Action::Connect | Action::Request => None,
            Action::CredentialUse => Some(resource.to_owned()),
            Action::ToolUse | Action::McpCall => return None,
        };
        let facts = attributes.iter().find_map(|(name, value)| match value {
            Attribute::Names(names) if *name == "facts" => Some(names.clone()),
            Attribute::Names(_) | Attribute::Text(_) | Attribute::Number(_) | Attribute::Flag(_) => None,
        })?;
        Some(Self { action: action.name(), rule: rule.to_owned(), credential, facts })
    }
}

impl Settled {
    pub(super) fn has(&self, question: &Question) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(question)
    }

    pub(super) fn add(&self, question: Question) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(question);
    }
}
