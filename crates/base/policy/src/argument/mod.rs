//! What a rule asks of the arguments of an MCP tool call: typed predicates, each on one named argument.
//! A missing argument, one of another type, or one that stands there in two spellings never agrees.

mod glob;
mod name;
mod number;
mod predicate;
mod read;

pub(crate) use glob::Glob;
pub(crate) use name::ArgumentName;
pub(crate) use number::Number;
pub(crate) use predicate::{Predicate, Test, Wanted};
pub(crate) use read::read_arguments;

use name::Found;
use serde_json::{Map, Value};

/// One named argument and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    pub(crate) name: ArgumentName,
    pub(crate) wanted: Wanted,
}

/// Why an argument does not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disagreement {
    /// Missing, of another type, or another value.
    Value,
    /// There, and asked to be absent.
    Present,
    /// There under a second name that servers could take for it.
    TwoSpellings,
}

impl Argument {
    /// Whether the arguments of a call agree.
    pub(crate) fn check(&self, arguments: &Map<String, Value>) -> Result<(), Disagreement> {
        let holds = match (self.name.find(arguments), &self.wanted) {
            (Found::TwoSpellings, _) => return Err(Disagreement::TwoSpellings),
            (Found::Nothing, Wanted::Absent) => return Ok(()),
            (Found::Value(_) | Found::Unreachable, Wanted::Absent) => return Err(Disagreement::Present),
            (Found::Value(value), Wanted::Present(predicate)) => predicate.holds(value),
            (Found::Nothing | Found::Unreachable, Wanted::Present(_)) => false,
        };
        if holds { Ok(()) } else { Err(Disagreement::Value) }
    }
}

#[cfg(test)]
mod tests;
