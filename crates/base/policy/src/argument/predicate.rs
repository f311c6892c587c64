//! One predicate: everything in it must hold.

use super::glob::Glob;
use super::number::Number;
use crate::document::Literal;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// What a rule asks of a named argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// It is not there.
    Absent,
    /// It is there, and this holds.
    Present(Predicate),
}

/// Tests that must all hold; never none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Predicate(pub(crate) Vec<Test>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    Equal(Literal),
    In(Vec<Literal>),
    Glob(Glob),
    Range(Number, Number),
    /// Of an array that is not empty: to some servers "none" is "all".
    Each(Predicate),
}

impl Predicate {
    pub(crate) fn holds(&self, value: &Value) -> bool {
        self.0.iter().all(|test| test.holds(value))
    }
}

impl Test {
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Equal(literal), value) => is(literal, value),
            (Self::In(literals), value) => literals.iter().any(|literal| is(literal, value)),
            (Self::Glob(glob), Value::String(text)) => glob.matches(text),
            (Self::Range(low, high), Value::Number(number)) => Number::of_call(number).is_some_and(|number| {
                low.compare(number) != Ordering::Greater && number.compare(*high) != Ordering::Greater
            }),
            (Self::Each(predicate), Value::Array(items)) => {
                !items.is_empty() && items.iter().all(|item| predicate.holds(item))
            }
            (Self::Glob(_) | Self::Range(..) | Self::Each(_), _) => false,
        }
    }
}

fn is(literal: &Literal, value: &Value) -> bool {
    match (literal, value) {
        (Literal::Text(text), Value::String(value)) => text == value,
        (Literal::Flag(flag), Value::Bool(value)) => flag == value,
        (Literal::Integer(_) | Literal::Float(_), Value::Number(number)) => {
            Number::of_call(number).is_some_and(|number| Some(number) == number_of(literal))
        }
        (Literal::List(items), Value::Array(values)) => {
            items.len() == values.len() && items.iter().zip(values).all(|(item, value)| is(item, value))
        }
        (
            Literal::Text(_) | Literal::Flag(_) | Literal::Integer(_) | Literal::Float(_) | Literal::List(_),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
        ) => false,
    }
}

/// The number of a rule.
pub(super) fn number_of(literal: &Literal) -> Option<Number> {
    match literal {
        Literal::Integer(number) => Some(Number::Integer(i128::from(*number))),
        Literal::Float(number) => Some(Number::Float(*number)),
        Literal::Text(_) | Literal::Flag(_) | Literal::List(_) => None,
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("be left out"),
            Self::Present(predicate) => predicate.fmt(f),
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, test) in self.0.iter().enumerate() {
            write!(f, "{}{test}", if index == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal(literal) => write!(f, "be {literal}"),
            Self::In(literals) => {
                f.write_str("be one of ")?;
                for (index, literal) in literals.iter().enumerate() {
                    write!(f, "{}{literal}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Glob(glob) => write!(f, "be a string like {:?}", glob.to_string()),
            Self::Range(low, high) => write!(f, "be a number from {low} to {high}"),
            Self::Each(predicate) => write!(f, "be an array, not empty, whose elements each must {predicate}"),
        }
    }
}
