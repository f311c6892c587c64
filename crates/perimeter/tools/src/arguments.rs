//! Checks a call's arguments as the reference toolset does: known names only, lenient scalars, and one text for every mistake.

use serde_json::{Map, Value};

/// A tool's failure, in the words the model reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolError(pub(crate) String);

impl ToolError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The arguments of one call.
pub(crate) struct Arguments<'a> {
    tool: &'a str,
    values: &'a Map<String, Value>,
}

impl<'a> Arguments<'a> {
    /// Refuses names that are not in `known`.
    pub(crate) fn new(tool: &'a str, values: &'a Map<String, Value>, known: &[&str]) -> Result<Self, ToolError> {
        let arguments = Self { tool, values };
        if values.keys().all(|name| known.contains(&name.as_str())) { Ok(arguments) } else { Err(arguments.invalid()) }
    }

    fn invalid(&self) -> ToolError {
        ToolError(format!("ValueError('Invalid arguments for function {}')", self.tool))
    }

    /// A required string.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, ToolError> {
        self.values.get(name).and_then(Value::as_str).ok_or_else(|| self.invalid())
    }

    /// A string that may be absent or null.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&'a str>, ToolError> {
        self.optional(name, Value::as_str)
    }

    /// A truth value that may be absent or null.
    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, ToolError> {
        self.optional(name, flag)
    }

    /// An integer that may be absent or null.
    pub(crate) fn optional_integer(&self, name: &str) -> Result<Option<i64>, ToolError> {
        self.optional(name, integer)
    }

    /// A list of integers that may be absent or null.
    pub(crate) fn optional_integers(&self, name: &str) -> Result<Option<Vec<i64>>, ToolError> {
        self.optional(name, |value| value.as_array()?.iter().map(integer).collect())
    }

    fn optional<T>(&self, name: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, ToolError> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.invalid()),
        }
    }
}

/// Pydantic's lenient integers: whole floats, digit strings and truth values count.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(truth) => Some(i64::from(*truth)),
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A whole float that a 64-bit integer holds; larger ones are refused, as pydantic does.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked first")]
fn whole(number: f64) -> Option<i64> {
    (number.abs() < 9.2e18 && number.fract() == 0.0).then_some(number as i64)
}

/// Pydantic's lenient truth values.
fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(_) => match integer(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            _ => None,
        },
        _ => None,
    }
}
