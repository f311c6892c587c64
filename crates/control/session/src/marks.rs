//! Notes that the loop keeps beside its own events, where the model's blocks are kept: what a model request was for and
//! what became of the context. No client sees them; a log that is read back says with them what the model was sent.

use postern_model::content::Block;
use postern_model::ids::EventId;
use postern_model::money::Price;
use serde_json::{Value, json};

use crate::inline::Definition;
use crate::workflow::{Errand, Outcome, Program};

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Beside the start of a request: it asks for a summary, not for the next step.
    Compacting,
    /// Beside the start of a request: before it, the results of tools were cleared but for this many.
    Cleared { keep: usize },
    /// Beside the start of a request: it was beside the conversation, to a judge.
    Aside,
    /// Beside an error: the conversation has outgrown the model's window.
    Outgrown,
    /// Beside an error: the session goes on without something, and no request failed.
    Missing,
    /// Beside the end of a turn that a budget paused: what comes next is the grader.
    Ungraded,
    /// Beside the idle event of a session that rested before as well: workers need it, and webhooks have heard it.
    Again,
    /// Beside the end of a turn: an interrupt ended it. Beside a run that became idle: an interrupt paused it.
    Interrupted,
}

impl Mark {
    /// What is kept.
    pub(crate) fn kept(self) -> Vec<Value> {
        vec![match self {
            Self::Compacting => json!({"mark": "compacting"}),
            Self::Cleared { keep } => json!({"mark": "cleared", "keep": keep}),
            Self::Aside => json!({"mark": "aside"}),
            Self::Outgrown => json!({"mark": "outgrown"}),
            Self::Missing => json!({"mark": "missing"}),
            Self::Ungraded => json!({"mark": "ungraded"}),
            Self::Again => json!({"mark": "again"}),
            Self::Interrupted => json!({"mark": "interrupted"}),
        }]
    }

    /// Reads it back; what is kept beside other events is none.
    pub(crate) fn read(kept: Option<&[Value]>) -> Option<Self> {
        let note = kept?.first()?;
        match note["mark"].as_str()? {
            "compacting" => Some(Self::Compacting),
            "cleared" => Some(Self::Cleared { keep: usize::try_from(note["keep"].as_u64()?).ok()? }),
            "aside" => Some(Self::Aside),
            "outgrown" => Some(Self::Outgrown),
            "missing" => Some(Self::Missing),
            "ungraded" => Some(Self::Ungraded),
            "again" => Some(Self::Again),
            "interrupted" => Some(Self::Interrupted),
            _ => None,
        }
    }
}

/// Whether what is kept beside an event says that nothing happened: a session that rested still does.
pub fn is_said_again(kept: &[Value]) -> bool {
    Mark::read(Some(kept)) == Some(Mark::Again)
}

/// The note beside a thread's beginning of which call it answers.
pub(crate) fn question(call: &EventId) -> Vec<Value> {
    vec![json!({"mark": "question", "call": call})]
}

/// Reads that back.
pub(crate) fn read_question(kept: Option<&[Value]>) -> Option<EventId> {
    let note = kept?.first().filter(|note| note["mark"] == "question")?;
    EventId::parse(note["call"].as_str()?).ok()
}

/// The note beside a thread's beginning of how its agent was defined.
pub(crate) fn inline(agent: &Definition) -> Vec<Value> {
    vec![json!({"mark": "inline", "agent": agent})]
}

/// Reads that back.
pub(crate) fn read_inline(kept: Option<&[Value]>) -> Option<Definition> {
    let note = kept?.first().filter(|note| note["mark"] == "inline")?;
    serde_json::from_value(note["agent"].clone()).ok()
}

/// The note beside a run's beginning of what it does.
pub(crate) fn workflow(program: &Program) -> Vec<Value> {
    vec![json!({"mark": "workflow", "program": program})]
}

/// Reads that back.
pub(crate) fn read_workflow(kept: Option<&[Value]>) -> Option<Program> {
    let note = kept?.first().filter(|note| note["mark"] == "workflow")?;
    serde_json::from_value(note["program"].clone()).ok()
}

/// The note beside a thread's beginning of what it does for a run.
pub(crate) fn errand(errand: &Errand) -> Vec<Value> {
    vec![json!({"mark": "errand", "errand": errand})]
}

/// Reads that back.
pub(crate) fn read_errand(kept: Option<&[Value]>) -> Option<Errand> {
    let note = kept?.first().filter(|note| note["mark"] == "errand")?;
    serde_json::from_value(note["errand"].clone()).ok()
}

/// The note beside a thread's end of what it returned to its run.
pub(crate) fn outcome(outcome: &Outcome) -> Vec<Value> {
    vec![json!({"mark": "outcome", "outcome": outcome})]
}

/// Reads that back.
pub(crate) fn read_outcome(kept: Option<&[Value]>) -> Option<Outcome> {
    let note = kept?.first().filter(|note| note["mark"] == "outcome")?;
    serde_json::from_value(note["outcome"].clone()).ok()
}

/// The note beside a run's end of what its agent is told.
pub(crate) fn notice(content: &[Block]) -> Vec<Value> {
    vec![json!({"mark": "notice", "content": content})]
}

/// Reads that back.
pub(crate) fn read_notice(kept: Option<&[Value]>) -> Option<Vec<Block>> {
    let note = kept?.first().filter(|note| note["mark"] == "notice")?;
    serde_json::from_value(note["content"].clone()).ok()
}

/// The note of what the tokens of a request cost; comes after the other one.
pub(crate) fn price(price: Price) -> Value {
    json!({"mark": "price", "each": price})
}

/// Reads that back.
pub(crate) fn read_price(kept: Option<&[Value]>) -> Option<Price> {
    let note = kept?.iter().find(|note| note["mark"] == "price")?;
    serde_json::from_value(note["each"].clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_and_the_model_s_blocks_are_none() {
        for mark in [
            Mark::Compacting,
            Mark::Cleared { keep: 3 },
            Mark::Aside,
            Mark::Outgrown,
            Mark::Missing,
            Mark::Ungraded,
            Mark::Interrupted,
        ] {
            assert_eq!(Mark::read(Some(&mark.kept())), Some(mark));
        }
        assert_eq!(Mark::read(Some(&[json!({"type": "text", "text": "mark"})])), None);
        assert_eq!(Mark::read(None), None);
    }
}
