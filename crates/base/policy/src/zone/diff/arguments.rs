//! Whether the arguments that one rule takes were all taken before. What cannot be compared is not within.

use super::super::mcp_rule::McpRule;
use crate::argument::{Argument, Number, Predicate, Test, Wanted};
use crate::document::Literal;
use serde_json::Value;
use std::cmp::Ordering;

/// One argument of a rule, as far as it is taken apart.
#[derive(Clone)]
enum Asked<'r> {
    Absent,
    /// This value and no other.
    Exactly(Value),
    Holding(&'r Predicate),
}

/// Whether every call that agrees with the arguments agrees with those of one of the rules. Where an argument has a list
/// of values, each may have had a rule of its own.
pub(super) fn within(arguments: &[Argument], rules: &[&McpRule]) -> bool {
    let mut cases: Vec<Vec<Asked<'_>>> = vec![Vec::new()];
    for argument in arguments {
        let choices = choices(&argument.wanted);
        let choices = if cases.len() * choices.len() > MOST_CASES { vec![whole(&argument.wanted)] } else { choices };
        cases = cases
            .into_iter()
            .flat_map(|case| {
                choices.iter().map(move |choice| case.iter().cloned().chain([choice.clone()]).collect::<Vec<_>>())
            })
            .collect();
    }
    cases.iter().all(|case| rules.iter().any(|rule| rule.arguments.iter().all(|wanted| meets(arguments, case, wanted))))
}

fn meets(arguments: &[Argument], case: &[Asked<'_>], wanted: &Argument) -> bool {
    let same_name = arguments.iter().zip(case).filter(|(argument, _)| argument.name == wanted.name);
    same_name.into_iter().any(|(_, asked)| implies(asked, &wanted.wanted))
}

fn whole(wanted: &Wanted) -> Asked<'_> {
    match wanted {
        Wanted::Absent => Asked::Absent,
        Wanted::Present(predicate) => Asked::Holding(predicate),
    }
}

/// The values of an argument one by one, where the rule lists them.
fn choices(wanted: &Wanted) -> Vec<Asked<'_>> {
    let Wanted::Present(predicate) = wanted else { return vec![Asked::Absent] };
    let listed = predicate.0.iter().find_map(|test| match test {
        Test::Equal(literal) => Some(std::slice::from_ref(literal)),
        Test::In(literals) => Some(literals.as_slice()),
        Test::Glob(_) | Test::Range(..) | Test::Each(_) => None,
    });
    match listed {
        None => vec![Asked::Holding(predicate)],
        Some(literals) => {
            literals.iter().map(value).filter(|value| predicate.holds(value)).map(Asked::Exactly).collect()
        }
    }
}

fn implies(asked: &Asked<'_>, wanted: &Wanted) -> bool {
    match (asked, wanted) {
        (Asked::Absent, Wanted::Absent) => true,
        (Asked::Exactly(value), Wanted::Present(predicate)) => predicate.holds(value),
        (Asked::Holding(one), Wanted::Present(other)) => stronger(one, other),
        (Asked::Absent, Wanted::Present(_)) | (Asked::Exactly(_) | Asked::Holding(_), Wanted::Absent) => false,
    }
}

/// Whether each test of the second follows from one of the first.
fn stronger(one: &Predicate, other: &Predicate) -> bool {
    other.0.iter().all(|wanted| one.0.iter().any(|test| follows(test, wanted)))
}

fn follows(test: &Test, wanted: &Test) -> bool {
    let holds_for = |literal: &Literal| Predicate(vec![wanted.clone()]).holds(&value(literal));
    match (test, wanted) {
        (Test::Equal(literal), _) => holds_for(literal),
        (Test::In(literals), _) => literals.iter().all(holds_for),
        (Test::Glob(one), Test::Glob(other)) => one.within(other),
        (Test::Range(low, high), Test::Range(lowest, highest)) => at_most(*lowest, *low) && at_most(*high, *highest),
        (Test::Each(one), Test::Each(other)) => stronger(one, other),
        (Test::Glob(_) | Test::Range(..) | Test::Each(_), _) => false,
    }
}

fn at_most(one: Number, other: Number) -> bool {
    one.compare(other) != Ordering::Greater
}

/// The literal as a call would hold it. A number that JSON does not know is met by no call.
fn value(literal: &Literal) -> Value {
    match literal {
        Literal::Text(text) => Value::from(text.as_str()),
        Literal::Integer(number) => Value::from(*number),
        Literal::Float(number) => Value::from(*number),
        Literal::Flag(flag) => Value::from(*flag),
        Literal::List(items) => items.iter().map(value).collect(),
    }
}

/// Combinations of listed values that are taken one by one.
const MOST_CASES: usize = 256;
